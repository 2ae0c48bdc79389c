"""Determines what to retry after a failed dbt build: transient failures, and what dbt skipped because of them.

The functions are pure and use neither Dagster nor dbt. The engine determines which failures are transient, for example
in `engines.trino.errors`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from lakehouse_analytics.dbt.graph import DbtTest, Graph, Table
from lakehouse_analytics.dbt.run_results import FAILED_STATUS, FINE_STATUS, DbtResult
from lakehouse_analytics.engines.base import PERMANENT, ErrorClassifier, Reason

#: Seconds to wait before each retry of a model, in addition to waiting for the engine.
BACKOFF = (5.0, 20.0)
#: Seconds to wait while the engine's queue is full: the first wait, doubled each time, and the maximum.
QUEUE_BACKOFF = (5.0, 60.0)


class Patience:
    """Determines how often a command is retried, and how long to wait before each retry.

    A transient failure is retried `len(BACKOFF)` times. A full queue is not a failure of the model or the engine. It is
    retried for `queue_timeout` seconds since the last attempt that built something.

    Args:
        classify: Returns the engine's classification of an error message.
        queue_timeout: Time limit in seconds.
        clock: Returns the seconds of a monotonic clock.
    """

    def __init__(
        self, classify: ErrorClassifier, queue_timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._classify, self._queue_timeout, self._clock = classify, queue_timeout, clock
        self._left = len(BACKOFF)
        self._queue_waits = _growing(*QUEUE_BACKOFF)
        self._full_since: float | None = None
        self.refusals = 0

    @property
    def queue_timed_out(self) -> bool:
        """Whether the queue has been full for longer than the time limit."""
        return self._full_since is not None and self._clock() - self._full_since >= self._queue_timeout

    def classify_error(self, message: str) -> Reason:
        """Return the engine's classification. If no retry is left for it, the error counts as permanent."""
        reason = self._classify(message)
        exhausted = self.queue_timed_out if reason.queue_full else not self._left
        return PERMANENT if exhausted else reason

    def wait(self, last: DbtResult) -> tuple[float, bool]:
        """Return the seconds to wait before the next attempt, and whether that is because the queue is full.

        Args:
            last: The result of the last attempt, part of which is retried.
        """
        messages = [last.reason] if last.crashed else [node.message for node in last.nodes.values() if node.message]
        return self._wait(messages, progress=any(node.status in FINE_STATUS for node in last.nodes.values()))

    def wait_for(self, message: str) -> float:
        """Return the seconds to wait before a statement that failed with this message is retried."""
        return self._wait([message], progress=False)[0]

    def _wait(self, messages: Sequence[str], *, progress: bool) -> tuple[float, bool]:
        reasons = [self._classify(message) for message in messages]
        others = any(reason.transient and not reason.queue_full for reason in reasons)
        if others:
            self._left = max(0, self._left - 1)
        if not any(reason.queue_full for reason in reasons):
            self._full_since = None
            return BACKOFF[len(BACKOFF) - 1 - self._left], False
        if self._full_since is None or progress:
            self._full_since, self.refusals = self._clock(), 0
            self._queue_waits = _growing(*QUEUE_BACKOFF)
        self.refusals += 1
        left = self._queue_timeout - (self._clock() - self._full_since)
        return max(0.0, min(next(self._queue_waits), left)), True


def _growing(first: float, longest: float) -> Iterator[float]:
    return (min(longest, first * 2.0**number) for number in itertools.count())


def retryable_nodes(
    graph: Graph,
    tables: Sequence[Table],
    tests: Sequence[DbtTest],
    result: DbtResult,
    classify: ErrorClassifier,
    *,
    failed_gates: Collection[str] = (),
) -> tuple[list[Table], list[DbtTest]]:
    """Return the tables and tests of a finished build to retry.

    Args:
        graph: The manifest's graph.
        tables, tests: The tables and tests of the build.
        result: The result of the build.
        classify: Returns whether the cause of an error message is transient.
        failed_gates: Unique ids of the tables whose row count failed.

    Returns:
        Those that failed for a transient reason and can be repeated safely, and those that dbt skipped because of them.
        Nothing downstream of a permanent failure is included.
    """
    status = {unique_id: node.status for unique_id, node in result.nodes.items()}.get

    def may_succeed(unique_id: str) -> bool:
        node = result.nodes.get(unique_id)
        if node is None:
            return False
        table = graph.tables.get(unique_id)
        # A model has several statements, of which one failed. Statements before it may have had an effect.
        return classify(node.message).transient and (table is None or _repeatable(table))

    failed = {t.unique_id for t in tables if status(t.unique_id) not in (*FINE_STATUS, "skipped", None)}
    erroneous = [test for test in tests if status(test.unique_id) == "error"]
    transient_tests = {test.unique_id for test in erroneous if may_succeed(test.unique_id)}
    retried = {unique_id for unique_id in failed if may_succeed(unique_id)}
    gates = {
        test.attached
        for test in tests
        if test.unique_id not in transient_tests and status(test.unique_id) in FAILED_STATUS
    } | {*failed_gates}
    permanent = failed - retried
    blocked = permanent | graph.descendants(permanent | gates)
    skipped_because = graph.descendants(retried | {graph.tests[unique_id].attached for unique_id in transient_tests})
    retried |= {
        t.unique_id for t in tables if t.unique_id in skipped_because and status(t.unique_id) in ("skipped", None)
    }
    retried -= blocked
    return (
        [table for table in tables if table.unique_id in retried],
        [
            test
            for test in tests
            if not blocked.intersection(test.parents)
            and (
                test.unique_id in transient_tests
                or (retried.intersection(test.parents) and _without_result(status(test.unique_id)))
            )
        ],
    )


def should_restart_after_crash(tables: Sequence[Table], result: DbtResult, classify: ErrorClassifier) -> bool:
    """Return whether to restart dbt after a crash, for the tables that it has not reported.

    dbt may have built some of these tables.
    """
    return classify(result.reason).transient and all(_repeatable(table) for table in tables)


def merge(first: DbtResult, second: DbtResult) -> DbtResult:
    """Merge the results of two attempts: the last result of each node counts."""
    nodes = {**first.nodes, **second.nodes}
    fine = all(node.status in (*FINE_STATUS, "skipped") for node in nodes.values())
    # A crash of the second attempt does not affect what the first one built.
    exit_code = 1 if second.crashed and first.nodes else second.exit_code or (0 if fine else 1)
    return DbtResult(exit_code, nodes, second.errors or first.errors, second.stray)


def _without_result(status: str | None) -> bool:
    return status in (None, "skipped", "error")


def _repeatable(table: Table) -> bool:
    """Return whether building a table twice has the same result as building it once, unlike an append."""
    config = table.node.config
    if not config.is_incremental:
        return True
    # dbt-trino's default strategy is append, and its merge without a key appends, too.
    strategy = config.incremental_strategy or "default"
    return strategy not in ("append", "default") and (strategy != "merge" or bool(config.unique_key))
