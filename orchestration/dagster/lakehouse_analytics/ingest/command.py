"""`lakehouse ingest`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lakehouse_analytics.ingest import IngestReport


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
        report = run_ingest(Settings.load(), config_path=config_path, count=count, seed=seed, progress=say)
    except (IngestError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    _tell_dagster(report)
    click.echo(report.table())
    if not any(stream.rows_read for stream in report.streams):
        click.echo("Nothing new since the last sync.")


def _tell_dagster(report: IngestReport) -> None:
    # Without a home there is no history to write to: the sync stands for itself.
    if os.getenv("DAGSTER_HOME"):
        from lakehouse_analytics import syncs
        from lakehouse_analytics.home import open_home

        syncs.record(open_home(), report)
