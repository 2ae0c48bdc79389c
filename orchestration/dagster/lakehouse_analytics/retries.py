"""What of a failed dbt command is worth another try: what failed for a reason that passes, and what waited for it.

Pure: no Dagster, no dbt. Whether a reason passes is the engine's knowledge (`trino_errors`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lakehouse_analytics.gates import FAILED_STATUS, FINE_STATUS
from lakehouse_analytics.graph import DbtTest, Graph, Table
from lakehouse_analytics.run_results import DbtResult

#: Seconds to wait before each further try of a model. The engine is waited for besides.
BACKOFF = (5.0, 20.0)


class Reason(Protocol):
    """Why something failed."""

    @property
    def transient(self) -> bool:
        """It may pass by itself."""

    @property
    def certainly_not_applied(self) -> bool:
        """Nothing of it was written, so that doing it again cannot write it twice."""

    @property
    def advice(self) -> str:
        """What a person does about it; empty where the message says all."""


Judge = Callable[[str], Reason]


@dataclass(frozen=True)
class _Permanent:
    transient: bool = False
    certainly_not_applied: bool = False
    advice: str = ""


#: Nothing to wait for.
FOR_GOOD: Reason = _Permanent()


def worth_another_try(
    graph: Graph, tables: Sequence[Table], tests: Sequence[DbtTest], result: DbtResult, judge: Judge
) -> tuple[list[Table], list[DbtTest]]:
    """The tables and tests of a finished command to ask for again.

    Args:
        graph: The manifest's.
        tables, tests: What the command was asked for.
        result: What came of it.
        judge: Tells of dbt's message whether its reason passes.

    Returns:
        What failed for a passing reason and can safely be done again, and what dbt skipped because of it. Never what
        stands below something that failed for good.
    """

    def status(unique_id: str) -> str | None:
        node = result.nodes.get(unique_id)
        return node.status if node else None

    def passes(unique_id: str) -> bool:
        node = result.nodes.get(unique_id)
        if node is None:
            return False
        reason = judge(node.message)
        table = graph.tables.get(unique_id)
        return reason.transient and (reason.certainly_not_applied or table is None or _repeatable(table))

    failed = {t.unique_id for t in tables if status(t.unique_id) not in (*FINE_STATUS, "skipped", None)}
    shaken = {test.unique_id for test in tests if status(test.unique_id) == "error" and passes(test.unique_id)}
    again = {unique_id for unique_id in failed if passes(unique_id)}
    gates = {
        test.attached
        for test in tests
        if test.unique_id not in shaken
        and (status(test.unique_id) == "error" or (test.blocking and status(test.unique_id) in FAILED_STATUS))
    }
    for_good = failed - again
    lost = for_good | graph.descendants(for_good | gates)
    waiting = graph.descendants(again | {graph.tests[unique_id].attached for unique_id in shaken})
    again |= {t.unique_id for t in tables if t.unique_id in waiting and status(t.unique_id) in ("skipped", None)}
    again -= lost
    return (
        [table for table in tables if table.unique_id in again],
        [
            test
            for test in tests
            if not lost.intersection(test.parents)
            and (test.unique_id in shaken or (again.intersection(test.parents) and _unanswered(status(test.unique_id))))
        ],
    )


def merge(first: DbtResult, second: DbtResult) -> DbtResult:
    """One result of two tries: each node as it was seen last."""
    nodes = {**first.nodes, **second.nodes}
    fine = all(node.status in (*FINE_STATUS, "skipped") for node in nodes.values())
    return DbtResult(second.exit_code or (0 if fine else 1), nodes, second.errors or first.errors, second.stray)


def _unanswered(status: str | None) -> bool:
    return status in (None, "skipped", "error")


def _repeatable(table: Table) -> bool:
    # An append that was perhaps applied must not be applied again. dbt-trino's default strategy is append.
    config = table.node["config"]
    return config.get("materialized") != "incremental" or config.get("incremental_strategy") not in (None, "append")
