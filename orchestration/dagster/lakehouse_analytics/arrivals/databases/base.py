"""What a sync needs of a database: the columns of a table, and its rows in one snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lakehouse_analytics.arrivals.connections import Connection

if TYPE_CHECKING:
    import pyarrow as pa

#: How values of an `update_key` can be compared with a duration: they are times, other values that grow, or neither.
Order = Literal["time", "number or text", "none"]
#: Returns an array with the type that is stored, and the number of its values that are NULL because that type does not
#: have them.
Convert = Callable[["pa.Array[Any]"], "tuple[pa.Array[Any], int]"]


@dataclass(frozen=True)
class SourceColumn:
    """A column of a table of a database.

    Attributes:
        name: Its name.
        declared: Its type in the words of the database, for messages.
        kind: The DuckDB type in which its values are stored.
        expression: The expression by which it is read.
        convert: Converts what the driver returns for the expression.
        order: Whether the column can be an `update_key`.
        marked: The condition by which the column marks deleted rows. It is never null.
    """

    name: str
    declared: str
    kind: str
    expression: str
    convert: Convert
    order: Order
    marked: str


@dataclass
class Nullified:
    """Counts, by column, values that became NULL because their type in the lakehouse does not have them."""

    counts: Counter[str] = field(default_factory=Counter)

    def convert(self, column: SourceColumn, values: pa.Array[Any]) -> pa.Array[Any]:
        """Return the values with the type that is stored."""
        converted, count = column.convert(values)
        if count:
            self.counts[column.name] += count
        return converted


class SourceTable(Protocol):
    """A table of a database in one snapshot. Methods raise `ArrivalError` for all errors of the database."""

    @property
    def name(self) -> str:
        """Name, with its schema or database."""

    @property
    def columns(self) -> Mapping[str, SourceColumn]:
        """Columns by name, in order."""

    @property
    def clock(self) -> datetime:
        """The database's clock (UTC) when the snapshot was taken."""

    @property
    def warnings(self) -> Sequence[str]:
        """For the user."""

    def is_unique(self, columns: Collection[str]) -> bool:
        """Return whether the database guarantees that these columns have no duplicates."""

    def batches(self, columns: Sequence[SourceColumn], where: str, nullified: Nullified) -> Iterator[pa.RecordBatch]:
        """Yield the rows that meet a condition, in batches of some megabytes."""

    def exists(self, where: str) -> bool:
        """Return whether there is a row that meets a condition."""

    def highest(self, column: SourceColumn) -> str | None:
        """Return the highest value of a column as text, except for times after `clock` and infinite values."""

    def at_least(self, column: SourceColumn, value: str) -> str:
        """Return the condition for values that are not lower than one that `highest` returned."""

    def unordered(self, column: SourceColumn) -> str:
        """Return the condition for values that say nothing about when a row changed: NULL and the lowest value."""


Open = Callable[[Connection, str, timedelta], AbstractContextManager[SourceTable]]
