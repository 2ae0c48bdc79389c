"""`lakehouse demo` runs the main job once, from a real Airbyte connector to the metrics layer."""

from __future__ import annotations

import time
from pathlib import Path

import click
import dagster as dg

from lakehouse_analytics.cli.build import Build, build_and_summarize, title
from lakehouse_analytics.cli.partitions import WHOLE, first_of_last_month, partition_range
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.ingest import IngestReport, run_ingest
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.jobs import MAIN, job_of
from lakehouse_analytics.settings import Settings, repository_root
from lakehouse_analytics.triggers import events as syncs


def run(*, config_path: Path | None, count: int | None, seed: int | None) -> bool:
    """Ingest, build, and print a summary.

    Returns:
        Whether every asset was built and every gate passed.
    """
    started = time.monotonic()
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    _refuse_other_projects(project)
    instance = open_home()

    title("Ingest: a real Airbyte connector → raw tables")
    report = run_ingest(settings, config_path=config_path, count=count, seed=seed, progress=click.echo)
    syncs.record(instance, report)
    click.echo(report.table())
    click.echo(_describe_sync(report))

    if project.changes() != []:
        title("Manifest: dbt parse")
        prepare(project, dbt_runner(settings, project), click.echo)

    # Imported here, because loading the code location needs the manifest.
    from lakehouse_analytics.definitions import defs

    definitions = defs()
    builds = [
        Build(job, *(partition_range(job.partitions_def, first_of_last_month(), instance) or WHOLE))
        for job in _jobs(definitions)
    ]
    return build_and_summarize(settings, instance, definitions, builds, started)


def _refuse_other_projects(project: DbtProject) -> None:
    """Reject other projects, because the demo writes its raw tables to the database of the profile.

    Raises:
        ManifestError: LAKEHOUSE_DBT_PROJECT_DIR names another project.
    """
    project.configuration()
    own = repository_root() / "dbt"
    if project.project_dir.resolve() != own.resolve():
        raise ManifestError(
            f"The demo fills the database of {own} with sample data, but LAKEHOUSE_DBT_PROJECT_DIR names "
            f"{project.project_dir}: unset it, or build that project with `make manifest` and `make dev`."
        )


def _jobs(definitions: dg.Definitions) -> list[dg.JobDefinition]:
    """Return the main job, then the jobs of weekly and monthly models, which read its daily tables."""
    known = {job.name for job in definitions.jobs or ()}
    longer: tuple[Grain, ...] = ("weekly", "monthly")
    wanted = [MAIN, *(job_of(grain) for grain in longer)]
    return [definitions.resolve_job_def(name) for name in wanted if name in known]


def _describe_sync(report: IngestReport) -> str:
    if all(stream.mode == "incremental" for stream in report.streams):
        new = sum(stream.rows_read for stream in report.streams)
        return (
            f"Incremental: {new:,} new rows since the last sync."
            if new
            else "Incremental: nothing new since the last sync."
        )
    return f"{sum(stream.rows_read for stream in report.streams):,} rows read."
