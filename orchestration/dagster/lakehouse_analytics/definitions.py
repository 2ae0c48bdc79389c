"""The one entry of the code location: read it and you know the house.

Lazy: importing this module does nothing. Loading reads the environment and the manifest; no network,
no subprocess, and no parse outside `dg dev`.
"""

from __future__ import annotations

import logging
import os

import dagster as dg

from lakehouse_analytics.assets.build import build_assets
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.assets.maintenance import maintenance_assets
from lakehouse_analytics.dbt_project import DbtProject
from lakehouse_analytics.engines import dbt_runner, engine, pool
from lakehouse_analytics.jobs import build_jobs
from lakehouse_analytics.listening import listening_of
from lakehouse_analytics.manifest import read
from lakehouse_analytics.notify import notifiers
from lakehouse_analytics.partitions import calendars
from lakehouse_analytics.prepare import prepare
from lakehouse_analytics.schedules import build_schedules, plans, waiting_schedules
from lakehouse_analytics.sensors import gold_on_silver, run_failure_notifier
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.sync_definitions import sync_definitions


@dg.definitions
def defs() -> dg.Definitions:
    """Everything Dagster knows of this lakehouse."""
    settings = Settings.load()
    project = DbtProject.of(settings)
    if os.getenv("DAGSTER_IS_DEV_CLI") and project.changes() != []:
        prepare(project, dbt_runner(settings, project))
    manifest = project.manifest()
    graph = read(manifest, project.configuration())
    for warning in graph.warnings:
        logging.getLogger(__name__).warning(warning)

    limit, told = settings.max_runtime, notifiers(settings)
    windows = calendars(graph, settings.timezone, end_offset=settings.partition_end_offset)
    listening = listening_of(settings, graph)
    upkeep = maintenance_assets(graph, floor=settings.maintenance_floor, max_runtime=limit, guard=listening)
    jobs = build_jobs(graph, max_runtime=limit, upkeep=bool(upkeep))
    clock = plans(settings, graph, windows)
    built = dg.Definitions(
        assets=[
            *build_assets(graph, project, windows, settings, pool=pool(graph)),
            *external_assets(graph, manifest),
            *upkeep,
        ],
        jobs=jobs,
        schedules=build_schedules(settings, clock, upkeep=bool(upkeep)),
        sensors=[
            run_failure_notifier(told, settings.webserver_url),
            *gold_on_silver(graph, max_runtime=limit),
            *waiting_schedules(settings, clock, jobs, told),
        ],
        resources={"dbt": dbt_runner(settings, project), "engine": engine(settings, graph)},
        # One op a run: a process for each step would cost 3 CPU seconds and isolate nothing.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(built, sync_definitions(listening))
