"""Typed views of a compiled manifest."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.impact.nodes import CompiledManifest, CompiledNode
from manifests import Manifest

MODEL: dict[str, Any] = {
    "resource_type": "model",
    "name": "orders",
    "alias": "orders_v2",
    "database": "lake",
    "schema": "gold",
    "raw_code": "select {{ 1 }} as id",
    "compiled_code": "select 1 as id",
    "checksum": {"name": "sha256", "checksum": "ab"},
    "depends_on": {"nodes": ["model.shop.stg"]},
    "columns": {"id": {"name": "ID", "quote": True, "data_type": "bigint", "constraints": [{"type": "not_null"}]}},
    "constraints": [{"type": "primary_key"}],
    "config": {
        "contract": {"enforced": True},
        "group": "sales",
        "meta": {"lakehouse": {"owner": "ann"}},
    },
}


def test_a_model() -> None:
    node = CompiledNode(MODEL)
    assert (node.resource_type, node.name, node.table_name) == ("model", "orders", "orders_v2")
    assert node.relation == ("lake", "gold", "orders_v2")
    assert (node.code, node.raw_code) == ("select 1 as id", "select {{ 1 }} as id")
    assert (node.parents, node.group, node.lakehouse) == (["model.shop.stg"], "sales", {"owner": "ann"})
    assert node.is_contract_enforced
    [column] = node.columns.values()
    assert (column.name, column.is_quoted, column.data_type) == ("ID", True, "bigint")
    assert (column.constraints, node.constraints) == ([{"type": "not_null"}], [{"type": "primary_key"}])


@pytest.mark.parametrize("empty", [{}, {"config": None, "depends_on": None, "columns": None, "compiled_code": None}])
def test_what_a_node_does_not_have_is_empty(empty: dict[str, Any]) -> None:
    node = CompiledNode({"resource_type": "model", "name": "a", **empty})
    assert (node.table_name, node.relation) == ("a", (None, None, None))
    assert (
        node.compiled_code == node.raw_code == node.code == node.source_name == node.group == node.tested_column == ""
    )
    assert [*node.parents, *node.columns, *node.config, *node.lakehouse, *node.given] == []
    assert (node.is_python, node.is_contract_enforced) == (False, False)
    assert node.attached_node is node.owner is node.expected_rows is node.constraints is None


def test_code_that_was_not_compiled_is_the_code_as_written() -> None:
    assert CompiledNode({**MODEL, "compiled_code": None}).code == "select {{ 1 }} as id"


@pytest.mark.parametrize("meta", [None, "text", {"lakehouse": None}, {"lakehouse": ["a"]}])
def test_meta_of_another_shape_is_no_contract(meta: Any) -> None:
    assert CompiledNode({"resource_type": "model", "name": "a", "config": {"meta": meta}}).lakehouse == {}


def test_meta_is_the_one_of_the_config_or_else_of_the_node() -> None:
    of_node = {"resource_type": "source", "name": "a", "meta": {"lakehouse": {"owner": "bob"}}}
    assert CompiledNode({**of_node, "config": {}}).lakehouse == {"owner": "bob"}
    assert CompiledNode({**of_node, "config": {"meta": {"lakehouse": {"owner": "ann"}}}}).lakehouse == {"owner": "ann"}


def test_the_sections_of_a_manifest() -> None:
    m = Manifest()
    source = m.source("raw", "orders")
    model = m.model("orders", source, folder="gold")
    tests = [m.test(name, model) for name in ("b", "a")]
    raw = {**m.build(), "groups": {"group.shop.sales": {"name": "sales", "owner": {"email": "a@example.com"}}}}
    manifest = CompiledManifest(raw)
    assert manifest.tables.keys() == {source, model}
    assert [*manifest.tests] == sorted(tests)
    assert [*manifest.sources] == [source]
    assert manifest.group_owners == {"sales": {"email": "a@example.com"}}
    assert manifest.adapter_type == "duckdb"
    others = (manifest.metrics, manifest.semantic_models, manifest.saved_queries, manifest.unit_tests)
    assert [*map(len, others)] == [0, 0, 0, 0]


def test_an_expression_is_the_name_of_its_item_by_default() -> None:
    model = CompiledNode(
        {"name": "orders", "measures": [{"name": "n"}, {"name": "m", "expr": "a + b"}], "dimensions": None}
    )
    assert model.expressions(("dimensions", "measures", "entities")) == ["n", "a + b"]
