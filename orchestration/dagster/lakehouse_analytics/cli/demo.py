"""`lakehouse demo` runs the main job once, from a real Airbyte connector to the metrics layer."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click
import dagster as dg
from rich.console import Console

from lakehouse_analytics._dagster_internals import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from lakehouse_analytics.assets.specs import LAYER_TAG
from lakehouse_analytics.cli import run_report
from lakehouse_analytics.contract.models import LAYERS, Grain
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.ingest import IngestReport, run_ingest
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.jobs import MAIN, job_of
from lakehouse_analytics.partitions.definitions import overlapping_keys, windows
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

    _title("Ingest: a real Airbyte connector → raw tables")
    report = run_ingest(settings, config_path=config_path, count=count, seed=seed, progress=click.echo)
    syncs.record(instance, report)
    click.echo(report.table())
    click.echo(_describe_sync(report))

    if project.changes() != []:
        _title("Manifest: dbt parse")
        prepare(project, dbt_runner(settings, project), click.echo)

    # Imported here, because loading the code location needs the manifest.
    from lakehouse_analytics.definitions import defs

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    definitions = defs()
    runs: list[dg.ExecuteInProcessResult] = []
    keys: list[dg.AssetKey] = []
    for job in _jobs(definitions):
        first, last = _recent_partitions(job.partitions_def)
        what = f", {first} to {last}" if first != last else f", {first}" if first else ""
        _title(f"Build: Dagster job {job.name}{what}")
        keys += job.asset_layer.executable_asset_keys
        tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last} if first else {}
        with contextlib.redirect_stdout(_Progress(sys.stdout)):
            runs.append(job.execute_in_process(instance=instance, run_config=quiet, tags=tags, raise_on_error=False))
        if not runs[-1].success:
            break

    layers = {spec.key: spec.tags.get(LAYER_TAG, "") for spec in definitions.resolve_all_asset_specs()}
    ordered = {
        key: layers[key] for key in sorted(keys, key=lambda key: (_layer_order(layers[key]), key.to_user_string()))
    }
    lines = run_report.lines_of(instance, [run.run_id for run in runs], ordered)
    _title("Summary")
    Console().print(run_report.render(lines))
    total = run_report.total(lines)
    click.echo(
        f"\n{total['built']} of {len(lines)} assets built, {total['passed']} checks passed, {total['warned']} warned, "
        f"{total['failed']} failed, {time.monotonic() - started:.0f} s in all.\n"
        f"{_describe_location(settings)}   (then open http://localhost:3000)"
    )
    failed = [run for run in runs if not run.success]
    for run in failed:
        click.secho(f"\n{_failure_reason(instance, run.run_id)}", fg="red")
    return not failed


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


def _recent_partitions(partitions_def: dg.PartitionsDefinition[str] | None) -> tuple[str, str]:
    """Return the first and the last partition of the last whole month and the current one; empty without partitions.

    Earlier partitions are left for a backfill.
    """
    if not isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return "", ""
    today = datetime.now(ZoneInfo(partitions_def.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)
    month = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    inside = [
        window
        for window in windows(partitions_def, overlapping_keys(partitions_def, month, today))
        if window.start >= month
    ]
    return (inside[0].key, inside[-1].key) if inside else ("", "")


def _describe_location(settings: Settings) -> str:
    chosen = [
        f"LAKEHOUSE_{name.upper()}={getattr(settings, name)}"
        for name in ("env", "engine")
        if getattr(settings, name) != type(settings).model_fields[name].default
    ]
    return f"{settings.engine_type.location(settings)}\nSee it in the UI:  {' '.join([*chosen, 'make dev'])}"


def _layer_order(layer: str) -> int:
    return LAYERS.index(layer) if layer in LAYERS else len(LAYERS)


def _describe_sync(report: IngestReport) -> str:
    if all(stream.mode == "incremental" for stream in report.streams):
        new = sum(stream.rows_read for stream in report.streams)
        return (
            f"Incremental: {new:,} new rows since the last sync."
            if new
            else "Incremental: nothing new since the last sync."
        )
    return f"{sum(stream.rows_read for stream in report.streams):,} rows read."


def _failure_reason(instance: dg.DagsterInstance, run_id: str) -> str:
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if event and event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            error = event.step_failure_data.error
            while error and error.cause:
                error = error.cause
            return (failure.description if failure else None) or (error.message if error else "") or "no reason given"
    return f"Run {run_id} failed outside its op; see it in the UI."


def _title(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


class _Progress(io.TextIOBase):
    """Filters dbt's output: keeps finished tables and errors."""

    def __init__(self, out: io.TextIOBase | object) -> None:
        self._out = out

    def write(self, text: str) -> int:
        for line in text.splitlines():
            finished = " of " in line and " START " not in line and " PASS " not in line
            if finished or line.startswith("== ") or "rror" in line:
                print(f"  {line.strip()}", file=self._out, flush=True)  # type: ignore[arg-type]
        return len(text)
