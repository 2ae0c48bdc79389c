"""Jobs: the selections people launch by name."""

from __future__ import annotations

import dagster as dg

from lakehouse_analytics.graph import Graph
from lakehouse_analytics.translator import check_key

#: A retried run builds what failed or was blocked, and nothing else.
TAGS = {"dagster/retry_strategy": "FROM_ASSET_FAILURE"}
CUSTOMER_ENTRY = ("bronze", "stg_customers")


def build_jobs(graph: Graph) -> list[dg.UnresolvedAssetJobDefinition]:
    """`full_refresh`, and the others whose assets the project has."""
    tables = dg.AssetSelection.assets(*(table.key for table in graph.tables.values()))
    # Dagster leaves checks of external assets out of every selection of assets.
    of_sources = [check_key(graph, test) for test in graph.tests.values() if test.attached in graph.sources]
    everything = tables | dg.AssetSelection.checks(*of_sources) if of_sources else tables
    jobs = [_job("full_refresh", everything, "Every layer, bronze to metrics, with its gates.")]
    if any(table.layer == "bronze" for table in graph.tables.values()):
        jobs.append(_job("bronze_refresh", dg.AssetSelection.groups("bronze"), "The bronze layer."))
    if CUSTOMER_ENTRY in graph.by_key:
        customers = dg.AssetSelection.assets(CUSTOMER_ENTRY).downstream() & tables
        jobs.append(_job("customer_pipeline", customers, "stg_customers and everything downstream of it."))
    return jobs


def _job(name: str, selection: dg.AssetSelection, description: str) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(name, selection, description=description, tags=TAGS)
