"""What a run builds and in which order, and what a failure stops. A failed gate stops the descendants of its table.

Pure: no Dagster, no dbt. `Run.plan` says what dbt builds, as one graph of tables, tests, functions and row-count gates.
`Run` then gets the results of dbt and of the row counts, and explains what is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.dbt.graph import DbtTest, Function, Graph, Table
from lakehouse_analytics.dbt.run_results import DbtResult

BUILT_STATUS = frozenset({"success"})
EVALUATED_STATUS = frozenset({"pass", "warn", "fail", "error"})
#: dbt has applied severity, `warn_if`, `error_if` and `warn_error` already: a failure stops what lies below the test,
#: whatever severity the manifest shows.
FAILED_STATUS = frozenset({"fail", "error"})
FINE_STATUS = frozenset({"success", "pass", "warn", "no-op"})


#: Begins the id of a gate; the unique id of its table follows.
GATE = "gate."

Edge = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """One dbt build.

    Attributes:
        tables, tests, functions: What dbt builds and evaluates.
        gates: Tables whose row count is judged inside the build, by id of the gate. Some are not built by it.
        edges: Pairs of ids: the second waits for the first, and is skipped if the first fails.
    """

    tables: tuple[Table, ...] = ()
    tests: tuple[DbtTest, ...] = ()
    functions: tuple[Function, ...] = ()
    gates: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    @property
    def nodes(self) -> list[str]:
        """Unique ids of dbt's nodes."""
        things: list[Table | DbtTest | Function] = [*self.functions, *self.tables, *self.tests]
        return [thing.unique_id for thing in things]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.tables or self.tests or self.gates)


@dataclass
class Run:
    """The state of one run.

    Attributes:
        selected: Unique ids of the tables to build.
        checked: Unique ids of tests that are wanted although their table is not built.
        counted: Unique ids of tables whose row count is wanted although they are not built.
        before, after: Unique ids of tables that other steps of the same Dagster run have built, and will build.
        gated: Unique ids of tables that another check than their row count gates, too.
        failed: Tables and functions that dbt could not build, with dbt's message.
        gates: Tables and sources whose gate failed, with the reasons.
        built: Tables built by this run.
        created: Functions created by this run.
        unevaluated: Tests that dbt should have evaluated and did not.
        problems: What else went wrong, of no table in particular.
    """

    graph: Graph
    selected: frozenset[str]
    checked: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    failed: dict[str, str] = field(default_factory=dict)
    gates: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    built: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    unevaluated: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        """Everything that this run builds and judges."""
        tables = sorted(self.selected, key=self.graph.order.__getitem__)
        return self._plan([self.graph.tables[unique_id] for unique_id in tables], self.tests, self.counted)

    def plan_again(self, tables: Collection[Table], tests: Collection[DbtTest]) -> Plan:
        """Another try of a part of it."""
        return self._plan(sorted(tables, key=lambda table: self.graph.order[table.unique_id]), tests, ())

    def _plan(self, tables: Sequence[Table], tests: Collection[DbtTest], counted: Collection[str]) -> Plan:
        functions = self._functions(tables, tests)
        gating = [t.unique_id for t in tables if t.contract.has_row_count_gate or t.unique_id in self.gated]
        gates = {f"{GATE}{unique_id}": unique_id for unique_id in [*gating, *sorted(counted)]}
        edges = _Edges(self.graph, tables, functions)
        edges.add_tests(tests)
        edges.add_gates(gates)
        return Plan((*tables,), (*tests,), (*functions,), gates, (*edges.found,))

    @cached_property
    def tests(self) -> tuple[DbtTest, ...]:
        """Every test that this run must evaluate: of the tables it builds, of the sources and externals above them, and
        the selected ones.

        A deselected check of these gates all the same. A test of tables of several steps belongs to the last of these.
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

    def _functions(self, tables: Collection[Table], tests: Collection[DbtTest]) -> list[Function]:
        """Functions that dbt must create: those that tables and tests call and that are not there yet.

        Those that no model and no test calls belong to a run that builds the whole project.
        """
        things: list[Table | DbtTest] = [*tables, *tests]
        wanted = {function for thing in things for function in thing.functions}
        if tables and self._builds_everything():
            wanted |= self.graph.unused_functions
        return [f for f in self.graph.functions.values() if f.unique_id in wanted - self.created]

    def _builds_everything(self) -> bool:
        # Tables with windows of another length are built by runs of their own.
        return self.selected | self.before >= {
            table.unique_id for table in self.graph.tables.values() if table.grain is None
        }

    @property
    def failed_gates(self) -> set[str]:
        """Tables and sources of which a gate failed."""
        return {unique_id for unique_id, reasons in self.gates.items() if reasons}

    @property
    def blocked(self) -> dict[str, list[str]]:
        """Selected tables that were not built, each with the culprits upstream of it."""
        found: dict[str, list[str]] = defaultdict(list)
        for culprit in sorted({*self.failed, *self.failed_gates}):
            for below in (self.graph.descendants([culprit]) & self.selected) - self.built:
                found[below].append(culprit)
        return dict(found)

    def _testable(self, tests: Iterable[DbtTest]) -> list[DbtTest]:
        """Tests of which no table is blocked or failed, and no function."""
        out = {*self.blocked, *self.failed}
        return [test for test in tests if out.isdisjoint((*test.parents, *test.functions))]

    def record(self, plan: Plan, dbt: DbtResult) -> None:
        """Record dbt's report of the whole plan, once.

        A result that is missing is a failure, unless dbt crashed, which is one of its own. So is an exit code that no
        recorded failure explains.
        """
        results = dbt.nodes
        before = self._failures()
        self._record_functions(plan.functions, dbt)
        self._record_others({*plan.nodes}, dbt)
        for table in plan.tables:
            result = results.get(table.unique_id)
            if result and result.status in BUILT_STATUS:
                self.built.add(table.unique_id)
            elif (result and result.status == "skipped") or (result is None and dbt.crashed):
                continue  # a skipped one is judged below, when every failure is known
            else:
                said = result.message or f"dbt reported status {result.status}" if result else "dbt did not build it"
                self.failed[table.unique_id] = said
        for test in plan.tests:
            result = results.get(test.unique_id)
            if result and result.status in FAILED_STATUS:
                self.fail_gate(test.attached, f"{test.name}: {result.message or result.status}")
        if dbt.crashed:
            return
        for table in plan.tables:  # parents before children
            result = results.get(table.unique_id)
            if result and result.status == "skipped" and table.unique_id not in self.blocked:
                self.failed[table.unique_id] = f"dbt skipped it: {result.message or 'no reason given'}"
        for test in self._testable(plan.tests):
            result = results.get(test.unique_id)
            if result is None or result.status not in EVALUATED_STATUS:
                self.unevaluated.add(test.unique_id)
                self.fail_gate(test.attached, f"{test.name}: planned, but dbt did not evaluate it")
        if dbt.exit_code != 0 and self._failures() == before and not self.failed_gates:
            self.problems.append(f"dbt ended with exit code {dbt.exit_code}: {dbt.reason}")

    def _record_functions(self, functions: Collection[Function], dbt: DbtResult) -> None:
        for function in functions:
            result = dbt.nodes.get(function.unique_id)
            if result and result.status in BUILT_STATUS:
                self.created.add(function.unique_id)
            elif (result and result.status == "skipped") or (result is None and dbt.crashed):
                continue  # below a failure, or below another function that failed
            else:
                said = result.message or f"dbt reported status {result.status}" if result else "dbt did not create it"
                self.failed[function.unique_id] = said

    def _record_others(self, asked: Collection[str], dbt: DbtResult) -> None:
        """Failures of nodes that are neither tables nor tests of the plan: hooks, and whatever else dbt ran."""
        for unique_id in sorted(dbt.nodes.keys() - asked):
            result = dbt.nodes[unique_id]
            if result.status not in {*FINE_STATUS, "skipped"}:
                said = result.message or dbt.reason
                self.problems.append(f"dbt reported status {result.status} for {unique_id}: {said}")

    def _failures(self) -> int:
        return len(self.failed) + sum(map(len, self.gates.values())) + len(self.problems)

    def fail_gate(self, unique_id: str, reason: str) -> None:
        """A gate of a table or source does not hold: nothing below it is built any more."""
        self.gates[unique_id].append(reason)

    @property
    def succeeded(self) -> bool:
        """Whether everything selected was built and no gate failed."""
        return not (self.failed or any(self.gates.values()) or self.problems) and self.built == self.selected

    def summary(self) -> str:
        """What failed, what was blocked by what, and what was built; for a person."""
        lines = [f"✘ {self._name(table)} was not built: {reason}" for table, reason in sorted(self.failed.items())]
        lines += [
            f"✘ {self._name(table)} failed its gate: {reason}"
            for table, reasons in sorted(self.gates.items())
            for reason in reasons
        ]
        lines += [
            f"– {self._name(table)} was blocked by {', '.join(map(self._name, culprits))}"
            for table, culprits in sorted(self.blocked.items())
            if table not in self.failed
        ]
        lines += [f"✘ {problem}" for problem in self.problems]
        return "\n".join([*lines, f"{len(self.built)} of {len(self.selected)} tables were built."])

    def _name(self, unique_id: str) -> str:
        if unique_id in self.graph.functions:
            return f"function {self.graph.functions[unique_id].name}"
        return "/".join(self.graph.resource(unique_id).key)


class _Edges:
    """The edges of a plan: through tables that are not in it, and without a cycle."""

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
        """A test runs when all its tables are built. What is built from the table whose check it is waits for it."""
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
        """What is built from a table waits for its row count."""
        for gate, table in gates.items():
            if table in self._tables:
                self._add(table, gate)
            for below in self._below(table):
                self._add(gate, below)

    def _add(self, above: str, below: str) -> None:
        self.found[above, below] = None

    def _below(self, unique_id: str) -> tuple[str, ...]:
        """The first tables of the plan below anything."""
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
        """Tables of the plan above these, and these."""
        found, stack = set[str](), [*unique_ids]
        while stack:
            unique_id = stack.pop()
            if unique_id not in found:
                found.add(unique_id)
                stack.extend(self._above.get(unique_id, ()))
        return found

    def _waiting(self, attached: str, read: Collection[str]) -> Iterator[str]:
        """The first tables below one that can wait for a test: those that the test itself does not wait for."""
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
        """Add those edges that close no cycle with the ones before them."""
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
