"""The execution of the op that builds all layers, with gates between the tables.

There is one `multi_asset` instead of one op per layer: between ops, Dagster gates whole steps, so that one bad bronze
table would stop all of silver. Within one op, one dbt process builds everything and skips what is downstream of a
failed gate.
"""

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from lakehouse_analytics.assets.accepted_tables import accepted_tables
from lakehouse_analytics.assets.attempts import Attempts
from lakehouse_analytics.assets.branch_choice import BranchOf, OpenedBranch
from lakehouse_analytics.assets.build_events import BuildEvents, Event
from lakehouse_analytics.assets.build_locks import BuildLocks
from lakehouse_analytics.assets.build_selection import checked_tables, selection_of
from lakehouse_analytics.assets.dbt_build import DbtBuild, DbtOfRun, Report
from lakehouse_analytics.assets.dbt_commands import DbtCommands, rebuilds
from lakehouse_analytics.assets.dbt_retries import Patience
from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.registered_checks import SourceChecks, TableChecks
from lakehouse_analytics.assets.reuse import Reuse
from lakehouse_analytics.assets.run_log import RunLog
from lakehouse_analytics.assets.table_results import TableResults
from lakehouse_analytics.checks.registry import Scope
from lakehouse_analytics.checks.runner import retrying_fetch_all
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.dbt.runner import DbtRunner, run_to_end
from lakehouse_analytics.engines.base import DatabaseError, Distributed, Engine, Queried
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.by_column import ColumnPartitions, RunValues, needed_values
from lakehouse_analytics.partitions.definitions import GrainPartitions
from lakehouse_analytics.partitions.run_partitions import RunWindows

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
OP_NAME = "build"
#: Number of dbt's threads if LAKEHOUSE_DBT_THREADS is not set, as in the profile for Trino.
DEFAULT_THREADS = 4
#: Seconds for which row counts that are not gates are collected for one statement, if each statement is expensive.
GATHER = 0.5


class BuildConfig(dg.Config):
    """The options of one build."""

    full_refresh: bool = Field(
        default=False, description="Rebuild incremental models from scratch (dbt --full-refresh)."
    )
    accept_row_counts: list[str] = Field(
        default=[], description="Models whose row count becomes the new baseline of max_drop and drift."
    )
    allow_missing_partitions: bool = Field(
        default=False, description="Build the partition even if upstream partitions for which it waits are missing."
    )


class Build:
    """One execution of the op: it creates a plan, builds it with dbt, and reports the events to Dagster."""

    def __init__(
        self,
        graph: Graph,
        project: DbtProject,
        context: Context,
        keys: AbstractSet[dg.AssetKey],
        config: BuildConfig,
        *,
        dbt: DbtRunner,
        engine: Engine,
        grain_partitions: Mapping[Grain, GrainPartitions],
        column_partitions: Mapping[str, ColumnPartitions],
        zone: ZoneInfo,
        max_runtime: float,
        threads: int = DEFAULT_THREADS,
        branch: BranchOf | None = None,
    ) -> None:
        self.config, self.dbt, self.engine = config, dbt, engine
        self.grain_partitions, self.threads = grain_partitions, threads
        # The context of an op that only has checks has everything except what tables need.
        self.context = cast("dg.AssetExecutionContext", context)
        self.log = RunLog(context.log)
        self.branch, self.reuse = self._reused(graph, keys, branch)
        self.graph = self.reuse.graph = self.branch.graph if self.branch else graph
        #: Reports of a run that publishes: nothing is materialized before it is published.
        self.withheld: list[tuple[Report, Patience]] = []
        checks = context.selected_asset_check_keys
        scope = Scope(self.graph, grain_partitions, column_partitions)
        of_tables, self.of_sources = TableChecks(scope), SourceChecks(scope, checks)
        self.run = Run(selection_of(self.graph, self.context, keys, of_tables))
        self.run.reuse(self.reuse.reused)
        self.column_partitions = column_partitions
        self.windows = self._windows(keys | checked_tables(checks))
        self.values = self._values(keys | checked_tables(checks))
        accepted = self._accepted()
        self.report = self._events(graph, project)
        self.results = TableResults(
            self.run,
            context.instance,
            engine,
            of_tables,
            self.report,
            reuse=self.reuse,
            windows=self.windows,
            values=self.values,
            accepted=accepted,
            zone=zone,
        )
        self.commands = self._commands()
        self.locks = BuildLocks(self.context, engine, self.run, max_wait=max_runtime)

    def _reused(
        self, graph: Graph, keys: AbstractSet[dg.AssetKey], branch: BranchOf | None
    ) -> tuple[OpenedBranch | None, Reuse]:
        """Return the branch of the run, and what need not be built, for which a run's own branch has no tables."""
        full_refresh = rebuilds(self.dbt, full_refresh=self.config.full_refresh)
        opened = branch(graph, self.context, keys, full_refresh) if branch else None
        reuse = Reuse(
            opened.graph if opened and not opened.withholds else graph,
            [table.unique_id for table in graph.tables.values() if asset_key(table) in keys],
            dbt=self.dbt,
            engine=self.engine,
            instance=self.context.instance,
            run_id=self.context.run.run_id,
            full_refresh=full_refresh,
            warn=self.log.warn,
        )
        if branch and opened and opened.withholds and reuse.reused:
            reused = {asset_key(graph.tables[unique_id]) for unique_id in reuse.reused}
            opened = branch(graph, self.context, keys - reused, full_refresh)
        reuse.keeps_views = reuse.keeps_views and not (opened and opened.withholds)
        return opened, reuse

    def _events(self, graph: Graph, project: DbtProject) -> BuildEvents:
        return BuildEvents(
            graph if self.branch and self.branch.withholds else self.graph,
            project.project_dir,
            self.context,
            self.context.selected_asset_check_keys,
            run=self.run,
            engine=self.engine,
            windows=self.windows,
            lineage_folder=project.target_path / "column_lineage",
            reuse=self.reuse,
            schemas=self.branch.visible if self.branch else None,
        )

    def _commands(self) -> DbtCommands:
        return DbtCommands(
            self.dbt,
            run_id=self.context.run.run_id,
            job=self.context.run.job_name,
            windows=self.windows,
            values=self.values,
            full_refresh=self.config.full_refresh,
            asks=self._locks_tables or bool(self.reuse.undecided),
            schemas=self.branch.schemas if self.branch else None,
        )

    @property
    def _locks_tables(self) -> bool:
        """Whether each table is locked while it is built. A run that publishes locks all of them until the end."""
        return self.graph.engine.concurrent_writers and not (self.branch and self.branch.withholds)

    def _windows(self, keys: AbstractSet[dg.AssetKey]) -> RunWindows | None:
        tables = [table for table in self.graph.tables.values() if asset_key(table) in keys]
        windows = RunWindows.for_run(self.context, tables, self.grain_partitions)
        if windows and rebuilds(self.dbt, full_refresh=self.config.full_refresh):
            windows.refuse_partial_rebuild()
        return windows

    def _values(self, keys: AbstractSet[dg.AssetKey]) -> RunValues | None:
        tables = [table for table in self.graph.tables.values() if asset_key(table) in keys]
        values = RunValues.for_run(self.context, tables, self.column_partitions)
        if values and rebuilds(self.dbt, full_refresh=self.config.full_refresh):
            values.refuse_partial_rebuild()
        return values

    def _accepted(self) -> AbstractSet[str]:
        try:
            return accepted_tables(self.graph, self.config.accept_row_counts)
        except ValueError as error:
            raise dg.Failure(f"accept_row_counts: {error}", allow_retries=False) from None

    def events(self) -> Iterator[Event]:
        """Build, and yield the events while dbt runs.

        Raises:
            dg.Failure: Something was not built, a gate failed, or a planned check was not evaluated.
        """
        instance = self.context.instance
        if self.windows:
            self.windows.pool_connections(instance)
        # On a branch, the partitions are those of the tables that it has copied, of which Dagster knows nothing.
        if self.windows and not self.config.allow_missing_partitions and not self.graph.prefix:
            values_of = needed_values(self.column_partitions, instance, self.values.values if self.values else None)
            self.windows.refuse_gaps(
                self.graph, self.run.selection.selected, self.grain_partitions, instance, values_of=values_of
            )
        plan = self.run.plan()
        if plan or self.of_sources:
            what = f"{counted(len(plan.tables), 'table')}, {counted(len(plan.tests), 'test')}"
            what += f", {counted(len(self.of_sources), 'check')} of sources" if self.of_sources else ""
            what += f"; {counted(len(self.reuse.reused), 'table')} reused" if self.reuse.reused else ""
            self.log.heading(what)
            yield from self.report.reused_events()
            yield from self._build(plan, what)
        self.report.close()

    def _build(self, plan: Plan, what: str) -> Iterator[Event]:
        """Build a plan, yield the events, and report the result."""
        with self.locks, self._on_branch(), DbtOfRun(self.graph.adapter, self.dbt.manifest) as dbt:
            self._wait_until_free()  # while dbt is being imported
            for check in self.of_sources.results(partial(self._run_command, dbt)):
                yield from self.report.evaluations.events([check])
            if not plan:
                return
            attempts = Attempts(self.run, self.engine, self.log, partial(self._build_once, dbt), threads=self.threads)
            result = yield from attempts.events(plan)
            self.run.record(plan, result)
            if self.branch:
                self.report.unpublished = self.branch.finish(self.run, crashed=result.crashed)
            # Before the branch is dropped, which takes time: readers see the tables now.
            for report, patience in self.withheld:
                yield from self.report.node_events(report, patience)
        yield from self.report.final_events(plan, result, self.results.counter)
        if result.crashed:
            raise dg.Failure(
                f"dbt crashed (exit code {result.exit_code}) while building {what}:\n"
                f"{self.report.with_advice(result.reason)}\n{self.run.summary()}",
                allow_retries=False,
            )

    def _on_branch(self) -> AbstractContextManager[object]:
        if self.branch is None:
            return nullcontext()
        return self.branch.opened(self.locks, cast("Queried", self.engine), self.log.warn)

    def _wait_until_free(self) -> None:
        try:
            self.engine.wait_until_free(self.log.warn)
        except DatabaseError as error:
            raise dg.Failure(f"{error}\n{self.run.summary()}", allow_retries=False) from error

    def _run_command(self, dbt: DbtOfRun, args: Sequence[str]) -> tuple[DbtResult, Path]:
        """Run a dbt command that builds nothing. See `checks.registry.Dbt`."""
        request = self.commands.other(args, dbt.folder)
        ended = False
        try:
            with self.engine.queue_reported(self.context.run.run_id, self.log.warn):
                result = run_to_end(dbt.process(), request, self.log.dbt_line)
            ended = not result.crashed
        finally:
            if not ended:
                self._stop(dbt)
        return result, Path(dbt.folder)

    def _build_once(
        self, dbt: DbtOfRun, plan: Plan, patience: Patience, threads: int | None
    ) -> Generator[Event, None, DbtResult]:
        """Run one attempt to its end, and return its result. See `attempts.BuildOnce`."""
        process = dbt.process()
        stop = threading.Event()
        fetch_all = retrying_fetch_all(process, self.engine, stop)
        self.results.begin(fetch_all)
        self.reuse.begin(plan.tables, fetch_all)
        tables = {table.unique_id: table for table in plan.tables}
        tables |= {unique_id: self.graph.tables[unique_id] for unique_id in plan.row_count_gates.values()}
        build = DbtBuild(
            process,
            plan,
            tables,
            count=partial(self.results.count, fetch_all),
            judge=self.results.judge,
            log=self.log.dbt_line,
            lock=self.locks.lock if self._locks_tables else None,
            cut_off=self.reuse,
            gather=GATHER if isinstance(self.engine, Distributed) else 0.0,
            threads=self.threads,
            complete=self.reuse.recorded,
        )
        request = self.commands.build(plan, dbt.folder, threads)
        ended = False
        try:
            with self.engine.queue_reported(self.context.run.run_id, self.log.warn):
                for report in build.run(request):
                    if self.branch and self.branch.withholds:
                        self.withheld.append((report, patience))
                    else:
                        yield from self.report.node_events(report, patience)
            ended = not build.result.crashed
        finally:
            stop.set()
            if not ended:
                self._stop(dbt)
        return build.result

    def _stop(self, dbt: DbtOfRun) -> None:
        """Stop dbt and the queries that it has left running."""
        dbt.stop()
        self.engine.kill_queries(self.context.run.run_id)
