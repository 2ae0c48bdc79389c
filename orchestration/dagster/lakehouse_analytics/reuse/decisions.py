"""Decides which tables need not be built. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.engines.base import VIEW
from lakehouse_analytics.reuse.code import Code
from lakehouse_analytics.reuse.state import BuildState


@dataclass(frozen=True)
class Decision:
    """Whether a table is built.

    Attributes:
        reused: Whether it is not built, because it would become what it is.
        reason: Why it is built; empty if it is not.
        because: The unique id of the input that has changed, if one has.
        undecided: Whether it need not be built after all if the run makes of its inputs what they were.
    """

    reused: bool
    reason: str = ""
    because: str | None = None
    undecided: bool = False


def tracked(graph: Graph, selected: Collection[str]) -> set[str]:
    """Return the unique ids of the tables whose versions a run needs.

    These are the selected tables with `reuse: true`, selected views that such a table reads, and the inputs of both,
    also those behind views.

    Args:
        graph: The manifest's graph.
        selected: Unique ids of the tables of the run.
    """
    reusing = [table.unique_id for table in graph.tables.values() if table.contract.reuse]
    everything = _with_inputs(graph, reusing)
    return _with_inputs(graph, everything & {*selected})


def _with_inputs(graph: Graph, tables: Iterable[str]) -> set[str]:
    """Return tables, and what those that are reused or are views read."""
    found, waiting = set[str](), [*tables]
    while waiting:
        unique_id = waiting.pop()
        if unique_id in found:
            continue
        found.add(unique_id)
        table = graph.tables.get(unique_id)
        if table and (table.contract.reuse or is_view(table)):
            waiting.extend(table.parents)
    return found


def is_view(table: Table) -> bool:
    """Return whether a table is a view, whose rows change with its inputs."""
    return table.node.config.materialized == "view"


class Versions:
    """The versions of the contents of tables and views.

    Attributes:
        own: The version of each table and source, and of the definition of each view, by unique id.
        contents: The hashes of the contents of tables that are compared by them, by unique id.
    """

    def __init__(self, graph: Graph, code: Code, own: Mapping[str, str], states: Mapping[str, BuildState]) -> None:
        """
        Args:
            graph: The manifest's graph.
            code: The code of the project.
            own: The versions now.
            states: The states of the last builds, by unique id.
        """
        self._graph, self._code, self.own, self._states = graph, code, dict(own), dict(states)
        self.contents = {
            unique_id: state.contents
            for unique_id, state in states.items()
            if state.contents and own.get(unique_id) == state.output
        }

    def of(self, unique_id: str) -> str | None:
        """Return the version of a table's contents; None if it is not known.

        Those of a view are known if it is the one that its code describes: then its inputs are, too.
        """
        return self._of(unique_id, {})

    def _of(self, unique_id: str, known: dict[str, str | None]) -> str | None:
        if unique_id not in known:
            table, own = self._graph.tables.get(unique_id), self.own.get(unique_id)
            if own is not None and table is not None and is_view(table):
                own = self._view(table, own, known)
            elif own is not None and own.startswith(VIEW):
                own = None  # such as a source: nothing is known of what the view reads
            elif own is not None:
                own = self.contents.get(unique_id, own)
            known[unique_id] = own
        return known[unique_id]

    def _view(self, table: Table, own: str, known: dict[str, str | None]) -> str | None:
        unique_id = table.unique_id
        state = self._states.get(unique_id)
        if state is None or state.obstacle or state.output != own:
            return None
        if dict(state.code) != self._code.fingerprint(unique_id) or self._code.obstacle(unique_id):
            return None
        inputs = [self._of(parent, known) for parent in table.parents]
        there = [version for version in inputs if version is not None]
        return digest(own, *there) if there == inputs else None

    def built(self, unique_id: str, state: BuildState) -> None:
        """Replace the state of a table that has been built."""
        self.own[unique_id] = state.output
        self._states[unique_id] = state


def decide(
    graph: Graph,
    selected: Collection[str],
    *,
    code: Code,
    versions: Versions,
    states: Mapping[str, BuildState],
    may_stay: Callable[[Table], bool],
    label: Callable[[str], str],
) -> dict[str, Decision]:
    """Decide which of the selected tables are built.

    Args:
        graph: The manifest's graph.
        selected: Unique ids of the tables that a run should build.
        code: The code of the project.
        versions: The versions now.
        states: The states of the last builds, by unique id.
        may_stay: Returns whether the version of a table can be the same after it was built.
        label: Returns the name of a table for messages.
    """
    found: dict[str, Decision] = {}
    for unique_id in sorted(selected, key=graph.order.__getitem__):
        table = graph.tables[unique_id]
        building = [p for p in inputs_of(graph, table, found) if p in found and not found[p].reused]
        reason = _own_reason(table, code, versions, states.get(unique_id))
        changed = None if reason else changed_input(table, versions, states[unique_id], but=building)
        if reason:
            found[unique_id] = Decision(False, reason)
        elif changed:
            found[unique_id] = Decision(False, changed[1].format(label(changed[0])), changed[0])
        elif building:
            undecided = all(found[p].undecided or may_stay(graph.tables[p]) for p in building)
            found[unique_id] = Decision(False, f"{label(building[0])} is built", building[0], undecided)
        else:
            found[unique_id] = Decision(True)
    return found


def inputs_of(graph: Graph, table: Table, selected: Collection[str]) -> Iterator[str]:
    """Yield the inputs of a table, and those behind views that the run does not build."""
    seen, waiting = set[str](), [*table.parents]
    while waiting:
        unique_id = waiting.pop(0)
        if unique_id in seen:
            continue
        seen.add(unique_id)
        yield unique_id
        above = graph.tables.get(unique_id)
        if above and is_view(above) and unique_id not in selected:
            waiting += above.parents


def _own_reason(table: Table, code: Code, versions: Versions, state: BuildState | None) -> str:
    """Return why a table is built whatever its inputs are; empty if they decide."""
    unique_id = table.unique_id
    if not table.contract.reuse:
        return "reuse is not set"
    if obstacle := code.obstacle(unique_id) or (state.obstacle if state else "no build of it is recorded"):
        return obstacle
    assert state is not None  # noqa: S101  # otherwise, there is an obstacle
    now = code.fingerprint(unique_id)
    if changed := [part for part in now if now[part] != state.code.get(part)]:
        return f"its {' and its '.join(_PARTS[part] for part in changed)} changed"
    if versions.own.get(unique_id) is None:
        return "it does not exist, or its version is not known"
    return "" if versions.own[unique_id] == state.output else "something else has changed the table since"


_PARTS = {
    "sql": "SQL",
    "macros": "macros or the version of dbt",
    "configuration": "configuration",
    "variables": "variables",
}


def changed_input(
    table: Table, versions: Versions, state: BuildState, *, but: Collection[str] = ()
) -> tuple[str, str] | None:
    """Return the first input that has changed, and how to say so.

    Args:
        table: The table.
        versions: The versions now.
        state: The state of its last build.
        but: Inputs that do not count.
    """
    for parent in table.parents:
        if parent in but:
            continue
        now = versions.of(parent)
        if now is None:
            return parent, "the version of {} is not known"
        if now != state.inputs.get(parent):
            return parent, "{} has changed"
    return None
