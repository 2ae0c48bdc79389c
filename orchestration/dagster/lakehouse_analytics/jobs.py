"""The jobs of the code location: selections of assets that can be launched by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import dagster as dg

from lakehouse_analytics.assets.asset_jobs import AssetJob
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.checks.registry import source_check_keys
from lakehouse_analytics.contract.models import ContractError, Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import BRANCH, MAINTENANCE_GROUP, WINDOWS_OF, build_tags, check_key, max_runtime_tags
from lakehouse_analytics.partitions.by_column import ColumnPartitions, column_partitions
from lakehouse_analytics.partitions.definitions import GRAINS, GRAINS_OF_ONE_OP, GrainPartitions
from lakehouse_analytics.partitions.time_and_column import table_partitions
from lakehouse_analytics.runs.retry_on_lost_storage import retry_after_a_lost_database

MAIN, DAILY = "full_refresh", "daily_backfill"
MAINTENANCE = "iceberg_maintenance"
EXPORTS = "exports"
#: The demo is recognized by the name of its project (dbt/dbt_project.yml), and its models by their own.
DEMO = "lakehouse"
CUSTOMER_ENTRY = ("bronze", "stg_customers")


def build_jobs(
    graph: Graph,
    grain_partitions: Mapping[Grain, GrainPartitions],
    own: OwnAssets,
    *,
    max_runtime: int,
    maintenance: bool,
) -> list[dg.UnresolvedAssetJobDefinition]:
    """Return `full_refresh`, and each other job for which the project has assets.

    A job that builds the tables upstream and downstream of a Python asset builds this asset, too.

    Args:
        graph: The manifest's graph.
        grain_partitions: Partitions of the partitioned tables, by grain.
        own: The user's Python assets.
        max_runtime: Seconds after which Dagster's daemon terminates a run.
        maintenance: Whether there are tables to maintain.
    """
    limit_of = "/".join((*graph.prefix, "{}")).format  # runs of a branch do not wait for those of the lakehouse
    selection = partial(_selection, grain_partitions, column_partitions(graph), own)
    tags = {**build_tags(max_runtime), **({BRANCH: graph.prefix[0]} if graph.prefix else {})}
    tables = [*graph.tables.values()]
    main = [table for table in tables if not table.by and table.grain in GRAINS_OF_ONE_OP]
    whole = [table for table in tables if table.is_whole]
    daily = [table for table in tables if table.grain == "daily" and not table.by]
    # Dagster's selections of assets do not include the checks of external assets.
    external_checks = [check_key(graph, test) for test in graph.tests.values() if test.attached in graph.unbuilt]
    source_checks = source_check_keys(graph)
    external_checks += [key for keys in source_checks.values() for key in keys]
    everything = selection(main) | dg.AssetSelection.checks(*external_checks) if external_checks else selection(main)
    what = "All layers, bronze to metrics, with their gates" + (
        "; one or several partitions of daily tables." if daily else "."
    )
    jobs = [_job(MAIN, everything, what, {**tags, WINDOWS_OF: limit_of(MAIN)} if daily else tags)]
    if daily and whole:
        jobs.append(
            _job(
                DAILY,
                selection(daily),
                "Only the daily tables, to backfill their history.",
                {**tags, WINDOWS_OF: limit_of(DAILY)},
            )
        )
    for grain in GRAINS:
        of_grain = [table for table in tables if table.grain == grain and not table.by]
        if of_grain and grain not in GRAINS_OF_ONE_OP:
            name = job_of(grain)
            jobs.append(_job(name, selection(of_grain), f"The {grain} tables.", {**tags, WINDOWS_OF: limit_of(name)}))
    for name, of_column in tables_by_column(graph).items():
        first = of_column[0]
        what = f"The tables that are partitioned by {first.by}: one or several of its values."
        if first.grain:
            what = (
                f"The {first.grain} tables that are partitioned by {first.by} as well: windows of one or more values."
            )
        jobs.append(_job(name, selection(of_column), what, {**tags, WINDOWS_OF: limit_of(name)}))
    for name, (selected, about) in _parts_of_whole(graph, whole, own).items():
        jobs.append(_job(name, selection(selected), about, tags))
    return [*jobs, *_other_jobs(tables, source_checks, max_runtime=max_runtime, maintenance=maintenance)]


def tables_by_column(graph: Graph) -> dict[str, list[Table]]:
    """Return the tables that are partitioned by a column, by the name of the job that builds them.

    Raises:
        ContractError: Two jobs would have the same name.
    """
    found: dict[str, list[Table]] = {}
    for table in sorted(graph.tables.values(), key=lambda table: (table.by or "", table.grain or "", table.key)):
        if table.by:
            name = job_of_table(table)
            found.setdefault(name, []).append(table)
            if (table.grain, table.by) != (found[name][0].grain, found[name][0].by):
                raise ContractError(
                    f"{table.node.label} and {found[name][0].node.label}: the jobs of their partitions would both be "
                    f"called {name}: rename the column of one of them"
                )
    return found


def _parts_of_whole(graph: Graph, whole: Sequence[Table], own: OwnAssets) -> dict[str, tuple[list[Table], str]]:
    """Return the jobs for some of the tables without partitions: their tables and descriptions, by name."""
    jobs: dict[str, tuple[list[Table], str]] = {}
    bronze = [table for table in whole if table.layer == "bronze"]
    if bronze:
        jobs["bronze_refresh"] = (bronze, "The bronze layer.")
    entry = graph.by_key.get((*graph.prefix, *CUSTOMER_ENTRY)) if graph.project == DEMO else None
    if entry:
        downstream = own.tables_below(entry) | {entry.unique_id}
        customers = [table for table in whole if table.unique_id in downstream]
        jobs["customer_pipeline"] = (customers, "stg_customers and the tables without partitions downstream of it.")
    return jobs


def _other_jobs(
    tables: Collection[Table],
    source_checks: Mapping[str, Collection[dg.AssetCheckKey]],
    *,
    max_runtime: int,
    maintenance: bool,
) -> Iterator[dg.UnresolvedAssetJobDefinition]:
    for name, keys in source_checks.items():
        what = f"The check `{name}` of all sources that have it."
        yield _job(f"source_{name}", dg.AssetSelection.checks(*keys), what, max_runtime_tags(max_runtime))
    if maintenance:
        # Tables may be in a group of this name, too, because users choose group names (meta.dagster.group).
        maintained = dg.AssetSelection.groups(MAINTENANCE_GROUP) - _assets(tables)
        yield _job(MAINTENANCE, maintained, "Maintenance of all Iceberg tables.", max_runtime_tags(max_runtime))


def exports_job(keys: Sequence[dg.AssetKey], *, max_runtime: int) -> dg.UnresolvedAssetJobDefinition:
    """Return the job of all exports.

    Args:
        keys: The assets of the exports.
        max_runtime: Seconds after which Dagster's daemon terminates a run.
    """
    what = "All copies of tables in other databases."
    return _job(EXPORTS, dg.AssetSelection.assets(*keys), what, max_runtime_tags(max_runtime))


def job_of(grain: Grain) -> str:
    """Return the name of the job that a grain's schedule runs."""
    return MAIN if grain in GRAINS_OF_ONE_OP else f"{grain}_refresh"


def job_of_table(table: Table) -> str:
    """Return the name of the job that builds a table with all others of the same partitions."""
    if table.by:
        return f"{table.grain}_{table.by}_refresh" if table.grain else f"{table.by}_refresh"
    return job_of(table.grain) if table.grain else MAIN


def _selection(
    grain_partitions: Mapping[Grain, GrainPartitions],
    by_column: Mapping[str, ColumnPartitions],
    own: OwnAssets,
    tables: Collection[Table],
) -> dg.AssetSelection:
    """Return the selection of a job's tables and the Python assets between them."""
    partitioned = next((table for table in tables if not table.is_whole), None)
    known = partitioned and (partitioned.grain is None or partitioned.grain in grain_partitions)
    between = own.between(
        tables, table_partitions(partitioned, grain_partitions, by_column) if partitioned and known else None
    )
    return _assets(tables) | dg.AssetSelection.assets(*between) if between else _assets(tables)


def _assets(tables: Collection[Table]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(table.key for table in tables))


def _job(
    name: str, selection: dg.AssetSelection, description: str, tags: Mapping[str, str]
) -> dg.UnresolvedAssetJobDefinition:
    hooks = {retry_after_a_lost_database}
    return AssetJob.of(dg.define_asset_job(name, selection, description=description, tags=tags, hooks=hooks))
