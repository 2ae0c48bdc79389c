"""Models that are partitioned by time and by a column: their partitions, what they depend on, jobs, and rectangles."""

from __future__ import annotations

from collections import Counter
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
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.jobs import build_jobs, tables_by_column
from lakehouse_analytics.partitions.arrivals import source_partitions
from lakehouse_analytics.partitions.by_column import column_partitions
from lakehouse_analytics.partitions.definitions import grain_partitions
from lakehouse_analytics.partitions.time_and_column import (
    dependency_mapping,
    rectangle_keys,
    rectangles,
    refuse_circles,
    table_partitions,
)
from manifests import Manifest
from windowed import NOW, windowed

PRICES = {"arrives": {"files": "in/{date}_*.csv", "begin": "2026-01-01", "split_by": "Market"}}
MARKETS = ["IT", "DE"]


def by_both(m: Manifest, name: str, *parents: str, grain: str = "daily", by: str = "market", **more: Any) -> str:
    values = {"values": more.pop("values", MARKETS)}
    lakehouse = {**more.pop("lakehouse", {}), "partition": {"grain": grain, "by": by, **values}}
    return windowed(m, name, *parents, grain=grain, lakehouse=lakehouse, **more)


def by_value(m: Manifest, name: str, *parents: str) -> str:
    replaced = {"materialized": "incremental", "incremental_strategy": "replace_window", "folder": "silver"}
    return m.model(name, *parents, lakehouse={"partition": {"by": "market", "values": MARKETS}}, **replaced)


def upstream(graph: Graph, above: str, below: str, key: str) -> set[str]:
    """The partitions that a partition of a table depends on."""
    grains, columns = grain_partitions(graph, "UTC"), column_partitions(graph)
    table = graph.tables[below]
    own = table_partitions(table, grains, columns)
    if above in graph.sources:
        theirs, owner = source_partitions(graph.sources[above], "UTC"), graph.resource(above)
    else:
        theirs, owner = table_partitions(graph.tables[above], grains, columns), graph.resource(above)
    mapping = dependency_mapping(owner, table, grains)
    assert own
    assert theirs
    assert mapping is not None
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        own.subset_with_partition_keys([key]), own, theirs
    )
    assert not [*found.required_but_nonexistent_subset.get_partition_keys()]
    return {*found.partitions_subset.get_partition_keys()}


def test_the_partitions_are_those_of_the_grain_and_of_the_column() -> None:
    m = Manifest()
    windowed(m, "days", grain="daily", begin="2025-12-01")
    both = by_both(m, "both")
    graph = m.graph()
    grains, columns = grain_partitions(graph, "Europe/Rome"), column_partitions(graph)
    spec = table_spec(graph, graph.tables[both], Path(), "Europe/Rome", grains, column_partitions=columns)
    expected = dg.MultiPartitionsDefinition({"date": grains["daily"], "market": dg.StaticPartitionsDefinition(MARKETS)})
    assert spec.partitions_def == expected
    assert spec.partitions_def.get_first_partition_key() == "2025-12-01|IT"


def test_a_partition_depends_on_the_same_day_and_value_and_on_all_of_what_one_side_does_not_have() -> None:
    m = Manifest()
    prices = m.source("landing", "prices", lakehouse=PRICES)
    stg = by_both(m, "stg", prices, values=None)
    gold = by_both(m, "gold", stg, values=None)
    days = windowed(m, "days", gold, grain="daily")
    months = windowed(m, "months", gold, grain="monthly")
    both_months = by_both(m, "both_months", gold, grain="monthly", values=None)
    back = by_both(m, "back", months, grain="monthly", values=None)
    replaced = {"materialized": "incremental", "incremental_strategy": "replace_window", "folder": "silver"}
    markets = m.model("markets", gold, lakehouse={"partition": {"by": "market"}}, **replaced)
    graph = m.graph()
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("landing/prices/Market", MARKETS)
        with dg.partition_loading_context(NOW, instance):
            assert upstream(graph, prices, stg, "2026-03-01|DE") == {"DE|2026-03-01"}  # `Market` precedes `date`
            assert upstream(graph, stg, gold, "2026-03-01|DE") == {"2026-03-01|DE"}
            assert upstream(graph, gold, days, "2026-03-01") == {"2026-03-01|DE", "2026-03-01|IT"}
            february = {f"2026-02-{day:02}" for day in range(1, 29)}
            assert upstream(graph, gold, months, "2026-02-01") == {f"{d}|{v}" for d in february for v in MARKETS}
            assert upstream(graph, gold, both_months, "2026-02-01|IT") == {f"{day}|IT" for day in february}
            assert upstream(graph, months, back, "2026-02-01|IT") == {"2026-02-01"}
            of_value = upstream(graph, gold, markets, "IT")
            assert {key.split("|")[1] for key in of_value} == {"IT"}
            assert len(of_value) > 300


def test_the_first_month_may_begin_before_the_first_day() -> None:
    """Dagster refuses a backfill that needs partitions which do not exist."""
    m = Manifest()
    later = {"arrives": PRICES["arrives"] | {"begin": "2026-01-30"}}
    prices = m.source("landing", "prices", lakehouse=later)
    gold = by_both(m, "gold", begin="2026-01-30")
    months = windowed(m, "months", gold, prices, grain="monthly", begin="2026-01-30")
    days = windowed(m, "days", gold, prices, grain="daily", begin="2026-01-30")
    eager = windowed(m, "eager", gold, grain="monthly", begin="2026-01-30", lakehouse={"automation": "eager"})
    graph = m.graph()
    grains = grain_partitions(graph, "UTC")
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("landing/prices/Market", MARKETS)
        with dg.partition_loading_context(NOW, instance):
            first = {f"2026-01-{day}|{market}" for day in (30, 31) for market in MARKETS}
            assert first < upstream(graph, gold, months, "2026-01-01")
            assert "DE|2026-01-30" in upstream(graph, prices, months, "2026-01-01")
            assert upstream(graph, gold, days, "2026-01-30") == {"2026-01-30|DE", "2026-01-30|IT"}
    exact = dg.MultiToSingleDimensionPartitionMapping("date")
    assert dependency_mapping(graph.tables[gold], graph.tables[eager], grains) == exact


def test_a_value_depends_on_all_days_of_a_table_by_time_only() -> None:
    m = Manifest()
    days = windowed(m, "days", grain="daily")
    values = by_value(m, "values", days)
    later = windowed(m, "later", values, grain="daily")
    graph = m.graph()
    grains, columns = grain_partitions(graph, "UTC"), column_partitions(graph)
    for unique_id in (values, later):
        spec = table_spec(graph, graph.tables[unique_id], Path(), "UTC", grains, column_partitions=columns)
        assert [dep.partition_mapping for dep in spec.deps] == [dg.AllPartitionMapping()]


def test_each_partitioning_has_an_op_and_a_job() -> None:
    m = Manifest()
    windowed(m, "days", grain="daily")
    by_both(m, "both")
    by_value(m, "values")
    graph = m.graph()
    assert {table.name: op_of(table) for table in graph.tables.values()} == {
        "days": "build",
        "both": "build_daily_market",
        "values": "build_market",
    }
    grains = grain_partitions(graph, "UTC")
    jobs = {job.name: job for job in build_jobs(graph, grains, OwnAssets(graph), max_runtime=1, maintenance=False)}
    names = ("days", "both", "values")
    selected = {job: {name for name in names if f"'{name}'" in repr(jobs[job].selection)} for job in jobs}
    assert selected == {"full_refresh": {"days"}, "daily_market_refresh": {"both"}, "market_refresh": {"values"}}


def test_two_jobs_of_one_name_are_refused() -> None:
    m = Manifest()
    by_both(m, "both")
    replaced = {"materialized": "incremental", "incremental_strategy": "replace_window", "folder": "silver"}
    m.model("other", lakehouse={"partition": {"by": "daily_market", "values": ["a"]}}, **replaced)
    with pytest.raises(ContractError, match="would both be called daily_market_refresh"):
        tables_by_column(m.graph())


def test_jobs_that_would_wait_for_each_other_are_refused() -> None:
    m = Manifest()
    stg = windowed(m, "stg", grain="daily")
    both = by_both(m, "both", stg)
    graph = m.graph()
    refuse_circles(graph)
    windowed(m, "gold", both, grain="daily")
    with pytest.raises(
        ContractError, match=r"`daily` → `{grain: daily, by: market}` → `daily`|by: market}` → `daily` →"
    ):
        refuse_circles(m.graph())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"materialized": "table"}, "needs `materialized: incremental`, not table"),
        ({"incremental_strategy": "microbatch"}, "does not replace exactly the rows of the run's values"),
        ({"event_time": None}, "{grain: daily, by: market} needs `event_time`"),
        ({"begin": None}, "needs `begin`, the first day of its history, but it is not set"),
        ({"event_time": "Market"}, "with `event_time: market`: the dimensions need different columns"),
    ],
)
def test_what_cannot_be_partitioned_by_both_is_refused(config: dict[str, Any], words: str) -> None:
    m = Manifest()
    by_both(m, "both", **config)
    with pytest.raises(ContractError) as caught:
        m.graph()
    assert words in str(caught.value)


WINDOWS, VALUES = [f"2026-03-0{day}" for day in range(1, 8)], ["IT", "DE", "FR", "AT"]
selections = st.sets(st.tuples(st.sampled_from([*WINDOWS, "2026-04-01"]), st.sampled_from([*VALUES, "XX"])))


@given(chosen=selections, most=st.none() | st.integers(1, 9))
def test_rectangles_have_exactly_the_chosen_partitions(chosen: set[tuple[str, str]], most: int | None) -> None:
    found = rectangles(WINDOWS, VALUES, chosen, most)
    keys = Counter((window, value) for one in found for window in one.windows for value in one.values)
    assert keys == Counter((window, value) for window, value in chosen if window in WINDOWS and value in VALUES)
    definition = dg.MultiPartitionsDefinition(
        {"date": dg.StaticPartitionsDefinition(WINDOWS), "market": dg.StaticPartitionsDefinition(VALUES)}
    )
    for one in found:
        assert most is None or len(one.windows) * len(one.values) <= most
        # Dagster's run of the range from the first to the last key has the same partitions.
        built = definition.get_partition_keys_in_range(dg.PartitionKeyRange(*rectangle_keys("market", one)))
        assert sorted(built) == sorted(f"{window}|{value}" for window in one.windows for value in one.values)


def test_a_whole_product_is_one_rectangle() -> None:
    every = {(window, value) for window in WINDOWS for value in VALUES}
    assert len(rectangles(WINDOWS, VALUES, every)) == 1


@given(chosen=st.sets(st.tuples(st.sampled_from(WINDOWS), st.sampled_from(VALUES)), min_size=1))
def test_the_runs_of_dagsters_backfills_have_exactly_the_chosen_partitions(chosen: set[tuple[str, str]]) -> None:
    """A backfill policy makes a run per range, and the op builds all partitions of its range."""
    definition = dg.MultiPartitionsDefinition(
        {"date": dg.StaticPartitionsDefinition(WINDOWS), "market": dg.StaticPartitionsDefinition(VALUES)}
    )
    subset = definition.subset_with_partition_keys([f"{window}|{value}" for window, value in chosen])
    built = [
        key
        for one in subset.get_partition_key_ranges(definition)
        for key in definition.get_partition_keys_in_range(one)
    ]
    assert Counter(map(str, built)) == Counter(f"{window}|{value}" for window, value in chosen)
