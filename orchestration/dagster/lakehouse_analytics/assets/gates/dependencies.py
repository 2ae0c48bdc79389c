"""The order of a dbt build: which of its nodes wait for which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from lakehouse_analytics.dbt.graph import DbtTest, Function, Graph, Table

#: Unique ids: the second waits for the first, and is skipped if the first fails.
Edge = tuple[str, str]


class Edges:
    """The edges of a plan. They lead through tables that are not in it, and never form a cycle.

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
        self._above: dict[str, list[str]] = defaultdict(list)
        for table in tables:
            for below in self._nearest[table.unique_id]:
                self._add(table.unique_id, below)
                self._above[below].append(table.unique_id)
        for function in functions:
            for below in self._below(function.unique_id):
                self._add(function.unique_id, below)
            for above in self._parents_of(function):
                self._add(above, function.unique_id)

    def add_tests(self, tests: Collection[DbtTest]) -> None:
        """A test runs when all its tables are built. The tables downstream of the one that it checks wait for it."""
        uncertain: list[Edge] = []
        for test in tests:
            parents = self._tables.intersection(test.parents)
            for above in (*parents, *self._functions.intersection(test.functions)):
                self._add(above, test.unique_id)
            if parents <= {test.attached} and not test.functions:
                for below in self._below(test.attached):
                    self._add(test.unique_id, below)
                continue
            read = {*parents, *(p for f in test.functions for p in self._tables_of(f))}
            for below in self._waiting(test.attached, read):
                if read <= self._ancestors([below]) - {below}:
                    self._add(test.unique_id, below)  # as dbt orders them, which never is a cycle
                else:
                    uncertain.append((test.unique_id, below))
        self._add_without_cycle(uncertain)

    def add_gates(self, gates: Mapping[str, str]) -> None:
        """The tables downstream of a table wait for its row count."""
        for gate, table in gates.items():
            if table in self._tables:
                self._add(table, gate)
            for below in self._below(table):
                self._add(gate, below)

    def _add(self, above: str, below: str) -> None:
        self.found[above, below] = None

    def _below(self, unique_id: str) -> tuple[str, ...]:
        """The nearest tables of the plan downstream of a node."""
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
        """These tables, and the tables of the plan upstream of them."""
        found, stack = set[str](), [*unique_ids]
        while stack:
            unique_id = stack.pop()
            if unique_id not in found:
                found.add(unique_id)
                stack.extend(self._above.get(unique_id, ()))
        return found

    def _waiting(self, attached: str, read: Collection[str]) -> Iterator[str]:
        """The nearest tables downstream of one that can wait for a test: those that the test does not wait for."""
        needed = self._ancestors(read)
        seen, stack = set[str](), [*self._below(attached)]
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
        below: dict[str, list[str]] = defaultdict(list)
        for above, child in self.found:
            below[above].append(child)
        for test, table in edges:
            if not _reaches(below, table, test):
                self._add(test, table)
                below[test].append(table)


def _reaches(below: Mapping[str, Sequence[str]], begin: str, end: str) -> bool:
    seen, stack = set[str](), [begin]
    while stack:
        node = stack.pop()
        if node == end:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(below.get(node, ()))
    return False
