"""Jobs: the selections people launch by name."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from lakehouse_analytics.assets.maintenance import GROUP
from lakehouse_analytics.graph import Graph
from lakehouse_analytics.translator import check_key

MAINTENANCE = "iceberg_maintenance"
CUSTOMER_ENTRY = ("bronze", "stg_customers")


def build_jobs(graph: Graph, *, max_runtime: int, upkeep: bool) -> list[dg.UnresolvedAssetJobDefinition]:
    """`full_refresh`, and the others whose assets the project has.

    Args:
        graph: The manifest's.
        max_runtime: Seconds after which Dagster's daemon ends a run.
        upkeep: Whether there are tables to look after.
    """
    tags = build_tags(max_runtime)
    tables = dg.AssetSelection.assets(*(table.key for table in graph.tables.values()))
    # Dagster leaves checks of external assets out of every selection of assets.
    of_sources = [check_key(graph, test) for test in graph.tests.values() if test.attached in graph.sources]
    everything = tables | dg.AssetSelection.checks(*of_sources) if of_sources else tables
    jobs = [_job("full_refresh", everything, "Every layer, bronze to metrics, with its gates.", tags)]
    if any(table.layer == "bronze" for table in graph.tables.values()):
        jobs.append(_job("bronze_refresh", dg.AssetSelection.groups("bronze"), "The bronze layer.", tags))
    if CUSTOMER_ENTRY in graph.by_key:
        customers = dg.AssetSelection.assets(CUSTOMER_ENTRY).downstream() & tables
        description = "stg_customers and everything downstream of it."
        jobs.append(_job("customer_pipeline", customers, description, tags))
    if upkeep:
        jobs.append(
            _job(MAINTENANCE, dg.AssetSelection.groups(GROUP), "Upkeep of every Iceberg table.", _ended(max_runtime))
        )
    return jobs


def build_tags(max_runtime: int) -> dict[str, str]:
    """Of every run that builds: a retried one builds what failed or was blocked, and nothing else."""
    return {"dagster/retry_strategy": "FROM_ASSET_FAILURE", **_ended(max_runtime)}


def _ended(max_runtime: int) -> dict[str, str]:
    return {"dagster/max_runtime": str(max_runtime)}


def _job(
    name: str, selection: dg.AssetSelection, description: str, tags: Mapping[str, str]
) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(name, selection, description=description, tags=tags)
