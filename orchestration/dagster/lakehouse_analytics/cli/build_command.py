"""The command `lakehouse build`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from lakehouse_analytics.cli.errors import plain_errors


@click.command()
@click.option("--branch", help="Build on this branch instead of the tables themselves, as with LAKEHOUSE_BRANCH.")
@click.option("--changed", is_flag=True, help="Build what differs from --base, and everything downstream of it.")
@click.option("--base", default="origin/main", show_default=True, metavar="REF|MANIFEST",
              help="With --changed: a git ref, or the path of a manifest.json, as in `lakehouse impact`.")  # fmt: skip
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE",
              help="First day of partitions by time. Default: the first day of last month.")  # fmt: skip
@click.option(
    "--skip-unchanged",
    is_flag=True,
    help="Start no run, and evaluate no test, if all tables would be reused (docs/reuse.md).",
)
@click.option("--dry-run", is_flag=True, help="Print what would be built, and build nothing.")
@click.option("--write-tables", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the names of the tables to this file, one per line, before they are built.")  # fmt: skip
@click.pass_context
def build(
    context: click.Context,
    *,
    branch: str | None,
    changed: bool,
    base: str,
    since: datetime | None,
    skip_unchanged: bool,
    dry_run: bool,
    write_tables: Path | None,
) -> None:
    """Build the dbt project through Dagster, with all gates, and print a summary.

    With --changed, only models, seeds and snapshots that differ from --base, and everything downstream of them. On a
    branch, all other tables are those of the lakehouse, without a copy. The exit code is 1 if a table was not built or
    a gate failed.
    """
    from lakehouse_analytics.cli import project_build

    given = context.get_parameter_source("base")
    if not changed and given is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--base is for --changed.")
    options = project_build.Options(
        branch=branch,
        base=base if changed else None,
        since=since.date() if since else None,
        skip_unchanged=skip_unchanged,
        dry_run=dry_run,
        tables=write_tables,
    )
    with plain_errors():
        if not project_build.run(options):
            sys.exit(1)
