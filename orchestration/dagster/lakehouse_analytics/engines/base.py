"""The interface of an engine. Imports no Dagster, no dbt and no database client."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lakehouse_analytics.dbt.relation import Relation

#: Answers one statement with every row. Raises `DatabaseError` if no statement can be answered, whatever it asks.
FetchAll = Callable[[str], Sequence[Sequence[Any]]]


class DatabaseError(RuntimeError):
    """The database cannot be used. The message names it, the reason, and what to do."""


class Reason(Protocol):
    """Why something failed."""

    @property
    def transient(self) -> bool:
        """It may pass by itself."""

    @property
    def queue_full(self) -> bool:
        """The engine is up and refused the statement, because too many are waiting already."""

    @property
    def advice(self) -> str:
        """What a person does about it; empty where the message says all."""


ErrorClassifier = Callable[[str], Reason]


@dataclass(frozen=True)
class _Permanent:
    transient: bool = False
    queue_full: bool = False
    advice: str = ""


#: Nothing to wait for.
PERMANENT: Reason = _Permanent()


class Engine(Protocol):
    """Where the tables are: whether dbt may write, and what its failures mean."""

    @property
    def queue_timeout(self) -> float:
        """Seconds to retry what the engine refuses because its queue is full."""

    def wait_until_free(self, log: Callable[[str], None]) -> None:
        """Return when dbt may start, or raise with the reason why it cannot; `log` gets what it waits for."""

    def classify_error(self, message: str) -> Reason:
        """Whether what failed with this message may pass by itself."""

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:
        """Log, for as long as the block runs, that queries of a run wait in a queue."""

    def query_url(self, query_id: str) -> str | None:
        """The page of a query, where the engine has one."""

    def kill_queries(self, run_id: str) -> None:
        """End what a dbt that died has left running; never raises."""


@runtime_checkable
class Queried(Protocol):
    """An engine that can be asked without dbt."""

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Every row of one statement.

        Raises:
            DatabaseError: the database cannot be used, or the statement failed.
        """


@runtime_checkable
class Distributed(Protocol):
    """An engine that limits what one statement may ask, and has a catalog that may know row counts already."""

    #: Stages of one statement.
    max_stages: int

    def known_counts(self, relations: Collection[Relation], *, of: int) -> Mapping[Relation, int]:
        """Exact row counts of those relations of which they are known without a query; any may be left out.

        Args:
            relations: Tables and views.
            of: Tables that the run counts in all: with few of them looking up is not worth its start.

        Raises:
            Exception: with what a person has to fix. The rows can still be counted by queries.
        """
