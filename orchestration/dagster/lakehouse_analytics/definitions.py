"""The entry point of the code location: creates all definitions from the settings and the manifest.

Importing this module does nothing else. Loading reads the environment and the manifest. It does not use the network,
start a subprocess or, outside `dg dev`, parse the project.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import dagster as dg

from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.assets.build_ops import BuildOps
from lakehouse_analytics.assets.exports import export_assets, exports_of
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.assets.maintenance import SyncGuard, maintenance_assets
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.branches.opening import existing_branches
from lakehouse_analytics.common.garbage import without_garbage_collection
from lakehouse_analytics.common.load_warnings import warn_once
from lakehouse_analytics.common.startup_errors import repeat_message_at_end
from lakehouse_analytics.components import with_components
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner, engine
from lakehouse_analytics.jobs import build_jobs, exports_job
from lakehouse_analytics.notifications import notifiers
from lakehouse_analytics.partitions.definitions import grain_partitions, refuse_mismatched_zones, time_zone_warnings
from lakehouse_analytics.resources import resources
from lakehouse_analytics.runs.retry_watchdog import lost_retries
from lakehouse_analytics.schedules import plans, schedule_definitions, value_schedules
from lakehouse_analytics.sensors import exports_after_builds, gold_on_silver, run_failure_notifier
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.registry import configured_triggers, guard_of
from lakehouse_analytics.user_defs import asset_keys, check_collisions, load_user_defs


@dg.definitions
@repeat_message_at_end
@without_garbage_collection
def defs() -> dg.Definitions:
    """Return all definitions of the lakehouse."""
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    if os.getenv("DAGSTER_IS_DEV_CLI") and project.changes() != []:
        prepare(project, dbt_runner(settings, project))
    graph = read(project.manifest(), project.configuration(), project_dir=project.project_dir, strict=settings.strict)
    own = load_user_defs()
    graph = with_components(graph, own.tree)
    # On a branch, nothing runs by itself, and nothing but the tables is written: Python assets are not built, either.
    is_main = settings.branch is None
    # Its asset keys are others, so that no sensor, history or page of the tables themselves has what was built there.
    own = own if is_main else replace(own, definitions=dg.Definitions())
    graph = graph.with_prefix(settings.branch) if settings.branch else graph
    warn_once([*graph.warnings, *time_zone_warnings(graph, settings.timezone, strict=settings.strict)])

    limit, channels, url = settings.max_runtime, notifiers(settings), settings.webserver_url
    windows = grain_partitions(graph, settings.timezone, end_offset=settings.partition_end_offset)
    triggers = configured_triggers(settings, graph) if is_main else []
    maintenance = maintenance_definitions(graph, settings, guard_of(triggers)) if is_main else []
    among = OwnAssets(graph, own.definitions.assets or ())
    jobs = build_jobs(graph, windows, among, max_runtime=limit, maintenance=bool(maintenance))
    ops = BuildOps(graph, project, windows, settings, among, pool=graph.engine.pool)
    assets = [*ops.definitions(), *maintenance, *(arrival_assets(graph, settings) if is_main else ())]
    refuse_mismatched_zones(assets)
    runner, database = dbt_runner(settings, project), engine(settings, graph)
    built = dg.Definitions(
        assets=[
            *assets,
            *external_assets(graph, own=asset_keys(own.definitions), timezone=settings.timezone, loads=is_main),
        ],
        jobs=jobs,
        sensors=[
            run_failure_notifier(channels, url),
            lost_retries(channels, url),
            *gold_on_silver(graph, max_runtime=limit),
        ]
        if is_main
        else [],
        resources={
            "dbt_runner": runner,
            "engine": database,
            **resources(settings, runner, database, graph.adapter),
        },
        executor=dg.in_process_executor,  # a run has one op, and a process for it would cost 3 CPU seconds
    )
    ours = built
    if is_main:
        scheduled = schedule_definitions(
            settings, plans(settings, graph, windows), value_schedules(settings, graph), jobs, channels
        )
        exports = export_definitions(graph, settings)
        ours = dg.Definitions.merge(built, scheduled, exports, *(trigger.definitions() for trigger in triggers))
    check_collisions(ours, own, graph)
    return dg.Definitions.merge(ours, own.definitions)


def maintenance_definitions(graph: Graph, settings: Settings, guard: SyncGuard | None) -> list[dg.AssetsDefinition]:
    """Return the assets that maintain tables, and drop expired branches."""
    return maintenance_assets(
        graph,
        floor=settings.maintenance_floor,
        max_runtime=settings.max_runtime,
        guard=guard,
        branches=partial(existing_branches, settings),
    )


def export_definitions(graph: Graph, settings: Settings) -> dg.Definitions:
    """Return the copies of tables in other databases, the job of all of them, and the sensor that makes them."""
    exports, limit = exports_of(graph), settings.max_runtime
    return dg.Definitions(
        assets=export_assets(graph, exports, settings),
        jobs=[exports_job([one.key for one in exports], max_runtime=limit)] if exports else [],
        sensors=exports_after_builds(exports, max_runtime=limit, required=settings.env == "prod"),
    )
