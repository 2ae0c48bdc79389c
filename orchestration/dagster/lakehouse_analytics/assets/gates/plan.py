"""The plan of a dbt build: one graph of tables, tests, functions and row-count gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.assets.gates.dependencies import Edge, Edges
from lakehouse_analytics.dbt.graph import DbtTest, Function, Graph, Table

#: Prefix of the id of a gate, followed by the unique id of its table.
GATE = "gate."


@dataclass(frozen=True)
class Plan:
    """The plan of one dbt build.

    Attributes:
        tables, tests, functions: The nodes that dbt builds and evaluates.
        row_count_gates: The tables whose row count is checked during the build, by id of the gate. They may be tables
            that the plan does not build.
        edges: The dependencies between nodes and gates; see `Edge`.
    """

    tables: tuple[Table, ...] = ()
    tests: tuple[DbtTest, ...] = ()
    functions: tuple[Function, ...] = ()
    row_count_gates: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    @property
    def nodes(self) -> list[str]:
        """The unique ids of dbt's nodes."""
        nodes: list[Table | DbtTest | Function] = [*self.functions, *self.tables, *self.tests]
        return [node.unique_id for node in nodes]

    def __bool__(self) -> bool:
        """Return whether the plan contains anything to do."""
        return bool(self.tables or self.tests or self.row_count_gates)


@dataclass(frozen=True)
class Selection:
    """The tables, tests and row counts that are selected for a run.

    Attributes:
        graph: The manifest's graph.
        selected: Unique ids of the tables to build.
        checked: Unique ids of selected tests, including those whose table is not built.
        counted: Unique ids of tables whose row count is selected and that are not built.
        before, after: Unique ids of tables that other steps of the same Dagster run have built, and will build.
        gated: Unique ids of tables with another gating check than their row count.
        reused: Unique ids of selected tables that need not be built. They are checked like the others.
    """

    graph: Graph
    selected: frozenset[str]
    checked: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    reused: frozenset[str] = frozenset()

    def plan(self, created: Set[str] = frozenset()) -> Plan:
        """Return the plan of everything that the run builds and checks.

        Args:
            created: Unique ids of functions that the run has created already.
        """
        tables = sorted(self.selected - self.reused, key=self.graph.order.__getitem__)
        counted = self.counted | self.reused
        return self._plan([self.graph.tables[unique_id] for unique_id in tables], self.tests, counted, created)

    def plan_again(
        self, tables: Collection[Table], tests: Collection[DbtTest], counted: Collection[str], created: Set[str]
    ) -> Plan:
        """Return a plan of some of the tables and tests, for another attempt.

        Args:
            tables, tests: The tables and tests to build and evaluate again.
            counted: Unique ids of tables that are not built, and whose row count is still to be checked.
            created: Unique ids of functions that the run has created already.
        """
        return self._plan(sorted(tables, key=lambda table: self.graph.order[table.unique_id]), tests, counted, created)

    def _plan(
        self, tables: Sequence[Table], tests: Collection[DbtTest], counted: Collection[str], created: Set[str]
    ) -> Plan:
        functions = self._functions(tables, tests, created)
        gating = [t.unique_id for t in tables if t.contract.has_row_count_gate or t.unique_id in self.gated]
        gates = {f"{GATE}{unique_id}": unique_id for unique_id in [*gating, *sorted(counted)]}
        edges = Edges(self.graph, tables, functions)
        edges.add_tests(tests)
        edges.add_gates(gates)
        return Plan((*tables,), (*tests,), (*functions,), gates, (*edges.found,))

    @cached_property
    def tests(self) -> tuple[DbtTest, ...]:
        """All tests that the run must evaluate.

        These are the tests of the tables that it builds, the tests of the sources and external tables directly upstream
        of them, and the selected tests. A test is a gate even if its check is not selected. A test of tables of several
        steps belongs to the last step.
        """
        parents = {parent for table in self.selected for parent in self.graph.tables[table].parents}
        wanted = self.selected | (parents & self.graph.unbuilt.keys())
        return tuple(
            test
            for test in self.graph.tests.values()
            if test.unique_id in self.checked
            or (
                (
                    test.attached in wanted
                    or (test.attached in self.before and not self.selected.isdisjoint(test.parents))
                )
                and self.after.isdisjoint(test.parents)
            )
        )

    def _functions(self, tables: Collection[Table], tests: Collection[DbtTest], created: Set[str]) -> list[Function]:
        """Return the functions that dbt must create: those that the nodes call and that have not been created yet.

        Functions that no model or test calls belong to a run that builds the whole project.
        """
        nodes: list[Table | DbtTest] = [*tables, *tests]
        wanted = {function for node in nodes for function in node.functions}
        if tables and self._builds_everything():
            wanted |= self.graph.unused_functions
        return [f for f in self.graph.functions.values() if f.unique_id in wanted - created]

    def _builds_everything(self) -> bool:
        # Partitioned tables do not count, because other grains have their own runs.
        return self.selected | self.before >= {
            table.unique_id for table in self.graph.tables.values() if table.is_whole
        }
