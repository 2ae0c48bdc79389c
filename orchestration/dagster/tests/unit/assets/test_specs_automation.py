"""`automation: eager`, as Dagster's own daemon evaluates it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.assets.specs import table_spec
from lakehouse_analytics.checks.evaluations import Evaluations
from lakehouse_analytics.checks.registry import EvaluationPoint, Scope, specs
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.partitions.by_column import column_partitions
from lakehouse_analytics.partitions.definitions import grain_partitions
from manifests import Manifest

#: Dagster stamps events with the clock's time. The daily tables begin two days before it: both days are over.
NOW = datetime.now(UTC)
# Each evaluation is a minute later, and all of them are on one day.
NOW = min(NOW, NOW.replace(hour=23, minute=30))
BEGIN, LAST = (f"{NOW - timedelta(days=days):%Y-%m-%d}" for days in (2, 1))
EAGER = {"automation": "eager"}
DAILY = {
    "materialized": "incremental",
    "incremental_strategy": "replace_window",
    "event_time": "at",
    "begin": BEGIN,
    "batch_size": "day",
}


class Daemon:
    """Evaluates the conditions tick by tick, and reports what a run would have done."""

    def __init__(self, graph: Graph, instance: dg.DagsterInstance) -> None:
        windows, columns = grain_partitions(graph, "UTC"), column_partitions(graph)
        tables = [*graph.tables.values()]

        @dg.multi_asset(
            specs=[table_spec(graph, table, Path(), "UTC", windows, column_partitions=columns) for table in tables],
            check_specs=[
                *specs(Scope(graph, windows, columns), [*tables, *graph.unbuilt.values()], EvaluationPoint.IN_DBT)
            ],
            can_subset=True,
            allow_arbitrary_check_specs=True,
        )
        def build(context: dg.AssetExecutionContext) -> Iterator[object]:
            for key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key)
            evaluations = Evaluations(context)
            for spec in context.assets_def.check_specs:
                if spec.key in context.selected_asset_check_keys:
                    evaluation = dg.AssetCheckEvaluation(
                        asset_key=spec.asset_key,
                        check_name=spec.name,
                        passed=spec.name != self.failing,
                        blocking=False,  # the run goes on; what the daemon asks for is the check's own specification
                        partition=context.partition_key if spec.partitions_def else None,
                    )
                    yield from evaluations.events([evaluation])

        self.failing = ""
        self.assets: list[dg.AssetsDefinition | dg.AssetSpec] = [build, *external_assets(graph)]
        self.definitions = dg.Definitions(assets=self.assets)
        self.partitioned = {"/".join(table.key) for table in tables if not table.is_whole}
        self.instance, self.now = instance, NOW
        self.cursor: AssetDaemonCursor | None = None

    def tick(self) -> set[str]:
        """Assets that are requested."""
        self.now += timedelta(minutes=1)
        result = dg.evaluate_automation_conditions(
            defs=self.definitions, instance=self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = result.cursor
        keys = self.definitions.resolve_asset_graph().materializable_asset_keys
        self.requested = {key.to_user_string(): result.get_requested_partitions(key) for key in keys}
        return {key.to_user_string() for key in keys if result.get_num_requested(key)}

    def sync(self, key: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(key.split("/"))))

    def run(self, key: str, failing: str = "", *, partitions: tuple[str, ...] = (LAST,)) -> None:
        """A run that builds one table and evaluates its checks, of which one may fail."""
        self.failing = failing
        for partition in partitions if key in self.partitioned else (None,):
            done = dg.materialize(
                self.assets,
                selection=[key],
                instance=self.instance,
                partition_key=partition,
            )
            assert done.success


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.mark.parametrize("daily", [False, True])
@pytest.mark.parametrize("tested", [False, True])
def test_a_table_is_requested_after_each_sync_of_its_source(
    instance: dg.DagsterInstance, *, tested: bool, daily: bool
) -> None:
    m = Manifest()
    raw = m.source("raw", "orders")
    lakehouse, config = ({**EAGER, "partition": "daily"}, DAILY) if daily else (EAGER, {})
    stg = m.model("stg_orders", raw, folder="bronze", lakehouse=lakehouse, **config)
    m.model("orders", stg, folder="silver", lakehouse=lakehouse, **config)
    if tested:
        m.test("not_null_id", raw)
        m.test("unique_id", stg, attached=stg)
    daemon = Daemon(m.graph(), instance)

    assert daemon.tick() == set()
    for _ in range(2):
        daemon.sync("raw/orders")
        requested = daemon.tick()
        assert "bronze/stg_orders" in requested
        daemon.run("bronze/stg_orders")
        # Windows are requested level by level, what is built as a whole at once.
        requested |= daemon.tick()
        assert requested == {"bronze/stg_orders", "silver/orders"}
        daemon.run("silver/orders")
        assert daemon.tick() == set()


@pytest.mark.parametrize("grain", [{}, {"grain": "daily"}])
def test_each_value_is_requested_after_a_sync_of_its_source(
    instance: dg.DagsterInstance, grain: dict[str, str]
) -> None:
    m = Manifest()
    raw = m.source("raw", "orders")
    lakehouse = {**EAGER, "partition": {**grain, "by": "region", "values": ["IT", "DE"]}}
    m.model("orders", raw, folder="silver", lakehouse=lakehouse, **DAILY)
    daemon = Daemon(m.graph(), instance)
    expected = {f"{LAST}|{value}" if grain else value for value in ("IT", "DE")}
    daemon.tick()
    for _ in range(2):
        daemon.sync("raw/orders")
        daemon.tick()
        assert daemon.requested == {"silver/orders": expected}
        daemon.run("silver/orders", partitions=tuple(sorted(expected)))
        assert daemon.tick() == set()


@pytest.mark.parametrize("daily", [False, True])
def test_a_table_waits_while_a_gate_of_a_built_parent_is_failed(instance: dg.DagsterInstance, *, daily: bool) -> None:
    m = Manifest()
    config = DAILY if daily else {}
    partition = {"partition": "daily"} if daily else {}
    stg = m.model("stg", folder="bronze", lakehouse={**partition, "rows": {"min": 1}}, **config)
    m.test("unique_id", stg, attached=stg)
    m.model("orders", stg, folder="silver", lakehouse={**EAGER, **partition}, **config)
    daemon = Daemon(m.graph(), instance)

    daemon.tick()
    for gate in ("row_count", "unique_id"):
        daemon.run("bronze/stg", gate)
        assert daemon.tick() == set()
        daemon.run("bronze/stg")
        assert daemon.tick() == {"silver/orders"}
        daemon.run("silver/orders")
        daemon.tick()


def test_what_no_run_builds_and_no_sync_reports_is_not_waited_for(instance: dg.DagsterInstance) -> None:
    m = Manifest()
    raw, static = m.source("raw", "orders"), m.source("raw", "countries")
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    m.test("unique_currencies", constants, attached=constants)
    m.model("orders", raw, static, constants, m.foreign("dim"), folder="silver", lakehouse=EAGER)
    daemon = Daemon(m.graph(), instance)

    assert daemon.tick() == set()
    daemon.sync("raw/orders")
    assert daemon.tick() == {"silver/orders"}


def test_a_source_that_a_connection_fills_is_waited_for(instance: dg.DagsterInstance) -> None:
    m = Manifest()
    first = m.source("raw", "orders")
    second = m.source("raw", "customers", lakehouse={"airbyte": {"connection": "crm"}})
    m.model("orders", first, second, folder="silver", lakehouse=EAGER)
    daemon = Daemon(m.graph(), instance)

    daemon.tick()
    daemon.sync("raw/orders")
    assert daemon.tick() == set()
    daemon.sync("raw/customers")
    assert daemon.tick() == {"silver/orders"}


def test_a_built_parent_that_is_missing_is_waited_for(instance: dg.DagsterInstance) -> None:
    m = Manifest()
    one, two = m.model("one", folder="bronze"), m.model("two", folder="bronze")
    m.model("both", one, two, folder="silver", lakehouse=EAGER)
    daemon = Daemon(m.graph(), instance)

    daemon.tick()
    daemon.run("bronze/one")
    assert daemon.tick() == set()
    daemon.run("bronze/two")
    assert daemon.tick() == {"silver/both"}


def test_a_whole_table_is_requested_after_the_newest_window_of_a_daily_parent(instance: dg.DagsterInstance) -> None:
    m = Manifest()
    days = m.model("days", folder="silver", lakehouse={"partition": "daily", "rows": {"min": 1}}, **DAILY)
    m.test("unique_day", days, attached=days)
    m.model("total", days, folder="gold", lakehouse=EAGER)
    daemon = Daemon(m.graph(), instance)

    daemon.tick()
    daemon.run("silver/days", partitions=(BEGIN, LAST))
    assert daemon.tick() == {"gold/total"}
    daemon.run("gold/total")
    daemon.tick()
    daemon.run("silver/days", "unique_day")
    assert daemon.tick() == set()
    daemon.run("silver/days")
    assert daemon.tick() == {"gold/total"}
