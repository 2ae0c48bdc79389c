"""The command `lakehouse impact`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lakehouse_analytics.impact.report import Impact


@click.command()
@click.option("--base", required=True, metavar="REF|MANIFEST",
              help="What to compare with: a git ref, such as origin/main, or the path of a manifest.json.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True,
              help="Markdown is for the comment of a pull request.")  # fmt: skip
@click.option("--fail-on", type=click.Choice(["breaking"]), help="Exit with 1 if something breaks.")
def impact(base: str, format_: str, fail_on: str | None) -> None:
    """Report which models, columns, exposures and owners the changes of the dbt project reach, and what they break.

    Both sides are compiled without a connection. The files of the project are not changed.
    """
    from lakehouse_analytics.dbt.profile import ProfileError
    from lakehouse_analytics.dbt.project import ManifestError
    from lakehouse_analytics.engines.registry import UnsupportedEngineError
    from lakehouse_analytics.impact.compiled import ImpactError
    from lakehouse_analytics.impact.report import as_json, as_markdown, as_text
    from lakehouse_analytics.settings import SettingsError

    try:
        found = _compare(base)
    except (ImpactError, ManifestError, ProfileError, SettingsError, UnsupportedEngineError) as error:
        raise click.ClickException(str(error)) from None
    if format_ == "json":
        click.echo(json.dumps(as_json(found), indent=2, default=sorted))
    else:
        click.echo(as_markdown(found) if format_ == "markdown" else as_text(found))
    if fail_on == "breaking" and found.breaks:
        sys.exit(1)


def _compare(base: str) -> Impact:
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.engines.resources import dbt_runner
    from lakehouse_analytics.impact.compiled import ImpactError, both_sides, same_seeds
    from lakehouse_analytics.impact.report import impact_of
    from lakehouse_analytics.impact.side import Side
    from lakehouse_analytics.settings import Settings

    settings = Settings.load(complete=False)
    project = DbtProject.from_settings(settings)
    project.configuration()
    if project.problem:
        raise ImpactError(project.problem)
    before, after = same_seeds(*both_sides(project, dbt_runner(settings, project), base))
    older = Side(before)
    return impact_of(older, Side(after, older), base)
