"""Which models are built after a load, for which partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import DagsterEvent, DagsterEventType
from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.dbt.graph import Graph, Source
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.arrivals.readers import arrival_sensor
from lakehouse_analytics.triggers.arrivals.trigger import arrival_trigger
from manifests import Manifest
from windowed import windowed

FILES = {"files": "s3://landing/{date}_*.csv", "begin": "2026-01-01", "split_by": "market"}
TABLE = {"database": "shop"}
PRICES = dg.AssetKey(["landing", "prices"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def graph() -> Graph:
    """landing.prices → daily stg_prices and whole stg_all; shop.orders → stg_orders → silver orders."""
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse={"arrives": FILES})
    orders = m.source("shop", "orders", lakehouse={"arrives": TABLE})
    windowed(m, "stg_prices", prices, grain="daily", begin="2026-01-01", lakehouse={"layer": "bronze"})
    windowed(m, "stg_months", prices, grain="monthly", begin="2026-01-01", lakehouse={"layer": "bronze"})
    m.model("stg_all", prices, folder="bronze")
    m.model("orders", m.model("stg_orders", orders, folder="bronze"), folder="silver")
    return m.graph()


class Sensor:
    """The sensor with its cursor."""

    def __init__(
        self, instance: dg.DagsterInstance, made: Graph | None = None, sources: Sequence[Source] = (), **settings: Any
    ) -> None:
        self.instance, self.cursor = instance, None
        made = made or graph()
        self.sensor = arrival_sensor(Settings(**settings), made, sources or [*made.sources.values()])

    def load(self, key: str, *partitions: str | None) -> None:
        for partition in partitions or (None,):
            event = dg.AssetMaterialization(dg.AssetKey(key.split("/")), partition=partition)
            self.instance.report_runless_asset_event(event)

    def tick(self) -> list[tuple[set[str], str, str]]:
        """Return the requested models and the first and the last partition, and keep the cursor."""
        result = self.sensor(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor  # type: ignore[assignment]
        return [
            (
                {key.to_user_string() for key in request.asset_selection or ()},
                request.tags.get("dagster/asset_partition_range_start", ""),
                request.tags.get("dagster/asset_partition_range_end", ""),
            )
            for request in result.run_requests or ()
        ]


@pytest.mark.parametrize("both", [False, True])
def test_a_load_builds_the_readers_of_all_sources_that_are_one_asset(instance: dg.DagsterInstance, both: bool) -> None:
    m = Manifest()
    one = {"asset_key": ["lake", "orders"]}
    first = m.source("shop", "orders", lakehouse={"arrives": TABLE}, dagster=one)
    second = m.source("legacy", "orders", lakehouse={"arrives": TABLE} if both else None, dagster=one)
    m.model("stg_orders", first, folder="bronze")
    m.model("stg_legacy", second, folder="bronze")
    made = m.graph()
    trigger = arrival_trigger(Settings(), made)
    assert trigger is not None
    assert len(trigger.sources) == 1
    sensor = Sensor(instance, made, sources=trigger.sources)
    sensor.load("lake/orders")
    assert sensor.tick() == [({"bronze/stg_orders", "bronze/stg_legacy"}, "", "")]
    loaded = {key for asset in arrival_assets(made, Settings()) for key in asset.keys}
    assert loaded == {dg.AssetKey(["lake", "orders"])}
    assert not loaded & {spec.key for spec in external_assets(made)}


def test_a_loaded_table_builds_its_bronze_models_once(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance)
    assert sensor.tick() == []
    sensor.load("shop/orders")
    sensor.load("shop/orders")
    assert sensor.tick() == [({"bronze/stg_orders"}, "", "")]
    assert sensor.tick() == []
    sensor.load("shop/orders")
    assert sensor.tick() == [({"bronze/stg_orders"}, "", "")]


def test_daily_models_are_built_for_the_dates_of_the_files(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance)
    sensor.load("landing/prices", "2026-01-02|IT", "2026-01-02|DE", "2026-01-03|IT", "2026-01-07|IT")
    assert sensor.tick() == [
        ({"bronze/stg_all"}, "", ""),
        ({"bronze/stg_prices"}, "2026-01-02", "2026-01-03"),
        ({"bronze/stg_prices"}, "2026-01-07", "2026-01-07"),
    ]


def test_dates_without_a_partition_are_left_to_the_schedule(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance)
    tomorrow = date.today() + timedelta(days=1)
    sensor.load("landing/prices", f"{tomorrow}|IT", "2025-12-31|IT")
    assert sensor.tick() == [({"bronze/stg_all"}, "", "")]


def test_long_ranges_are_split(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, max_partitions_per_run=2)
    sensor.load("landing/prices", *(f"2026-01-0{day}|IT" for day in range(1, 6)))
    assert [(first, last) for _, first, last in sensor.tick()[1:]] == [
        ("2026-01-01", "2026-01-02"),
        ("2026-01-03", "2026-01-04"),
        ("2026-01-05", "2026-01-05"),
    ]


def test_models_by_the_column_of_split_by_are_built_for_the_loaded_values(instance: dg.DagsterInstance) -> None:
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse={"arrives": FILES})
    config = {"folder": "bronze", "materialized": "incremental", "incremental_strategy": "replace_window"}
    m.model("markets", prices, lakehouse={"partition": {"by": "market"}}, **config)
    m.model("regions", prices, lakehouse={"partition": {"by": "region"}}, **config)
    sensor = Sensor(instance, m.graph())
    # A value of an event that is no partition anymore is not requested.
    instance.add_dynamic_partitions("landing/prices/market", ["IT", "DE", "FR"])
    sensor.load("landing/prices", "2026-01-02|IT", "2026-01-02|FR", "2026-01-03|IT", "2026-01-03|ES")
    assert sensor.tick() == [({"bronze/markets"}, "IT", "IT"), ({"bronze/markets"}, "FR", "FR")]
    sensor.load("landing/prices", "2026-01-04|DE", "2026-01-04|IT")
    assert sensor.tick() == [({"bronze/markets"}, "IT", "DE")]


def test_models_by_date_and_value_are_built_for_exactly_the_loaded_dates_with_their_values(
    instance: dg.DagsterInstance,
) -> None:
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse={"arrives": FILES})
    both = {"layer": "bronze", "partition": {"grain": "daily", "by": "market"}}
    windowed(m, "both", prices, grain="daily", begin="2026-01-01", lakehouse=both)
    sensor = Sensor(instance, m.graph())
    instance.add_dynamic_partitions("landing/prices/market", ["IT", "DE", "FR"])
    days = ("2026-01-02|IT", "2026-01-02|DE", "2026-01-03|IT", "2026-01-03|DE", "2026-01-03|ES")
    sensor.load("landing/prices", *days, "2026-01-05|FR", "2026-01-06|IT", "2026-01-06|FR", "2025-12-31|IT")
    assert sensor.tick() == [
        ({"bronze/both"}, "2026-01-02|IT", "2026-01-03|DE"),
        ({"bronze/both"}, "2026-01-05|FR", "2026-01-06|FR"),
        ({"bronze/both"}, "2026-01-06|IT", "2026-01-06|IT"),
    ]


def gated(severity: str) -> Graph:
    m = Manifest()
    rows = {"min": 1, "severity": severity}
    prices = m.source("landing", "prices", lakehouse={"arrives": FILES, "rows": rows})
    windowed(m, "stg_prices", prices, grain="daily", begin="2026-01-01", lakehouse={"layer": "bronze"})
    return m.graph()


def evaluate(instance: dg.DagsterInstance, passed: bool) -> None:
    check = dg.AssetCheckEvaluation(asset_key=PRICES, check_name="row_count", passed=passed)
    instance.report_runless_asset_event(check)


def test_a_failed_row_count_closes_the_gate_until_it_passes(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, gated("error"))
    sensor.load("landing/prices", "2026-01-01|IT")
    evaluate(instance, False)
    assert sensor.tick() == []
    sensor.load("landing/prices", "2026-01-02|IT")
    assert sensor.tick() == []
    evaluate(instance, True)
    assert sensor.tick() == [({"bronze/stg_prices"}, "2026-01-01", "2026-01-02")]
    assert sensor.tick() == []


def test_a_load_without_an_evaluation_keeps_the_gate_closed(instance: dg.DagsterInstance) -> None:
    """Its run was killed between its commit and the check."""
    sensor = Sensor(instance, gated("error"))
    evaluate(instance, True)
    sensor.load("landing/prices", "2026-01-01|IT")
    result = sensor.sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    assert result.skip_reason == dg.SkipReason(
        "landing/prices: row_count has not been evaluated since the load; to count again and accept the number of "
        "rows, launch a load with accept_row_count: true in its config"
    )
    evaluate(instance, True)
    assert sensor.tick() == [({"bronze/stg_prices"}, "2026-01-01", "2026-01-01")]


def test_a_source_that_has_just_got_its_rules_is_open(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, gated("error"))
    sensor.load("landing/prices", "2026-01-01|IT")
    assert sensor.tick() == [({"bronze/stg_prices"}, "2026-01-01", "2026-01-01")]


def test_the_evaluation_that_ended_last_counts(instance: dg.DagsterInstance) -> None:
    """The run that was planned last, and so has the last record, may have ended first."""
    sensor = Sensor(instance, gated("error"))
    sensor.load("landing/prices", "2026-01-01|IT")
    planned = AssetCheckEvaluationPlanned(asset_key=PRICES, check_name="row_count")
    kind = DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value
    instance.report_dagster_event(DagsterEvent(kind, "job", event_specific_data=planned), "first-queued")
    evaluate(instance, False)
    assert sensor.tick() == []
    passed = dg.AssetCheckEvaluation(asset_key=PRICES, check_name="row_count", passed=True)
    kind = DagsterEventType.ASSET_CHECK_EVALUATION.value
    instance.report_dagster_event(DagsterEvent(kind, "job", event_specific_data=passed), "first-queued")
    assert sensor.tick() == [({"bronze/stg_prices"}, "2026-01-01", "2026-01-01")]


def test_a_warning_does_not(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, gated("warn"))
    sensor.load("landing/prices", "2026-01-01|IT")
    evaluate(instance, False)
    assert sensor.tick() == [({"bronze/stg_prices"}, "2026-01-01", "2026-01-01")]


def test_the_gate_waits_for_the_check_of_a_load_that_runs(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(instance, gated("error"))
    ticks = []

    @dg.op(out={})
    def load(context):  # type: ignore[no-untyped-def]
        context.log_event(dg.AssetMaterialization(PRICES, partition="2026-01-01|IT"))
        ticks.append(sensor.tick())
        context.log_event(dg.AssetCheckEvaluation(asset_key=PRICES, check_name="row_count", passed=True))
        ticks.append(sensor.tick())

    @dg.job
    def loading() -> None:
        load()

    assert loading.execute_in_process(instance=instance).success
    assert ticks == [[], [({"bronze/stg_prices"}, "2026-01-01", "2026-01-01")]]
