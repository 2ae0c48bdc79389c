"""The interface of an engine. This module imports neither Dagster nor dbt nor a database client."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows per batch of a table that is read as a whole.
BATCH_ROWS = 65_536

#: Start of the versions of views. See `Versioned`.
VIEW = "view:"
#: Runs one statement and returns all its rows. Raises `DatabaseError` if the database cannot run any statement.
FetchAll = Callable[[str], Sequence[Sequence[Any]]]


class DatabaseError(RuntimeError):
    """The database cannot be used. The message names it, the reason, and what to do."""


class Reason(Protocol):
    """The classification of a failure."""

    @property
    def transient(self) -> bool:
        """Whether a retry may succeed."""

    @property
    def queue_full(self) -> bool:
        """Whether the engine is up and refused the statement because its queue is full."""

    @property
    def advice(self) -> str:
        """How to fix the failure; empty if the message says it already."""


ErrorClassifier = Callable[[str], Reason]


@dataclass(frozen=True)
class TableReader:
    """A table that is being read.

    Attributes:
        schema: The columns.
        rows: The number of rows, counted by the engine.
        batches: The rows, in batches of about `BATCH_ROWS`. Raises `DatabaseError`.
    """

    schema: pa.Schema
    rows: int
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class _Permanent:
    transient: bool = False
    queue_full: bool = False
    advice: str = ""


#: The reason of a failure that no retry can fix.
PERMANENT: Reason = _Permanent()


class Engine(Protocol):
    """A database that dbt builds in: whether it accepts writes now, and what its error messages mean."""

    @property
    def queue_timeout(self) -> float:
        """Seconds to retry statements that the engine refuses because its queue is full."""

    def wait_until_free(self, log: Callable[[str], None]) -> None:
        """Wait until dbt can start.

        Args:
            log: Called with a message that says what the engine waits for.

        Raises:
            DatabaseError: dbt cannot start. The message has the reason.
        """

    def classify_error(self, message: str) -> Reason:
        """Return the classification of a failure from its error message."""

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """Log while the block runs that queries of a run are waiting in a queue."""

    def query_url(self, query_id: str) -> str | None:
        """Return the URL of a query's page; None if the engine has no such pages."""

    def kill_queries(self, run_id: str) -> None:
        """Kill the queries that a run's dead dbt process has left running; never raises."""

    def read_table(self, relation: Relation, name: str) -> AbstractContextManager[TableReader]:
        """Read a whole table with bounded memory, while the block runs.

        Args:
            relation: The table.
            name: Its full name, as dbt quotes it for the engine.

        Raises:
            DatabaseError: The table cannot be read.
        """


@runtime_checkable
class Queried(Protocol):
    """An engine that runs queries without dbt."""

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return all rows of one statement.

        Raises:
            DatabaseError: The database cannot be used, or the statement failed.
        """


@runtime_checkable
class Distributed(Protocol):
    """An engine that limits the size of a statement, and whose catalog may have row counts."""

    #: Maximum number of stages of one statement.
    max_stages: int

    def known_counts(self, relations: Collection[Relation], *, of: int) -> Mapping[Relation, int]:
        """Return the exact row counts that are known without a query. Any relation may be missing.

        Args:
            relations: Tables and views.
            of: Number of tables that the run counts in total. For few tables, the lookup costs more than it saves.

        Raises:
            Exception: The lookup failed; the message says what to fix. The rows can still be counted by queries.
        """


@runtime_checkable
class Versioned(Protocol):
    """An engine that can tell whether the contents of a table have changed."""

    def table_versions(self, relations: Collection[Relation], fetch_all: FetchAll | None) -> Mapping[Relation, str]:
        """Return a version of each table: equal versions have equal rows and columns.

        The version of a view is that of its definition, and begins with `VIEW`. Relations whose version is not known
        are missing.

        Args:
            relations: Tables and views.
            fetch_all: Runs a statement on dbt's connection; None if dbt is not running.

        Raises:
            Exception: The versions cannot be read.
        """
