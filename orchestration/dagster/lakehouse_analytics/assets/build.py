"""The one op that builds every layer, with gates between the tables.

One `multi_asset` and not one op a layer: between ops Dagster gates whole steps, and one bad bronze table would abandon
all of silver. Inside one op one dbt builds all of it, and skips what lies below a failed gate.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from lakehouse_analytics._dagster_internals import keys_of_run
from lakehouse_analytics.assets.build_events import BuildEvents, Event
from lakehouse_analytics.assets.dbt_build import DbtBuild, DbtOfRun
from lakehouse_analytics.assets.gates import FINE_STATUS, Plan, Run
from lakehouse_analytics.assets.registered_checks import SourceChecks, TableChecks
from lakehouse_analytics.assets.retries import Patience, merge, worth_a_second_start, worth_another_try
from lakehouse_analytics.checks.history import history_of
from lakehouse_analytics.checks.registry import Scope, table_check_names
from lakehouse_analytics.checks.runner import CountedPartitions, Counter, CountResult, retrying_fetch_all
from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.common.text import did_you_mean, shortened
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import DbtTest, Graph, Table
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.query_tags import Provenance
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.dbt.runner import DbtRunner, run_to_end
from lakehouse_analytics.engines.base import DatabaseError, Distributed, Engine, FetchAll
from lakehouse_analytics.keys import asset_key, check_key
from lakehouse_analytics.locks import TableLocks, lock_name
from lakehouse_analytics.partitions.definitions import GrainPartitions
from lakehouse_analytics.partitions.run_partitions import RunWindows

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
OP_NAME = "build"
#: dbt's threads where LAKEHOUSE_DBT_THREADS is not set, as the profile has it for Trino.
DEFAULT_THREADS = 4


#: Seconds in which tables whose count is no gate come together, where each statement is dear.
GATHER = 0.5
#: How dbt's options read `true` from a variable (click's BOOL).
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


class BuildConfig(dg.Config):
    """What a person may ask of one build."""

    full_refresh: bool = Field(
        default=False, description="Rebuild incremental models from nothing (dbt --full-refresh)."
    )
    accept_row_counts: list[str] = Field(
        default=[], description="Models whose row count is the new normal: max_drop and drift start from it."
    )
    allow_missing_partitions: bool = Field(
        default=False, description="Build a window although tables of a shorter grain lack some of theirs inside it."
    )


class Build:
    """One execution of the op."""

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
        zone: ZoneInfo,
        max_runtime: float,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.threads = threads
        self.graph, self.project = graph, project
        # The context of an op of checks has all of it that tables do not need.
        self.context = cast("dg.AssetExecutionContext", context)
        self.config, self.dbt, self.engine = config, dbt, engine
        self.grain_partitions, self.max_runtime = grain_partitions, max_runtime
        self.keys, self.checks = keys, context.selected_asset_check_keys
        selected = {table.unique_id for table in graph.tables.values() if asset_key(table) in keys}
        checked = {test.unique_id for test in graph.tests.values() if check_key(graph, test) in self.checks}
        names = table_check_names()
        self.checked_tables = {key.asset_key for key in self.checks if key.name in names}
        counted = self.checked_tables - keys
        only_counted = {table.unique_id for table in graph.tables.values() if asset_key(table) in counted}
        before, after = self._of_other_steps()
        scope = Scope(graph, grain_partitions)
        self.of_tables, self.of_sources = TableChecks(scope), SourceChecks(scope, self.checks)
        gated = self.of_tables.gates(graph.tables[unique_id] for unique_id in selected)
        self.run = Run(
            graph, frozenset(selected), frozenset(checked), frozenset(only_counted), before, after, gated=gated
        )
        self.windows = self._windows()
        self.zone, self.accepted = zone, self._accepted()
        self.counter: Counter
        self.report = BuildEvents(
            graph, project.project_dir, self.context, self.checks, run=self.run, engine=engine, windows=self.windows
        )
        step = context.op_execution_context.op_def.name
        self.locks = TableLocks(context.instance, context.run.run_id, step, on_lost=self._stop_writing)

    def _of_other_steps(self) -> tuple[frozenset[str], frozenset[str]]:
        """Tables that steps before and after this one build: Dagster splits the op at a Python asset between tables."""
        others = keys_of_run(self.context) - self.keys
        tables = {asset_key(table): table.unique_id for table in self.graph.tables.values() if others}
        if others.isdisjoint(tables):
            return frozenset(), frozenset()
        records = self.context.instance.get_records_for_run(
            self.context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        built = {record.asset_key for record in records}
        return (
            frozenset(tables[key] for key in others & tables.keys() & built),
            frozenset(tables[key] for key in others & tables.keys() - built),
        )

    def events(self) -> Iterator[Event]:
        """Build, and report what happens as it happens.

        Raises:
            dg.Failure: something was not built, a gate failed, or a planned check was not evaluated.
        """
        if self.windows:
            self.windows.pool_connections(self.context.instance)
        if self.windows and not self.config.allow_missing_partitions:
            self.windows.refuse_gaps(self.graph, self.run.selected, self.grain_partitions, self.context.instance)
        plan = self.run.plan()
        if plan or self.of_sources:
            what = f"{counted(len(plan.tables), 'table')}, {counted(len(plan.tests), 'test')}"
            what += f", {counted(len(self.of_sources), 'check')} of sources" if self.of_sources else ""
            self.context.log.info(what)
            _say(f"== {what}")
            yield from self._build(plan, what)
        self.report.close()

    def _build(self, plan: Plan, what: str) -> Iterator[Event]:
        """Build a plan, and again what failed of it for a reason that passes."""
        with self.locks, DbtOfRun(self.graph.adapter, self.dbt.manifest) as dbt:
            self._wait_until_free()  # meanwhile dbt is imported
            for check in self.of_sources.results(partial(self._command_of, dbt)):
                yield from self.report.evaluations.events([check])
            if not plan:
                return
            result = yield from self._tries(dbt, plan)
        self.run.record(plan, result)
        yield from self.report.of_end(plan, result, self.counter)
        if result.crashed:
            raise dg.Failure(
                f"dbt crashed (exit code {result.exit_code}) while building {what}:\n"
                f"{self.report.with_advice(result.reason)}\n{self.run.summary()}",
                allow_retries=False,
            )

    def _tries(self, dbt: DbtOfRun, plan: Plan) -> Generator[Event, None, DbtResult]:
        patience = Patience(self.engine.classify_error, self.engine.queue_timeout)
        whole, threads = plan, None
        result: DbtResult | None = None
        while True:
            last = yield from self._invoke(dbt, plan, patience, threads)
            result = merge(result, last) if result else last
            again = self._again(whole, plan, result, last, patience)
            if not again:
                return result
            seconds, full = patience.wait(last)
            # Fewer statements at once, so that ours do not fill the queue themselves.
            threads = max(1, self.threads >> patience.refusals) if full else None
            self._tell_retry(again, last, seconds, threads)
            time.sleep(seconds)
            try:
                self.engine.wait_until_free(self._warn)
            except DatabaseError as error:
                self.run.problems.append(str(error))  # what was built meanwhile is reported all the same
                return result
            plan = again

    def _command_of(self, dbt: DbtOfRun, args: Sequence[str]) -> tuple[DbtResult, Path]:
        """Run a command of dbt that builds nothing. See `checks.registry.Dbt`."""
        request = self.dbt.request(args, self._environment(), target_path=dbt.folder, parsed=True)
        run_id, ended = self.context.run.run_id, False
        try:
            with self.engine.queue_reported(run_id, self._warn):
                result = run_to_end(dbt.process(), request, self._log)
            ended = not result.crashed
        finally:
            if not ended:
                dbt.stop()
                self.engine.kill_queries(run_id)
        return result, Path(dbt.folder)

    def _wait_until_free(self) -> None:
        try:
            self.engine.wait_until_free(self._warn)
        except DatabaseError as error:
            raise dg.Failure(f"{error}\n{self.run.summary()}", allow_retries=False) from error

    def _again(self, whole: Plan, asked: Plan, result: DbtResult, last: DbtResult, patience: Patience) -> Plan | None:
        """What to ask for again; None where nothing is worth it."""
        judge = patience.classify_error
        if last.crashed:
            unanswered = [table for table in asked.tables if table.unique_id not in last.nodes]
            if not worth_a_second_start(unanswered, last, judge):
                return None
            tests = [test for test in asked.tests if test.unique_id not in last.nodes]
            again = self.run.plan_again(unanswered, tests)
        else:
            again = self.run.plan_again(
                *worth_another_try(
                    self.graph, whole.tables, whole.tests, result, judge, failed_gates=self.run.failed_gates
                )
            )
        return again or None

    def _tell_retry(self, again: Plan, last: DbtResult, seconds: float, threads: int | None) -> None:
        things: list[Table | DbtTest] = [*again.tables, *again.tests]
        names = ", ".join(thing.name for thing in things)
        if threads:
            self._warn(f"The queue is full; retrying in {seconds:g} s with {counted(threads, 'thread')}: {names}")
        else:
            said = "\n".join(_messages(last, things))
            self._warn(f"Retrying in {seconds:g} s after a transient failure: {names}\n{said}".rstrip())

    def _environment(self) -> dict[str, str]:
        whole_history = {"LAKEHOUSE_WHOLE_HISTORY": "true"} if self.windows and self._rebuilds else {}
        return {**self.dbt.database_environment, **self._provenance().environment(), **whole_history}

    def _invoke(
        self, dbt: DbtOfRun, plan: Plan, patience: Patience, threads: int | None
    ) -> Generator[Event, None, DbtResult]:
        """One build, to its end."""
        process = dbt.process()
        stop = threading.Event()
        fetch_all = retrying_fetch_all(process, self.engine, stop)
        self.counter = self._counter(fetch_all)
        tables = {table.unique_id: table for table in plan.tables}
        tables |= {unique_id: self.graph.tables[unique_id] for unique_id in plan.gates.values()}
        build = DbtBuild(
            process,
            plan,
            tables,
            count=partial(self._count, fetch_all),
            judge=self._judge,
            log=self._log,
            lock=self._locked if self.graph.engine.concurrent_writers else None,
            gather=GATHER if isinstance(self.engine, Distributed) else 0.0,
            threads=self.threads,
        )
        request = self.dbt.request(
            self._command(plan, threads),
            self._environment(),
            target_path=dbt.folder,
            plan={
                "nodes": plan.nodes,
                "gates": [*plan.gates],
                "edges": [*plan.edges],
                "ask": self.graph.engine.concurrent_writers,
            },
        )
        run_id, ended = self.context.run.run_id, False
        try:
            with self.engine.queue_reported(run_id, self._warn):
                for report in build.run(request):
                    yield from self.report.of_node(report, patience)
            ended = not build.result.crashed
        finally:
            stop.set()
            if not ended:
                dbt.stop()
                self.engine.kill_queries(run_id)
        return build.result

    def _locked(
        self, table: Table, log: Callable[[str], None], stop: threading.Event
    ) -> AbstractContextManager[object]:
        """Lock a table against other runs and maintenance. An engine with a pool admits one run, and needs none."""
        return self.locks.locked(
            lock_name(relation_of(table.node)),
            wait=self.max_runtime,
            log=log,
            on_stale_holder=self.engine.kill_queries,
            stop=stop,
        )

    def _stop_writing(self, reason: str) -> None:
        """Another run writes a table that this one had locked."""
        self.run.problems.append(reason)
        self.engine.kill_queries(self.context.run.run_id)

    def _command(self, plan: Plan, threads: int | None) -> list[str]:
        command = ["build"]
        if plan.tables and self.config.full_refresh:
            command.append("--full-refresh")
        if self.windows and any(table.grain for table in plan.tables):
            command += self.windows.span.dbt_args()
        return [*command, *(["--threads", str(threads)] if threads else [])]

    def _count(self, fetch_all: FetchAll, tables: Sequence[Table]) -> dict[str, CountResult]:
        """Count tables, and evaluate what else is checked of them. Called in threads."""
        answers = self.counter.count(tables)
        self.of_tables.evaluate(tables, fetch_all)
        return answers

    def _judge(self, table: Table, answer: CountResult) -> bool:
        """Whether a row count, and what else is checked of a table, lets the tables below be built."""
        of_rows, others = [*self.counter.evaluate(table, answer)], self.of_tables.results(table)
        self.report.verdicts[table.unique_id] = [*of_rows, *others]
        broken: dict[str, list[str]] = {}
        for verdict in [*of_rows, *(other for other in others if self.of_tables.blocks(table, other.check_name))]:
            if not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
                partition = getattr(verdict, "partition", None)
                said = f"{partition}: {verdict.description}" if partition else verdict.description or ""
                broken.setdefault(verdict.check_name or "", []).append(said)
        for name, reasons in broken.items():
            self.run.fail_gate(table.unique_id, f"{name}: {some(reasons, FEW, between='; ')}")
        return not broken

    def _accepted(self) -> AbstractSet[str]:
        try:
            return accepted_tables(self.graph, self.config.accept_row_counts)
        except ValueError as error:
            raise dg.Failure(f"accept_row_counts: {error}", allow_retries=False) from None

    def _provenance(self) -> Provenance:
        partition = self.windows.span.label if self.windows else ""
        return Provenance(self.context.run.run_id, self.context.run.job_name, partition)

    def _windows(self) -> RunWindows | None:
        keys = self.keys | self.checked_tables
        tables = [table for table in self.graph.tables.values() if asset_key(table) in keys]
        windows = RunWindows.for_run(self.context, tables, self.grain_partitions)
        if windows and self._rebuilds:
            windows.refuse_partial_rebuild()
        return windows

    @property
    def _rebuilds(self) -> bool:
        """Whether dbt builds incremental models from nothing, by this run's config or by dbt's own variable."""
        said = {**os.environ, **self.dbt.environment}.get("DBT_FULL_REFRESH", "")
        return self.config.full_refresh or said.strip().lower() in _TRUE

    def _counter(self, fetch_all: FetchAll) -> Counter:
        return Counter(
            self.engine,
            fetch_all,
            history_of(self.context.instance),
            accepted=self.accepted,
            zone=self.zone,
            windows=self._counted_windows(),
            expected=len(self.run.selected | self.run.counted),
        )

    def _counted_windows(self) -> CountedPartitions | None:
        if self.windows is None:
            return None
        history = history_of(self.context.instance)
        return CountedPartitions(self.graph.adapter, self.windows.partitions_def, self.windows.span, history)

    def _warn(self, message: str) -> None:
        _say(message)
        self.context.log.warning(message)

    def _log(self, level: str, message: str) -> None:
        if level == "debug" and not os.getenv("DEBUG"):
            return
        _say(message)
        if level in ("warn", "error") and message.strip():
            self.context.log.warning(message.strip())


def accepted_tables(graph: Graph, said: Sequence[str]) -> set[str]:
    """Unique ids of the tables that `accept_row_counts` means.

    Args:
        graph: The manifest's.
        said: Names of models, such as `orders`; with the version, `orders.v2`; or asset keys, such as `silver/orders`.

    Raises:
        ValueError: there is no such table, or a name has several, such as the versions of a model.
    """
    tables: dict[str, set[str]] = {}
    for unique_id, table in graph.tables.items():
        for label in {table.name, _label(table), "/".join(table.key)}:
            tables.setdefault(label, set()).add(unique_id)
    found: set[str] = set()
    for name in said:
        meant = tables.get(name, set())
        if not meant:
            raise ValueError(f"there is no model {shortened(name)}{did_you_mean(name, tables)}")
        if len(meant) > 1:
            labels = {unique_id: _label(graph.tables[unique_id]) for unique_id in meant}
            if len({*labels.values()}) < len(meant):
                labels = {unique_id: "/".join(graph.tables[unique_id].key) for unique_id in meant}
            raise ValueError(f"{shortened(name)} names {len(meant)} tables: say {' or '.join(sorted(labels.values()))}")
        found |= meant
    return found


def _label(table: Table) -> str:
    version = table.node.version
    return table.name if version is None else f"{table.name}.v{version}"


def _messages(result: DbtResult, asked: Sequence[Table | DbtTest]) -> Iterator[str]:
    """Why a build that is tried again failed. After a try that succeeds, nothing else says so."""
    if result.crashed:
        yield result.reason
        return
    for thing in asked:
        node = result.nodes.get(thing.unique_id)
        if node and node.status not in (*FINE_STATUS, "skipped"):
            yield f"{thing.name}: {node.message}"


def _say(message: str) -> None:
    print(message, flush=True)  # noqa: T201  # the run's stdout: dbt's own words, as they come
