"""Row counts of what a run built: asked in as few statements as can be, judged by each table's contract."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg

from lakehouse_analytics.assets.retries import Patience
from lakehouse_analytics.checks.history import History
from lakehouse_analytics.checks.partition_counts import STAGES, read_window_counts, window_count_sql
from lakehouse_analytics.checks.partitioned import partition_evaluations
from lakehouse_analytics.checks.results import row_count_results, uncounted_results
from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts, chunks, count_sql, read_counts
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.engines.base import DatabaseError, Distributed, Engine, FetchAll
from lakehouse_analytics.engines.windows import Bins
from lakehouse_analytics.partitions.definitions import GrainPartitions, PartitionRange

A_co = TypeVar("A_co", covariant=True)

#: What was counted, by partition where there are some, or why it could not be.
CountResult = Counts | Mapping[str, Counts] | str
#: Statements that may fail before the rest is left alone. One table at fault among 50 costs 12.
MOST_FAILURES = 64


class Asks(Protocol):
    """A dbt process that answers statements."""

    @property
    def alive(self) -> bool:
        """Whether it can answer at all."""

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Every row of one statement.

        Raises:
            RuntimeError: it failed.
        """


@dataclass(frozen=True)
class CountedWindows:
    """The windows of a run, and what of them is known from before."""

    adapter: str
    partitions_def: GrainPartitions
    span: PartitionRange
    history: History

    @property
    def statement(self) -> ByWindow:
        """What counts them."""
        windows = self.span.windows
        bins = Bins([window.key for window in windows], [*(window.start for window in windows), self.span.end])
        return ByWindow(self.adapter, bins)


class Counter:
    """Counts and judges the tables of one run.

    Attributes:
        fetch_all: Asks over dbt's own connection, so that what dbt can build can be counted.
        expected: Tables that the run counts in all.
        accepted: Unique ids of tables whose count an operator accepts as the new level.
        zone: Decides what a weekday is.
        windows: Of the run, where it has partitioned tables.
    """

    def __init__(
        self,
        engine: Engine,
        fetch_all: FetchAll,
        history: History,
        *,
        accepted: Collection[str],
        zone: tzinfo,
        windows: CountedWindows | None = None,
        expected: int = 0,
    ) -> None:
        self._expected = expected
        self._engine, self._fetch_all, self._history = engine, fetch_all, history
        self._accepted, self._zone, self._windows = accepted, zone, windows

    def count(self, tables: Sequence[Table]) -> dict[str, CountResult]:
        """Count every table, by unique id: from metadata where that tells exactly, else in a few statements.

        Of partitioned tables the run's windows alone.
        """
        whole = [table for table in tables if table.grain is None]
        answers: dict[str, CountResult] = dict(self._known(whole))
        rest = [table for table in whole if table.unique_id not in answers]
        found = self._questions(Whole()).ask([_asked(table) for table in rest])
        answers |= dict(zip((table.unique_id for table in rest), found, strict=True))
        windowed = [table for table in tables if table.grain]
        if self._windows and windowed:
            asked = [replace(_asked(table), event_time=table.event_time) for table in windowed]
            counts = self._questions(self._windows.statement).ask(asked)
            answers |= dict(zip((table.unique_id for table in windowed), counts, strict=True))
        return answers

    def _questions(self, statement: Statement[A_co]) -> Questions[A_co]:
        most = self._engine.max_stages if isinstance(self._engine, Distributed) else None
        return Questions(self._fetch_all, statement, most)

    def _known(self, tables: Sequence[Table]) -> dict[str, Counts]:
        plain = {relation_of(table.node): table.unique_id for table in tables if _only_rows(_asked(table))}
        if not plain or not isinstance(self._engine, Distributed):
            return {}
        try:
            known = self._engine.known_counts(plain, of=max(self._expected, len(plain)))
        except Exception as error:
            # What is wrong with Trino itself, the statements will tell.
            dg.get_dagster_logger().warning(f"Rows are counted by queries, because metadata could not be read. {error}")
            return {}
        return {plain[relation]: Counts(rows) for relation, rows in known.items()}

    def judge(self, table: Table, answer: CountResult) -> Iterable[dg.AssetCheckResult | dg.AssetCheckEvaluation]:
        """The row-count checks of one table; of a partitioned one an evaluation for each partition."""
        accepted = table.unique_id in self._accepted
        if self._windows and table.grain and not isinstance(answer, Counts):
            return partition_evaluations(
                table,
                self._windows.partitions_def,
                self._windows.span,
                answer,
                self._windows.history,
                zone=self._zone,
                accepted=accepted,
            )
        if isinstance(answer, Counts):
            now = datetime.now(UTC)
            return row_count_results(table, answer, self._history, now=now, zone=self._zone, accepted=accepted)
        return uncounted_results(table, str(answer), self._history)


class Statement(Protocol[A_co]):
    """One question to many tables at once."""

    @property
    def stages(self) -> int:
        """Of each table, without those of its distinct columns."""

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """The statement."""

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> Sequence[A_co]:
        """What it answered of each table, in order."""


class Whole:
    """Tables as a whole."""

    stages = 1

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """See `count_sql`."""
        return count_sql(tables)

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Counts]:
        """See `read_counts`."""
        return read_counts(tables, answer)


class ByWindow:
    """Tables by window."""

    stages = STAGES

    def __init__(self, adapter: str, bins: Bins) -> None:
        self._adapter, self._bins = adapter, bins

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """See `window_count_sql`."""
        return window_count_sql(self._adapter, self._bins, tables)

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Mapping[str, Counts]]:
        """See `read_window_counts`."""
        return read_window_counts(self._bins, tables, answer)


class Questions(Generic[A_co]):
    """Statements that count tables, as few as the engine allows.

    Where one fails, its halves are asked, down to the tables at fault; and no more when too many have failed.
    """

    def __init__(self, fetch_all: FetchAll, statement: Statement[A_co], stages: int | None = None) -> None:
        self._fetch_all, self._statement, self._stages = fetch_all, statement, stages
        self._failed = 0
        self._stopped = ""

    def ask(self, tables: Sequence[CountRequest]) -> list[A_co | str]:
        """The answer for each table, in order; text says why there is none."""
        each = self._statement.stages
        return [answer for chunk in chunks(tables, self._stages, each=each) for answer in self._ask(chunk)]

    def _ask(self, tables: Sequence[CountRequest]) -> list[A_co | str]:
        if self._stopped:
            return [self._stopped] * len(tables)
        try:
            return [*self._statement.read(tables, self._fetch_all(self._statement.sql(tables)))]
        except DatabaseError as error:
            self._stopped = str(error)
            return [self._stopped] * len(tables)
        except Exception as error:
            reason = str(error).strip()
            self._failed += 1
            if self._failed >= MOST_FAILURES:
                self._stopped = (
                    f"not counted: {self._failed} statements that count rows have failed, the last: {reason}"
                )
            if len(tables) == 1:
                return [reason]
        half = len(tables) // 2
        return [*self._ask(tables[:half]), *self._ask(tables[half:])]


def _only_rows(table: CountRequest) -> bool:
    return not table.distinct and not table.event_time


def _asked(table: Table) -> CountRequest:
    freshness = table.contract.freshness
    event_time = (freshness and freshness.column) or table.event_time
    return CountRequest(table.node.relation_name, table.contract.distinct, event_time)


def fetching(dbt: Asks, engine: Engine, stop: threading.Event) -> FetchAll:
    """Statements on dbt's own connection, again where they fail for a reason that passes.

    Args:
        dbt: The process.
        engine: Tells which reasons pass.
        stop: Ends the waiting.
    """

    def fetch_all(sql: str) -> Sequence[Sequence[Any]]:
        patience = Patience(engine.classify_error, engine.queue_timeout)
        while True:
            try:
                return dbt.fetch_all(sql)
            except RuntimeError as error:
                message = str(error)
                if not dbt.alive or stop.is_set():
                    raise DatabaseError(message) from None
                if not engine.classify_error(message).transient:
                    raise
                if not patience.classify_error(message).transient:
                    raise DatabaseError(message) from None  # nor would another statement fare better
                stop.wait(patience.wait_for(message))

    return fetch_all
