"""Messages with YAML to paste: the YAML does what the message says it does."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import LAYERS, ContractError, deep_merge
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.lint.suggested_yaml import as_yaml, suggested_layers
from lakehouse_analytics.dbt.manifest import read
from manifests import PROJECT, Manifest


def pasted(message: str) -> dict[str, Any]:
    """The YAML at a message's end."""
    loaded: dict[str, Any] = yaml.safe_load(message.partition("\n")[2])
    return loaded


def with_meta_of(configuration: dict[str, Any], m: Manifest) -> Graph:
    """Read again, with the `+meta` of a project file in each node's `meta`, where dbt puts it."""
    for node in (*m.nodes.values(), *m.sources.values(), *m.exposures.values()):
        below: Any = configuration.get(f"{node['resource_type']}s") or {}
        for part in node["fqn"]:
            below = below.get(part) or {}
            meta = below.get("+meta")
            if meta:
                node.setdefault("config", {})["meta"] = deep_merge(node.get("config", {}).get("meta") or {}, meta)
    return read(m.build(), configuration)


def test_unmapped_models_are_one_line_with_a_count_the_first_names_and_yaml_to_paste() -> None:
    m = Manifest()
    for n in range(800):
        m.model(f"m{n}", folder=("staging/crm", "staging/erp", "intermediate", "marts/finance")[n % 4])
    m.model("mapped", folder="gold")
    m.model("kinds", kind="seed")
    [warning] = m.graph().warnings
    first, *_ = warning.splitlines()
    assert first.startswith(
        "800 models and 1 seed have no layer, so `default` is used: m0, m1, m2, m3, m4 and 796 more."
    )
    layer = {name: {"+meta": {"lakehouse": {"layer": value}}} for name, value in
             {"staging": "bronze", "intermediate": "silver", "marts": "gold"}.items()}  # fmt: skip
    assert pasted(warning) == {
        "models": {PROJECT: layer},
        "seeds": {PROJECT: {"+meta": {"lakehouse": {"layer": "bronze"}}}},
    }
    assert m.graph(pasted(warning)).warnings == ()


def test_yaml_too_long_for_a_log_is_left_to_a_command_that_has_all_of_it() -> None:
    m = Manifest()
    m.model("mapped", folder="gold")
    for n in range(800):
        m.model(f"m{n}", folder=f"area_{n}")
    graph = m.graph()
    [warning] = graph.warnings
    assert "\n" not in warning
    assert warning.endswith("`lakehouse layers` prints suggested lines, and `lakehouse layers --write` adds them.")
    suggested = suggested_layers(graph.tables.values())
    assert yaml.safe_load(as_yaml(suggested)) == suggested
    assert m.graph(suggested).warnings == ()


def layers_of(m: Manifest) -> dict[str, str]:
    after = m.graph(suggested_layers(m.graph().tables.values()))
    return {table.name: table.layer for table in after.tables.values()}


def test_where_names_say_nothing_lineage_does() -> None:
    m = Manifest()
    seed = m.model("customers_csv", kind="seed")
    first = m.model("clean", seed, folder="a")
    second = m.model("joined", first, folder="b")
    m.model("customers", second, folder="c")
    m.model("alone", folder="d")
    found = layers_of(m)
    assert found == {
        "customers_csv": "bronze",
        "clean": "bronze",
        "joined": "silver",
        "customers": "gold",
        "alone": "bronze",
    }


def test_one_telling_name_does_not_decide_for_many_models() -> None:
    m = Manifest()
    base = m.model("stg_orders", m.source("shop", "orders"), folder="staging")
    steps = [m.model(f"step_{n}", base, folder="work") for n in range(3)]
    fact = m.model("fct_orders", *steps, folder="work")
    m.model("board", fact, folder="marts/core")
    assert layers_of(m) == {
        "stg_orders": "bronze",
        **{f"step_{n}": "silver" for n in range(3)},
        "fct_orders": "silver",
        "board": "gold",  # as in dbt's own guide, where marts/core is
    }


def test_folders_by_domain_are_mapped_by_the_folders_inside() -> None:
    m = Manifest()
    for domain in ("crm", "erp"):
        m.model(f"stg_{domain}", folder=f"{domain}/staging")
        m.model(f"int_{domain}", folder=f"{domain}/intermediate")
        m.model(f"int_{domain}_more", folder=f"{domain}/intermediate/more")
    m.model("fct_plain", folder="plain")
    [warning] = m.graph().warnings
    one_domain = {"staging": {"+meta": {"lakehouse": {"layer": "bronze"}}},
                  "intermediate": {"+meta": {"lakehouse": {"layer": "silver"}}}}  # fmt: skip
    plain = {"+meta": {"lakehouse": {"layer": "gold"}}}
    assert pasted(warning) == {"models": {PROJECT: {"crm": one_domain, "erp": one_domain, "plain": plain}}}
    assert "      staging: {+meta: {lakehouse: {layer: bronze}}}" in warning.splitlines()


def test_a_folder_with_models_and_folders_of_another_layer_is_mapped_once() -> None:
    m = Manifest()
    for n in range(60):
        m.model(f"rpt_{n}", folder="extracts/tableau")
    m.model("int_people", folder="extracts/tableau/intermediate")
    [warning] = m.graph().warnings
    gold, silver = ({"lakehouse": {"layer": layer}} for layer in ("gold", "silver"))
    tableau = {"+meta": gold, "intermediate": {"+meta": silver}}
    assert pasted(warning) == {"models": {PROJECT: {"extracts": {"tableau": tableau}}}}
    assert m.graph(pasted(warning)).warnings == ()


FOLDERS = st.sampled_from(["", "a", "a/b", "a/c", "a/gold", "b", "b/c", "c/d/e", "silver", "a/b/c"])


@given(
    st.lists(
        st.tuples(
            FOLDERS,
            st.sampled_from(["model", "seed", "snapshot"]),
            st.sampled_from([PROJECT, "addon"]),
            st.sampled_from([None, *LAYERS]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_the_yaml_maps_every_unmapped_model_and_moves_no_other(nodes: list[tuple[str, str, str, str | None]]) -> None:
    m = Manifest()
    for n, (folder, kind, package, layer) in enumerate(nodes):
        m.model(f"m{n}", folder=folder, kind=kind, package=package, lakehouse={"layer": layer} if layer else None)
    before = m.graph()
    unmapped = {table.unique_id for table in before.tables.values() if table.layer == "default"}
    if not unmapped:
        assert before.warnings == ()
        return
    after = m.graph(suggested_layers(before.tables.values()))
    assert not [table for table in after.tables.values() if table.layer == "default"]
    assert after.warnings == ()
    for unique_id in before.tables.keys() - unmapped:
        assert after.tables[unique_id].layer == before.tables[unique_id].layer


def test_two_packages_with_one_model_name_are_one_error_with_both_files_and_both_ways_out() -> None:
    m = Manifest()
    ids = [m.model("orders", package=package) for package in ("a", "b", PROJECT)]
    with pytest.raises(ContractError) as caught:
        m.graph()
    message = str(caught.value)
    assert message.startswith(
        "asset key default/orders is claimed by model.a.orders (models/orders.sql in package a) and by model.b.orders "
        "(models/orders.sql in package b) and by model.shop.orders (models/orders.sql): "
    )
    assert "+meta: {lakehouse: {layer: " in message
    assert pasted(message) == {
        "models": {name: {"orders": {"+meta": {"dagster": {"asset_key": [name, "orders"]}}}} for name in ("a", "b")}
    }
    graph = with_meta_of(pasted(message), m)
    assert [graph.tables[unique_id].key for unique_id in ids] == [
        ("a", "orders"),
        ("b", "orders"),
        ("default", "orders"),
    ]


def test_two_models_with_one_explicit_key_are_an_error_with_both_files() -> None:
    m = Manifest()
    for name in ("one", "two"):
        m.model(name, folder="gold", dagster={"asset_key": ["mart", "fact"]})
    with pytest.raises(ContractError) as caught:
        m.graph()
    assert "asset key mart/fact is claimed by model.shop.one (models/gold/one.sql)" in str(caught.value)
    assert "model.shop.two (models/gold/two.sql)" in str(caught.value)


def test_a_source_and_a_model_of_one_key_get_keys_apart() -> None:
    m = Manifest()
    source = m.source("bronze", "orders")
    model = m.model("orders", folder="bronze")
    with pytest.raises(ContractError) as caught:
        m.graph()
    graph = with_meta_of(pasted(str(caught.value)), m)
    assert graph.tables[model].key != graph.sources[source].key


def test_sources_of_one_explicit_key_are_one_table() -> None:
    m = Manifest()
    ids = [m.source(name, "orders", dagster={"asset_key": ["lake", "orders"]}) for name in ("crm", "erp")]
    assert {m.graph().sources[unique_id].key for unique_id in ids} == {("lake", "orders")}


def test_exposures_of_one_name_and_sources_called_exposures_have_keys_apart() -> None:
    m = Manifest()
    fct = m.model("fct", folder="gold")
    m.source("exposures", "board")
    own, addon, board = m.exposure("weekly", fct), m.exposure("weekly", fct, package="addon"), m.exposure("board", fct)
    graph = m.graph()
    assert graph.exposure_keys == {
        own: ("exposures", "weekly"),
        addon: ("exposures", "addon", "weekly"),
        board: ("exposures", PROJECT, "board"),
    }


def test_exposures_that_name_one_key_are_an_error() -> None:
    m = Manifest()
    fct = m.model("fct", folder="gold")
    for name in ("one", "two"):
        m.exposure(name, fct, meta={"dagster": {"asset_key": ["bi", "board"]}})
    with pytest.raises(ContractError, match=r"asset key bi/board is claimed by exposure\.shop\.one"):
        m.graph()


RESOURCES = st.tuples(
    st.sampled_from(["model", "seed", "snapshot", "source", "exposure"]),
    st.sampled_from([PROJECT, "a", "b"]),
    st.one_of(st.sampled_from(["orders", "or ders", "or$ders", "örders", "o.rders"]), st.text(min_size=1, max_size=3)),
    st.sampled_from(["", "bronze", "exposures"]),
    st.sampled_from([None, None, ["bronze", "orders"], ["exposures/orders"], ["x"]]),
)


@given(st.lists(RESOURCES, max_size=8, unique_by=lambda resource: resource[:3]))
def test_asset_keys_are_apart_or_one_error_names_every_claim(resources: list[tuple[str, str, str, str, Any]]) -> None:
    m = Manifest()
    for kind, package, name, folder, asset_key in resources:
        dagster = {"asset_key": asset_key} if asset_key else {}
        if kind == "source":
            m.source(folder or "bronze", name, dagster=dagster)
        elif kind == "exposure":
            m.exposure(name, package=package, meta={"dagster": dagster})
        else:
            m.model(name, kind=kind, package=package, folder=folder, dagster=dagster)
    try:
        graph = m.graph()
    except ContractError as error:
        for line in str(error).split("asset key ")[1:]:
            claims = [
                node["unique_id"]
                for node in all_nodes(m)
                if f"{node['unique_id']} ({node['original_file_path']}" in line
            ]
            assert len(claims) > 1
        return
    keys = [table.key for table in graph.tables.values()] + [*graph.exposure_keys.values()]
    keys += [*{source.key for source in graph.sources.values()}]
    assert len({"/".join(key) for key in keys}) == len(keys)


def all_nodes(m: Manifest) -> list[Any]:
    return [*m.nodes.values(), *m.sources.values(), *m.exposures.values()]
