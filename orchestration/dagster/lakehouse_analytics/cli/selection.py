"""What `lakehouse build` builds, and in which order its jobs run. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.impact.modified import downstream, modified
from lakehouse_analytics.impact.side import Inputs


@dataclass(frozen=True)
class Selection:
    """What differs from the base, and what is built because of it.

    Attributes:
        changed: Why each node differs, by unique id.
        tables: Unique ids of the changed tables and those downstream of them.
        views: Unique ids of unchanged views that these read, which a branch begins without.
        tests: Unique ids of the tests of other tables that have changed, or that read one of these.
    """

    changed: Mapping[str, Sequence[str]]
    tables: frozenset[str]
    views: frozenset[str]
    tests: frozenset[str]

    @property
    def built(self) -> frozenset[str]:
        """The unique ids of all tables that are built."""
        return self.tables | self.views


def select_changed(graph: Graph, base: Inputs, current: Inputs, *, without_views: bool) -> Selection:
    """Return what differs from the base, and all downstream of it.

    Args:
        graph: The graph of the project as it is.
        base: The project before the change.
        current: The project as it is.
        without_views: Whether the tables are built on a branch that began with copies of tables, so without views.
    """
    changed = modified(base, current)
    tables = frozenset(downstream(current.manifest, _data(current.manifest, changed)) & graph.tables.keys())
    tests = frozenset(
        name
        for name, test in graph.tests.items()
        if test.attached not in tables and (name in changed or not tables.isdisjoint(test.parents))
    )
    views = _views_above(graph, tables, tests) if without_views else frozenset()
    return Selection(changed, tables, views, tests)


def _data(manifest: Mapping[str, Any], changed: Collection[str]) -> set[str]:
    """Return the changed nodes of which the tables downstream are made, so not the tests."""
    return {name for name in changed if (manifest["nodes"].get(name) or {}).get("resource_type") != "test"}


def _views_above(graph: Graph, tables: Collection[str], tests: Collection[str]) -> frozenset[str]:
    of_tables = [test.unique_id for name in tables for test in graph.tests_of.get(name, ())]
    read = {parent for name in {*of_tables, *tests} for parent in graph.tests[name].parents}
    stack = [*read, *(parent for name in tables for parent in graph.tables[name].parents)]
    found: set[str] = set()
    while stack:
        name = stack.pop()
        table = graph.tables.get(name)
        if table and name not in found and name not in tables and table.node.config.materialized == "view":
            found.add(name)
            stack += table.parents
    return frozenset(found)


def steps(graph: Graph, tables: Collection[str], job_of: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the jobs to run, one after the other, with the tables that each of them builds.

    A job may occur several times, because a table can only be built after the tables that it reads.

    Args:
        graph: The graph.
        tables: Unique ids of the tables to build.
        job_of: The job of each table.
    """
    left = sorted(tables, key=graph.order.__getitem__)
    jobs = list(dict.fromkeys(job_of[name] for name in left))
    while left:
        for job in jobs:
            ready: list[str] = []
            waiting = set(left)
            for name in left:
                if job_of[name] == job and waiting.isdisjoint(graph.tables[name].parents):
                    ready.append(name)
                    waiting.remove(name)
            if ready:
                yield job, ready
                left = [name for name in left if name in waiting]
                break
