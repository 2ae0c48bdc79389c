"""The one entry of the code location: read it and you know the house.

Lazy: importing this module does nothing. Loading reads the environment and the manifest; no network,
no subprocess, and no parse outside `dg dev`.
"""

from __future__ import annotations

import os

import dagster as dg

from lakehouse_analytics.assets.build_ops import BuildOps
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.assets.maintenance import maintenance_assets
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.common.garbage import without_collecting
from lakehouse_analytics.common.load_errors import message_last
from lakehouse_analytics.common.load_warnings import warn_once
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner, engine
from lakehouse_analytics.jobs import build_jobs
from lakehouse_analytics.notifications import notifiers
from lakehouse_analytics.partitions.definitions import grain_partitions, refuse_mismatched_zones, time_zone_warnings
from lakehouse_analytics.resources import resources
from lakehouse_analytics.runs.retry_watchdog import lost_retries
from lakehouse_analytics.schedules import plans, schedule_definitions
from lakehouse_analytics.sensors import gold_on_silver, run_failure_notifier
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.registry import configured_triggers, guard_of
from lakehouse_analytics.user_defs import asset_keys, load_user_defs, refuse_collisions


@dg.definitions
@message_last
@without_collecting
def defs() -> dg.Definitions:
    """Everything Dagster knows of this lakehouse."""
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    if os.getenv("DAGSTER_IS_DEV_CLI") and project.changes() != []:
        prepare(project, dbt_runner(settings, project))
    graph = read(project.manifest(), project.configuration(), strict=settings.strict)
    warn_once([*graph.warnings, *time_zone_warnings(graph, settings.timezone, strict=settings.strict)])

    limit, channels, url = settings.max_runtime, notifiers(settings), settings.webserver_url
    windows = grain_partitions(graph, settings.timezone, end_offset=settings.partition_end_offset)
    triggers = configured_triggers(settings, graph)
    maintenance = maintenance_assets(
        graph, floor=settings.maintenance_floor, max_runtime=limit, guard=guard_of(triggers)
    )
    own = load_user_defs()
    among = OwnAssets(graph, own.definitions.assets or ())
    jobs = build_jobs(graph, windows, among, max_runtime=limit, maintenance=bool(maintenance))
    ops = BuildOps(graph, project, windows, settings, among, pool=graph.engine.pool)
    assets = [*ops.definitions(), *maintenance]
    refuse_mismatched_zones(assets)
    runner, database = dbt_runner(settings, project), engine(settings, graph)
    built = dg.Definitions(
        assets=[*assets, *external_assets(graph, own=asset_keys(own.definitions))],
        jobs=jobs,
        sensors=[
            run_failure_notifier(channels, url),
            lost_retries(channels, url),
            *gold_on_silver(graph, max_runtime=limit),
        ],
        resources={
            "dbt_runner": runner,
            "engine": database,
            **resources(settings, runner, database, graph.adapter),
        },
        executor=dg.in_process_executor,  # one op a run: a process for it would cost 3 CPU seconds
    )
    scheduled = schedule_definitions(settings, plans(settings, graph, windows), jobs, channels)
    ours = dg.Definitions.merge(built, scheduled, *(trigger.definitions() for trigger in triggers))
    refuse_collisions(ours, own, graph)
    return dg.Definitions.merge(ours, own.definitions)
