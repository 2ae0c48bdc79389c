"""`lakehouse ingest`."""

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
@click.option("--count", type=click.IntRange(min=1), help="How many users the faker makes up (its config's `count`).")
@click.option("--seed", type=int, help="The faker's `seed`: the same one gives the same rows.")
def ingest(config_path: Path | None, count: int | None, seed: int | None) -> None:
    """Sync an Airbyte source into the raw tables.

    Run again, it reads on from where it stopped. A sync that fails is done again by the next, without doubled rows.
    """
    from lakehouse_analytics.ingest import IngestError, run_ingest
    from lakehouse_analytics.settings import Settings, SettingsError

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        settings = Settings.load()
        report = run_ingest(settings, config_path=config_path, count=count, seed=seed, progress=say)
    except (IngestError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(report.table())
    _tell_dagster(report, settings)
    if not any(stream.rows_read for stream in report.streams):
        click.echo("Nothing new since the last sync.")


def _tell_dagster(report: IngestReport, settings: Settings) -> None:
    # Without a home there is no history to write to.
    if os.getenv("DAGSTER_HOME"):
        from lakehouse_analytics.instance.home import HomeError, open_home
        from lakehouse_analytics.triggers import events as syncs

        try:
            syncs.record(open_home(), report, _sources(settings))
        except HomeError as error:
            raise click.ClickException(f"The sync is done, but could not be reported to Dagster: {error}") from None


def _sources(settings: Settings) -> Sequence[Node]:
    """Source nodes of the manifest; none where there is no manifest yet."""
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
