"""Syncs of `lakehouse ingest` in Dagster's history: on the assets that the graph has."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
from lakehouse_analytics.dbt.nodes import node_of
from lakehouse_analytics.ingest import IngestReport, StreamReport
from lakehouse_analytics.partitions.backlog import synced_until
from lakehouse_analytics.triggers import events as syncs
from manifests import Manifest

BEGAN = datetime(2026, 5, 10, 0, 5, tzinfo=UTC)


def report(*tables: str) -> IngestReport:
    streams = tuple(StreamReport(table, table, "first", 1, 1, 1, 1.0, 1) for table in tables)
    return IngestReport("source-shop", "1.0", "shop", "raw", streams, BEGAN)


def test_a_sync_is_recorded_on_the_key_that_the_graph_gives_the_source() -> None:
    m = Manifest()
    m.source("shop", "orders", dagster={"asset_key": ["warehouse", "raw", "orders"]})
    m.source("shop", "items")
    named = m.source("shop", "people")
    m.sources[named]["identifier"] = "USERS"
    m.source("shop", "bestellungen.größe")
    m.source("other", "orders")  # another table of that name
    again = m.source("view_of_shop", "o", dagster={"asset_key": "orders_again"})
    m.sources[again] |= {"schema": "shop", "identifier": "Orders"}  # the same table, named again
    keys = {source.unique_id: dg.AssetKey(source.key) for source in m.graph().sources.values()}
    with dg.DagsterInstance.ephemeral() as instance:
        done = report("orders", "items", "users", "bestellungen.größe", "not_in_dbt")
        syncs.record(instance, done, map(node_of, m.sources.values()))
        synced = {key for key in (*keys.values(), dg.AssetKey(["shop", "not_in_dbt"])) if synced_until(instance, key)}
        assert synced == {*keys.values(), dg.AssetKey(["shop", "not_in_dbt"])} - {dg.AssetKey(["other", "orders"])}
        assert set(instance.all_asset_keys()) == synced
        assert synced_until(instance, dg.AssetKey(["warehouse", "raw", "orders"])) == BEGAN


def test_without_a_manifest_the_keys_are_source_and_table() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        syncs.record(instance, report("orders"))
        assert instance.all_asset_keys() == [dg.AssetKey(["shop", "orders"])]
