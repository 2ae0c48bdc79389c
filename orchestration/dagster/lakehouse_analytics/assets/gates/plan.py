"""What a run builds and evaluates, as one graph for dbt: tables, tests, functions and row-count gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.assets.gates.dependencies import Edge, Edges
from lakehouse_analytics.dbt.graph import DbtTest, Function, Graph, Table

#: Begins the id of a gate; the unique id of its table follows.
GATE = "gate."


@dataclass(frozen=True)
class Plan:
    """One dbt build.

    Attributes:
        tables, tests, functions: What dbt builds and evaluates.
        row_count_gates: Tables whose row count is checked during the build, by id of the gate.
            The build need not include them.
        edges: See `Edge`.
    """

    tables: tuple[Table, ...] = ()
    tests: tuple[DbtTest, ...] = ()
    functions: tuple[Function, ...] = ()
    row_count_gates: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    @property
    def nodes(self) -> list[str]:
        """Unique ids of dbt's nodes."""
        things: list[Table | DbtTest | Function] = [*self.functions, *self.tables, *self.tests]
        return [thing.unique_id for thing in things]

    def __bool__(self) -> bool:
        """Whether it contains anything to do."""
        return bool(self.tables or self.tests or self.row_count_gates)


@dataclass(frozen=True)
class Selection:
    """What one run is to build and evaluate.

    Attributes:
        selected: Unique ids of the tables to build.
        checked: Unique ids of selected tests, including those whose table is not built.
        counted: Unique ids of tables whose row count is selected and that are not built.
        before, after: Unique ids of tables that other steps of the same Dagster run have built, and will build.
        gated: Unique ids of tables with another gating check than their row count.
    """

    graph: Graph
    selected: frozenset[str]
    checked: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()

    def plan(self, created: Set[str] = frozenset()) -> Plan:
        """Everything that this run builds and checks.

        Args:
            created: Unique ids of functions that it has created already.
        """
        tables = sorted(self.selected, key=self.graph.order.__getitem__)
        return self._plan([self.graph.tables[unique_id] for unique_id in tables], self.tests, self.counted, created)

    def plan_again(self, tables: Collection[Table], tests: Collection[DbtTest], created: Set[str]) -> Plan:
        """Some of it for another attempt; see `plan`."""
        return self._plan(sorted(tables, key=lambda table: self.graph.order[table.unique_id]), tests, (), created)

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
        """Every test that this run must evaluate: those of the tables that it builds, those of the sources and external
        tables upstream of them, and the selected ones.

        A test whose check is not selected is a gate nevertheless. A test of tables of several steps belongs to the last
        step.
        """
        feeding = {parent for table in self.selected for parent in self.graph.tables[table].parents}
        wanted = self.selected | (feeding & self.graph.unbuilt.keys())
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
        """Functions that dbt must create: those that the tables and tests call and that have not been created yet.

        Functions that no model or test calls belong to a run that builds the whole project.
        """
        things: list[Table | DbtTest] = [*tables, *tests]
        wanted = {function for thing in things for function in thing.functions}
        if tables and self._builds_everything():
            wanted |= self.graph.unused_functions
        return [f for f in self.graph.functions.values() if f.unique_id in wanted - created]

    def _builds_everything(self) -> bool:
        # Tables with windows of another length are built by runs of their own.
        return self.selected | self.before >= {
            table.unique_id for table in self.graph.tables.values() if table.grain is None
        }
