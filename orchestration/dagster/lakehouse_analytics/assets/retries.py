"""What of a failed dbt build is worth another try: what failed for a reason that passes, and what waited for it.

Pure: no Dagster, no dbt. Whether a reason passes is the engine's knowledge (`engines.trino.errors`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from lakehouse_analytics.assets.gates import FAILED_STATUS, FINE_STATUS
from lakehouse_analytics.dbt.graph import DbtTest, Graph, Table
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.engines.base import FOR_GOOD, ErrorClassifier, Reason

#: Seconds to wait before each further try of a model. The engine is waited for besides.
BACKOFF = (5.0, 20.0)
#: The same while the engine's queue is full: doubled each time, up to the second number.
QUEUE_BACKOFF = (5.0, 60.0)


class Patience:
    """How often a command is tried again, and how long after the last try.

    A failure that may pass is tried again `len(BACKOFF)` times. A full queue is no failure of the model or of the
    engine: it is tried again for `queue_timeout` seconds, counted from the last try in which anything was built.

    Args:
        judge: What the engine makes of a message.
        queue_timeout: Seconds.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(
        self, judge: ErrorClassifier, queue_timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._judge, self._queue_timeout, self._clock = judge, queue_timeout, clock
        self._left = len(BACKOFF)
        self._queue_waits = _growing(*QUEUE_BACKOFF)
        self._full_since: float | None = None
        self.refusals = 0

    @property
    def queue_timed_out(self) -> bool:
        """Whether the queue has been full for longer than a build waits."""
        return self._full_since is not None and self._clock() - self._full_since >= self._queue_timeout

    def classify_error(self, message: str) -> Reason:
        """As the engine judges; but a reason for which nothing is tried any more does not pass."""
        reason = self._judge(message)
        gone = self.queue_timed_out if reason.queue_full else not self._left
        return FOR_GOOD if gone else reason

    def wait(self, last: DbtResult) -> tuple[float, bool]:
        """Seconds to wait before the next try, and whether that is because the queue is full.

        Args:
            last: The last try, of which something is worth another one.
        """
        messages = [last.reason] if last.crashed else [node.message for node in last.nodes.values() if node.message]
        return self._wait(messages, progress=any(node.status in FINE_STATUS for node in last.nodes.values()))

    def wait_for(self, message: str) -> float:
        """Seconds to wait before a statement that failed with this message is tried again."""
        return self._wait([message], progress=False)[0]

    def _wait(self, messages: Sequence[str], *, progress: bool) -> tuple[float, bool]:
        reasons = [self._judge(message) for message in messages]
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


def worth_another_try(
    graph: Graph,
    tables: Sequence[Table],
    tests: Sequence[DbtTest],
    result: DbtResult,
    judge: ErrorClassifier,
    *,
    failed_gates: Collection[str] = (),
) -> tuple[list[Table], list[DbtTest]]:
    """The tables and tests of a finished build to ask for again.

    Args:
        graph: The manifest's.
        tables, tests: What the build was to build.
        result: What came of it.
        judge: Tells of dbt's message whether its reason passes.
        failed_gates: Unique ids of the tables whose row count failed.

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
        test.attached for test in tests if test.unique_id not in shaken and status(test.unique_id) in FAILED_STATUS
    } | {*failed_gates}
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


def worth_a_second_start(tables: Sequence[Table], result: DbtResult, judge: ErrorClassifier) -> bool:
    """Whether a dbt that crashed is asked again for what it did not report: of that it may have built some."""
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
    config = table.node.config
    if not config.is_incremental:
        return True
    # dbt-trino's default strategy is append, and its merge without a key is one, too.
    strategy = config.incremental_strategy or "default"
    return strategy not in ("append", "default") and (strategy != "merge" or bool(config.unique_key))
