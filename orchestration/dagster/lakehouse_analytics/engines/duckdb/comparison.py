"""Compares tables of DuckDB files. A session holds the file open for reading, so that no one writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.comparison import Comparison, Family, family
from lakehouse_analytics.engines.duckdb.database import connect

if TYPE_CHECKING:
    import duckdb


class DuckDBComparison(Comparison):
    """A session on a DuckDB file.

    Args:
        connection: The open connection.
        path: Its file.
        attached: Paths of further files that the profile attaches, by catalog.
    """

    title = "DuckDB"

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, attached: Mapping[str, str]) -> None:
        self._connection, self._path, self._attached = connection, path, dict(attached)
        self._files = 0
        self._connection.execute("set TimeZone = 'UTC'")

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return all rows of one statement."""
        import duckdb

        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise DatabaseError(f"DuckDB: {_first_line(error)}") from None

    def columns(self, source: str) -> dict[str, str]:
        """Return the types of the columns by name."""
        return {str(row[0]): str(row[1]) for row in self.fetch_all(f"describe select * from {source}")}  # noqa: S608

    def tables(self, catalog: str) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view of a database."""
        if catalog in self._attached:
            self._attach(Path(self._attached.pop(catalog)), catalog)
        rows = self.fetch_all(
            f"select table_schema, table_name from information_schema.tables where table_catalog = {literal(catalog)}"  # noqa: S608
        )
        return {(str(schema), str(name)) for schema, name in rows}

    def attach(self, path: Path) -> str:
        """Attach another DuckDB file, and return its catalog."""
        if not path.is_file():
            raise DatabaseError(f"{path} does not exist: expected a DuckDB file, such as a copy of {self._path}.")
        if path.resolve() == self._path.resolve():
            raise DatabaseError(f"{path} is the database itself. Compare with a copy that was made before the change.")
        catalog = f"lakehouse_file_{self._files}"
        self._files += 1
        self._attach(path, catalog)
        return catalog

    def _attach(self, path: Path, catalog: str) -> None:
        self.fetch_all(f"attach {literal(str(path))} as {identifier(catalog)} (read_only)")

    def value(self, expression: str, data_type: str) -> str:
        """Return the value itself: every type can be compared. Entries of a map have no order, and JSON no spaces."""
        if data_type.startswith("MAP(") and not data_type.endswith("[]"):
            return f"list_sort(map_entries({expression}))"
        return f"cast(json({expression}) as varchar)" if data_type == "JSON" else expression

    def text(self, expression: str, data_type: str) -> str:
        """Return a value's text. Structures are written as JSON."""
        if family(data_type) is Family.BINARY:
            return f"lower(hex({expression}))"
        if data_type.endswith("]") or data_type.startswith(("STRUCT(", "MAP(", "UNION(")):
            return f"cast(to_json({self.value(expression, data_type)}) as varchar)"
        return f"cast({self.value(expression, data_type)} as varchar)"

    def row_hash(self, text: str) -> str:
        """Return the first 60 bits of a text's MD5."""
        return f"cast('0x' || substr(md5({text}), 1, 15) as bigint)"


@contextmanager
def comparison(path: Path, *, timeout: float, attached: Mapping[str, str]) -> Iterator[DuckDBComparison]:
    """Open a DuckDB file for comparisons while the block runs.

    Args:
        path: The file.
        timeout: Seconds to wait while another process has locked the file.
        attached: Paths of further files that the profile attaches, by catalog.

    Raises:
        DatabaseError: The file cannot be opened.
    """
    with connect(path, timeout=timeout) as connection:
        yield DuckDBComparison(connection, path, attached)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
