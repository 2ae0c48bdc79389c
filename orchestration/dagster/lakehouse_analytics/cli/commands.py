"""The commands of `lakehouse`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from lakehouse_analytics.cli.build_command import build
from lakehouse_analytics.cli.errors import plain_errors
from lakehouse_analytics.devtools.airbyte_sim import command as airbyte_sim
from lakehouse_analytics.doctor.probes import NAMES, RENAMED
from lakehouse_analytics.impact.command import impact
from lakehouse_analytics.ingest.command import ingest
from lakehouse_analytics.instance.command import instance
from lakehouse_analytics.webhook.command import webhook


class _ProbeName(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A probe, by its name or a former one."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name: str = super().convert(RENAMED.get(value, value), param, ctx)
        return name


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Bring a dbt project, get a lakehouse."""


main.add_command(build)
main.add_command(ingest)
main.add_command(airbyte_sim)
main.add_command(impact)
main.add_command(instance)
main.add_command(webhook)


@main.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="As in `lakehouse ingest`.")
@click.option("--count", type=click.IntRange(min=1), help="As in `lakehouse ingest`.")
@click.option("--seed", type=int, help="As in `lakehouse ingest`.")
def demo(config_path: Path | None, count: int | None, seed: int | None) -> None:
    """Ingest sample data, build all layers through Dagster, and print a summary."""
    from lakehouse_analytics.cli import demo as demonstration

    with plain_errors():
        if not demonstration.run(config_path=config_path, count=count, seed=seed):
            sys.exit(1)


@main.command()
@click.argument("name", type=click.Choice(["energy"]))
@click.argument("folder", type=click.Path(path_type=Path))
def example(name: str, folder: Path) -> None:
    """Make the example NAME with generated data in the empty folder FOLDER, and build it.

    energy: prices of an energy market, one file a day, partitioned by date and market.
    """
    from lakehouse_analytics.cli import example as examples

    with plain_errors():
        if not examples.run(name, folder):
            sys.exit(1)


@main.command()
@click.option("--check", is_flag=True, help="Parse nothing; fail if the manifest is missing or stale.")
def manifest(check: bool) -> None:
    """Parse the dbt project. Run it after each change outside `dg dev`, and when building the image."""
    from lakehouse_analytics.dbt.prepare import prepare
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.engines.resources import dbt_runner
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        settings = Settings.load(complete=False)
        project = DbtProject.from_settings(settings)
        if check:
            project.manifest()
            click.echo(project.manifest_path)
        else:
            click.echo(prepare(project, dbt_runner(settings, project), click.echo))


@main.command()
@click.option("--write", is_flag=True, help="Add the lines to dbt_project.yml.")
def layers(write: bool) -> None:
    """Suggest a layer for each model, seed and snapshot without one, as lines for dbt_project.yml.

    Suggestions are based on the names of folders and models, and on lineage. Review them.
    """
    from lakehouse_analytics.cli.layers import write_layers, yaml_of_layers
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        settings = Settings.load(complete=False)
        click.echo(write_layers(settings) if write else yaml_of_layers(settings))


@main.command()
def init() -> None:
    """Prepare DAGSTER_HOME: create its dagster.yaml and set its pool limits."""
    from lakehouse_analytics.instance.home import open_home

    with plain_errors():
        click.echo(open_home().root_directory)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=15.0, show_default=True,
              help="Time limit of each probe, in seconds.")  # fmt: skip
@click.option("--skip", multiple=True, type=_ProbeName(NAMES), help="Skip a probe; may be repeated.")
def doctor(as_json: bool, timeout: float, skip: tuple[str, ...]) -> None:
    """Check everything that a deployment needs, and print what is wrong and how to fix it.

    The exit code is 0 if everything is fine, 1 if something failed, and 3 if nothing failed but something could not be
    checked.
    """
    from lakehouse_analytics.doctor import run_doctor

    sys.exit(run_doctor(as_json=as_json, timeout=timeout, skip=skip))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of printing.")
def schema(out: Path | None) -> None:
    """Print the JSON Schema of dbt's YAML files with `meta.lakehouse`, for editors."""
    from lakehouse_analytics.contract.json_schema import editor_schema

    text = json.dumps(editor_schema(), indent=2) + "\n"
    if out:
        try:
            out.write_text(text)
        except OSError as error:
            raise click.ClickException(f"{out} cannot be written: {error.strerror}") from None
    else:
        click.echo(text, nl=False)


@main.command()
@click.argument("table")
@click.option("--base", required=True, help="The state before the change.")
@click.option("--head", default="main", show_default=True, help="The state after the change.")
@click.option("--key", help="Columns by which rows are matched, separated by commas. Default: the key in dbt.")
@click.option("--exclude", help="Columns that are not compared, separated by commas.")
@click.option("--where", help="Compare only the rows of both sides for which this SQL condition is true.")
@click.option("--tolerance", type=click.FloatRange(min=0, max=1e300), help="Largest difference between equal floats.")
@click.option("--samples", type=click.IntRange(min=0, max=1000),
              help="Examples per kind of difference. Default: 5 in text, none in JSON and Markdown.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@click.option("--fail-on-difference", is_flag=True, help="Exit with 1 if rows, columns or types differ.")
def diff(
    table: str,
    *,
    base: str,
    head: str,
    key: str | None,
    exclude: str | None,
    where: str | None,
    tolerance: float | None,
    samples: int | None,
    form: str,
    fail_on_difference: bool,
) -> None:
    """Compare the rows of TABLE, such as gold/fct_orders, in two states.

    A state is `main` (the table as it is), `schema:NAME` (a table of the same name there), `branch:NAME`,
    `snapshot:ID` or a time such as 2026-11-29T00:00:00Z (Iceberg), or `file:PATH` (another DuckDB file).
    """
    from lakehouse_analytics.diff.compare import Options
    from lakehouse_analytics.diff.run import FORMATS, SAMPLES
    from lakehouse_analytics.diff.run import diff as compare
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        options = Options(
            key=_listed(key),
            exclude=_listed(exclude),
            where=where,
            tolerance=tolerance,
            samples=SAMPLES[form] if samples is None else samples,
        )
        difference = compare(Settings.load(), table, base, head, options)
    click.echo(FORMATS[form](difference))
    if fail_on_difference and not difference.is_empty:
        sys.exit(1)


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


@main.command()
@click.argument("table", required=False)
def why(table: str | None) -> None:
    """Tell whether the next run builds TABLE, such as gold/fct_orders, or reuses it, and why.

    Without TABLE, list all tables. See docs/reuse.md.
    """
    from lakehouse_analytics.cli.why import why as explain
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(explain(Settings.load(), table))


@main.group()
def branch() -> None:
    """Branches of the lakehouse, to build and compare changes of models without touching production.

    With a JDBC catalog in PostgreSQL, and with Nessie, a branch has copies of all tables that take no space. Otherwise,
    it has what was built there, and everything else is read from production. See docs/safe-changes.md.
    """


@branch.command("create")
@click.argument("name")
@click.option("--days", type=click.IntRange(min=1, max=90), default=7, show_default=True,
              help="Days after which it may be dropped.")  # fmt: skip
@click.option("--replace", is_flag=True, help="Drop a branch of this name first, with all that was built on it.")
def branch_create(name: str, *, days: int, replace: bool) -> None:
    """Create the branch NAME of all tables of the dbt project."""
    from lakehouse_analytics.cli import branches
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(branches.create(Settings.load(), name, days=days, replace=replace))


@branch.command("list")
def branch_list() -> None:
    """List all branches."""
    from lakehouse_analytics.cli import branches
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(branches.listing(Settings.load()))


@branch.command("publish")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also publish tables that failed their gates on the branch.")
def branch_publish(name: str, *, force: bool) -> None:
    """Replace the tables of the lakehouse with those of the branch NAME, all together, and drop the branch.

    Refused if one of them has changed since the branch was created, and if the branch has no copies of tables.
    """
    from lakehouse_analytics.cli import branches
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(branches.publish(Settings.load(), name, force=force))


@branch.command("drop")
@click.argument("name")
@click.option("--if-exists", is_flag=True, help="Do nothing if there is no such branch.")
def branch_drop(name: str, *, if_exists: bool) -> None:
    """Drop the branch NAME, and the tables or files that only it has."""
    from lakehouse_analytics.cli import branches
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(branches.drop(Settings.load(), name, if_exists=if_exists))


@main.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rollback(run: str, yes: bool) -> None:
    """Restore all tables that RUN has published (LAKEHOUSE_PUBLISH=run) as they were before.

    RUN is the id of the run, or its first 8 characters. Refused if one of the tables has changed since.
    """
    from lakehouse_analytics.cli import branches
    from lakehouse_analytics.settings import Settings

    with plain_errors():
        click.echo(branches.rollback(Settings.load(), run, yes=yes))
