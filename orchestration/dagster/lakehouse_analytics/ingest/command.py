"""The command `lakehouse ingest`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.nodes import Node
    from lakehouse_analytics.ingest import IngestReport
    from lakehouse_analytics.settings import Settings


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The connection's YAML file. Default: connectors/faker.yaml.",
)
@click.option(
    "--count", type=click.IntRange(min=1), help="Number of users that the faker generates (`count` of its config)."
)
@click.option("--seed", type=int, help="The faker's `seed`. The same seed generates the same rows.")
def ingest(config_path: Path | None, count: int | None, seed: int | None) -> None:
    """Sync an Airbyte source to the raw tables.

    Each run continues where the previous one stopped. A failed sync is repeated by the next run, without duplicate
    rows.
    """
    from lakehouse_analytics.ingest import IngestError, run_ingest
    from lakehouse_analytics.settings import Settings, SettingsError

    def log(line: str) -> None:
        click.echo(line, err=True)

    try:
        settings = Settings.load()
        report = run_ingest(settings, config_path=config_path, count=count, seed=seed, progress=log)
    except (IngestError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(report.table())
    _report_to_dagster(report, settings)
    if not any(stream.rows_read for stream in report.streams):
        click.echo("Nothing new since the last sync.")


def _report_to_dagster(report: IngestReport, settings: Settings) -> None:
    # Without DAGSTER_HOME, there is no instance to report to.
    if os.getenv("DAGSTER_HOME"):
        from lakehouse_analytics.instance.home import HomeError, open_home
        from lakehouse_analytics.triggers import events as syncs

        try:
            syncs.record(open_home(), report, _sources(settings))
        except HomeError as error:
            raise click.ClickException(f"The sync is done, but could not be reported to Dagster: {error}") from None


def _sources(settings: Settings) -> Sequence[Node]:
    """Return the source nodes of the manifest; empty if there is no manifest yet."""
    from lakehouse_analytics.dbt.nodes import manifest_of
    from lakehouse_analytics.dbt.project import DbtProject, ManifestError

    project = DbtProject.from_settings(settings)
    if not project.manifest_path.is_file():
        return []
    try:
        return [*manifest_of(project.manifest()).of_type("source")]
    except ManifestError as error:
        click.echo(f"The sync is recorded on the assets [source, table] of its streams. {error}", err=True)
        return []
