"""Which partitions the models of a column have, how they depend on others, and what may not be partitioned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.assets.build_ops import op_of
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.assets.specs import table_spec
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.jobs import build_jobs
from lakehouse_analytics.partitions.arrivals import source_partitions
from lakehouse_analytics.partitions.by_column import RunValues, column_mapping, column_partitions, value_ranges
from lakehouse_analytics.triggers.base import SourceTables
from manifests import Manifest
from windowed import NOW, windowed

REPLACED: dict[str, Any] = {"materialized": "incremental", "incremental_strategy": "replace_window"}
PRICES = {"arrives": {"files": "in/{date}_*.csv", "begin": "2026-01-01", "split_by": "Market"}}


def by_column(m: Manifest, name: str, *parents: str, by: str = "region", **more: Any) -> str:
    values = {"values": more.pop("values")} if "values" in more else {}
    lakehouse = {"partition": {"by": by, **values}, **more.pop("lakehouse", {})}
    return m.model(name, *parents, lakehouse=lakehouse, **{"folder": "silver", **REPLACED, **more})


def by_name(graph: Graph) -> Mapping[str, Table]:
    return {table.name: table for table in graph.tables.values()}


def test_models_of_a_column_share_the_listed_values() -> None:
    m = Manifest()
    by_column(m, "a", values=["IT", "DE"])
    by_column(m, "b", values=["DE", "IT"])
    by_column(m, "c", by="customer")
    found = column_partitions(m.graph())
    assert found == {
        "customer": dg.DynamicPartitionsDefinition(name="customer"),
        "region": dg.StaticPartitionsDefinition(["IT", "DE"]),
    }


@pytest.mark.parametrize("other", [{"values": ["IT"]}, {}])
def test_models_of_a_column_with_other_values_are_refused(other: dict[str, Any]) -> None:
    m = Manifest()
    by_column(m, "a", values=["IT", "DE"])
    by_column(m, "b", **other)
    with pytest.raises(ContractError, match=r"model b and .*model a: .* has other `values` of `by: region`"):
        column_partitions(m.graph())


def test_the_values_that_a_source_is_split_by_become_partitions() -> None:
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse=PRICES)
    stg = m.model("stg", prices, folder="bronze")
    by_column(m, "markets", stg, prices, by="market")
    graph = m.graph()
    assert column_partitions(graph) == {"market": dg.DynamicPartitionsDefinition(name="landing/prices/Market")}
    source = graph.sources[prices]
    assert column_mapping(source, by_name(graph)["markets"]) == dg.MultiToSingleDimensionPartitionMapping("Market")
    assert column_mapping(source, by_name(graph)["stg"]) is None


def test_a_value_depends_on_all_dates_of_the_same_value_of_a_source() -> None:
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse=PRICES)
    markets = by_column(m, "markets", prices, by="market")
    graph = m.graph()
    above = source_partitions(graph.sources[prices], "UTC")
    spec = table_spec(graph, graph.tables[markets], Path(), "UTC", {}, column_partitions=column_partitions(graph))
    [dep] = spec.deps
    assert above
    assert spec.partitions_def
    assert dep.partition_mapping
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("landing/prices/Market", ["IT", "DE"])
        with dg.partition_loading_context(NOW, instance):
            found = dep.partition_mapping.get_upstream_mapped_partitions_result_for_partitions(
                spec.partitions_def.subset_with_partition_keys(["IT"]), spec.partitions_def, above
            ).partitions_subset.get_partition_keys()
            needed = {*found}
    assert {key.split("|")[0] for key in needed} == {"IT"}
    assert len(needed) > 300


def test_values_of_several_sources_have_to_be_listed() -> None:
    m = Manifest()
    sources = [m.source("landing", name, lakehouse=PRICES) for name in ("prices", "volumes")]
    by_column(m, "markets", *sources, by="market")
    with pytest.raises(ContractError, match=r"each with its own values: landing\.prices, landing\.volumes\. List"):
        column_partitions(m.graph())


def test_a_value_depends_on_itself_or_on_all_that_is_upstream() -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily")
    whole = m.model("whole", folder="silver")
    region = by_column(m, "region", days, whole)
    same = by_column(m, "same", region)
    other = by_column(m, "other", region, by="customer")
    windowed(m, "later", other, grain="daily")
    table = by_name(m.graph())
    everything = dg.AllPartitionMapping()
    pairs = {
        ("days", "region"): everything,
        ("whole", "region"): None,
        ("region", "same"): None,
        ("region", "whole"): None,
        ("region", "other"): everything,
        ("other", "later"): everything,
        ("days", "later"): None,
    }
    found = {(above, below): column_mapping(table[above], table[below]) for above, below in pairs}
    assert found == pairs
    assert same


def test_they_have_an_op_and_a_job_and_are_in_no_other() -> None:
    m = Manifest()
    raw = m.source("shop", "orders")
    m.model("whole", raw, folder="bronze")
    by_column(m, "regions", raw, folder="bronze")
    graph = m.graph()
    assert {table.name: op_of(table) for table in graph.tables.values()} == {
        "whole": "build",
        "regions": "build_region",
    }
    jobs = {job.name: job for job in build_jobs(graph, {}, OwnAssets(graph), max_runtime=1, maintenance=False)}
    assert jobs.keys() == {"full_refresh", "bronze_refresh", "region_refresh"}
    assert {name for name, job in jobs.items() if "regions" in repr(job.selection)} == {"region_refresh"}
    assert jobs["region_refresh"].tags["lakehouse/windows_of"] == "region_refresh"
    tables = SourceTables(graph, 1)
    assert tables.readers([("shop", "orders")]) == [dg.AssetKey(["bronze", "whole"])]
    assert "regions" not in repr(tables.target)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"materialized": "table"}, "needs `materialized: incremental`, not table"),
        ({"materialized": "view"}, "needs `materialized: incremental`, not view"),
        ({"kind": "seed"}, "needs `materialized: incremental`"),
        ({"full_refresh": True}, "`full_refresh: true`, which rebuilds the table in every run"),
        ({"incremental_strategy": None}, "`incremental_strategy: default`, which does not replace exactly the rows"),
        ({"incremental_strategy": "merge"}, "`incremental_strategy: merge`, which does not replace exactly the rows"),
        ({"incremental_strategy": "microbatch"}, "does not replace exactly the rows of the run's values"),
        ({"lakehouse": {"after": "shop.orders"}}, "after is for partitions by time"),
    ],
)
def test_what_a_run_of_some_values_would_spoil_is_refused(config: dict[str, Any], words: str) -> None:
    m = Manifest()
    by_column(m, "regions", m.source("shop", "orders"), **config)
    with pytest.raises(ContractError) as caught:
        m.graph()
    assert "regions" in str(caught.value)
    assert words in str(caught.value)


def test_no_event_time_is_needed() -> None:
    m = Manifest()
    by_column(m, "regions")
    assert m.graph().warnings == ()


@given(
    known=st.lists(st.text(min_size=1, max_size=2), unique=True, max_size=12),
    wanted=st.sets(st.text(min_size=1, max_size=2), max_size=6),
    most=st.one_of(st.none(), st.integers(1, 4)),
    data=st.data(),
)
def test_ranges_of_values_are_the_wanted_ones_and_no_others(
    known: list[str], wanted: set[str], most: int | None, data: st.DataObject
) -> None:
    if known:
        wanted |= set(data.draw(st.lists(st.sampled_from(known))))
    ranges = [(known.index(first), known.index(last)) for first, last in value_ranges(known, wanted, most)]
    covered = [value for first, last in ranges for value in known[first : last + 1]]
    assert covered == [value for value in known if value in wanted]
    assert all(last - first < (most or len(known)) for first, last in ranges)


def test_a_run_names_its_values_in_ascii_for_the_tags_of_queries() -> None:
    values = ["IT", "a,b", "Köln"]
    run = RunValues("region", dg.StaticPartitionsDefinition(values), values, values)
    assert run.label == "IT...K%C3%B6ln"
    assert run.environment() == {
        "LAKEHOUSE_PARTITION_VALUES": '{"by": "region", "values": ["IT", "a,b", "K\\u00f6ln"]}'
    }
