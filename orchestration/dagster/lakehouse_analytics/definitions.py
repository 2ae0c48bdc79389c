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
from lakehouse_analytics.manifest import read
from lakehouse_analytics.notify import notifiers
from lakehouse_analytics.prepare import prepare
from lakehouse_analytics.schedules import build_schedules
from lakehouse_analytics.sensors import gold_on_silver, run_failure_notifier
from lakehouse_analytics.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """Everything Dagster knows of this lakehouse."""
    settings = Settings.load()
    project = DbtProject.of(settings)
    dbt = dbt_runner(settings, project)
    if os.getenv("DAGSTER_IS_DEV_CLI") and project.changes() != []:
        prepare(project, dbt)
    manifest = project.manifest()
    graph = read(manifest, project.configuration())
    for warning in graph.warnings:
        logging.getLogger(__name__).warning(warning)

    limit = settings.max_runtime
    upkeep = maintenance_assets(graph, floor=settings.maintenance_floor, max_runtime=limit)
    sensors = [
        run_failure_notifier(notifiers(settings), settings.webserver_url),
        gold_on_silver(graph, max_runtime=limit),
    ]
    return dg.Definitions(
        assets=[
            build_assets(graph, project, timezone=settings.timezone, pool=pool(graph), max_runtime=limit),
            *external_assets(graph, manifest),
            *upkeep,
        ],
        jobs=build_jobs(graph, max_runtime=limit, upkeep=bool(upkeep)),
        schedules=build_schedules(settings, upkeep=bool(upkeep)),
        sensors=[sensor for sensor in sensors if sensor],
        resources={"dbt": dbt, "engine": engine(settings, graph)},
        # One op a run: a process for each step would cost 3 CPU seconds and isolate nothing.
        executor=dg.in_process_executor,
    )
