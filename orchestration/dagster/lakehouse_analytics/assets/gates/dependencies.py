"""The dependencies between the nodes of a dbt build, which determine their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lakehouse_analytics.dbt.graph import DbtTest, Function, Graph, Table

#: Unique ids of two nodes: the second waits for the first, and is skipped if the first fails.
Edge = tuple[str, str]


class Edges:
    """The edges of a plan. They bridge tables that are not in the plan, and never form a cycle.

    Attributes:
        found: The edges, in the order in which they were added.
    """

    def __init__(self, graph: Graph, tables: Sequence[Table], functions: Sequence[Function]) -> None:
        self.found: dict[Edge, None] = {}
        self._graph = graph
        self._tables = {table.unique_id for table in tables}
        self._functions = {function.unique_id for function in functions}
        self._nearest: dict[str, tuple[str, ...]] = {}
        for unique_id in reversed([*graph.order]):
            self._nearest[unique_id] = self._nearest_children(unique_id)
        self._upstream: dict[str, list[str]] = defaultdict(list)
        for table in tables:
            for child in self._nearest[table.unique_id]:
                self._add(table.unique_id, child)
                self._upstream[child].append(table.unique_id)
        for function in functions:
            for child in self._downstream(function.unique_id):
                self._add(function.unique_id, child)
            for parent in self._parents_of(function):
                self._add(parent, function.unique_id)

    def add_tests(self, tests: Collection[DbtTest]) -> None:
        """Add edges so that tests wait for all their tables, and downstream tables wait for the tests of a table."""
        uncertain: list[Edge] = []
        for test in tests:
            parents = self._tables.intersection(test.parents)
            for parent in (*parents, *self._functions.intersection(test.functions)):
                self._add(parent, test.unique_id)
            if parents <= {test.attached} and not test.functions:
                for child in self._downstream(test.attached):
                    self._add(test.unique_id, child)
                continue
            read = {*parents, *(p for f in test.functions for p in self._tables_of(f))}
            for child in self._waiting(test.attached, read):
                if read <= self._ancestors([child]) - {child}:
                    self._add(test.unique_id, child)  # dbt has the same order, which is never a cycle
                else:
                    uncertain.append((test.unique_id, child))
        self._add_without_cycle(uncertain)

    def add_gates(self, gates: Mapping[str, str]) -> None:
        """Add edges so that the tables downstream of a table wait for its row count.

        Args:
            gates: The tables, by id of the gate.
        """
        for gate, table in gates.items():
            if table in self._tables:
                self._add(table, gate)
            for child in self._downstream(table):
                self._add(gate, child)

    def _add(self, parent: str, child: str) -> None:
        self.found[parent, child] = None

    def _downstream(self, unique_id: str) -> tuple[str, ...]:
        """Return the nearest tables of the plan downstream of a node."""
        if unique_id not in self._nearest:
            self._nearest[unique_id] = self._nearest_children(unique_id)
        return self._nearest[unique_id]

    def _nearest_children(self, unique_id: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for child in self._graph.children.get(unique_id, ()):
            found |= dict.fromkeys((child,) if child in self._tables else self._nearest[child])
        return (*found,)

    def _parents_of(self, function: Function) -> Iterator[str]:
        for parent in function.node.depends_on:
            if parent in self._tables or parent in self._functions:
                yield parent

    def _tables_of(self, function: str) -> Iterator[str]:
        node = self._graph.functions.get(function)
        return (p for p in self._parents_of(node) if p in self._tables) if node else iter(())

    def _ancestors(self, unique_ids: Iterable[str]) -> set[str]:
        """Return tables together with the tables of the plan upstream of them."""
        found, stack = set[str](), [*unique_ids]
        while stack:
            unique_id = stack.pop()
            if unique_id not in found:
                found.add(unique_id)
                stack.extend(self._upstream.get(unique_id, ()))
        return found

    def _waiting(self, attached: str, read: Collection[str]) -> Iterator[str]:
        """Yield the nearest tables downstream of the tested one that can wait for the test.

        A table cannot wait for the test if the test waits for it.

        Args:
            attached: The tested table.
            read: The tables that the test reads.
        """
        needed = self._ancestors(read)
        seen, stack = set[str](), [*self._downstream(attached)]
        while stack:
            unique_id = stack.pop()
            if unique_id in seen:
                continue
            seen.add(unique_id)
            if unique_id in needed:
                stack.extend(self._nearest[unique_id])
            else:
                yield unique_id

    def _add_without_cycle(self, edges: Sequence[Edge]) -> None:
        """Add the edges that do not close a cycle with earlier ones."""
        if not edges:
            return
        children: dict[str, list[str]] = defaultdict(list)
        for parent, child in self.found:
            children[parent].append(child)
        for test, table in edges:
            if not _reaches(children, table, test):
                self._add(test, table)
                children[test].append(table)


def _reaches(children: Mapping[str, Sequence[str]], begin: str, end: str) -> bool:
    seen, stack = set[str](), [begin]
    while stack:
        node = stack.pop()
        if node == end:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(children.get(node, ()))
    return False
