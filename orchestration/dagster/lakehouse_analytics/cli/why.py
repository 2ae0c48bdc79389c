"""`lakehouse why`: which tables the next run builds, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import click

from lakehouse_analytics.assets.reuse import Reuse
from lakehouse_analytics.branches.deferral import schemas_of_build
from lakehouse_analytics.branches.names import schemas_on_branch
from lakehouse_analytics.branches.opening import schema_branches
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.diff.relations import find_table
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.resources import dbt_runner, engine
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.reuse.decisions import Decision
from lakehouse_analytics.settings import Settings


def why(settings: Settings, name: str | None) -> str:
    """Return what a run of the whole project would build, and why.

    Args:
        settings: The settings.
        name: The asset key or the dbt name of a table; None for all tables.

    Raises:
        DiffError: There is no such table.
        HomeError: DAGSTER_HOME, which has the states of earlier builds, is not set.
        ManifestError: The manifest is missing or stale.
        DatabaseError: The versions of the tables cannot be read.
    """
    project = DbtProject.from_settings(settings)
    graph = read(project.manifest(), project.configuration(), project_dir=project.project_dir)
    table = find_table(graph, name) if name else None
    graph = graph_on_branch(graph, settings, graph.tables)
    if not any(one.contract.reuse for one in graph.tables.values()):
        return "Every run builds all its tables: no model has `reuse: true`. See docs/reuse.md."
    found = decisions(settings, project, graph, graph.tables)
    if table is None:
        return _all(graph, found)
    if not isinstance(table, Table):
        return f"{'/'.join(table.key)} is a source, which no run builds."
    return _one(graph, found, table.unique_id)


def graph_on_branch(graph: Graph, settings: Settings, selected: Collection[str]) -> Graph:
    """Return the graph with the tables and the asset keys of a branch; as it is, without one.

    Args:
        graph: The graph of the project.
        settings: The settings, which name the branch.
        selected: Unique ids of the tables that a run would build.

    Raises:
        BranchError: There is no such branch, or the lakehouse cannot have branches.
        DatabaseError: The database cannot be used.
    """
    branch = settings.branch
    if not branch:
        return graph
    catalog = schema_branches(settings, click.echo)
    if catalog is None:
        schemas = schemas_on_branch(graph.tables.values(), branch)
    else:
        built = catalog.built(branch)
        schemas = schemas_of_build(graph.tables.values(), branch, selected=selected, built=built)
    return graph.with_schemas(schemas).with_prefix(branch)


def decisions(
    settings: Settings, project: DbtProject, graph: Graph, selected: Collection[str]
) -> Mapping[str, Decision]:
    """Return what a run would decide on each of some tables, by unique id.

    Args:
        settings: The settings.
        project: The dbt project.
        graph: The graph of the code location.
        selected: The unique ids of the tables of the run.

    Raises:
        DatabaseError: The versions of the tables cannot be read.
    """
    problems: list[str] = []
    with open_home() as instance:
        reuse = Reuse(
            graph,
            selected,
            dbt=dbt_runner(settings, project),
            engine=engine(settings, graph),
            instance=instance,
            run_id="",
            full_refresh=False,
            warn=problems.append,
        )
    if not reuse.decisions:
        raise DatabaseError(" ".join(problems) or "Nothing is known of the tables.")
    if settings.publish == "run" and not settings.branch:
        reuse.keeps_views = False
    undecided = reuse.undecided
    return {name: replace(one, undecided=name in undecided) for name, one in reuse.decisions.items()}


def _one(graph: Graph, decisions: Mapping[str, Decision], unique_id: str) -> str:
    """Return the reason of one table, and that of the input that is the cause."""
    decision: Decision | None = decisions[unique_id]
    if decision and decision.reused:
        return f"{_label(graph, unique_id)} is reused: neither its code nor its inputs have changed."
    lines = []
    while decision and not decision.reused:
        only = " if the rows of its inputs change" if decision.undecided else ""
        lines.append(f"{_label(graph, unique_id)} is built{only}: {decision.reason}.")
        unique_id = decision.because or ""
        decision = decisions.get(unique_id)
    return "\n".join(lines)


def _all(graph: Graph, decisions: Mapping[str, Decision]) -> str:
    width = max(len(_label(graph, unique_id)) for unique_id in decisions)
    lines = [
        f"{_label(graph, unique_id):<{width}}  {'reused' if decision.reused else f'built: {decision.reason}'}"
        for unique_id, decision in decisions.items()
    ]
    reused = sum(decision.reused for decision in decisions.values())
    undecided = sum(decision.undecided for decision in decisions.values())
    last = f"The next run builds {len(decisions) - reused} of {counted(len(decisions), 'table')}"
    last += f", {undecided} of them only if the rows of their inputs change." if undecided else "."
    return "\n".join([*lines, last])


def _label(graph: Graph, unique_id: str) -> str:
    return "/".join(graph.resource(unique_id).key)
