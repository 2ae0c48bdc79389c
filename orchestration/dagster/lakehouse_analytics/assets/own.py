"""The user's own Python assets among the tables: which are between two tables, and which tables are downstream of them.

A Python asset is upstream of a table that reads a dbt source with its key, and downstream of the assets that it depends
on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import dagster as dg

from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import asset_key

_Edges = Mapping[dg.AssetKey, set[dg.AssetKey]]


class OwnAssets:
    """The Python assets that a run can build, and their position in the graph of tables.

    Args:
        graph: The manifest's graph.
        assets: The user's assets.
    """

    def __init__(self, graph: Graph, assets: Iterable[object] = ()) -> None:
        self._graph = graph
        self._definitions = [one for one in assets if isinstance(one, dg.AssetsDefinition) and one.is_executable]
        self._partitions = {spec.key: spec.partitions_def for one in self._definitions for spec in one.specs}
        self._below: dict[dg.AssetKey, set[dg.AssetKey]] = defaultdict(set)
        self._above: dict[dg.AssetKey, set[dg.AssetKey]] = defaultdict(set)
        if self._partitions:
            self._connect()

    def _connect(self) -> None:
        for one in self._definitions:
            for spec in one.specs:
                for dep in spec.deps:
                    self._edge(dep.asset_key, spec.key)
        for table in self._graph.tables.values():
            for parent in table.parents:
                self._edge(asset_key(self._graph.resource(parent)), asset_key(table))

    def _edge(self, above: dg.AssetKey, below: dg.AssetKey) -> None:
        self._below[above].add(below)
        self._above[below].add(above)

    def between(self, tables: Collection[Table], partitions: dg.PartitionsDefinition | None) -> list[dg.AssetKey]:
        """Return the Python assets on a path between two of some tables that has no other table.

        Args:
            tables: The tables that a job builds.
            partitions: Partitions of the job. Assets with other partitions cannot be in it, and are omitted.
        """
        if not self._partitions:
            return []
        keys = {asset_key(table) for table in tables}
        through = {key for key, own in self._partitions.items() if own is None or own == partitions}
        found = _reached(keys, self._below, through) & _reached(keys, self._above, through)
        whole = (one.keys for one in self._definitions if not one.can_subset and not found.isdisjoint(one.keys))
        return sorted(found.union(*whole))

    def tables_below(self, table: Table) -> set[str]:
        """Return the tables downstream of a table, like `Graph.descendants`, but also through Python assets."""
        if not self._partitions:
            return self._graph.descendants([table.unique_id])
        found = _reached({asset_key(table)}, self._below, self._above.keys())
        return {other.unique_id for other in self._graph.tables.values() if asset_key(other) in found}

    def gates_in_a_circle(self) -> set[str]:
        """Return the unique ids of tests that cannot be gates.

        They depend on a Python asset downstream of their table, such as a test of relationships between a table and
        another one that a Python asset fills from it.
        """
        if not self._partitions:
            return set()
        own, every = self._partitions.keys(), self._above.keys() | self._below.keys()
        start = _reached(own, self._above, every)
        behind: dict[dg.AssetKey, set[dg.AssetKey]] = {}
        found: set[str] = set()
        for test in self._graph.tests.values():
            key = asset_key(self._graph.resource(test.attached))
            if key in start and len(test.parents) > 1:
                if key not in behind:
                    behind[key] = _reached(_reached({key}, self._below, every) & own, self._below, every)
                others = {asset_key(self._graph.resource(parent)) for parent in test.parents} - {key}
                found |= set() if others.isdisjoint(behind[key]) else {test.unique_id}
        return found


def _reached(start: Collection[dg.AssetKey], edges: _Edges, through: Collection[dg.AssetKey]) -> set[dg.AssetKey]:
    """Return the keys that can be reached from some keys, by paths through certain keys only."""
    found: set[dg.AssetKey] = set()
    stack = [*start]
    while stack:
        new = {key for key in edges.get(stack.pop(), ()) if key in through} - found
        found |= new
        stack.extend(new)
    return found
