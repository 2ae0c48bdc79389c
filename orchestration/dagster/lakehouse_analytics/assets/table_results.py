"""The row counts and other checks of tables during a build."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.assets.build_events import BuildEvents
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.registered_checks import TableChecks
from lakehouse_analytics.assets.reuse import Reuse
from lakehouse_analytics.checks.history import history_of
from lakehouse_analytics.checks.runner import CountedPartitions, Counter, CountResult
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.engines.base import Engine, FetchAll
from lakehouse_analytics.partitions.by_column import RunValues
from lakehouse_analytics.partitions.run_partitions import RunWindows


class TableResults:
    """Counts rows, evaluates the other checks of tables, and decides whether downstream tables are built.

    Attributes:
        counter: The counter of the current attempt.
    """

    counter: Counter

    def __init__(
        self,
        run: Run,
        instance: dg.DagsterInstance,
        engine: Engine,
        checks: TableChecks,
        report: BuildEvents,
        *,
        reuse: Reuse,
        windows: RunWindows | None,
        values: RunValues | None,
        accepted: AbstractSet[str],
        zone: ZoneInfo,
    ) -> None:
        """
        Args:
            run: The state of the run, which records failed gates.
            instance: The Dagster instance, which has the history of row counts.
            engine: The engine that has the tables.
            checks: The checks other than row counts.
            report: Reports the results of each table.
            reuse: Reads the version of each table.
            windows: The windows of the run; None if it has no tables that are partitioned by time.
            values: The values of the run; None if it has no tables that are partitioned by a column.
            accepted: Unique ids of tables whose row count becomes the new baseline.
            zone: Time zone of dates in messages.
        """
        self._run, self._instance, self._engine, self._checks, self._report = run, instance, engine, checks, report
        self._reuse = reuse
        self._windows, self._values, self._accepted, self._zone = windows, values, accepted, zone

    def begin(self, fetch_all: FetchAll) -> None:
        """Begin an attempt with a new counter.

        Args:
            fetch_all: Runs statements on the connection of this attempt's dbt process.
        """
        selection = self._run.selection
        self.counter = Counter(
            self._engine,
            fetch_all,
            history_of(self._instance),
            accepted=self._accepted,
            zone=self._zone,
            windows=self._counted_windows(),
            expected=len(selection.selected | selection.counted),
        )

    def count(self, fetch_all: FetchAll, tables: Sequence[Table]) -> dict[str, CountResult]:
        """Count tables and evaluate their other checks. Called in threads."""
        self._reuse.seen([table for table in tables if table.unique_id not in self._run.selection.reused], fetch_all)
        answers = self.counter.count(tables)
        self._checks.evaluate(tables, fetch_all)
        return answers

    def judge(self, table: Table, answer: CountResult) -> bool:
        """Return whether the row count and the other checks of a table allow downstream tables to be built."""
        self._run.counted.add(table.unique_id)
        of_rows, others = [*self.counter.evaluate(table, answer)], self._checks.results(table)
        self._report.verdicts[table.unique_id] = [*of_rows, *others]
        broken: dict[str, list[str]] = {}
        for verdict in [*of_rows, *(other for other in others if self._checks.blocks(table, other.check_name))]:
            if not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
                partition = getattr(verdict, "partition", None)
                reason = f"{partition}: {verdict.description}" if partition else verdict.description or ""
                broken.setdefault(verdict.check_name or "", []).append(reason)
        for name, reasons in broken.items():
            self._run.fail_gate(table.unique_id, f"{name}: {some(reasons, FEW, between='; ')}")
        return not broken

    def _counted_windows(self) -> CountedPartitions | None:
        windows, values = self._windows, self._values
        if windows is None and values is None:
            return None
        return CountedPartitions(
            self._run.selection.graph.adapter,
            windows.partitions_def if windows else None,
            windows.span if windows else None,
            history_of(self._instance),
            values.column if values else None,
            values.values if values else (),
        )
