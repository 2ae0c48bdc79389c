"""Jobs: the selections people launch by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import dagster as dg

from lakehouse_analytics.assets.asset_jobs import AssetJob
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.checks.registry import source_checks
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import MAINTENANCE_GROUP, WINDOWS_OF, build_tags, check_key, ended_after
from lakehouse_analytics.partitions.definitions import GRAINS, GRAINS_OF_ONE_OP, GrainPartitions
from lakehouse_analytics.runs.retry_on_lost_database import retry_after_a_lost_database

MAIN, DAILY = "full_refresh", "daily_backfill"
MAINTENANCE = "iceberg_maintenance"
#: The demo declares itself by its project's name (dbt/dbt_project.yml); its models by their own.
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
    """`full_refresh`, and the others whose assets the project has.

    A job that builds the tables on both sides of a Python asset builds that, too.

    Args:
        graph: The manifest's.
        grain_partitions: Windows of the partitioned tables, by grain.
        own: The user's Python assets.
        max_runtime: Seconds after which Dagster's daemon ends a run.
        maintenance: Whether there are tables to maintain.
    """
    selection = partial(_selection, grain_partitions, own)
    tags = build_tags(max_runtime)
    tables = [*graph.tables.values()]
    main = [table for table in tables if table.grain in GRAINS_OF_ONE_OP]
    whole = [table for table in tables if table.grain is None]
    daily = [table for table in tables if table.grain == "daily"]
    # Dagster leaves checks of external assets out of every selection of assets.
    of_unbuilt = [check_key(graph, test) for test in graph.tests.values() if test.attached in graph.unbuilt]
    of_sources = source_checks(graph)
    of_unbuilt += [key for keys in of_sources.values() for key in keys]
    everything = selection(main) | dg.AssetSelection.checks(*of_unbuilt) if of_unbuilt else selection(main)
    what = "Every layer, bronze to metrics, with its gates" + (
        "; of daily tables one partition, or some." if daily else "."
    )
    jobs = [_job(MAIN, everything, what, {**tags, WINDOWS_OF: MAIN} if daily else tags)]
    if daily and whole:
        jobs.append(
            _job(DAILY, selection(daily), "The daily tables alone: to fill their history.", {**tags, WINDOWS_OF: DAILY})
        )
    for grain in GRAINS:
        of_grain = [table for table in tables if table.grain == grain]
        if of_grain and grain not in GRAINS_OF_ONE_OP:
            name = job_of(grain)
            jobs.append(_job(name, selection(of_grain), f"The {grain} tables.", {**tags, WINDOWS_OF: name}))
    bronze = [table for table in whole if table.layer == "bronze"]
    if bronze:
        jobs.append(_job("bronze_refresh", selection(bronze), "The bronze layer.", tags))
    entry = graph.by_key.get(CUSTOMER_ENTRY) if graph.project == DEMO else None
    if entry:
        below = own.tables_below(entry) | {entry.unique_id}
        customers = [table for table in whole if table.unique_id in below]
        jobs.append(
            _job(
                "customer_pipeline",
                selection(customers),
                "stg_customers and what is built as a whole downstream of it.",
                tags,
            )
        )
    return [*jobs, *_jobs_that_build_nothing(tables, of_sources, max_runtime=max_runtime, maintenance=maintenance)]


def _jobs_that_build_nothing(
    tables: Collection[Table],
    of_sources: Mapping[str, Collection[dg.AssetCheckKey]],
    *,
    max_runtime: int,
    maintenance: bool,
) -> Iterator[dg.UnresolvedAssetJobDefinition]:
    for name, keys in of_sources.items():
        what = f"The check `{name}` of every source that has it."
        yield _job(f"source_{name}", dg.AssetSelection.checks(*keys), what, ended_after(max_runtime))
    if maintenance:
        # A table may be of a group of that name, too: a group's name can be any (meta.dagster.group).
        maintained = dg.AssetSelection.groups(MAINTENANCE_GROUP) - _assets(tables)
        yield _job(MAINTENANCE, maintained, "Maintenance of every Iceberg table.", ended_after(max_runtime))


def job_of(grain: Grain) -> str:
    """The job that a grain's schedule runs."""
    return MAIN if grain in GRAINS_OF_ONE_OP else f"{grain}_refresh"


def _selection(
    grain_partitions: Mapping[Grain, GrainPartitions], own: OwnAssets, tables: Collection[Table]
) -> dg.AssetSelection:
    """Tables of one job, and the Python assets between them."""
    grain = next((table.grain for table in tables if table.grain), None)
    between = own.between(tables, grain_partitions.get(grain) if grain else None)
    return _assets(tables) | dg.AssetSelection.assets(*between) if between else _assets(tables)


def _assets(tables: Collection[Table]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(table.key for table in tables))


def _job(
    name: str, selection: dg.AssetSelection, description: str, tags: Mapping[str, str]
) -> dg.UnresolvedAssetJobDefinition:
    hooks = {retry_after_a_lost_database}
    return AssetJob.of(dg.define_asset_job(name, selection, description=description, tags=tags, hooks=hooks))
