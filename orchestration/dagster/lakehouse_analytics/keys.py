"""Asset keys, check keys, tags and groups of the project in Dagster."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from lakehouse_analytics.dbt.graph import Copy, DbtTest, External, Graph, Source, Table

#: Group of the assets that maintain Iceberg tables.
MAINTENANCE_GROUP = "maintenance"
#: Group of the copies of tables in other databases.
EXPORTS_GROUP = "exports"
#: The pool of ops that write to other databases, on engines that have none.
EXPORTS_POOL = "exports"
#: Tag with the job's name on each run of a job that builds windows. `dagster.yaml` limits these to one at a time per
#: job. Dagster itself does not tag runs with their job.
WINDOWS_OF = "lakehouse/windows_of"
#: Tag with the branch on which a run builds.
BRANCH = "lakehouse/branch"
#: Tag of a run that could not read some files, with their number. The sensor of the files requests another load.
UNREADABLE_FILES = "lakehouse/unreadable_files"
#: Tag of a run that has loaded a source completely, and failed because of its row count. Its value names the run,
#: because a new execution of the run inherits the tag, and the checks.
BROKEN_ROW_COUNT = "lakehouse/broken_row_count"


def asset_key(owner: Table | Source | External) -> dg.AssetKey:
    """Return the asset key of a resource.

    It is `[layer, model]`, `[source, table]`, `[package, model]` for a model of another project, or
    `meta.dagster.asset_key`.
    """
    return dg.AssetKey(owner.key)


def copy_key(copy: Copy) -> dg.AssetKey:
    """Return the asset key of a copy of a table: the connection, then the parts of the copy's name."""
    return dg.AssetKey([copy.serve.to, *copy.serve.table.split(".")])


def check_key(graph: Graph, test: DbtTest) -> dg.AssetCheckKey:
    """Return the check key of a dbt test."""
    return dg.AssetCheckKey(asset_key(graph.resource(test.attached)), test.name)


def build_tags(max_runtime: int) -> dict[str, str]:
    """Return the tags of runs that build: a retry builds only what failed or was blocked."""
    return {"dagster/retry_strategy": "FROM_ASSET_FAILURE", **max_runtime_tags(max_runtime)}


def max_runtime_tags(seconds: int) -> dict[str, str]:
    """Return the tag that makes Dagster's daemon terminate a run after some seconds."""
    return {"dagster/max_runtime": str(seconds)}


def broken_row_count_tag(run_id: str, checks: Iterable[str]) -> dict[str, str]:
    """Return the tag of a run whose load is complete, but failed some checks of its row count."""
    return {BROKEN_ROW_COUNT: f"{run_id}: {', '.join(checks)}"}


def has_broken_row_count(run: dg.DagsterRun) -> bool:
    """Return whether a run has loaded its source completely, and failed because of its row count."""
    return run.tags.get(BROKEN_ROW_COUNT, "").startswith(f"{run.run_id}: ")
