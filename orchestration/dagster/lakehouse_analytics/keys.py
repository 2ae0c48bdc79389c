"""Keys, tags and groups by which Dagster knows what the project has."""

from __future__ import annotations

import dagster as dg

from lakehouse_analytics.dbt.graph import DbtTest, External, Graph, Source, Table

#: Group of the assets that maintain Iceberg tables.
MAINTENANCE_GROUP = "maintenance"
#: Names the job on every run of a job that builds windows, of which `dagster.yaml` lets one go at a time: Dagster
#: itself does not mark a run with its job.
WINDOWS_OF = "lakehouse/windows_of"


def asset_key(owner: Table | Source | External) -> dg.AssetKey:
    """`[layer, model]`, `[source, table]`, `[package, model]` of another project, or `meta.dagster.asset_key`."""
    return dg.AssetKey(owner.key)


def check_key(graph: Graph, test: DbtTest) -> dg.AssetCheckKey:
    """The check of a dbt test."""
    return dg.AssetCheckKey(asset_key(graph.resource(test.attached)), test.name)


def build_tags(max_runtime: int) -> dict[str, str]:
    """Tags of every run that builds: a retry builds what failed or was blocked, and nothing else."""
    return {"dagster/retry_strategy": "FROM_ASSET_FAILURE", **ended_after(max_runtime)}


def ended_after(seconds: int) -> dict[str, str]:
    """The tag by which Dagster's daemon ends a run that takes longer."""
    return {"dagster/max_runtime": str(seconds)}
