"""The user's own Python assets among the tables: which of them stand between two tables, and what lies below.

A Python asset is above a table that reads a dbt source of its key, and below each asset that it depends on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import dagster as dg

from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import asset_key

_Edges = Mapping[dg.AssetKey, set[dg.AssetKey]]


class OwnAssets:
    """The Python assets that a run can build, and their place among the tables.

    Args:
        graph: The manifest's.
        assets: What the user defines.
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
        """The Python assets through which data goes from one of some tables to another, and no other table's.

        Args:
            tables: Those that a job builds.
            partitions: Of the job. An asset with other partitions cannot be in it, and is left out.
        """
        if not self._partitions:
            return []
        keys = {asset_key(table) for table in tables}
        through = {key for key, own in self._partitions.items() if own is None or own == partitions}
        found = _reached(keys, self._below, through) & _reached(keys, self._above, through)
        whole = (one.keys for one in self._definitions if not one.can_subset and not found.isdisjoint(one.keys))
        return sorted(found.union(*whole))

    def tables_below(self, table: Table) -> set[str]:
        """As `Graph.descendants`, and through Python assets as well."""
        if not self._partitions:
            return self._graph.descendants([table.unique_id])
        found = _reached({asset_key(table)}, self._below, self._above.keys())
        return {other.unique_id for other in self._graph.tables.values() if asset_key(other) in found}

    def gates_in_a_circle(self) -> set[str]:
        """Unique ids of tests that cannot gate what is built from their table: they wait for it, by a Python asset.

        Such as a test of relationships from a table to another that a Python asset fills from it.
        """
        if not self._partitions:
            return set()
        own, every = self._partitions.keys(), self._above.keys() | self._below.keys()
        begin = _reached(own, self._above, every)
        behind: dict[dg.AssetKey, set[dg.AssetKey]] = {}
        found: set[str] = set()
        for test in self._graph.tests.values():
            key = asset_key(self._graph.resource(test.attached))
            if key in begin and len(test.parents) > 1:
                if key not in behind:
                    behind[key] = _reached(_reached({key}, self._below, every) & own, self._below, every)
                others = {asset_key(self._graph.resource(parent)) for parent in test.parents} - {key}
                found |= set() if others.isdisjoint(behind[key]) else {test.unique_id}
        return found


def _reached(begin: Collection[dg.AssetKey], edges: _Edges, through: Collection[dg.AssetKey]) -> set[dg.AssetKey]:
    """What lies beyond some keys, by steps through certain keys alone."""
    found: set[dg.AssetKey] = set()
    stack = [*begin]
    while stack:
        new = {key for key in edges.get(stack.pop(), ()) if key in through} - found
        found |= new
        stack.extend(new)
    return found
