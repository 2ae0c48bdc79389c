"""Random projects with random faults, built by dbt through Dagster: what comes of them is what docs/gates.md says.

200 graphs, of a seed that a failure names, stand side by side in one project: 200 projects would be as many starts of
dbt.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import dagster as dg
import pytest
from lakehouse_analytics.contract.models import LAYERS

from .conftest import Lakehouse

GRAPHS = 200
#: What a test selects: rows fail it.
SQL = {"pass": "select 1 as x where 1 = 0", "fail": "select 1 as x", "error": "select no_such_column"}


@dataclass(frozen=True)
class Model:
    name: str
    layer: str
    parents: tuple[str, ...]
    broken: bool
    rows: int
    least: int | None  # rows that the contract wants
    gates: bool

    @property
    def sql(self) -> str:
        rules = {"min": self.least, "severity": "error" if self.gates else "warn"} if self.least else None
        contract = {"layer": self.layer, **({"rows": rules} if rules else {})}
        reads = "".join(f"-- depends_on: {{{{ ref('{parent}') }}}}\n" for parent in self.parents)
        column = "no_such_column" if self.broken else "1 as x"
        return (
            f"{{{{ config(schema='{self.layer}', meta={{'lakehouse': {contract!r}}}) }}}}\n"
            f"{reads}select {column} from range({self.rows})"
        )

    @property
    def miscounted(self) -> bool:
        return self.least is not None and self.rows < self.least


@dataclass(frozen=True)
class Check:
    name: str
    attached: str
    parents: tuple[str, ...]
    outcome: str
    warns: bool

    @property
    def sql(self) -> str:
        reads = "".join(f"-- depends_on: {{{{ ref('{parent}') }}}}\n" for parent in self.parents)
        severity = "warn" if self.warns else "error"
        meta = {"dagster": {"ref": {"name": self.attached}}}
        return f"{{{{ config(severity='{severity}', meta={meta!r}) }}}}\n{reads}{SQL[self.outcome]}"

    @property
    def stops(self) -> bool:
        return self.outcome == "error" or (self.outcome == "fail" and not self.warns)


@dataclass
class Graph:
    models: dict[str, Model] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @classmethod
    def draw(cls, number: int, choose: random.Random) -> Graph:
        graph = cls()
        for place in range(choose.randint(2, 8)):
            above = choose.sample([*graph.models], min(len(graph.models), choose.choice([0, 1, 1, 2])))
            least = choose.choice([None, None, 1, 2, 3])
            name = f"g{number}_{choose.randrange(1000):03}_{place}"  # whose order says nothing of the graph's
            graph.models[name] = Model(
                name,
                choose.choice(LAYERS),
                tuple(above),
                choose.random() < 0.1,
                choose.randint(1, 3),
                least,
                choose.random() < 0.5,
            )
        # Two tests of several tables could each have to wait for the other, and then one of them comes too late.
        several = 1
        for place in range(choose.randint(0, 6)):
            wanted = choose.choice([1, 1, 1, 2]) if several else 1
            parents = choose.sample([*graph.models], min(wanted, len(graph.models)))
            several -= len(parents) > 1
            outcome = choose.choice(["pass", "pass", "pass", "fail", "error"])
            check = Check(f"t{number}_{place}", parents[0], tuple(parents), outcome, choose.random() < 0.3)
            graph.checks.append(check)
        return graph

    def ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        stack = [*self.models[name].parents]
        while stack:
            parent = stack.pop()
            if parent not in found:
                found.add(parent)
                stack.extend(self.models[parent].parents)
        return found

    def expected(self) -> tuple[set[str], dict[str, bool]]:
        """The tables that are built and the checks that are evaluated, by the rules."""
        built = {name for name in self.models if self._is_built(name)}
        checks = {f"{name}:row_count": not self.models[name].miscounted for name in built}
        for check in self.checks:
            if built.issuperset(check.parents):
                checks[f"{check.attached}:{check.name}"] = check.outcome == "pass"
        return built, checks

    def _is_built(self, name: str) -> bool:
        above = self.ancestors(name)
        return (
            not self.models[name].broken
            and all(map(self._is_built, above))
            and not any(self._is_stopped(name, other) for other in above)
        )

    def _is_stopped(self, name: str, above: str) -> bool:
        """Whether a gate of a table above stops a table. A test that waits for the table itself cannot."""
        model = self.models[above]
        return (model.miscounted and model.gates) or any(
            check.stops
            and check.attached == above
            and not any(name == parent or name in self.ancestors(parent) for parent in check.parents)
            and all(map(self._is_built, check.parents))
            for check in self.checks
        )


def _short(key: str) -> str:
    return key.rpartition("/")[2]


@pytest.mark.engine("duckdb")
def test_what_is_built_stopped_and_told_is_what_the_rules_say(lakehouse: Lakehouse) -> None:
    lakehouse.instance = dg.DagsterInstance.ephemeral()  # thousands of events, which SQLite would write one by one
    lakehouse.files = {name: text for name, text in lakehouse.files.items() if not name.startswith("models/")}

    seed = int(os.environ.get("LAKEHOUSE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    graphs = [Graph.draw(number, random.Random(f"{seed} {number}")) for number in range(GRAPHS)]
    for graph in graphs:
        lakehouse.files |= {f"models/{name}.sql": model.sql for name, model in graph.models.items()}
        lakehouse.files |= {f"tests/{check.name}.sql": check.sql for check in graph.checks}
    lakehouse.write()
    outcome = lakehouse.run()
    built = {_short(key) for key in outcome.built}
    checks = {_short(key): passed for key, passed in outcome.checks.items()}
    for graph in graphs:
        tables, results = graph.expected()
        assert built & graph.models.keys() == tables, f"LAKEHOUSE_TEST_SEED={seed}: {graph}"
        assert {n: p for n, p in checks.items() if n.partition(":")[0] in graph.models} == results, (
            f"LAKEHOUSE_TEST_SEED={seed}: {graph}"
        )
    assert not outcome.success
