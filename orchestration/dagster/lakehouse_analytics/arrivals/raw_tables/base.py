"""The protocol of raw tables, which each kind of storage implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: The query for the number of rows, which some storages know.
COUNT = "SELECT count(*) FROM {table}"


class ArrivalError(Exception):
    """An arrival failed, and its table is unchanged. The message is for the user: what is wrong, where, what to do.

    Attributes:
        transient: Whether a retry may succeed.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@dataclass(frozen=True)
class TableState:
    """The state of a raw table at one moment.

    Attributes:
        columns: DuckDB types by column name, in order. Empty if the table does not exist.
        state: What the last change stored with the table: values that JSON can represent.
        version: Identifies this state; a change is refused if the table has another one. None if the table does not
            exist.
    """

    columns: Mapping[str, str]
    state: Mapping[str, Any]
    version: str | None

    @property
    def exists(self) -> bool:
        """Whether the table exists."""
        return self.version is not None


@dataclass(frozen=True)
class Change:
    """One change of a raw table. Readers see the table either before or after it.

    Attributes:
        columns: DuckDB types, by name, of the columns that the table has afterwards, in addition to existing ones.
            Types are those of `duckdb_columns()`.
        rows: Parquet files with new rows; their columns are matched by name. They may have columns that are not
            stored.
        state: The state that is stored with the table, replacing the old one.
        replaces: Remove all rows, and the columns that are not in `columns`.
        key: Rows with the same values in these columns as a new row are removed first. Null equals null. The new rows
            must not contain duplicates of a key.
        delete_where: An SQL condition in DuckDB's dialect on columns of the table: rows that meet it are removed first.
        delete_keys: A Parquet file with the columns `key`: rows with one of these keys are removed.
    """

    columns: Mapping[str, str]
    rows: Sequence[Path]
    state: Mapping[str, Any]
    replaces: bool = False
    key: Sequence[str] = ()
    delete_where: str | None = None
    delete_keys: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a change.

    Attributes:
        rows: Number of rows in the table afterwards.
        inserted: Number of new rows.
        deleted: Number of rows that were removed, including those replaced by a new row.
    """

    rows: int
    inserted: int
    deleted: int


class RawTable(Protocol):
    """A raw table. Methods raise only `ArrivalError`, not errors of libraries."""

    def read(self) -> TableState:
        """Return the current state."""

    def apply(self, change: Change, before: TableState) -> Outcome:
        """Apply a change in one commit: rows, columns and state together, or nothing.

        Args:
            change: The change.
            before: The state that the change was planned for.

        Raises:
            ArrivalError: The table has changed since `before`, or cannot be written. It is unchanged.
        """

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a query in DuckDB's dialect, in which `{table}` stands for this table.

        An empty result if the table does not exist.
        """

    def keys_to(self, columns: Sequence[str], path: Path) -> None:
        """Write the distinct values of some columns to a Parquet file, with bounded memory."""
