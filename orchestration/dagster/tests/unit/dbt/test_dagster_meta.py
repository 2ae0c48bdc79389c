"""`meta.dagster` as dagster-dbt reads it; tests/definitions holds the result against dagster-dbt itself."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.contract.models import ContractError
from manifests import PROJECT, Manifest

UNREAD = "meta.dagster has keys without effect, here and in dagster-dbt's own translator"


def group_of(**model: Any) -> str:
    m = Manifest()
    unique_id = m.model("orders", **model)
    return m.graph().tables[unique_id].group


@pytest.mark.parametrize(
    ("said", "key"),
    [(["warehouse", "sales", "orders"], ("warehouse", "sales", "orders")), ("orders", ("orders",)), ([], None)],
)
def test_an_asset_key_wins_over_layer_and_name_and_the_layer_stays(said: Any, key: tuple[str, ...] | None) -> None:
    m = Manifest()
    orders = m.model("orders", folder="bronze", dagster={"asset_key": said})
    table = m.graph().tables[orders]
    assert table.key == (key or ("bronze", "orders"))
    assert table.layer == table.group == "bronze"


@pytest.mark.parametrize(
    ("model", "group"),
    [
        ({"folder": "gold"}, "gold"),
        ({}, "default"),
        ({"folder": "gold", "group": "finance"}, "finance"),
        ({"folder": "gold", "group": "finance", "dagster": {"group": "sales/emea"}}, "sales/emea"),
        ({"group": "my-group"}, "my_group"),
    ],
    ids=str,
)
def test_the_group_is_dagsters_then_dbts_then_the_layer(model: dict[str, Any], group: str) -> None:
    assert group_of(**model) == group


def test_dbt_groups_stay_apart() -> None:
    m = Manifest()
    names = ["a-b", "a b", "a_b", "übung", "ubung"]
    ids = [m.model(f"m{n}", folder="gold", group=name) for n, name in enumerate(names)]
    tables = m.graph().tables
    groups = [tables[unique_id].group for unique_id in ids]
    assert len(set(groups)) == len(groups)
    assert groups[2] == "a_b"
    assert groups[4] == "ubung"


def test_a_source_has_the_group_and_the_key_of_its_meta() -> None:
    m = Manifest()
    one = m.source("shop", "orders", dagster={"asset_key": ["airbyte", "shop", "orders"], "group": "crm"})
    two = m.source("shop", "returns")
    sources = m.graph().sources
    assert (sources[one].key, sources[one].group) == (("airbyte", "shop", "orders"), "crm")
    assert (sources[two].key, sources[two].group) == (("shop", "returns"), "sources")


@pytest.mark.parametrize(
    ("dagster", "lakehouse", "automation"),
    [
        ({"auto_materialize_policy": {"type": "eager"}}, None, "eager"),
        ({"auto_materialize_policy": {"type": "eager"}}, {"automation": "schedule"}, "schedule"),
        ({"auto_materialize_policy": {"type": "lazy"}}, None, "schedule"),
        ({}, None, "schedule"),
    ],
)
def test_an_eager_policy_is_eager_unless_the_contract_says_otherwise(
    dagster: Any, lakehouse: Any, automation: str
) -> None:
    m = Manifest()
    orders = m.model("orders", folder="gold", dagster=dagster, lakehouse=lakehouse)
    assert m.graph().tables[orders].contract.automation == automation


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("orders", "orders"),
        ({"name": "orders"}, "orders"),
        ({"name": "orders", "package": PROJECT}, "orders"),
        ({"name": "orders", "package": "other"}, "other_orders"),
        ({"name": "dim", "version": 1}, "dim_v1"),
        ({"name": "dim", "version": "2"}, "dim_v2"),
        ({"name": "dim"}, "dim_v2"),
    ],
    ids=str,
)
def test_a_test_is_a_check_of_the_model_that_ref_names(ref: Any, name: str) -> None:
    m = Manifest()
    ids = {
        "orders": m.model("orders", folder="bronze"),
        "other_orders": m.model("orders", folder="silver", package="other"),
        "dim_v1": m.model("dim", folder="bronze", version=1),
        "dim_v2": m.model("dim", folder="bronze", version=2),
        "last": m.model("last", folder="gold"),
    }
    for version in ("dim_v1", "dim_v2"):
        m.nodes[ids[version]]["latest_version"] = 2
    test = m.test("adds_up", *ids.values(), meta={"dagster": {"ref": ref}})
    graph = m.graph()
    assert graph.tests[test].attached == ids[name]
    assert graph.warnings == ()


def test_a_ref_to_what_the_test_does_not_read_is_a_warning_that_says_whose_check_it_is() -> None:
    m = Manifest()
    orders = m.model("orders", folder="bronze")
    test = m.test("adds_up", orders, meta={"dagster": {"ref": {"name": "order", "version": 3}}})
    graph = m.graph()
    assert graph.tests[test].attached == orders
    [warning] = graph.warnings
    assert warning.startswith("tests/adds_up.sql: test adds_up: meta.dagster.ref names order.v3")
    assert warning.endswith("so the test is attached to bronze/orders")


@pytest.mark.parametrize(
    ("dagster", "words"),
    [
        ("orders", "meta.dagster must be a mapping, not str"),
        ({"asset_key": {"a": 1}}, "meta.dagster.asset_key is {'a': 1}: expected the parts of an asset key"),
        ({"asset_key": ["raw", 2024]}, "meta.dagster.asset_key is ['raw', 2024]"),
        ({"asset_key": ["raw", ""]}, "meta.dagster.asset_key is ['raw', '']"),
        ({"group": ["a"]}, "meta.dagster.group is ['a']"),
        ({"group": "my group"}, "meta.dagster.group is 'my group': expected ASCII letters"),
        ({"owners": ["nobody"]}, "meta.dagster.owners has 'nobody': expected an email address or team:<name>"),
        ({"owners": [{"name": "a"}]}, "meta.dagster.owners has {'name': 'a'}"),
        ({"auto_materialize_policy": "eager"}, "meta.dagster.auto_materialize_policy is 'eager'"),
        ({"ref": ["orders"]}, "meta.dagster.ref is ['orders']: expected a model's name, or a mapping"),
        ({"ref": {"model": "orders"}}, "meta.dagster.ref is {'model': 'orders'}"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["model", "source", "exposure", "test"])
def test_a_value_that_dagster_dbt_cannot_read_is_an_error_with_its_file(kind: str, dagster: Any, words: str) -> None:
    m = Manifest()
    orders = m.model("orders", folder="bronze", dagster=dagster if kind == "model" else None)
    m.source("shop", "orders", dagster=dagster if kind == "source" else None)
    m.exposure("board", orders, config={"meta": {"dagster": dagster}} if kind == "exposure" else {})
    m.test("adds_up", orders, meta={"dagster": dagster} if kind == "test" else None)
    key = next(iter(dagster)) if isinstance(dagster, dict) else None
    if key and ((key == "ref") != (kind == "test") or (key == "auto_materialize_policy" and kind != "model")):
        # Of this kind of node dagster-dbt does not read the key.
        assert m.graph().warnings == (f"{UNREAD}: {key} (1)",)
        return
    with pytest.raises(ContractError) as caught:
        m.graph()
    file = {"model": "models/orders.sql", "source": "models/sources.yml", "exposure": "models/exposures.yml"}
    [line] = str(caught.value).splitlines()
    assert line.startswith(file.get(kind, "tests/adds_up.sql").replace("models/orders", "models/bronze/orders"))
    assert words in line


def test_keys_that_nobody_reads_are_one_line_with_counts() -> None:
    m = Manifest()
    for n in range(30):
        more: dict[str, Any] = {"automation_condition": {}} if n else {}
        m.model(f"m{n}", folder="gold", dagster={"group": "a", "kinds": ["x"], **more})
    m.model("lazy", folder="gold", dagster={"auto_materialize_policy": {"type": "lazy"}})
    [warning] = m.graph().warnings
    assert warning.endswith("kinds (30), automation_condition (29), auto_materialize_policy.type: lazy (1)")
