"""Who owns an asset; the rest of the translation is held against dagster-dbt in tests/definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.assets.specs import table_spec
from lakehouse_analytics.dbt.manifest import read
from manifests import Manifest


@pytest.mark.parametrize(
    ("said", "owners"),
    [
        ({}, []),
        ({"group": "growth"}, ["growth@example.com"]),
        ({"group": "growth", "meta": {"dagster": {"owners": ["team:data"]}}}, ["team:data"]),
        ({"group": "growth", "meta": {"lakehouse": {"owner": "team:finance"}}}, ["team:finance"]),
        ({"group": "nameless"}, []),
    ],
    ids=str,
)
def test_the_contract_names_the_owner_then_dagsters_meta_then_dbts_group(
    said: dict[str, Any], owners: list[str]
) -> None:
    manifest = Manifest()
    orders = manifest.model("orders", folder="bronze", meta=said.get("meta", {}))
    manifest.nodes[orders]["group"] = said.get("group")
    manifest.nodes[orders]["columns"] = {}
    groups = {"group.shop.growth": {"name": "growth", "owner": {"email": "growth@example.com"}}}
    groups["group.shop.nameless"] = {"name": "nameless", "owner": {"name": "Nobody"}}
    graph = read({**manifest.build(), "groups": groups}, {})

    assert list(table_spec(graph, graph.tables[orders], Path(), "UTC", {}).owners) == owners
