"""The user's Python assets among the tables: what is between two, what is below, which tests wait in a circle."""

from __future__ import annotations

import dagster as dg
import pytest
from lakehouse_analytics.assets.gates.plan import Selection
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.jobs import build_jobs
from manifests import PROJECT, Manifest

DAYS = dg.DailyPartitionsDefinition("2026-01-01")


def asset(key: str, *deps: str, partitions: dg.PartitionsDefinition | None = None) -> dg.AssetsDefinition:
    @dg.asset(key=key.split("/"), deps=[dg.AssetKey(dep.split("/")) for dep in deps], partitions_def=partitions)
    def made() -> None: ...

    return made


@pytest.fixture
def graph() -> Graph:
    """bronze/stg_customers → python/first → python/second → gold/scored → gold/best, and → gold/plain."""
    m = Manifest()
    customers = m.model("stg_customers", m.source("raw", "customers"), folder="bronze")
    scored = m.model("scored", m.source("python", "second"), folder="gold")
    m.model("best", scored, folder="gold")
    m.model("plain", customers, folder="gold")
    m.test("customers_are_scored", customers, scored, attached=customers)
    m.test("customers_are_unique", customers, attached=customers)
    return read(m.build() | {"metadata": {**m.build()["metadata"], "project_name": "lakehouse"}}, {})


FIRST = asset("python/first", "bronze/stg_customers")
SECOND = asset("python/second", "python/first")


def between(
    graph: Graph, *assets: object, tables: str = "", partitions: dg.PartitionsDefinition | None = None
) -> set[str]:
    chosen = [t for t in graph.tables.values() if not tables or t.name in tables.split()]
    return {key.to_user_string() for key in OwnAssets(graph, assets).between(chosen, partitions)}


def test_assets_through_which_data_goes_from_table_to_table_are_between_them(graph: Graph) -> None:
    beside = [asset("python/extract"), asset("python/report", "gold/best", "python/second")]
    assert between(graph, FIRST, SECOND, *beside) == {"python/first", "python/second"}
    assert between(graph, FIRST, SECOND, tables="stg_customers plain") == set()
    assert between(graph, FIRST, SECOND, tables="scored best") == set()
    assert between(graph) == set()
    # The data is made by another code location, or by hand.
    assert between(graph, dg.AssetSpec(["python", "second"], deps=[["bronze", "stg_customers"]])) == set()


def test_an_asset_with_other_partitions_than_the_job_is_left_out(graph: Graph) -> None:
    daily = asset("python/second", "bronze/stg_customers", partitions=DAYS)
    assert between(graph, daily) == set()
    assert between(graph, daily, partitions=DAYS) == {"python/second"}
    assert between(graph, FIRST, SECOND, partitions=DAYS) == {"python/first", "python/second"}


def test_an_op_that_cannot_be_divided_is_in_the_job_as_a_whole(graph: Graph) -> None:
    @dg.multi_asset(
        specs=[dg.AssetSpec(["python", "second"], deps=[["bronze", "stg_customers"]]), dg.AssetSpec("by_the_way")]
    )
    def two():  # type: ignore[no-untyped-def]  # Dagster reads an annotation as that of one output
        ...

    assert between(graph, two) == {"python/second", "by_the_way"}


def test_jobs_build_what_is_between_their_tables_and_what_is_below_it(graph: Graph) -> None:
    own = OwnAssets(graph, [FIRST, SECOND])
    jobs = {job.name: job for job in build_jobs(graph, {}, own, max_runtime=1, maintenance=False)}
    tables = {dg.AssetKey(table.key) for table in graph.tables.values()}
    everything = tables | {FIRST.key, SECOND.key}

    def keys(job: str) -> object:
        selection = jobs[job].selection
        assert isinstance(selection, dg.AssetSelection)
        return selection.resolve([dg.AssetsDefinition(specs=[dg.AssetSpec(key) for key in everything])])

    assert keys("full_refresh") == everything
    assert keys("customer_pipeline") == everything
    assert keys("bronze_refresh") == {dg.AssetKey(["bronze", "stg_customers"])}


def test_tests_that_wait_for_what_they_would_gate_are_found(graph: Graph) -> None:
    assert OwnAssets(graph, [FIRST, SECOND]).gates_in_a_circle() == {f"test.{PROJECT}.customers_are_scored.0a1b2c"}
    assert OwnAssets(graph, [SECOND]).gates_in_a_circle() == set()
    assert OwnAssets(graph).gates_in_a_circle() == set()


def test_a_test_of_tables_of_two_steps_belongs_to_the_later_step(graph: Graph) -> None:
    customers, scored = f"model.{PROJECT}.stg_customers", f"model.{PROJECT}.scored"
    first = Selection(graph, frozenset({customers}), after=frozenset({scored}))
    assert {test.name for test in first.tests} == {"customers_are_unique"}
    second = Selection(graph, frozenset({scored}), before=frozenset({customers}))
    assert {test.name for test in second.tests} == {"customers_are_scored"}
    whole = Selection(graph, frozenset({customers, scored}))
    assert {test.name for test in whole.tests} == {"customers_are_scored", "customers_are_unique"}
