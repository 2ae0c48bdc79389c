"""Rows in the text format of PostgreSQL's COPY: https://www.postgresql.org/docs/current/sql-copy.html"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from lakehouse_analytics.exports.columns import Column, Kind

if TYPE_CHECKING:
    import pyarrow as pa


class CopyStream:
    """A file with the rows of some batches, which are converted when they are read. A context manager.

    Attributes:
        error: The error that reading the batches has raised. psycopg2 reports another one, which only quotes it.
    """

    def __init__(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        """
        Args:
            columns: The columns.
            batches: The rows. Their columns are named `c0`, `c1` and so on.
        """
        values = (f"coalesce({_text(f'c{number}', column)}, '\\N')" for number, column in enumerate(columns))
        self._line = " || chr(9) || ".join(values) + " || chr(10)"
        self._batches = batches
        self._chunk = memoryview(b"")
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        """Open DuckDB, which converts the rows."""
        import duckdb

        self._duckdb = duckdb.connect(config={"threads": 2})
        self._duckdb.execute("set TimeZone = 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        """Close DuckDB."""
        self._duckdb.close()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        while not self._chunk:
            try:
                batch = next(self._batches, None)
                if batch is None:
                    return b""
                self._chunk = memoryview(self._converted(batch))
            except BaseException as error:
                self.error = error
                raise
        taken = self._chunk if size < 0 else self._chunk[:size]
        self._chunk = self._chunk[len(taken) :]
        return taken.tobytes()

    def _converted(self, batch: pa.RecordBatch) -> bytes:
        self._duckdb.register("rows", batch)
        lines = self._duckdb.execute(f"select {self._line} from rows").fetchall()  # noqa: S608
        return "".join([line for (line,) in lines]).encode()


def _text(name: str, column: Column) -> str:
    match column.kind:
        case Kind.BOOLEAN:
            return f"case {name} when true then 't' when false then 'f' end"
        case Kind.TEXT | Kind.JSON:
            text = f"replace({name}, '\\', '\\\\')"
            for character, letter in ((9, "t"), (10, "n"), (13, "r")):
                text = f"replace({text}, chr({character}), '\\{letter}')"
            return text
        case Kind.DATE | Kind.TIMESTAMP | Kind.INSTANT:
            return f"replace({name}::varchar, '(BC)', 'BC')"
        case Kind.BINARY:
            return f"'\\\\x' || hex({name})"
    return f"{name}::varchar"
