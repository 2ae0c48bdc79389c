"""The one op that builds every layer, with gates between them.

One `multi_asset` and not one op a layer: between ops Dagster gates whole steps, and one bad bronze table
would abandon all of silver. Inside one op each stage is a dbt invocation of its own; after it stand the
gates, and what lies below a failed one is left out of the next stage.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field

from lakehouse_analytics.checks import dbt_test_result, history_of, row_count_results
from lakehouse_analytics.dbt_project import DbtProject
from lakehouse_analytics.gates import Run
from lakehouse_analytics.graph import DbtTest, Graph, Table
from lakehouse_analytics.messages import with_source_line
from lakehouse_analytics.names import unique_metadata_key
from lakehouse_analytics.resources.dbt import DbtRunner, DbtSession
from lakehouse_analytics.row_counts import Counted, Counts, count_sql, read_counts
from lakehouse_analytics.translator import DRIFT, ROW_COUNT, asset_key, check_key, check_specs, table_spec

Event = dg.MaterializeResult[Any] | dg.AssetCheckResult
OP_NAME = "build"


class Engine(Protocol):
    """Where the tables are: asked for row counts, and whether dbt may write."""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of one statement."""

    def wait_until_free(self) -> None:
        """Return when dbt may start, or raise with the reason why it cannot."""


class BuildConfig(dg.Config):
    """What a person may ask of one build."""

    full_refresh: bool = Field(
        default=False, description="Rebuild incremental models from nothing (dbt --full-refresh)."
    )
    accept_row_counts: list[str] = Field(
        default=[], description="Models whose row count is the new normal: max_drop and drift start from it."
    )


def build_assets(graph: Graph, project: DbtProject, *, timezone: str, pool: str | None) -> dg.AssetsDefinition:
    """The assets and checks of a whole dbt project, built by one subsettable op."""

    @dg.multi_asset(
        name=OP_NAME,
        specs=[table_spec(graph, table, project.project_dir, timezone) for table in graph.tables.values()],
        check_specs=list(check_specs(graph)),
        can_subset=True,
        allow_arbitrary_check_specs=True,  # tests of sources gate what reads them; as dagster-dbt does
        pool=pool,
        op_tags={"dagster/compute_kind": "dbt"},
    )
    def build(
        context: dg.AssetExecutionContext,
        config: BuildConfig,
        dbt: dg.ResourceParam[DbtRunner],
        engine: dg.ResourceParam[Engine],
    ) -> Iterator[Event]:
        yield from Build(graph, project, context, config, dbt=dbt, engine=engine, timezone=timezone).events()

    return build


class Build:
    """One execution of the op."""

    def __init__(
        self,
        graph: Graph,
        project: DbtProject,
        context: dg.AssetExecutionContext,
        config: BuildConfig,
        *,
        dbt: DbtRunner,
        engine: Engine,
        timezone: str,
    ) -> None:
        self.graph, self.project, self.context = graph, project, context
        self.config, self.dbt, self.engine = config, dbt, engine
        self.zone = ZoneInfo(timezone)
        self.history = history_of(context.instance)
        self.checks = context.selected_asset_check_keys
        selected = {
            table.unique_id for table in graph.tables.values() if asset_key(table) in context.selected_asset_keys
        }
        checked = {test.unique_id for test in graph.tests.values() if check_key(graph, test) in self.checks}
        self.run = Run(graph, frozenset(selected), frozenset(checked))
        self.evaluated: set[dg.AssetCheckKey] = set()
        self.uncounted: set[str] = set()

    def events(self) -> Iterator[Event]:
        """Build stage by stage.

        Raises:
            dg.Failure: something was not built, a gate failed, or a planned check was not evaluated.
        """
        with self.dbt.session(self.graph.adapter) as dbt:
            for tables, tests in self.run.stages():
                yield from self._stage(dbt, self.run.buildable(tables), self.run.testable(tests))
        yield from self._counts_of_unbuilt()
        self._close()

    def _stage(self, dbt: DbtSession, tables: list[Table], tests: list[DbtTest]) -> Iterator[Event]:
        if not tables and not tests:
            return
        layers = ", ".join(dict.fromkeys(table.layer for table in tables)) or "checks"
        self.context.log.info(f"{layers}: {len(tables)} tables, {len(tests)} tests")
        _say(f"== {layers}: {len(tables)} tables, {len(tests)} tests")
        self.engine.wait_until_free()
        # Unit tests guard the code, not the data: they run in CI.
        command = [
            "build" if tables else "test",
            "--indirect-selection",
            "empty",
            "--exclude-resource-type",
            "unit_test",
        ]
        if tables and self.config.full_refresh:
            command.append("--full-refresh")
        selection = ["--select", *(t.selector for t in tables), *(t.selector for t in tests)]
        result = dbt.run([*command, *selection], self._log)
        if result.crashed:
            said = "\n".join(result.errors) or "it said nothing; see the run's stdout"
            raise dg.Failure(
                f"dbt crashed (exit code {result.exit_code}) while building {layers}:\n{said}\n{self.run.summary()}",
                allow_retries=False,
            )
        self.run.record(tables, tests, result.nodes)
        for unique_id in {table.unique_id for table in tables} & self.run.failed.keys():
            node = self.graph.tables[unique_id].node
            self.run.failed[unique_id] = with_source_line(self.run.failed[unique_id], node, self.project.project_dir)
        built = [table for table in tables if table.unique_id in self.run.built]
        counted = self._count(built)
        for table in built:
            seconds = result.nodes[table.unique_id].seconds
            yield dg.MaterializeResult(
                asset_key=asset_key(table), metadata=self._metadata(table, counted.get(table.unique_id), seconds)
            )
        for test in tests:
            outcome = result.nodes.get(test.unique_id)
            if outcome and outcome.status != "skipped":
                yield from self._report(dbt_test_result(self.graph, test, outcome))
        yield from self._judge(built, counted)

    def _judge(self, tables: list[Table], counted: dict[str, Counts]) -> Iterator[Event]:
        for table in tables:
            if table.unique_id not in counted:
                continue  # the reason stands in the gate already
            for verdict in row_count_results(
                table,
                counted[table.unique_id],
                self.history,
                now=datetime.now(UTC),
                zone=self.zone,
                accepted=table.node["name"] in self.config.accept_row_counts,
            ):
                if not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR:
                    self.run.fail_gate(table.unique_id, f"{verdict.check_name}: {verdict.description}")
                yield from self._report(verdict)

    def _count(self, tables: list[Table]) -> dict[str, Counts]:
        if not tables:
            return {}
        asked = [_asked(table) for table in tables]
        try:
            answers = read_counts(asked, self.engine.fetch_all(count_sql(asked)))
            return dict(zip((table.unique_id for table in tables), answers, strict=True))
        except Exception as error:
            if len(tables) == 1:
                [table] = tables
                self.uncounted.add(table.unique_id)
                self.run.fail_gate(table.unique_id, f"{ROW_COUNT}: cannot be counted: {str(error).strip()}")
                return {}
        # One statement for all; only where it fails, one a table to find out which it was.
        return {unique_id: counts for table in tables for unique_id, counts in self._count([table]).items()}

    def _counts_of_unbuilt(self) -> Iterator[Event]:
        # A check asked for alone, without its table.
        wanted = [
            table
            for table in self.graph.tables.values()
            if table.unique_id not in self.run.selected
            and any(key.asset_key == asset_key(table) and key.name.startswith(ROW_COUNT) for key in self.checks)
        ]
        yield from self._judge(wanted, self._count(wanted))

    def _report(self, result: dg.AssetCheckResult) -> Iterator[Event]:
        key = dg.AssetCheckKey(dg.AssetKey.from_coercible(result.asset_key or ""), result.check_name or "")
        # Gates hold whoever deselected the check; Dagster takes results of selected ones only.
        if key in self.checks:
            self.evaluated.add(key)
            yield result

    def _metadata(self, table: Table, counts: Counts | None, seconds: float) -> dict[str, Any]:
        metadata: dict[str, Any] = {"runtime_seconds": round(seconds, 3), "relation": table.node["relation_name"]}
        if counts:
            metadata["dagster/row_count"] = counts.rows
            metadata |= {unique_metadata_key(column): n for column, n in counts.distinct.items()}
            if counts.newest:
                metadata["newest_event_time"] = dg.MetadataValue.timestamp(counts.newest)
        return metadata

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
            check_key(self.graph, t) for t in tests if t.unique_id in self.run.unevaluated or out & {*t.parents}
        }
        # A table that was not built, or could not be counted, has no row count to judge.
        tables = {*out, *self.uncounted} & self.graph.tables.keys()
        keys = (asset_key(self.graph.tables[table]) for table in tables)
        return explained | {dg.AssetCheckKey(key, name) for key in keys for name in (ROW_COUNT, DRIFT)}

    def _log(self, level: str, message: str) -> None:
        if level == "debug" and not os.getenv("DEBUG"):
            return
        _say(message)
        if level in ("warn", "error") and message.strip():
            self.context.log.warning(message.strip())


def _say(message: str) -> None:
    print(message, flush=True)  # noqa: T201  # the run's stdout: dbt's own words, as they come


def _asked(table: Table) -> Counted:
    freshness = table.contract.freshness
    event_time = (freshness and freshness.column) or table.node["config"].get("event_time")
    return Counted(table.node["relation_name"], table.contract.distinct, event_time)
