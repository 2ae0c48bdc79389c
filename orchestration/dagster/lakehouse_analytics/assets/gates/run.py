"""The state of a run: what dbt has built, which gates failed, and what these failures block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from lakehouse_analytics.assets.gates.plan import Plan, Selection
from lakehouse_analytics.dbt.graph import DbtTest, Function, Table
from lakehouse_analytics.dbt.run_results import BUILT_STATUS, EVALUATED_STATUS, FAILED_STATUS, FINE_STATUS, DbtResult


@dataclass
class Run:
    """The state of a run: what has been built and what has failed so far.

    Attributes:
        selection: The tables, tests and row counts that are selected.
        failed: The tables and functions that dbt could not build, with dbt's message.
        gates: The tables and sources whose gate failed, with the reasons.
        built: The tables that this run has built.
        created: The functions that this run has created.
        counted: Unique ids of the tables whose row count has been checked.
        unevaluated: The tests that dbt should have evaluated and did not.
        problems: Other errors, which do not belong to a particular table.
        stopped: Whether nothing more may be built.
        publication: What was published at the end; empty if each table is visible once it is built.
    """

    selection: Selection
    failed: dict[str, str] = field(default_factory=dict)
    gates: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    built: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    unevaluated: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    stopped: bool = False
    publication: str = ""

    def reuse(self, tables: Collection[str]) -> None:
        """Do not build some of the selected tables, because they are as they would become.

        Args:
            tables: Their unique ids.
        """
        self.selection = replace(self.selection, reused=self.selection.reused | {*tables})
        self.built |= {*tables}

    def plan(self) -> Plan:
        """Return the plan of everything that the run builds and checks."""
        return self.selection.plan(self.created)

    def plan_again(self, tables: Collection[Table], tests: Collection[DbtTest]) -> Plan:
        """Return a plan of some of the tables and tests, for another attempt."""
        return self.selection.plan_again(tables, tests, self.selection.reused - self.counted, self.created)

    @property
    def failed_gates(self) -> set[str]:
        """The tables and sources of which a gate failed."""
        return {unique_id for unique_id, reasons in self.gates.items() if reasons}

    @property
    def blocked(self) -> dict[str, list[str]]:
        """The selected tables that were not built because of failures upstream, with these failures."""
        found: dict[str, list[str]] = defaultdict(list)
        for failure in sorted({*self.failed, *self.failed_gates}):
            for table in (self.selection.graph.descendants([failure]) & self.selection.selected) - self.built:
                found[table].append(failure)
        return dict(found)

    def _testable(self, tests: Iterable[DbtTest]) -> list[DbtTest]:
        """Return the tests whose tables and functions have all been built."""
        unbuilt = {*self.blocked, *self.failed}
        return [test for test in tests if unbuilt.isdisjoint((*test.parents, *test.functions))]

    def record(self, plan: Plan, dbt: DbtResult) -> None:
        """Record dbt's result of the whole plan, once.

        A missing result is a failure, unless dbt crashed, which the caller reports. A non-zero exit code is a failure
        as well if no recorded failure explains it.
        """
        results = dbt.nodes
        before = self._failures()
        self.reuse({node.unique_id for node in results.values() if node.unchanged})
        self._record_functions(plan.functions, dbt)
        self._record_others({*plan.nodes}, dbt)
        for table in plan.tables:
            result = results.get(table.unique_id)
            if result and result.status in BUILT_STATUS:
                self.built.add(table.unique_id)
            elif (result and result.status == "skipped") or (result is None and dbt.crashed):
                continue  # whether it was blocked is known when all failures are, see below
            else:
                status = f"dbt reported status {result.status}" if result else "dbt did not build it"
                self.failed[table.unique_id] = (result and result.message) or status
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
                continue  # downstream of a failure
            else:
                status = f"dbt reported status {result.status}" if result else "dbt did not create it"
                self.failed[function.unique_id] = (result and result.message) or status

    def _record_others(self, planned: Collection[str], dbt: DbtResult) -> None:
        """Record failures of nodes that are not in the plan, such as hooks."""
        for unique_id in sorted(dbt.nodes.keys() - planned):
            result = dbt.nodes[unique_id]
            if result.status not in {*FINE_STATUS, "skipped"}:
                reason = result.message or dbt.reason
                self.problems.append(f"dbt reported status {result.status} for {unique_id}: {reason}")

    def _failures(self) -> int:
        return len(self.failed) + sum(map(len, self.gates.values())) + len(self.problems)

    def fail_gate(self, unique_id: str, reason: str) -> None:
        """Record that a gate of a table or source failed, so that nothing downstream of it is built."""
        self.gates[unique_id].append(reason)

    def stop(self, reason: str) -> None:
        """Record a reason to build nothing more. Called in any thread."""
        self.problems.append(reason)
        self.stopped = True

    @property
    def succeeded(self) -> bool:
        """Whether everything selected was built and no gate failed."""
        return not (self.failed or any(self.gates.values()) or self.problems) and self.built == self.selection.selected

    def summary(self) -> str:
        """Return a text with the failures, the blocked tables and their causes, and the number of built tables."""
        lines = [f"✘ {self.label(table)} was not built: {reason}" for table, reason in sorted(self.failed.items())]
        lines += [
            f"✘ {self.label(table)} failed its gate: {reason}"
            for table, reasons in sorted(self.gates.items())
            for reason in reasons
        ]
        lines += [
            f"– {self.label(table)} was blocked by {', '.join(map(self.label, failures))}"
            for table, failures in sorted(self.blocked.items())
            if table not in self.failed
        ]
        lines += [f"✘ {problem}" for problem in self.problems]
        reused = self.selection.reused
        lines.append(
            f"{len(self.built - reused)} of {len(self.selection.selected)} tables were built"
            + (f", and {len(reused)} reused." if reused else ".")
        )
        return "\n".join([*lines, *([self.publication] if self.publication else [])])

    def connected(self) -> list[frozenset[str]]:
        """Return the selected tables in groups: tables are in one group if one is upstream of the other or a test
        reads both, directly or through others. A group also has the tables and sources that declare these tests.
        """
        selected = self.selection.selected
        groups = {unique_id: {unique_id} for unique_id in selected}

        def connect(unique_ids: Iterable[str]) -> None:
            found = {*unique_ids}
            merged = found.union(*(groups.get(unique_id, set()) for unique_id in found))
            groups.update(dict.fromkeys(merged, merged))

        for unique_id in selected:
            connect((unique_id, *(selected & {*self.selection.graph.tables[unique_id].parents})))
        for test in self.selection.tests:
            # The gate of a test is that of the table or source that declares it, which the run may not build.
            if read := selected & {*test.parents}:
                connect((*read, test.attached))
        return [frozenset(group) for group in {id(group): group for group in groups.values()}.values()]

    def good_tables(self, *, crashed: bool) -> frozenset[str]:
        """Return the tables of the groups that were built as a whole and passed their gates.

        Args:
            crashed: Whether dbt crashed. Then there are none, because tests may be missing.
        """
        if crashed or self.problems:
            return frozenset()
        selected, bad = self.selection.selected, self.failed_gates
        good = (group for group in self.connected() if self.built >= group & selected and bad.isdisjoint(group))
        return selected & frozenset[str]().union(*good)

    def label(self, unique_id: str) -> str:
        """Return the name of a table, source or function for messages."""
        if unique_id in self.selection.graph.functions:
            return f"function {self.selection.graph.functions[unique_id].name}"
        return "/".join(self.selection.graph.resource(unique_id).key)
