from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import LAYERS, Airbyte, ContractError
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from manifests import PROJECT, Manifest, manifests, medallion


def keys(graph: Graph) -> set[str]:
    return {"/".join(table.key) for table in graph.tables.values()}


def rank_names(graph: Graph) -> list[set[str]]:
    ranks = sorted({*graph.ranks.values()})
    return [{table.key[-1] for u, table in graph.tables.items() if graph.ranks[u] == rank} for rank in ranks]


def reachable(manifest: Manifest, start: str) -> set[str]:
    """Tables below a node in the manifest itself, ephemeral models walked through: the slow, obvious way."""
    below = {start}
    while True:
        more = {
            unique_id
            for unique_id, node in manifest.nodes.items()
            if node["resource_type"] != "test" and below & set(node["depends_on"]["nodes"])
        } - below
        if not more:
            return {u for u in below - {start} if manifest.nodes[u]["config"]["materialized"] != "ephemeral"}
        below |= more


@given(manifests())
def test_every_edge_between_layers_crosses_a_stage(manifest: Manifest) -> None:
    graph = manifest.graph()
    for table in graph.tables.values():
        for parent in (graph.tables[p] for p in table.parents if p in graph.tables):
            above, below = graph.ranks[parent.unique_id], graph.ranks[table.unique_id]
            assert above < below if parent.layer != table.layer else above <= below


@given(manifests())
def test_a_table_is_never_staged_before_its_layer(manifest: Manifest) -> None:
    graph = manifest.graph()
    for table in graph.tables.values():
        assert graph.ranks[table.unique_id] >= (LAYERS.index(table.layer) if table.layer in LAYERS else 0)


@given(manifests())
def test_the_order_is_topological_and_complete(manifest: Manifest) -> None:
    graph = manifest.graph()
    assert sorted(graph.order.values()) == list(range(len(graph.tables)))
    assert all(
        graph.order[parent] < graph.order[table.unique_id]
        for table in graph.tables.values()
        for parent in table.parents
        if parent in graph.tables
    )


@given(manifests())
def test_no_table_is_ranked_before_one_that_it_reads(manifest: Manifest) -> None:
    graph = manifest.graph()
    assert graph.ranks.keys() == graph.tables.keys()
    for table in graph.tables.values():
        assert all(graph.ranks[p] <= graph.ranks[table.unique_id] for p in table.parents if p in graph.tables)


@given(manifests())
def test_descendants_are_what_the_manifest_reaches_through_ephemeral_models(manifest: Manifest) -> None:
    graph = manifest.graph()
    for unique_id in [*graph.tables, *graph.sources]:
        assert graph.descendants([unique_id]) == reachable(manifest, unique_id)


@given(manifests(tests=True))
def test_every_test_is_attached_to_a_parent_it_reads(manifest: Manifest) -> None:
    graph = manifest.graph()
    for test in graph.tests.values():
        assert test.attached in test.parents
        assert all(parent in graph.tables or parent in graph.unbuilt for parent in test.parents)


def test_reading_does_not_depend_on_the_order_of_the_manifest() -> None:
    manifest = medallion()
    graph = manifest.graph()
    manifest.nodes = dict(reversed(manifest.nodes.items()))
    assert rank_names(manifest.graph()) == rank_names(graph)


def test_layers_are_ranked_in_medallion_order() -> None:
    assert rank_names(medallion().graph()) == [{"stg_a", "stg_b"}, {"dim_a", "dim_b"}, {"fct", "only_a"}, {"only_b"}]


def test_a_layer_that_reads_a_later_layer_is_ranked_after_it() -> None:
    m = Manifest()
    gold = m.model("gold_first", folder="gold")
    bronze = m.model("bronze_after", gold, folder="bronze")
    m.model("silver_last", bronze, folder="silver")
    assert rank_names(m.graph()) == [{"gold_first"}, {"bronze_after"}, {"silver_last"}]


def test_a_model_without_a_layer_below_gold_is_ranked_after_gold() -> None:
    m = Manifest()
    gold = m.model("fct", folder="gold")
    m.model("adhoc", gold, folder="scratch")
    assert rank_names(m.graph()) == [{"fct"}, {"adhoc"}]


def test_lineage_passes_through_chained_ephemeral_models_without_repeats() -> None:
    m = Manifest()
    raw = m.source("raw", "a")
    top = m.model("top", folder="bronze")
    one = m.model("one", top, raw, materialized="ephemeral")
    two = m.model("two", one, raw, materialized="ephemeral")
    bottom = m.model("bottom", two, one, top, folder="silver")
    graph = m.graph()
    assert keys(graph) == {"bronze/top", "silver/bottom"}
    assert sorted(graph.tables[bottom].parents) == sorted([top, raw])
    assert graph.descendants([raw]) == {bottom}


def test_ephemeral_models_need_no_layer() -> None:
    m = Manifest()
    m.model("inlined", materialized="ephemeral")
    assert m.graph().warnings == ()


def test_exposures_see_through_ephemeral_models() -> None:
    m = Manifest()
    fct = m.model("fct", folder="gold")
    eph = m.model("eph", fct, materialized="ephemeral")
    exposure = m.exposure("dashboard", eph)
    graph = m.graph()
    assert graph.exposure_parents[exposure] == (fct,)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("bronze", "bronze"),
        ("crm/silver", "silver"),
        ("gold/bronze", "gold"),
        ("metrics/finance/daily", "metrics"),
        ("Bronze", "default"),
        ("bronze_raw", "default"),
        ("", "default"),
    ],
)
def test_the_layer_is_the_first_folder_that_is_one(folder: str, expected: str) -> None:
    m = Manifest()
    m.model("m", folder=folder)
    assert keys(m.graph()) == {f"{expected}/m"}


def test_neither_package_nor_model_name_is_a_layer() -> None:
    m = Manifest()
    m.model("gold", package="bronze", folder="marts")
    m.model("metrics", package="bronze", folder="marts", version=2)
    assert keys(m.graph()) == {"default/gold", "default/metrics_v2"}


def test_the_contract_decides_over_the_folder() -> None:
    m = Manifest()
    m.model("m", folder="bronze", lakehouse={"layer": "gold"})
    assert keys(m.graph()) == {"gold/m"}


def test_an_unmapped_model_lands_in_default_with_one_warning_that_says_what_to_do() -> None:
    m = Manifest()
    m.model("adhoc", folder="scratch")
    graph = m.graph()
    assert keys(graph) == {"default/adhoc"}
    [warning] = graph.warnings
    assert warning.startswith("1 model has no layer, so `default` is used: adhoc.")
    assert "dbt_project.yml" in warning


def test_keys_without_effect_are_told() -> None:
    m = Manifest()
    m.model("m", folder="gold", lakehouse={"pool": "heavy", "kubernetes": {"cpu": "1"}})
    warnings = "\n".join(m.graph().warnings)
    assert "meta.lakehouse.kubernetes has no effect" in warnings
    assert "meta.lakehouse.pool has no effect" in warnings


def test_staging_intermediate_marts_are_mapped_by_folder_meta() -> None:
    m = Manifest()
    stg = m.model("stg", folder="staging/crm")
    mid = m.model("int", stg, folder="intermediate")
    m.model("mart", mid, folder="marts/finance")
    folders = {
        "models": {
            PROJECT: {
                "staging": {"+meta": {"lakehouse": {"layer": "bronze"}}},
                "intermediate": {"meta": {"lakehouse": {"layer": "silver"}}},
                "marts": {"+materialized": "table", "+meta": {"lakehouse": {"layer": "gold"}}},
            }
        }
    }
    graph = m.graph(folders)
    assert keys(graph) == {"bronze/stg", "silver/int", "gold/mart"}
    assert graph.warnings == ()


def folder_graph(own: Any, configuration: dict[str, Any], **more: Any) -> Graph:
    m = Manifest()
    m.model("m", folder="gold/finance", lakehouse=own, **more)
    return m.graph(configuration)


def contract(graph: Graph) -> Any:
    [table] = graph.tables.values()
    return table.contract


def test_a_gate_of_the_folder_survives_what_the_model_adds() -> None:
    # dbt itself lets the model's `meta.lakehouse` replace its folder's as a whole.
    folders = {"models": {PROJECT: {"gold": {"+meta": {"lakehouse": {"rows": {"min": 100, "severity": "error"}}}}}}}
    found = contract(folder_graph({"rows": {"max": 500}, "owner": "team:growth"}, folders))
    assert (found.rows.min, found.rows.max, found.rows.severity) == (100, 500, "error")
    assert found.owner == "team:growth"


def test_deeper_folders_win_and_the_model_wins_over_all() -> None:
    def rows(**more: Any) -> dict[str, Any]:
        return {"+meta": {"lakehouse": {"rows": more}}}

    folders = {
        "models": {
            **rows(min=1, max=1, max_drop=0.1),
            PROJECT: {
                **rows(min=2, max=2000),
                "gold": {**rows(min=3), "finance": {**rows(min=4, max=4000)}},
                "silver": rows(min=99),
            },
        }
    }
    found = contract(folder_graph({"rows": {"min": 5}}, folders))
    assert (found.rows.min, found.rows.max, found.rows.max_drop) == (5, 4000, 0.1)


def test_a_model_can_take_back_what_its_folder_asks() -> None:
    folders = {"models": {PROJECT: {"+meta": {"lakehouse": {"rows": {"min": 9}, "owner": "team:a"}}}}}
    found = contract(folder_graph({"rows": None, "owner": None}, folders))
    assert found.rows is None
    assert found.owner is None


def test_meta_of_one_model_by_name_in_the_project_file_counts() -> None:
    folders = {"models": {PROJECT: {"gold": {"finance": {"m": {"+meta": {"lakehouse": {"owner": "team:one"}}}}}}}}
    assert contract(folder_graph(None, folders)).owner == "team:one"


def test_folders_of_another_package_do_not_apply() -> None:
    folders = {"models": {"other": {"gold": {"+meta": {"lakehouse": {"owner": "team:other"}}}}}}
    assert contract(folder_graph(None, folders)).owner is None
    m = Manifest()
    m.model("m", folder="gold", package="other")
    assert contract(m.graph(folders)).owner == "team:other"


@pytest.mark.parametrize("kind", ["seed", "snapshot"])
def test_seeds_and_snapshots_have_sections_of_their_own(kind: str) -> None:
    m = Manifest()
    m.model("m", kind=kind)
    sections = {f"{kind}s": {PROJECT: {"+meta": {"lakehouse": {"layer": "silver"}}}}}
    assert keys(m.graph({**sections, "models": {PROJECT: {"+meta": {"lakehouse": {"layer": "gold"}}}}})) == {"silver/m"}


def test_odd_shapes_in_the_project_file_are_no_contract() -> None:
    found = contract(folder_graph(None, {"models": {PROJECT: {"gold": "table", "+meta": None}}}))
    assert found.owner is None
    assert contract(folder_graph(None, {"models": None})).owner is None


def test_a_mistake_in_a_folder_names_the_project_file_and_each_model() -> None:
    m = Manifest()
    m.model("one", folder="gold")
    m.model("two", folder="gold")
    with pytest.raises(ContractError) as caught:
        m.graph({"models": {PROJECT: {"gold": {"+meta": {"lakehouse": {"ownr": "team:a"}}}}}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all("dbt_project.yml" in line and "did you mean `owner`?" in line for line in lines)


def test_mistakes_of_all_models_and_sources_are_reported_together() -> None:
    m = Manifest()
    m.model("one", folder="gold", lakehouse={"layr": "gold"})
    m.model("two", folder="gold", lakehouse=["layer"])
    m.source("raw", "a", whole={"airbyte": {"connection": 7}})
    with pytest.raises(ContractError) as caught:
        m.graph()
    message = str(caught.value)
    assert "model one: unknown key meta.lakehouse.layr" in message
    assert "model two: meta.lakehouse must be a mapping, not list" in message
    assert "source raw.a: meta.lakehouse.airbyte.connection is 7" in message


def test_strict_refuses_a_model_that_readers_see_half_written_with_the_other_mistakes() -> None:
    manifest = Manifest()
    manifest.model("a", folder="bronze", lakehouse={"layer": "brass"})
    manifest.model("b", folder="silver", on_table_exists="drop")
    manifest.model("c", folder="silver")
    built = manifest.build()
    with pytest.raises(ContractError) as mistakes:
        read({**built, "metadata": {**built["metadata"], "adapter_type": "trino"}}, {}, strict=True)
    layer, drop = str(mistakes.value).splitlines()
    assert "models/bronze/a.sql" in layer
    assert "models/silver/b.sql" in drop
    assert "set on_table_exists: replace" in drop

    del manifest.nodes["model.shop.a"], manifest.nodes["model.shop.b"]
    built = manifest.build()
    graph = read({**built, "metadata": {**built["metadata"], "adapter_type": "trino"}}, {})
    assert [w for w in graph.warnings if "on_table_exists is rename" in w]
    assert not read(built, {}).warnings


@pytest.mark.parametrize(
    ("comment", "warned"),
    [(None, True), ({"comment": "ours"}, True), ({"comment": "{{ query_comment(node) }}"}, False),
     ("{{ env_var('LAKEHOUSE_RUN_ID', '') }}", False)],
)  # fmt: skip
def test_a_project_on_trino_whose_queries_do_not_tell_their_run_is_warned_of(comment: Any, warned: bool) -> None:
    built = Manifest().build()
    configuration = {} if comment is None else {"query-comment": comment}
    on_trino = {**built, "metadata": {**built["metadata"], "adapter_type": "trino"}}
    assert bool([w for w in read(on_trino, configuration).warnings if "query-comment" in w]) == warned
    assert not read(built, configuration).warnings


def test_a_source_table_completes_what_its_source_says() -> None:
    m = Manifest()
    whole = m.source("raw", "a", whole={"airbyte": {"connection": "all"}})
    own = m.source("raw", "b", whole={"airbyte": {"connection": "all"}}, lakehouse={"airbyte": {"connection": "one"}})
    bare = m.source("raw", "c")
    contracts = {unique_id: source.contract.airbyte for unique_id, source in m.graph().sources.items()}
    assert contracts == {whole: Airbyte(connection="all"), own: Airbyte(connection="one"), bare: None}


def test_versions_of_a_model_are_tables_of_their_own() -> None:
    m = Manifest()
    one = m.model("dim", folder="silver", version=1)
    m.model("dim", one, folder="silver", version="2.1")
    graph = m.graph()
    assert keys(graph) == {"silver/dim_v1", "silver/dim_v2.1"}
    assert graph.tables[one].node.version == 1


def test_two_claims_to_one_asset_key_are_an_error_that_names_both() -> None:
    m = Manifest()
    m.model("dim", folder="silver", version=1)
    m.model("dim_v1", folder="silver")
    m.source("bronze", "orders")
    m.model("orders", folder="bronze")
    with pytest.raises(ContractError) as caught:
        m.graph()
    message = str(caught.value)
    assert f"silver/dim_v1 is claimed by model.{PROJECT}.dim.v1 (models/silver/dim.sql)" in message
    assert f"model.{PROJECT}.dim_v1" in message
    assert f"bronze/orders is claimed by model.{PROJECT}.orders" in message


@pytest.mark.parametrize(
    ("other", "valid"),
    [
        (None, True),
        ({"arrives": {"database": "shop"}}, True),
        ({"arrives": {"database": "erp"}}, False),
        ({"airbyte": {"connection": "shop"}}, False),
    ],
)
def test_sources_of_one_asset_are_filled_in_one_way(other: dict[str, Any] | None, valid: bool) -> None:
    m = Manifest()
    one = {"asset_key": ["lake", "orders"]}
    m.source("shop", "orders", lakehouse={"arrives": {"database": "shop"}}, dagster=one)
    m.source("legacy", "orders", lakehouse=other, dagster=one)
    if valid:
        assert len(m.graph().sources) == 2
        return
    with pytest.raises(ContractError, match=r"shop\.orders and legacy\.orders are the asset .*: remove one"):
        m.graph()


def test_names_that_dagster_refuses_become_ones_it_takes() -> None:
    m = Manifest()
    m.source("SAP ERP", "/BIC/ORDERS$")
    [source] = m.graph().sources.values()
    assert source.key == ("SAP_ERP", "_BIC_ORDERS_")


def test_a_generic_test_belongs_to_the_node_dbt_attached_it_to() -> None:
    m = medallion()
    stg, dim = f"model.{PROJECT}.stg_a", f"model.{PROJECT}.dim_a"
    test = m.test("relationships", dim, stg, attached=stg)
    graph = m.graph()
    assert graph.tests[test].attached == stg
    assert graph.tests_of[stg] == (graph.tests[test],)


def test_a_singular_test_belongs_to_the_parent_that_is_built_last() -> None:
    m = Manifest()
    # `a` is built after `z` in the same layer, although its name sorts first.
    z = m.model("z", folder="silver")
    a = m.model("a", z, folder="silver")
    bronze = m.model("zz", folder="bronze")
    test = m.test("reconciles", z, a, bronze)
    assert m.graph().tests[test].attached == a


def test_a_singular_test_of_sources_belongs_to_a_source() -> None:
    m = Manifest()
    raw = m.source("raw", "a")
    test = m.test("raw_is_fresh", raw)
    assert m.graph().tests[test].attached == raw


def test_a_test_of_an_ephemeral_model_belongs_to_what_it_reads() -> None:
    m = Manifest()
    table = m.model("table", folder="bronze")
    eph = m.model("eph", table, materialized="ephemeral")
    test = m.test("not_null_eph", eph, attached=eph)
    graph = m.graph()
    assert graph.tests[test].attached == table
    assert graph.tests[test].parents == (table,)


@pytest.mark.parametrize(("severity", "blocking"), [("ERROR", True), ("error", True), ("WARN", False), ("warn", False)])
def test_severity_decides_whether_a_test_blocks(severity: str, *, blocking: bool) -> None:
    m = Manifest()
    table = m.model("t", folder="bronze")
    test = m.test("unique", table, attached=table, severity=severity)
    assert m.graph().tests[test].blocking is blocking


def test_checks_of_one_table_have_names_of_their_own_that_dagster_takes() -> None:
    m = Manifest()
    table = m.model("t", folder="bronze")
    for hashed in ("aaa", "bbb"):
        m.test("order has a customer", table, attached=table, hashed=hashed)
    m.test("row_count", table, attached=table, hashed="ccc")
    names = [test.name for test in m.graph().tests.values()]
    assert names == ["order_has_a_customer", "order_has_a_customer_bbb", "row_count_ccc"]


NAMES = st.one_of(
    st.sampled_from(["row_count", "row.count", "a b", "a_b", "a.b", "ü", "u"]), st.text(min_size=1, max_size=3)
)


@given(st.lists(st.tuples(st.sampled_from(["crm", "erp"]), NAMES, st.sampled_from("xyz")), max_size=12, unique=True))
def test_checks_of_one_asset_have_names_apart_in_whatever_order_they_come(tests: list[tuple[str, str, str]]) -> None:
    def names(ordered: Iterable[tuple[str, str, str]]) -> dict[str, str]:
        m = Manifest()
        # Two sources of one asset key are one asset.
        owners = {name: m.source(name, "t", dagster={"asset_key": ["lake", "t"]}) for name in ("crm", "erp")}
        for source, name, hashed in ordered:
            m.test(name, owners[source], attached=owners[source], hashed=f"{source}{hashed}")
        return {unique_id: test.name for unique_id, test in m.graph().tests.items()}

    found = names(tests)
    assert len(found) == len(tests)
    assert len({"row_count", "row_count_drift", *(name.replace(".", "_") for name in found.values())}) == len(found) + 2
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in found.values())
    assert names(reversed(tests)) == found


def test_a_singular_test_is_a_check_of_the_table_its_meta_names() -> None:
    manifest = Manifest()
    orders = manifest.model("orders", folder="bronze")
    revenue = manifest.model("revenue", orders, folder="gold")
    named = manifest.test("reconciles", orders, revenue, meta={"dagster": {"ref": {"name": "orders"}}})
    unnamed = manifest.test("adds_up", orders, revenue)
    tests = manifest.graph().tests

    assert tests[named].attached == orders
    assert tests[unnamed].attached == revenue


def test_a_prefix_is_the_start_of_every_asset_key_and_changes_nothing_else() -> None:
    manifest = medallion()
    exposure = manifest.exposure("dashboard", "model.shop.fct")
    graph = manifest.graph()
    moved = graph.with_prefix("pr_42")
    assert moved.tables["model.shop.fct"].key == ("pr_42", "gold", "fct")
    assert moved.sources["source.shop.raw.a"].key == ("pr_42", "raw", "a")
    assert moved.exposure_keys[exposure] == ("pr_42", "exposures", "dashboard")
    assert {key[1:] for key in moved.by_key} == graph.by_key.keys()
    assert moved.children == graph.children
    assert moved.ranks == graph.ranks
    assert moved.prefix == ("pr_42",)


@pytest.mark.parametrize(
    ("rows", "other", "refused"), [(None, {"min": 1}, True), ({"min": 1}, {"min": 1}, False), (None, None, False)]
)
def test_sources_that_are_one_asset_have_the_same_row_count_rules(rows: Any, other: Any, refused: bool) -> None:
    m = Manifest()
    one = {"asset_key": ["lake", "orders"]}
    arrives = {"arrives": {"database": "shop"}}
    m.source("shop", "orders", lakehouse={**arrives, "rows": rows} if rows else arrives, dagster=one)
    m.source("legacy", "orders", lakehouse={**arrives, "rows": other} if other else arrives, dagster=one)
    if not refused:
        assert len(m.graph().sources) == 2
        return
    with pytest.raises(ContractError) as caught:
        m.graph()
    assert str(caught.value) == (
        "shop.orders and legacy.orders are the asset lake/orders (meta.dagster.asset_key), but their meta.lakehouse "
        "has different rows: write the same rules for all, or give one of the sources another key"
    )
