"""Owners of assets. Tests in tests/definitions compare the rest of the translation with dagster-dbt."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.assets.specs import source_spec, table_spec
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.settings import Settings
from manifests import Manifest


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ({}, None),
        ({"freshness": {"within": "26h"}}, dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))),
        (
            {"freshness": {"within": "2h", "cron": "0 6 * * *"}},
            dg.FreshnessPolicy.cron(
                deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=2), timezone="Europe/Rome"
            ),
        ),
    ],
)
def test_a_source_has_the_freshness_policy_of_its_contract(
    contract: dict[str, Any], expected: dg.FreshnessPolicy | None
) -> None:
    m = Manifest()
    m.source("shop", "orders", lakehouse={"arrives": {"database": "shop"}, **contract})
    m.source("crm", "people", lakehouse={"arrives": {"webhook": True}, **contract})
    settings = Settings(timezone="Europe/Rome")
    [loaded] = arrival_assets(m.graph(), settings)
    [reported] = external_assets(m.graph(), timezone=settings.timezone)
    assert [spec.freshness_policy for spec in (*loaded.specs, reported)] == [expected] * 2


@pytest.mark.parametrize(
    ("contract", "kinds"),
    [
        ({}, {"duckdb"}),
        ({"airbyte": {"connection": "shop"}}, {"duckdb", "airbyte"}),
        ({"arrives": {"webhook": True}}, {"duckdb", "webhook"}),
        ({"arrives": {"database": "shop"}}, {"duckdb", "database"}),
        ({"arrives": {"files": "s3://landing/*.jsonl"}}, {"duckdb", "json", "s3"}),
    ],
)
def test_the_kinds_of_a_source_say_what_fills_it(contract: dict[str, Any], kinds: set[str]) -> None:
    m = Manifest()
    m.source("shop", "orders", lakehouse=contract)
    [source] = m.graph().sources.values()
    assert source_spec(m.graph(), source).kinds == kinds


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
    groups["group.shop.nameless"] = {"name": "nameless", "owner": {"name": "Data"}}
    graph = read({**manifest.build(), "groups": groups}, {})

    assert list(table_spec(graph, graph.tables[orders], Path(), "UTC", {}).owners) == owners
