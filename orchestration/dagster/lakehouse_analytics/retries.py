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
    def advice(self) -> str:
        """What a person does about it; empty where the message says all."""


Judge = Callable[[str], Reason]


@dataclass(frozen=True)
class _Permanent:
    transient: bool = False
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
        table = graph.tables.get(unique_id)
        # What failed is one statement of several: that it did nothing says nothing of those before it.
        return judge(node.message).transient and (table is None or _repeatable(table))

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


def worth_a_second_start(tables: Sequence[Table], result: DbtResult, judge: Judge) -> bool:
    """Whether a dbt that crashed is asked for the same again: it does not tell which of the tables it had built."""
    return judge(result.reason).transient and all(_repeatable(table) for table in tables)


def merge(first: DbtResult, second: DbtResult) -> DbtResult:
    """One result of two tries: each node as it was seen last."""
    nodes = {**first.nodes, **second.nodes}
    fine = all(node.status in (*FINE_STATUS, "skipped") for node in nodes.values())
    # A second dbt that crashed takes nothing away from what the first one built.
    exit_code = 1 if second.crashed and first.nodes else second.exit_code or (0 if fine else 1)
    return DbtResult(exit_code, nodes, second.errors or first.errors, second.stray)


def _unanswered(status: str | None) -> bool:
    return status in (None, "skipped", "error")


def _repeatable(table: Table) -> bool:
    """Whether building it twice leaves what building it once does. An append does not, whatever it is called."""
    config = table.node["config"]
    if config.get("materialized") != "incremental":
        return True
    # dbt-trino's default strategy is append, and its merge without a key is one, too.
    strategy = config.get("incremental_strategy") or "default"
    return strategy not in ("append", "default") and (strategy != "merge" or bool(config.get("unique_key")))
