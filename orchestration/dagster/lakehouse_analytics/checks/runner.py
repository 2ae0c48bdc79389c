"""Row counts of the tables of a run: counted in as few statements as possible, and evaluated against the contracts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg

from lakehouse_analytics.assets.dbt_retries import Patience
from lakehouse_analytics.checks.history import History
from lakehouse_analytics.checks.partition_counts import STAGES, read_window_counts, window_count_sql
from lakehouse_analytics.checks.partitioned import partition_evaluations, value_evaluations
from lakehouse_analytics.checks.row_count_results import row_count_results, uncounted_results
from lakehouse_analytics.checks.row_count_rules import CountRequest, Counts, chunks, count_sql, read_counts
from lakehouse_analytics.checks.value_counts import ValueCounts
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.engines.base import DatabaseError, Distributed, Engine, FetchAll
from lakehouse_analytics.engines.partition_bins import Bins
from lakehouse_analytics.partitions.definitions import GrainPartitions, PartitionRange
from lakehouse_analytics.partitions.keys import joined_key

A_co = TypeVar("A_co", covariant=True)

#: The counts of a table, of its partitions by key, or the reason why it could not be counted.
CountResult = Counts | Mapping[str, Counts] | str
#: Number of failed statements after which no more are run. One faulty table among 50 costs 12 of them.
MAX_FAILURES = 64


class QueryRunner(Protocol):
    """A dbt process that runs statements on its own connection."""

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement and return all of its rows.

        Raises:
            RuntimeError: The statement failed.
        """


@dataclass(frozen=True)
class CountedPartitions:
    """The partitions that a run counts, and their history.

    Attributes:
        adapter: The name of the dbt adapter.
        partitions_def: The partitions definition of the time; None if the tables are partitioned by a column only.
        span: The windows of the run, likewise.
        history: Earlier counts of the partitions.
        column: The column that the tables are partitioned by; None if there is none.
        values: Its values of the run.
    """

    adapter: str
    partitions_def: GrainPartitions | None
    span: PartitionRange | None
    history: History
    column: str | None = None
    values: Sequence[str] = ()

    @property
    def statement(self) -> Statement[Mapping[str, Counts]]:
        """The statement that counts the rows per partition."""
        windows = self.span.windows if self.span else ()
        bins = Bins([w.key for w in windows], [*(w.start for w in windows), self.span.end]) if self.span else None
        if self.column:
            keys = {
                (key, value): str(joined_key(self.column, key, value)) if bins else value
                for key in (bins.keys if bins else [""])
                for value in self.values
            }
            return ValueCounts(self.adapter, self.column, keys, bins)
        if bins is None:
            raise ValueError("a run of partitions has windows, values, or both")
        return PartitionCounts(self.adapter, bins)

    def evaluations(
        self, table: Table, answer: Mapping[str, Counts] | str, *, zone: tzinfo, accepted: bool
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield the row-count checks of the partitions of one table.

        Args:
            table: The table.
            answer: The counts by partition key, or the reason why there are none.
            zone: The time zone that determines the day of the week.
            accepted: Whether an operator accepts these counts as the new level.
        """
        column = self.column
        if self.partitions_def is None or self.span is None:
            yield from value_evaluations(table, self.values, answer, self.history, zone=zone, accepted=accepted)
            return
        key_ofs: list[Callable[[str], str]] = [str]
        if column:
            key_ofs = [partial(_joined, column, value) for value in self.values]
        for key_of in key_ofs:
            yield from partition_evaluations(
                table,
                self.partitions_def,
                self.span,
                answer,
                self.history,
                zone=zone,
                accepted=accepted,
                key_of=key_of,
            )


def _joined(column: str, value: str, window: str) -> str:
    return str(joined_key(column, window, value))


class Counter:
    """Counts and evaluates the tables of one run.

    Args:
        engine: The engine, which may know exact counts from metadata and limit the size of statements.
        fetch_all: Runs a statement on dbt's own connection, so every table that dbt can build can be counted.
        history: Earlier counts of unpartitioned tables.
        accepted: Unique ids of the tables whose count an operator accepts as the new level.
        zone: The time zone that determines the day of the week.
        windows: The partitions of the run, if it has partitioned tables.
        expected: The total number of tables that the run counts.
    """

    def __init__(
        self,
        engine: Engine,
        fetch_all: FetchAll,
        history: History,
        *,
        accepted: Collection[str],
        zone: tzinfo,
        windows: CountedPartitions | None = None,
        expected: int = 0,
    ) -> None:
        self._expected = expected
        self._engine, self._fetch_all, self._history = engine, fetch_all, history
        self._accepted, self._zone, self._windows = accepted, zone, windows

    def count(self, tables: Sequence[Table]) -> dict[str, CountResult]:
        """Count the tables, and return the results by unique id.

        Counts come from metadata if it is exact, otherwise from as few statements as possible. Of partitioned tables,
        only the partitions of the run are counted.
        """
        whole = [table for table in tables if table.is_whole]
        answers: dict[str, CountResult] = dict(self._counts_from_metadata(whole))
        rest = [table for table in whole if table.unique_id not in answers]
        found = self._batched(TotalCounts()).count([_count_request(table) for table in rest])
        answers |= dict(zip((table.unique_id for table in rest), found, strict=True))
        windowed = [table for table in tables if not table.is_whole]
        if self._windows and windowed:
            requests = [replace(_count_request(table), event_time=table.event_time) for table in windowed]
            counts = self._batched(self._windows.statement).count(requests)
            answers |= dict(zip((table.unique_id for table in windowed), counts, strict=True))
        return answers

    def _batched(self, statement: Statement[A_co]) -> BatchedCounts[A_co]:
        most = self._engine.max_stages if isinstance(self._engine, Distributed) else None
        return BatchedCounts(self._fetch_all, statement, most)

    def _counts_from_metadata(self, tables: Sequence[Table]) -> dict[str, Counts]:
        plain = {
            relation_of(table.node): table.unique_id for table in tables if _needs_rows_only(_count_request(table))
        }
        if not plain or not isinstance(self._engine, Distributed):
            return {}
        try:
            known = self._engine.known_counts(plain, of=max(self._expected, len(plain)))
        except Exception as error:
            # If Trino itself has a problem, the statements will report it.
            dg.get_dagster_logger().warning(f"Rows are counted by queries, because metadata could not be read. {error}")
            return {}
        return {plain[relation]: Counts(rows) for relation, rows in known.items()}

    def evaluate(self, table: Table, answer: CountResult) -> Iterable[dg.AssetCheckResult | dg.AssetCheckEvaluation]:
        """Return the row-count checks of one table, or of each of its partitions."""
        accepted = table.unique_id in self._accepted
        if self._windows and not table.is_whole and not isinstance(answer, Counts):
            return self._windows.evaluations(table, answer, zone=self._zone, accepted=accepted)
        if isinstance(answer, Counts):
            now = datetime.now(UTC)
            return row_count_results(table, answer, self._history, now=now, zone=self._zone, accepted=accepted)
        return uncounted_results(table, str(answer), self._history)


class Statement(Protocol[A_co]):
    """A statement that counts many tables at once."""

    @property
    def stages(self) -> int:
        """The number of stages per table, without those of its distinct columns."""

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """Return the SQL of the statement."""

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> Sequence[A_co]:
        """Return the counts of each table from the result, in the order of the tables."""


class TotalCounts:
    """Counts whole tables."""

    stages = 1

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """Return the SQL of `count_sql`."""
        return count_sql(tables)

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Counts]:
        """Return the counts of each table with `read_counts`."""
        return read_counts(tables, answer)


class PartitionCounts:
    """Counts the rows of tables per partition."""

    stages = STAGES

    def __init__(self, adapter: str, bins: Bins) -> None:
        self._adapter, self._bins = adapter, bins

    def sql(self, tables: Sequence[CountRequest]) -> str:
        """Return the SQL of `window_count_sql`."""
        return window_count_sql(self._adapter, self._bins, tables)

    def read(self, tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Mapping[str, Counts]]:
        """Return the counts of each table with `read_window_counts`."""
        return read_window_counts(self._bins, tables, answer)


class BatchedCounts(Generic[A_co]):
    """Counts tables in as few statements as the engine allows.

    If a statement fails, its tables are split into halves and counted again, down to the tables at fault. After too
    many failures, no more statements are run.
    """

    def __init__(self, fetch_all: FetchAll, statement: Statement[A_co], stages: int | None = None) -> None:
        self._fetch_all, self._statement, self._stages = fetch_all, statement, stages
        self._failed = 0
        self._stopped = ""

    def count(self, tables: Sequence[CountRequest]) -> list[A_co | str]:
        """Return the count of each table in order, or the reason why it could not be counted."""
        each = self._statement.stages
        return [answer for chunk in chunks(tables, self._stages, each=each) for answer in self._count(chunk)]

    def _count(self, tables: Sequence[CountRequest]) -> list[A_co | str]:
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
            if self._failed >= MAX_FAILURES:
                self._stopped = (
                    f"not counted: {self._failed} statements that count rows have failed, the last: {reason}"
                )
            if len(tables) == 1:
                return [reason]
        half = len(tables) // 2
        return [*self._count(tables[:half]), *self._count(tables[half:])]


def _needs_rows_only(table: CountRequest) -> bool:
    return not table.distinct and not table.event_time


def _count_request(table: Table) -> CountRequest:
    freshness = table.contract.freshness
    event_time = (freshness and freshness.column) or table.event_time
    return CountRequest(table.node.relation_name, table.contract.distinct, event_time)


def retrying_fetch_all(dbt: QueryRunner, engine: Engine, stop: threading.Event) -> FetchAll:
    """Return a function that runs statements on dbt's own connection and retries transient failures.

    Args:
        dbt: The dbt process.
        engine: Classifies errors as transient or not.
        stop: Ends the wait before a retry.
    """

    def fetch_all(sql: str) -> Sequence[Sequence[Any]]:
        patience = Patience(engine.classify_error, engine.queue_timeout)
        while True:
            try:
                return dbt.fetch_all(sql)
            except RuntimeError as error:
                message = str(error)
                if not dbt.is_alive or stop.is_set():
                    raise DatabaseError(message) from None
                if not engine.classify_error(message).transient:
                    raise
                if not patience.classify_error(message).transient:
                    raise DatabaseError(message) from None  # any other statement would fail, too
                stop.wait(patience.wait_for(message))

    return fetch_all
