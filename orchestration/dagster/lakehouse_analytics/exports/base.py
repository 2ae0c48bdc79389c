"""The protocol of destinations, which each kind of database implements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse_analytics.exports.columns import Column

#: Part of the names of staged tables, between the name of the table and the id of the run.
STAGED = "__lakehouse_"
#: Start of the comment on every table that an export has created. Tables without it are never changed.
MARKER = "lakehouse-analytics export of "


class ExportError(Exception):
    """An export failed, and readers see the table as before. The message says what is wrong, where, what to do.

    Attributes:
        transient: Whether a retry may succeed.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class NotEqualError(ExportError):
    """The rows that were read, sent and stored are not the same. Nothing was published."""


@dataclass(frozen=True)
class Target:
    """A table that an export replaces.

    Attributes:
        schema: The schema, or ClickHouse's database; None for the connection's default.
        table: The name.
        key: Columns by which dashboards filter.
        origin: The exported table, for the comment: a table that is an export of another one is not replaced.
        run_id: Id of the run.
    """

    schema: str | None
    table: str
    key: Sequence[str]
    origin: str
    run_id: str

    @property
    def staged(self) -> str:
        """The name of the staged table."""
        return f"{self.table}{STAGED}{self.run_id[:8]}"

    @property
    def comment(self) -> str:
        """The comment on the table."""
        return f"{MARKER}{self.origin}"

    def is_staged(self, name: str) -> bool:
        """Return whether a name is that of a staged table of this export, of any run."""
        start = f"{self.table}{STAGED}"
        rest = name.removeprefix(start)
        return name.startswith(start) and len(rest) == 8 and all(letter in "0123456789abcdef" for letter in rest)


@dataclass(frozen=True)
class Checksum:
    """The contents of a table, independent of the order of its rows: see `checksum.py`.

    Attributes:
        rows: Number of rows.
        total: Sum of the hashes of the rows.
    """

    rows: int = 0
    total: int = 0

    def __add__(self, other: Checksum) -> Checksum:
        """Return the checksum of the rows of both."""
        return Checksum(self.rows + other.rows, self.total + other.total)


class Destination(Protocol):
    """A table in another database. Readers see either its old or its new rows.

    A context manager: leaving it closes the connection. Methods raise only `ExportError`, whose message has no secrets.
    """

    def __enter__(self) -> Self:
        """Connect."""

    def __exit__(self, *error: object) -> None:
        """Disconnect."""

    def prepare(self, columns: Sequence[Column]) -> list[str]:
        """Check that the table may be replaced, and drop the staged tables that dead runs have left.

        Args:
            columns: The columns of the copy.

        Returns:
            The names of the dropped tables.

        Raises:
            ExportError: Something else created the table, or it cannot be replaced.
        """

    def stage(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        """Create the staged table, and load it with bounded memory.

        Args:
            columns: The columns of the copy.
            batches: The rows. Their columns are those of `columns`, named `c0`, `c1` and so on.
        """

    def checksum(self, columns: Sequence[Column]) -> Checksum:
        """Return the checksum of the staged table, which the destination computes."""

    def publish(self, columns: Sequence[Column], expected: Checksum) -> None:
        """Replace the rows of the table by those of the staged one, atomically, and drop what remains."""

    def discard(self) -> None:
        """Drop the staged table if it exists."""
