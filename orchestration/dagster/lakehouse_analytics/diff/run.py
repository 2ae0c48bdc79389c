"""Runs a comparison of a table of the dbt project, in the database of the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.relation import written_relation
from lakehouse_analytics.diff.compare import Difference, Options, compare
from lakehouse_analytics.diff.errors import DiffError
from lakehouse_analytics.diff.keys import candidates
from lakehouse_analytics.diff.relations import find_table, parse_state, read_side
from lakehouse_analytics.diff.report import as_json, as_markdown, as_text
from lakehouse_analytics.engines.comparison import Comparable
from lakehouse_analytics.engines.resources import engine
from lakehouse_analytics.settings import Settings

#: Examples per kind of difference. JSON and Markdown are for files and comments, which should have no customers' data
#: unless someone wants it there.
SAMPLES = {"text": 5, "json": 0, "markdown": 0}
FORMATS: Mapping[str, Callable[[Difference], str]] = {"text": as_text, "json": as_json, "markdown": as_markdown}


def diff(settings: Settings, name: str, base: str, head: str, options: Options) -> Difference:
    """Compare two states of a table.

    Args:
        settings: The settings.
        name: The asset key or the dbt name of the table.
        base, head: The states; see `relations.EXPECTED`.
        options: What to compare.

    Raises:
        DiffError: The table, a state or an option is wrong.
        ManifestError: The manifest is missing or stale.
        DatabaseError: The database cannot be used, or a statement failed.
    """
    states = parse_state(base, "--base"), parse_state(head, "--head")
    if states[0] == states[1]:
        raise DiffError(f"--base and --head are both {states[0]}: choose two states of the table.")
    project = DbtProject.from_settings(settings)
    manifest = project.manifest()
    graph = read(manifest, project.configuration(), project_dir=project.project_dir)
    table = find_table(graph, name)
    database = engine(settings, graph)
    if not isinstance(database, Comparable):
        raise DiffError(f"Tables of {graph.engine.title} cannot be compared yet.")
    with database.comparison() as session:
        before, after = (
            read_side(session, written_relation(table.node), state, option)
            for state, option in zip(states, ("--base", "--head"), strict=True)
        )
        declared = candidates(table, manifest)
        return compare(session, before, after, options, table="/".join(table.key), declared=declared)
