"""Which tables a run may still build, and why not the others.

Pure: no Dagster, no dbt. A `Run` is told what dbt and the row counts said, stage by stage, and
answers what is left to build. A failed gate blocks exactly the descendants of its table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.graph import DbtTest, Function, Graph, Table
from lakehouse_analytics.run_results import DbtResult

BUILT_STATUS = frozenset({"success"})
EVALUATED_STATUS = frozenset({"pass", "warn", "fail", "error"})
#: dbt has applied severity, `warn_if`, `error_if` and `warn_error` already: a failure stops what lies below the test,
#: whatever severity the manifest shows.
FAILED_STATUS = frozenset({"fail", "error"})
FINE_STATUS = frozenset({"success", "pass", "warn", "no-op"})


@dataclass
class Run:
    """The state of one build.

    Attributes:
        selected: Unique ids of the tables to build.
        checked: Unique ids of tests that are wanted although their table is not built.
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
    failed: dict[str, str] = field(default_factory=dict)
    gates: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    built: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    unevaluated: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def stages(self) -> list[tuple[list[Table], list[DbtTest]]]:
        """Tables and tests of each dbt invocation, in order."""
        tests: dict[int, list[DbtTest]] = defaultdict(list)
        for test in self.tests():
            tests[self._rank(test)].append(test)
        tables = {self.graph.ranks[stage[0].unique_id]: stage for stage in self.graph.stages(self.selected)}
        return [(tables.get(rank, []), tests[rank]) for rank in sorted(tables.keys() | tests.keys())]

    def tests(self) -> list[DbtTest]:
        """Every test that this run must evaluate: of the tables it builds, of the sources and externals above them, and
        the selected ones.

        A deselected check of these gates all the same.
        """
        feeding = {parent for table in self.selected for parent in self.graph.tables[table].parents}
        wanted = self.selected | (feeding & self.graph.unbuilt.keys())
        return [t for t in self.graph.tests.values() if t.attached in wanted or t.unique_id in self.checked]

    def _rank(self, test: DbtTest) -> int:
        def rank(unique_id: str) -> int | None:
            if unique_id in self.selected:
                return self.graph.ranks[unique_id]
            if unique_id == test.attached and unique_id in self.graph.unbuilt:
                # The test of a source gates its children: it runs with the first of them.
                below = (self.graph.ranks[c] for c in self.graph.children.get(unique_id, ()) if c in self.selected)
                return min(below, default=None)
            return None

        return max((r for parent in test.parents if (r := rank(parent)) is not None), default=self._first_rank)

    @cached_property
    def _first_rank(self) -> int:
        return min((self.graph.ranks[unique_id] for unique_id in self.selected), default=0)

    def functions(self, tables: Collection[Table], tests: Collection[DbtTest]) -> list[Function]:
        """Functions that dbt must create with a stage: those that its tables and tests call and that are not there yet.

        Functions that no model and no test calls come with the first stage of a run that builds the whole project.
        """
        things: list[Table | DbtTest] = [*tables, *tests]
        wanted = {function for thing in things for function in thing.functions}
        if tables and self._builds_everything():
            wanted |= self.graph.unused_functions
        return [f for f in self.graph.functions.values() if f.unique_id in wanted - self.created - self.failed.keys()]

    def _builds_everything(self) -> bool:
        # Tables with windows of another length are built by runs of their own.
        return self.selected >= {table.unique_id for table in self.graph.tables.values() if table.grain is None}

    @property
    def blocked(self) -> dict[str, list[str]]:
        """Selected tables that must not be built, each with the culprits upstream of it."""
        found: dict[str, list[str]] = defaultdict(list)
        for culprit in sorted({*self.failed, *(table for table, reasons in self.gates.items() if reasons)}):
            for below in self.graph.descendants([culprit]) & self.selected:
                found[below].append(culprit)
        return dict(found)

    def buildable(self, tables: Iterable[Table]) -> list[Table]:
        """Those of a stage's tables that nothing blocks."""
        blocked = self.blocked
        return [table for table in tables if table.unique_id not in blocked]

    def testable(self, tests: Iterable[DbtTest]) -> list[DbtTest]:
        """Those of a stage's tests of which no table is blocked or failed, and no function."""
        out = {*self.blocked, *self.failed}
        return [test for test in tests if out.isdisjoint((*test.parents, *test.functions))]

    def record(
        self,
        tables: Collection[Table],
        tests: Collection[DbtTest],
        dbt: DbtResult,
        functions: Collection[Function] = (),
    ) -> None:
        """Record dbt's report of one stage.

        A result that is missing is a failure. So is an exit code that no recorded failure explains.
        """
        results = dbt.nodes
        before = self._failures()
        asked = {table.unique_id for table in tables}
        self._record_functions(functions, dbt)
        self._record_others({*asked, *(f.unique_id for f in functions), *(test.unique_id for test in tests)}, dbt)
        for unique_id in sorted(results.keys() & self.graph.tables.keys() - asked):
            # dbt names tables by prefixes: what it built besides was neither planned nor gated.
            self.failed[unique_id] = "dbt built it, and nobody asked it to: its name is that of a folder of models"
        for table in tables:
            result = results.get(table.unique_id)
            if result and result.status in BUILT_STATUS:
                self.built.add(table.unique_id)
            elif result and result.status == "skipped":
                continue  # judged below, when every failure of the stage is known
            else:
                said = result.message or f"dbt reported status {result.status}" if result else "dbt did not build it"
                self.failed[table.unique_id] = said
        for test in tests:
            result = results.get(test.unique_id)
            if result and result.status in FAILED_STATUS:
                self.fail_gate(test.attached, f"{test.name}: {result.message or result.status}")
        for table in sorted(tables, key=lambda table: self.graph.order[table.unique_id]):
            result = results.get(table.unique_id)
            if result and result.status == "skipped" and table.unique_id not in self.blocked:
                self.failed[table.unique_id] = f"dbt skipped it: {result.message or 'no reason given'}"
        for test in self.testable(tests):
            result = results.get(test.unique_id)
            if result is None or result.status not in EVALUATED_STATUS:
                self.unevaluated.add(test.unique_id)
                self.fail_gate(test.attached, f"{test.name}: planned, but dbt did not evaluate it")
        if dbt.exit_code != 0 and self._failures() == before:
            self.problems.append(f"dbt ended with exit code {dbt.exit_code}: {dbt.reason}")

    def _record_functions(self, functions: Collection[Function], dbt: DbtResult) -> None:
        for function in functions:
            result = dbt.nodes.get(function.unique_id)
            if result and result.status in BUILT_STATUS:
                self.created.add(function.unique_id)
            elif result and result.status == "skipped":
                continue  # below a failure, or below another function that failed
            else:
                said = result.message or f"dbt reported status {result.status}" if result else "dbt did not create it"
                self.failed[function.unique_id] = said

    def _record_others(self, asked: Collection[str], dbt: DbtResult) -> None:
        """Failures of nodes that are neither tables nor tests of the stage: hooks, and whatever else dbt ran."""
        for unique_id in sorted(dbt.nodes.keys() - asked - self.graph.tables.keys()):
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
            if table not in self.built and table not in self.failed
        ]
        lines += [f"✘ {problem}" for problem in self.problems]
        return "\n".join([*lines, f"{len(self.built)} of {len(self.selected)} tables were built."])

    def _name(self, unique_id: str) -> str:
        if unique_id in self.graph.functions:
            return f"function {self.graph.functions[unique_id].name}"
        return "/".join(self.graph.known(unique_id).key)
