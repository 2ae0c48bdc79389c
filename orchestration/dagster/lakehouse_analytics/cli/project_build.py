"""`lakehouse build`: builds the project, or what differs from a base, in place or on a branch."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click
import dagster as dg

from lakehouse_analytics.branches.names import branch_name
from lakehouse_analytics.cli import branches
from lakehouse_analytics.cli.build import Build, build_and_summarize, title
from lakehouse_analytics.cli.partitions import first_of_last_month, partition_range
from lakehouse_analytics.cli.selection import Selection, select_changed, steps
from lakehouse_analytics.cli.why import decisions, graph_on_branch
from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.prepare import prepare
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.impact.compiled import both_sides
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.jobs import MAIN, job_of_table
from lakehouse_analytics.settings import Settings


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        branch: The branch to build on; None for the lakehouse itself, or LAKEHOUSE_BRANCH.
        base: What the project is compared with, to build what differs; None to build everything.
        since: The first day of partitions; None for the first day of the last month.
        skip_unchanged: Whether to start no run if all tables would be reused.
        dry_run: Whether to build nothing.
        tables: The file to which the names of the tables are written.
    """

    branch: str | None = None
    base: str | None = None
    since: date | None = None
    skip_unchanged: bool = False
    dry_run: bool = False
    tables: Path | None = None


def run(options: Options) -> bool:
    """Build, and print a summary.

    Returns:
        Whether every table was built and every gate passed.

    Raises:
        BranchError: There is no such branch.
        ImpactError: The project cannot be compared with the base.
    """
    started = time.monotonic()
    if options.branch is not None:
        os.environ["LAKEHOUSE_BRANCH"] = branch_name(options.branch)
    settings = Settings.load()
    copied = branches.require(settings, settings.branch) if settings.branch else False
    project = DbtProject.from_settings(settings)
    runner = dbt_runner(settings, project)
    if project.changes() != []:
        title("Manifest: dbt parse")
        prepare(project, runner, click.echo)
    configuration = project.configuration()
    graph = read(project.manifest(), configuration, project_dir=project.project_dir, strict=settings.strict)
    if options.base:
        title(f"Comparison with {options.base}")
        base, current = both_sides(project, runner, options.base, parsed=True)
        chosen = select_changed(graph, base, current, without_views=copied)
        click.echo(_describe(graph, chosen, options.base))
    else:
        chosen = Selection({}, frozenset(graph.tables), frozenset(), frozenset())
        click.echo(f"All {counted(len(graph.tables), 'table')} of {project.project_dir}")
    _write_tables(graph, chosen, options.tables)
    if options.dry_run or not (chosen.built or chosen.tests):
        return True
    on_branch = graph_on_branch(graph, settings, chosen.built)
    if options.skip_unchanged and not chosen.tests and _all_reused(settings, project, on_branch, chosen):
        click.echo(f"None of {counted(len(chosen.built), 'table')} would change, so nothing is built or tested.")
        return True

    # Imported here, because loading the code location needs the manifest.
    from lakehouse_analytics.definitions import defs

    instance, definitions = open_home(), defs()
    skipped: list[str] = []
    since = options.since or first_of_last_month()
    builds = _builds(on_branch, chosen, definitions, instance, since=since, skipped=skipped)
    return build_and_summarize(settings, instance, definitions, builds, started) and not skipped


def _all_reused(settings: Settings, project: DbtProject, graph: Graph, chosen: Selection) -> bool:
    if not all(graph.tables[name].contract.reuse for name in chosen.built):
        return False
    try:
        found = decisions(settings, project, graph, chosen.built)
    except DatabaseError as error:
        click.echo(f"It is not known what has changed: {error}")
        return False
    return all(name in found and found[name].reused for name in chosen.built)


def _describe(graph: Graph, chosen: Selection, base: str) -> str:
    """Return what is built and why, as lines of text."""
    if not (chosen.built or chosen.tests):
        return f"No table or test differs from {base}, so nothing is built."
    below = sorted(_name(graph, name) for name in chosen.tables - chosen.changed.keys())
    lines = [
        f"{_name(graph, name)}: {', '.join(reasons)}"
        for name, reasons in chosen.changed.items()
        if name not in graph.tests or name in chosen.tests
    ]
    lines += [f"{counted(len(below), 'table')} downstream: {some(below, FEW)}"] if below else []
    if chosen.views:
        views = sorted(_name(graph, name) for name in chosen.views)
        lines.append(f"{counted(len(views), 'view')} that they read: {some(views, FEW)}")
    return "\n".join(f"  {line}" for line in lines)


def _name(graph: Graph, unique_id: str) -> str:
    """Return the asset key of a table or source, or the name of another node."""
    owner = graph.tables.get(unique_id) or graph.unbuilt.get(unique_id)
    return "/".join(owner.key) if owner else " ".join(unique_id.split(".")[:3:2])


def _write_tables(graph: Graph, chosen: Selection, path: Path | None) -> None:
    """Write the asset keys of the tables, so that other commands can compare them."""
    if path is None:
        return
    lines = sorted("/".join(graph.tables[name].key) + "\n" for name in chosen.tables)
    try:
        path.write_text("".join(lines))
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _builds(
    graph: Graph,
    chosen: Selection,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    since: date,
    skipped: list[str],
) -> Iterator[Build]:
    """Yield the runs, in the order of the tables, then those of tests of tables that are not built.

    Args:
        graph: The graph with the asset keys of the code location.
        chosen: What to build.
        definitions, instance: The code location and its instance.
        since: The first day of partitions.
        skipped: Gets the names of what cannot be built.
    """
    jobs = {name: job_of_table(table) for name, table in graph.tables.items()}
    for name, tables in steps(graph, chosen.built, jobs):
        job = definitions.resolve_job_def(name)
        everything = not chosen.changed and len(tables) == [*jobs.values()].count(name)
        keys = {dg.AssetKey(graph.tables[table].key) for table in tables}
        build = _build(job if everything else job.get_subset(asset_selection=keys), since, instance, skipped)
        if build:
            yield build
    yield from _test_builds(graph, chosen.tests, definitions, instance, since=since, skipped=skipped)


def _test_builds(
    graph: Graph,
    tests: Collection[str],
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    since: date,
    skipped: list[str],
) -> Iterator[Build]:
    by_job: dict[str, set[dg.AssetCheckKey]] = {}
    for name in sorted(tests):
        test = graph.tests[name]
        table = graph.tables.get(test.attached)
        key = dg.AssetCheckKey(dg.AssetKey(graph.resource(test.attached).key), test.name)
        by_job.setdefault(job_of_table(table) if table else MAIN, set()).add(key)
    for job_name, keys in by_job.items():
        job = definitions.resolve_job_def(job_name)
        part = job.get_subset(asset_selection=set(), asset_check_selection=keys)
        if build := _build(part, since, instance, skipped):
            yield build


def _build(job: dg.JobDefinition, since: date, instance: dg.DagsterInstance, skipped: list[str]) -> Build | None:
    """Return the run of a job; None, with a message, if it has no partition."""
    found = partition_range(job.partitions_def, since, instance)
    if found is not None:
        return Build(job, *found)
    names = sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
    if isinstance(job.partitions_def, dg.TimeWindowPartitionsDefinition):  # its first partition has not ended
        click.echo(f"{some(names, FEW)}: there is no partition since {since}, so nothing is built.")
        return None
    skipped += names
    click.echo(
        f"{some(names, FEW)} cannot be built: this DAGSTER_HOME knows no values of the column. Use that of the runs "
        "which have added them, or list `values` in the contract."
    )
    return None
