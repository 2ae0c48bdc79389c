"""What comparing the rows of two tables needs from an engine.

The statements themselves are standard SQL (`diff/queries.py`). This class has what differs between engines: how types
are compared and shown, where a table's earlier states are, and how statements of one comparison read the same rows.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError


class Family(Enum):
    """Types whose values can be compared with each other."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    TEXT = "text"
    DATE = "date"
    TIMESTAMP = "timestamp"
    INSTANT = "timestamp with time zone"
    BINARY = "binary"
    OTHER = "other"


_FAMILIES = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"bool(ean)?", Family.BOOLEAN),
        (r"u?(tiny|small|big|huge)?int(eger)?", Family.INTEGER),
        (r"decimal|numeric", Family.DECIMAL),
        (r"real|float|double( precision)?", Family.FLOAT),
        (r"varchar|char|character( varying)?|text|bpchar", Family.TEXT),
        (r"date", Family.DATE),
        (r"timestamp with time zone|timestamptz", Family.INSTANT),
        (r"timestamp( without time zone)?|timestamp_(s|ms|ns)", Family.TIMESTAMP),
        (r"varbinary|blob|bytea", Family.BINARY),
    )
)


def family(data_type: str) -> Family:
    """Return the family of a type, as the engine names it."""
    name = re.sub(r"\([\d, ]*\)", "", data_type.lower()).strip()
    return next((found for pattern, found in _FAMILIES if pattern.fullmatch(name)), Family.OTHER)


class Comparison(ABC):
    """A session in which tables are compared. Its statements only read.

    The defaults are right for an engine with standard SQL that has no earlier states of a table.
    """

    #: The engine's name in messages.
    title: ClassVar[str]
    #: Whether `Total` and `total` are the same column.
    ignores_case: ClassVar[bool] = True

    @abstractmethod
    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return all rows of one statement.

        Raises:
            DatabaseError: The statement failed.
        """

    @abstractmethod
    def columns(self, source: str) -> dict[str, str]:
        """Return the types of the columns by name, in the order of the table.

        Args:
            source: The table, as it follows `from`.

        Raises:
            DatabaseError: The table does not exist, or cannot be read.
        """

    @abstractmethod
    def tables(self, catalog: str) -> Collection[tuple[str, str]]:
        """Return the schema and the name of each table and view of a catalog.

        Raises:
            DatabaseError: The catalog cannot be read.
        """

    def now(self, relation: Relation) -> str:
        """Return the table as it is now, as it follows `from`. All statements of this session read the same rows."""
        return str(relation)

    def at_snapshot(self, relation: Relation, snapshot: int) -> str:
        """Return the table at a snapshot, as it follows `from`.

        Raises:
            DatabaseError: There is no such snapshot, or the engine has none.
        """
        raise DatabaseError(self._no_snapshots(relation, f"snapshot:{snapshot}"))

    def at_time(self, relation: Relation, time: datetime) -> str:
        """Return the table as it was at a time, as it follows `from`.

        Raises:
            DatabaseError: The table did not exist, its snapshot has expired, or the engine has no snapshots.
        """
        raise DatabaseError(self._no_snapshots(relation, time.isoformat()))

    def attach(self, path: Path) -> str:
        """Attach another database file, and return its catalog.

        Raises:
            DatabaseError: The file cannot be read, or the engine has no files.
        """
        raise DatabaseError(f"{self.title} has no database files, so `file:{path}` cannot be compared.")

    def value(self, expression: str, data_type: str) -> str:
        """Return an expression that is equal for equal values of one type, in `group by` as in comparisons."""
        return self.text(expression, data_type) if family(data_type) is Family.OTHER else expression

    def text(self, expression: str, data_type: str) -> str:  # noqa: ARG002
        """Return an expression of a value's text, which differs for different values of one type."""
        return f"cast({expression} as varchar)"

    @abstractmethod
    def row_hash(self, text: str) -> str:
        """Return an expression of the first 60 bits of a text's MD5, as an integer."""

    def _no_snapshots(self, relation: Relation, state: str) -> str:
        return (
            f"{self.title} keeps no earlier states of a table, so {relation.schema}.{relation.name} cannot be read at "
            f"`{state}`. Compare with a copy in another schema (`schema:<name>`), or with another database file on "
            "DuckDB (`file:<path>`)."
        )


@runtime_checkable
class Comparable(Protocol):
    """An engine whose tables can be compared."""

    def comparison(self) -> AbstractContextManager[Comparison]:
        """Open a session for comparisons.

        Raises:
            DatabaseError: The database cannot be used.
        """
