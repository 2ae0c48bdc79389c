"""The one op that builds every layer, with gates between them.

One `multi_asset` and not one op a layer: between ops Dagster gates whole steps, and one bad bronze table
would abandon all of silver. Inside one op each stage is a dbt invocation of its own; after it stand the
gates, and what lies below a failed one is left out of the next stage.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from lakehouse_analytics.assets.check_targets import with_targets
from lakehouse_analytics.assets.counting import Answer, CountedWindows, Counter, Engine
from lakehouse_analytics.assets.multi_asset import multi_asset, multi_asset_check
from lakehouse_analytics.assets.run_windows import RunWindows
from lakehouse_analytics.assets.writers import Writers, slot_of
from lakehouse_analytics.check_history import history_of
from lakehouse_analytics.checks import dbt_test_result
from lakehouse_analytics.common.text import did_you_mean, shortened
from lakehouse_analytics.contract import Grain
from lakehouse_analytics.database import DatabaseError
from lakehouse_analytics.dbt_project import DbtProject
from lakehouse_analytics.failed_launch import refuse_failed_launch
from lakehouse_analytics.gates import FINE_STATUS, Run
from lakehouse_analytics.graph import DbtTest, Function, Graph, Table
from lakehouse_analytics.iceberg.policies import relation_of
from lakehouse_analytics.messages import with_source_line
from lakehouse_analytics.names import FEW, counted, some, unique_metadata_key
from lakehouse_analytics.partitions import TOGETHER, Calendar, Window
from lakehouse_analytics.provenance import Provenance
from lakehouse_analytics.relations import refuse_other_relations
from lakehouse_analytics.resources.dbt import DbtRunner, DbtSession
from lakehouse_analytics.retries import Patience, merge, worth_a_second_start, worth_another_try
from lakehouse_analytics.row_counts import Counts
from lakehouse_analytics.run_results import DbtResult, NodeResult
from lakehouse_analytics.selectors import select_args
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.translator import DRIFT, ROW_COUNT, asset_key, check_key, count_specs, table_spec, test_specs

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Event = dg.MaterializeResult[Any] | dg.AssetCheckResult | dg.AssetCheckEvaluation
OP_NAME = "build"
OP_TAGS = {"dagster/compute_kind": "dbt"}
#: dbt's threads where LAKEHOUSE_DBT_THREADS is not set, as the profile has it for Trino.
DEFAULT_THREADS = 4


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


def build_assets(
    graph: Graph,
    project: DbtProject,
    calendars: Mapping[Grain, Calendar],
    settings: Settings,
    *,
    pool: str | None,
) -> list[dg.AssetsDefinition]:
    """The assets and checks of a whole dbt project: one op for all that is built as a whole or by day, and one for each
    other grain, because Dagster runs no two grains at once.

    Args:
        graph: The manifest's.
        project: Where it is.
        calendars: Windows of the partitioned tables, by grain.
        settings: The environment.
        pool: Concurrency pool of the ops.
    """
    timezone, most = settings.timezone, settings.max_partitions_per_run
    by_op: dict[str, list[Table]] = {}
    for table in graph.tables.values():
        by_op.setdefault(op_of(table.grain), []).append(table)
    policy = dg.BackfillPolicy.multi_run(most) if most else dg.BackfillPolicy.single_run()
    # Tests of what no run builds gate what reads it; as dagster-dbt does, they belong to the first op.
    of_unbuilt = [test for test in graph.tests.values() if test.attached in graph.unbuilt]

    def op(name: str, tables: list[Table], others: list[DbtTest]) -> dg.AssetsDefinition:
        tests = [test for table in tables for test in graph.tests_of.get(table.unique_id, ())]

        definition = multi_asset(
            name=name,
            specs=[table_spec(graph, table, project.project_dir, timezone, calendars) for table in tables],
            check_specs=[*test_specs(graph, [*tests, *others]), *count_specs(tables, calendars)],
            can_subset=True,
            allow_arbitrary_check_specs=True,
            pool=pool,
            backfill_policy=policy if any(table.grain for table in tables) else None,
            op_tags=OP_TAGS,
        )

        @definition
        def build(
            context: dg.AssetExecutionContext,
            config: BuildConfig,
            dbt: dg.ResourceParam[DbtRunner],
            engine: dg.ResourceParam[Engine],
        ) -> Iterator[Event]:
            yield from execute(context, context.selected_asset_keys, config, dbt, engine)

        return build

    def checks(name: str, others: list[DbtTest]) -> dg.AssetChecksDefinition:
        """The op of a project that has tests and builds no table: Dagster refuses assets without any."""

        @multi_asset_check(name=name, specs=[*test_specs(graph, others)], can_subset=True, pool=pool, op_tags=OP_TAGS)
        def build(
            context: dg.AssetCheckExecutionContext,
            config: BuildConfig,
            dbt: dg.ResourceParam[DbtRunner],
            engine: dg.ResourceParam[Engine],
        ) -> Iterator[Event]:
            yield from execute(context, frozenset(), config, dbt, engine)

        return build

    def execute(
        context: Context, keys: AbstractSet[dg.AssetKey], config: BuildConfig, dbt: DbtRunner, engine: Engine
    ) -> Iterator[Event]:
        refuse_failed_launch(context.instance, context.run.run_id)
        run = Build(
            graph,
            project,
            context,
            keys,
            config,
            dbt=dbt,
            engine=engine,
            calendars=calendars,
            zone=ZoneInfo(timezone),
            max_runtime=settings.max_runtime,
            threads=settings.dbt_threads or DEFAULT_THREADS,
        )
        yield from run.events()

    if not by_op:
        return [checks(OP_NAME, of_unbuilt)] if of_unbuilt else []
    # The first holds what is not partitioned, if there is any.
    ops = sorted(by_op, key=lambda name: name != OP_NAME)
    return [op(name, by_op[name], of_unbuilt if name == ops[0] else []) for name in ops]


def op_of(grain: Grain | None) -> str:
    """Name of the op that builds tables of a grain."""
    return OP_NAME if grain in TOGETHER else f"{OP_NAME}_{grain}"


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
        calendars: Mapping[Grain, Calendar],
        zone: ZoneInfo,
        max_runtime: float,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.threads = threads
        self.graph, self.project = graph, project
        # The context of an op of checks has all of it that tables do not need.
        self.context = cast("dg.AssetExecutionContext", context)
        self.config, self.dbt, self.engine = config, dbt, engine
        self.calendars, self.max_runtime = calendars, max_runtime
        self.keys, self.checks = keys, context.selected_asset_check_keys
        selected = {table.unique_id for table in graph.tables.values() if asset_key(table) in keys}
        checked = {test.unique_id for test in graph.tests.values() if check_key(graph, test) in self.checks}
        self.run = Run(graph, frozenset(selected), frozenset(checked))
        self.windows = self._windows()
        self.counter = Counter(
            engine, history_of(context.instance), accepted=self._accepted(), zone=zone, windows=self._counted_windows()
        )
        self.evaluated: set[dg.AssetCheckKey] = set()

    def events(self) -> Iterator[Event]:
        """Build stage by stage.

        Raises:
            dg.Failure: something was not built, a gate failed, or a planned check was not evaluated.
        """
        if self.windows:
            self.windows.hold_connection(self.context.instance)
        if self.windows and not self.config.allow_missing_partitions:
            self.windows.refuse_gaps(self.graph, self.run.selected, self.calendars, self.context.instance)
        # Checks asked for without their tables come first: a retry may select what lies below them.
        yield from self._counts_of_unbuilt()
        stages = self.run.stages()
        if stages:
            environment = {**self.dbt.database_environment, **self._provenance().environment()}
            if self.windows and self._rebuilds:
                environment["LAKEHOUSE_WHOLE_HISTORY"] = "true"
            with self.dbt.session(self.graph.adapter, environment) as dbt:
                for tables, tests in stages:
                    yield from self._stage(dbt, self.run.buildable(tables), self.run.testable(tests))
        self._close()

    def _stage(self, dbt: DbtSession, tables: list[Table], tests: list[DbtTest]) -> Iterator[Event]:
        if not tables and not tests:
            return
        layers = ", ".join(dict.fromkeys(table.layer for table in tables)) or "checks"
        what = f"{layers}: {counted(len(tables), 'table')}, {counted(len(tests), 'test')}"
        self.context.log.info(what)
        _say(f"== {what}")
        try:
            self.engine.wait_until_free(self._warn)
        except DatabaseError as error:
            raise dg.Failure(f"{error}\n{self.run.summary()}", allow_retries=False) from error
        functions = self.run.functions(tables, tests)
        with self._writing(tables):
            result = self._ask(dbt, tables, tests, functions)
            if result.crashed:
                raise dg.Failure(
                    f"dbt crashed (exit code {result.exit_code}) while building {what}:\n"
                    f"{self._with_advice(result.reason)}\n{self.run.summary()}",
                    allow_retries=False,
                )
            result = refuse_other_relations(tables, result)
            self.run.record(tables, tests, result, functions)
            built = [table for table in tables if table.unique_id in self.run.built]
            partly = self._partly_replaced(tables, result)
            answers = self.counter.count(
                [*built, *(self.graph.tables[u] for u in partly)]
            )  # before another run writes them
        things: list[Table | Function] = [*tables, *functions]
        for thing in things:
            if thing.unique_id not in self.run.failed:
                continue
            unique_id, node = thing.unique_id, thing.node
            message = self._with_advice(self.run.failed[unique_id])
            self.run.failed[unique_id] = with_source_line(message, node, self.project.project_dir)
        for table in built:
            metadata = self._metadata(table, answers[table.unique_id], result.nodes[table.unique_id])
            self._tell_partitions(table, answers[table.unique_id])
            yield dg.MaterializeResult(asset_key=asset_key(table), metadata=metadata)
        for unique_id, reasons in partly.items():
            yield from self._report_windows(self.graph.tables[unique_id], answers[unique_id], reasons)
        for test in tests:
            outcome = result.nodes.get(test.unique_id)
            if outcome and outcome.status != "skipped":
                yield from self._report(dbt_test_result(self.graph, test, outcome))
        yield from self._judge(built, answers)

    def _partly_replaced(self, tables: list[Table], result: DbtResult) -> dict[str, dict[Window, str | None]]:
        """Of failed tables of which dbt replaced some windows: for each window None, or why it was not replaced.

        Only where this run may report the row count: its failure is what brings the table into Dagster's retry.
        """
        found = {}
        for table in tables:
            node = result.nodes.get(table.unique_id)
            counted = dg.AssetCheckKey(asset_key(table), ROW_COUNT) in self.checks
            if not (self.windows and table.grain and counted and table.unique_id in self.run.failed):
                continue
            if node and node.batches and node.batches.replaced and node.batches.failed:
                found[table.unique_id] = node.batches.of(self.windows.span.windows)
        return found

    def _report_windows(self, table: Table, answer: Answer, reasons: Mapping[Window, str | None]) -> Iterator[Event]:
        """Record the windows that were replaced, and a failed row count for each of the others."""
        key = asset_key(table)
        done = {window.key for window, reason in reasons.items() if reason is None}
        for partition in done:
            counts = answer.get(partition) if isinstance(answer, Mapping) else None
            metadata = {"dagster/partition_row_count": counts.rows, **_of_rows(counts)} if counts else {}
            self.context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
        judged = [v for v in self.counter.judge(table, answer) if getattr(v, "partition", None) in done]
        for verdict in with_targets(self.context.instance, key, judged):
            yield from self._report(verdict)
        for window, reason in reasons.items():
            if reason is not None:
                yield from self._report(
                    dg.AssetCheckEvaluation(
                        asset_key=key,
                        check_name=ROW_COUNT,
                        partition=window.key,
                        passed=False,
                        blocking=True,
                        description=f"dbt did not replace this window: {reason}",
                    )
                )

    def _writing(self, tables: list[Table]) -> AbstractContextManager[None]:
        """Hold the tables against other runs and upkeep. DuckDB needs none of it: its pool holds whole runs."""
        if self.graph.adapter != "trino" or not tables:
            return nullcontext()
        writers = Writers(self.context.instance, self.context.run.run_id, OP_NAME)
        slots = [slot_of(relation_of(table.node)) for table in tables]
        return writers.writing(slots, wait=self.max_runtime, say=self._warn, bury=self.engine.end_queries_of)

    def _ask(self, dbt: DbtSession, tables: list[Table], tests: list[DbtTest], functions: list[Function]) -> DbtResult:
        """One dbt command, and again for what failed of it for a reason that passes."""
        patience = Patience(self.engine.judge, self.engine.queue_timeout)
        asked = tables, tests
        result = last = self._dbt(dbt, *asked, functions)
        while True:
            if not last.crashed:
                asked = worth_another_try(self.graph, tables, tests, result, patience.judge)
            elif not worth_a_second_start(asked[0], last, patience.judge):
                break
            if not any(asked):
                break
            names = ", ".join(thing.fqn[-1] for things in asked for thing in things)
            seconds, full = patience.wait(last)
            # Fewer statements at once, so that ours do not fill the queue themselves.
            threads = max(1, self.threads >> patience.refusals) if full else None
            if full:
                with_threads = counted(threads or 1, "thread")
                self._warn(f"The queue is full; retrying in {seconds:g} s with {with_threads}: {names}")
            else:
                said = "\n".join(_messages(last, asked))
                self._warn(f"Retrying in {seconds:g} s after a transient failure: {names}\n{said}".rstrip())
            time.sleep(seconds)
            try:
                self.engine.wait_until_free(self._warn)
            except DatabaseError as error:
                self.run.problems.append(str(error))  # what was built meanwhile is reported all the same
                break
            # Functions are created again with what calls them: one that failed may be why it failed.
            called = {unique_id for things in asked for thing in things for unique_id in thing.functions}
            last = self._dbt(dbt, *asked, [f for f in functions if f.unique_id in called], threads=threads)
            result = merge(result, last)
        return result

    def _dbt(
        self,
        dbt: DbtSession,
        tables: list[Table],
        tests: list[DbtTest],
        functions: list[Function],
        *,
        threads: int | None = None,
    ) -> DbtResult:
        command = self._command(tables, tests, functions)
        if threads:
            command += ["--threads", str(threads)]
        with self.engine.queue_reported(self.context.run.run_id, self._warn):
            result = dbt.run(command, self._log)
        if result.crashed:
            self.engine.end_queries_of(self.context.run.run_id)
        return result

    def _with_advice(self, message: str) -> str:
        advice = self.engine.judge(message).advice
        return f"{message.rstrip()}\n  {advice}" if advice else message

    def _command(self, tables: list[Table], tests: list[DbtTest], functions: list[Function]) -> list[str]:
        # Unit tests guard the code, not the data: they run in CI.
        command = ["build" if tables or functions else "test", "--exclude-resource-type", "unit_test"]
        if tables and self.config.full_refresh:
            command.append("--full-refresh")
        if self.windows and any(table.grain for table in tables):
            command += self.windows.span.args()
        things: list[Function | Table | DbtTest] = [*functions, *tables, *tests]
        wanted = [thing.fqn for thing in things]
        return [*command, "--indirect-selection", "empty", *select_args(wanted, self.graph.selectable)]

    def _judge(self, tables: list[Table], answers: Mapping[str, Answer]) -> Iterator[Event]:
        for table in tables:
            broken: dict[str, list[str]] = {}
            verdicts = [*self.counter.judge(table, answers[table.unique_id])]
            for verdict in with_targets(self.context.instance, asset_key(table), verdicts):
                if not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
                    partition = getattr(verdict, "partition", None)
                    said = f"{partition}: {verdict.description}" if partition else verdict.description or ""
                    broken.setdefault(verdict.check_name or "", []).append(said)
                yield from self._report(verdict)
            for name, reasons in broken.items():
                self.run.fail_gate(table.unique_id, f"{name}: {some(reasons, FEW, between='; ')}")

    def _counts_of_unbuilt(self) -> Iterator[Event]:
        counted = {key.asset_key for key in self.checks if key.name in (ROW_COUNT, DRIFT)}
        tables = self.graph.tables.values()
        wanted = [t for t in tables if t.unique_id not in self.run.selected and asset_key(t) in counted]
        yield from self._judge(wanted, self.counter.count(wanted))

    def _accepted(self) -> AbstractSet[str]:
        try:
            return accepted_tables(self.graph, self.config.accept_row_counts)
        except ValueError as error:
            raise dg.Failure(f"accept_row_counts: {error}", allow_retries=False) from None

    def _report(self, result: dg.AssetCheckResult | dg.AssetCheckEvaluation) -> Iterator[Event]:
        key = dg.AssetCheckKey(dg.AssetKey.from_coercible(result.asset_key or ""), result.check_name or "")
        # Gates hold whoever deselected the check; Dagster takes results of selected ones only.
        if key in self.checks:
            self.evaluated.add(key)
            yield result

    def _close(self) -> None:
        summary = self.run.summary()
        silent = sorted(key.to_user_string() for key in self.checks - self.evaluated - self._explained())
        if silent:
            summary += "\n✘ planned checks that were not evaluated: " + ", ".join(silent)
        if silent or not self.run.succeeded:
            raise dg.Failure(f"The build did not pass.\n{summary}", allow_retries=False)
        self.context.log.info(summary)

    def _explained(self) -> set[dg.AssetCheckKey]:
        """Checks that could not be evaluated for a reason the summary gives already."""
        out = {*self.run.blocked, *self.run.failed}
        tests = self.graph.tests.values()
        explained = {
            check_key(self.graph, t)
            for t in tests
            if t.unique_id in self.run.unevaluated or not out.isdisjoint((*t.parents, *t.functions))
        }
        # A table that was not built has no row count to judge.
        keys = (asset_key(self.graph.tables[table]) for table in out & self.graph.tables.keys())
        return explained | {dg.AssetCheckKey(key, name) for key in keys for name in (ROW_COUNT, DRIFT)}

    def _provenance(self) -> Provenance:
        partition = self.windows.span.label if self.windows else ""
        return Provenance(self.context.run.run_id, self.context.run.job_name, partition)

    def _windows(self) -> RunWindows | None:
        counted = {key.asset_key for key in self.checks if key.name in (ROW_COUNT, DRIFT)}
        keys = self.keys | counted
        tables = [table for table in self.graph.tables.values() if asset_key(table) in keys]
        windows = RunWindows.of(self.context, tables, self.calendars)
        if windows and self._rebuilds:
            windows.refuse_partial_rebuild()
        return windows

    @property
    def _rebuilds(self) -> bool:
        """Whether dbt builds incremental models from nothing, by this run's config or by dbt's own variable."""
        said = {**os.environ, **self.dbt.environment}.get("DBT_FULL_REFRESH", "")
        return self.config.full_refresh or said.strip().lower() in _TRUE

    def _counted_windows(self) -> CountedWindows | None:
        if self.windows is None:
            return None
        history = history_of(self.context.instance)
        return CountedWindows(self.graph.adapter, self.windows.calendar, self.windows.span, history)

    def _tell_partitions(self, table: Table, answer: Answer) -> None:
        """What a materialisation says of its own partition, and not of the run."""
        if isinstance(answer, Mapping):
            for partition, counts in answer.items():
                metadata = {"dagster/partition_row_count": counts.rows, **_of_rows(counts)}
                self.context.add_asset_metadata(metadata, asset_key(table), partition)

    def _metadata(self, table: Table, answer: Answer, node: NodeResult) -> dict[str, Any]:
        metadata: dict[str, Any] = {"runtime_seconds": round(node.seconds, 3), "relation": table.node["relation_name"]}
        if isinstance(answer, Counts):
            metadata |= {"dagster/row_count": answer.rows, **_of_rows(answer)}
        if url := node.query_id and self.engine.query_url(node.query_id):
            metadata["query"] = dg.MetadataValue.url(url)
        return metadata

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
        for label in {str(table.node["name"]), _label(table), "/".join(table.key)}:
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
    version = table.node.get("version")
    return str(table.node["name"]) if version is None else f"{table.node['name']}.v{version}"


def _messages(result: DbtResult, asked: tuple[list[Table], list[DbtTest]]) -> Iterator[str]:
    """Why a command that is retried failed. After a retry that succeeds, nothing else says so."""
    if result.crashed:
        yield result.reason
        return
    for things in asked:
        for thing in things:
            node = result.nodes.get(thing.unique_id)
            if node and node.status not in (*FINE_STATUS, "skipped"):
                yield f"{thing.fqn[-1]}: {node.message}"


def _of_rows(counts: Counts) -> dict[str, Any]:
    metadata: dict[str, Any] = {unique_metadata_key(column): n for column, n in counts.distinct.items()}
    if counts.newest:
        metadata["newest_event_time"] = dg.MetadataValue.timestamp(counts.newest)
    return metadata


def _say(message: str) -> None:
    print(message, flush=True)  # noqa: T201  # the run's stdout: dbt's own words, as they come
