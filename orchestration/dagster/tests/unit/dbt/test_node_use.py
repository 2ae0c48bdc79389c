"""Every node of a manifest has an answer, and a test, a function and an exposure find what they belong to."""

from __future__ import annotations

from typing import Any

import pytest
from dbt.artifacts.resources.types import NodeType
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.dbt.node_use import NodeUse, left_out_warning, use_of
from lakehouse_analytics.dbt.nodes import manifest_of
from manifests import PROJECT, Manifest

#: What dbt 1.11 never writes as a node of a manifest's graph: text, code, and inline statements of a command.
NEVER_NODES = {
    NodeType.Documentation,
    NodeType.Macro,
    NodeType.Group,
    NodeType.Fixture,
    NodeType.RPCCall,
    NodeType.SqlOperation,
}
SECTIONS = {
    "exposure": "exposures",
    "function": "functions",
    "metric": "metrics",
    "saved_query": "saved_queries",
    "semantic_model": "semantic_models",
    "source": "sources",
    "unit_test": "unit_tests",
}


def whole_manifest() -> Manifest:
    """One node of each resource type of dbt, each below one model where it may be."""
    m = Manifest()
    model = m.model("fct", folder="gold")
    m.source("raw", "a")
    m.exposure("board", model)
    for kind in NodeType:
        if kind not in {*NEVER_NODES, NodeType.Model, NodeType.Source, NodeType.Exposure}:
            m.node(SECTIONS.get(kind, "nodes"), kind, f"a_{kind}", model, database="lake", schema="main")
    return m


def test_every_resource_type_of_dbt_has_an_answer() -> None:
    m = whole_manifest()
    nodes = manifest_of(m.build()).nodes
    uses = {node.resource_type: use_of(node) for node in nodes.values()}
    assert uses.keys() == {str(kind) for kind in NodeType} - {str(kind) for kind in NEVER_NODES}
    graph = m.graph()
    for unique_id, node in nodes.items():
        owned = {**graph.tables, **graph.functions, **graph.tests, **graph.unbuilt, **graph.exposures}
        shown = unique_id in owned
        assert shown == (use_of(node) in (NodeUse.BUILT, NodeUse.CHECKED, NodeUse.EXTERNAL)), unique_id


def test_what_is_left_out_is_named_in_one_line() -> None:
    [line] = [line for line in whole_manifest().graph().warnings if line.startswith("Left out")]
    assert "1 unit test (they test code, not data: run them in CI" in line
    assert "1 saved query (dbt Core does not run their exports)" in line
    assert "1 analysis (dbt only compiles them)" in line
    assert "semantic" not in line


def test_a_resource_type_of_a_later_dbt_is_named_and_stops_nothing() -> None:
    m = Manifest()
    m.model("fct", folder="gold")
    m.node("agents", "agent", "helper")
    m.node("nodes", "ai_prompt", "question")
    graph = m.graph()
    assert len(graph.tables) == 1
    [line] = graph.warnings
    assert "1 agent (this version does not know the resource type)" in line
    assert "1 ai prompt (" in line


def test_a_project_without_such_nodes_says_nothing() -> None:
    m = Manifest()
    m.model("fct", folder="gold")
    assert left_out_warning(manifest_of(m.build()).nodes.values()) == ()


# Tests without a table.


def only_test(m: Manifest) -> Any:
    [test] = m.graph().tests.values()
    return test


def test_a_singular_test_without_a_ref_belongs_to_its_project() -> None:
    m = Manifest()
    m.model("fct", folder="gold")
    m.test("constants_hold")
    graph = m.graph()
    [test] = graph.tests.values()
    assert test.parents == ()
    assert graph.resource(test.attached).key == ("dbt_project", PROJECT)


def test_tests_of_a_model_made_of_constants_belong_to_that_model_and_gate_what_reads_it() -> None:
    m = Manifest()
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    link = m.model("link", constants, materialized="ephemeral", folder="bronze")
    reader = m.model("prices", link, folder="silver")
    m.test("unique_currencies", constants, attached=constants)
    graph = m.graph()
    [test] = graph.tests.values()
    assert graph.resource(test.attached).key == ("bronze", "currencies")
    assert graph.tables.keys() == {reader}
    assert graph.tables[reader].parents == (constants,)
    assert graph.descendants([constants]) == {reader}
    assert graph.warnings == ()


def test_a_singular_test_of_a_model_made_of_constants_belongs_to_that_model() -> None:
    m = Manifest()
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    m.test("three_currencies", constants)
    assert only_test(m).attached == constants


def test_an_ephemeral_model_without_such_tests_stays_invisible() -> None:
    m = Manifest()
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    reader = m.model("prices", constants, folder="silver")
    m.test("unique_prices", reader, attached=reader)
    graph = m.graph()
    assert graph.externals == {}
    assert graph.tables[reader].parents == ()


@given(st.data())
def test_every_test_of_a_manifest_has_a_check(data: st.DataObject) -> None:
    m = Manifest()
    nodes = [m.source("raw", "a"), m.foreign("dim")]
    for number in range(data.draw(st.integers(0, 5))):
        parents = data.draw(st.lists(st.sampled_from(nodes), unique=True, max_size=2))
        kind = data.draw(st.sampled_from(["table", "ephemeral", "function"]))
        name = f"n{number}"
        if kind == "function":
            nodes.append(m.function(name, *parents))
        else:
            nodes.append(m.model(name, *parents, folder="silver", materialized=kind))
    for number in range(data.draw(st.integers(0, 4))):
        parents = data.draw(st.lists(st.sampled_from(nodes), unique=True, max_size=2))
        attached = data.draw(st.sampled_from([None, *parents]))
        m.test(f"test{number}", *parents, attached=attached)
    graph = m.graph()
    assert graph.tests.keys() == {u for u, node in m.nodes.items() if node["resource_type"] == "test"}
    for test in graph.tests.values():
        owner = graph.resource(test.attached)
        assert owner.unique_id in {*graph.tables, *graph.sources, *graph.externals}
    keys = [owner.key for owner in (*graph.tables.values(), *graph.unbuilt.values())]
    assert len(keys) == len(set(keys))
    for table in graph.tables.values():
        assert all(graph.resource(parent) for parent in table.parents)


# `meta.dagster.ref`.


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ({"name": "dim", "version": 1}, "model.shop.dim.v1"),
        ({"name": "dim", "package_name": PROJECT, "version": 2}, "model.shop.dim.v2"),
        ({"name": "dim", "package": PROJECT, "version": "2"}, "model.shop.dim.v2"),
        ({"name": "dim", "v": 1}, "model.shop.dim.v1"),
        ({"name": "dim"}, "model.shop.dim.v2"),  # the latest one, as `ref('dim')` means in dbt
        ("dim", "model.shop.dim.v2"),
        ({"name": "other"}, "model.shop.other"),  # a table that the test does not read
    ],
)
def test_a_ref_names_a_version_and_a_package(ref: Any, expected: str) -> None:
    m = Manifest()
    versions = [m.model("dim", folder="bronze", version=version) for version in (1, 2)]
    for unique_id in versions:
        m.nodes[unique_id]["latest_version"] = 2
    m.model("dim", folder="silver", package="addon")
    m.model("other", folder="gold")
    m.test("not_smaller", *versions, meta={"dagster": {"ref": ref}})
    test = only_test(m)
    assert test.attached == expected
    assert expected in test.parents


def test_a_ref_to_another_package_is_that_package() -> None:
    m = Manifest()
    own, other = m.model("dim", folder="silver"), m.model("dim", folder="bronze", package="addon")
    m.test("equal", own, other, meta={"dagster": {"ref": {"name": "dim", "package": "addon"}}})
    assert only_test(m).attached == other


def test_a_ref_that_names_nothing_is_told() -> None:
    m = Manifest()
    own = m.model("dim", folder="silver")
    m.test("equal", own, meta={"dagster": {"ref": {"name": "dmi", "version": 3}}})
    [warning] = m.graph().warnings
    assert "tests/equal.sql" in warning
    assert "names dmi" in warning
    assert "silver/dim" in warning


# Other projects' models, functions, exposures.


def test_a_model_of_another_project_is_external() -> None:
    m = Manifest()
    foreign = m.foreign("dim_customer", version=2)
    reader = m.model("counts", foreign, folder="bronze")
    test = m.test("unique_dim", foreign, attached=foreign)
    graph = m.graph()
    assert graph.tables.keys() == {reader}
    assert graph.tables[reader].parents == (foreign,)
    assert graph.externals[foreign].key == ("platform", "dim_customer_v2")
    assert graph.tests[test].attached == foreign
    assert graph.warnings == ()


def test_a_table_reads_what_its_functions_read_and_calls_them_through_ephemeral_models() -> None:
    m = Manifest()
    rates = m.model("rates", folder="bronze")
    inner = m.function("rate", rates)
    outer = m.function("convert", inner)
    link = m.model("link", outer, materialized="ephemeral")
    prices = m.model("prices", link, folder="silver")
    graph = m.graph()
    assert graph.tables[prices].parents == (rates,)
    assert set(graph.tables[prices].functions) == {inner, outer}
    assert graph.descendants([inner]) == {prices}
    assert graph.unused_functions == frozenset()


def test_an_exposure_of_a_metric_reads_the_models_below_it() -> None:
    m = Manifest()
    orders, rates = m.model("orders", folder="silver"), m.model("rates", folder="silver")
    semantic = [m.node("semantic_models", "semantic_model", f"s{n}", u) for n, u in enumerate((orders, rates))]
    simple = m.node("metrics", "metric", "revenue", semantic[0])
    derived = m.node("metrics", "metric", "revenue_eur", simple, semantic[1])
    query = m.node("saved_queries", "saved_query", "by_day", derived)
    board, model, saved = (m.exposure(f"e{n}", u) for n, u in enumerate((derived, semantic[0], query)))
    graph = m.graph()
    assert set(graph.exposure_parents[board]) == {orders, rates}
    assert graph.exposure_parents[model] == (orders,)
    assert set(graph.exposure_parents[saved]) == {orders, rates}


def test_two_exposures_of_one_name_stay_apart() -> None:
    m = Manifest()
    own, other = m.exposure("weekly"), m.exposure("weekly", package="addon")
    alone = m.exposure("daily", package="addon")
    keys = m.graph().exposure_keys
    assert keys == {
        own: ("exposures", "weekly"),
        other: ("exposures", "addon", "weekly"),
        alone: ("exposures", "daily"),
    }


@pytest.mark.parametrize(("dagster", "group"), [({}, "gold"), ({"group": "reference"}, "reference")])
def test_a_model_of_constants_has_a_group_of_its_own_whatever_its_key_is(dagster: dict[str, str], group: str) -> None:
    m = Manifest()
    constants = m.model(
        "rates", folder="gold", materialized="ephemeral", dagster={"asset_key": ["my-team", "größe"], **dagster}
    )
    m.test("positive", constants)
    (spec,) = external_assets(m.graph())
    assert (spec.key.path, spec.group_name) == (["my-team", "größe"], group)


def test_only_a_model_without_any_path_is_of_another_project() -> None:
    m = Manifest()
    foreign, own = m.foreign("dim", package="platform"), m.model("fct", folder="gold")
    m.nodes[own] |= {"original_file_path": "", "path": "gold/fct.sql"}
    graph = m.graph()
    assert graph.externals.keys() == {foreign}
    assert graph.tables.keys() == {own}
