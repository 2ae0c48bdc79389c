"""The attempts of a build: what failed for a transient reason is built again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from lakehouse_analytics.assets.build_events import Event
from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.retries import Patience, merge, retryable_nodes, should_restart_after_crash
from lakehouse_analytics.assets.run_log import RunLog
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.graph import DbtTest, Table
from lakehouse_analytics.dbt.run_results import FINE_STATUS, DbtResult
from lakehouse_analytics.engines.base import DatabaseError, Engine

#: One build of a plan, with another number of threads than the run's if it is given.
BuildOnce = Callable[[Plan, Patience, int | None], Generator[Event, None, DbtResult]]


class Attempts:
    """Builds the plan of a run until there is nothing to try again."""

    def __init__(self, run: Run, engine: Engine, log: RunLog, build: BuildOnce, *, threads: int) -> None:
        """
        Args:
            run: Its gates decide what is built again.
            engine: Tells which failures are transient.
            log: Gets a line for each further attempt.
            build: One attempt.
            threads: dbt's, in the first attempt.
        """
        self._run, self._engine, self._log, self._build, self._threads = run, engine, log, build, threads
        self._patience = Patience(engine.classify_error, engine.queue_timeout)

    def events(self, plan: Plan) -> Generator[Event, None, DbtResult]:
        """Build a plan; returns the result of all attempts together."""
        whole, threads = plan, None
        result: DbtResult | None = None
        while True:
            last = yield from self._build(plan, self._patience, threads)
            result = merge(result, last) if result else last
            again = self._again(whole, plan, result, last)
            if not again:
                return result
            seconds, full = self._patience.wait(last)
            # Fewer statements at once, so that this run does not fill the queue itself.
            threads = max(1, self._threads >> self._patience.refusals) if full else None
            self._log_retry(again, last, seconds, threads)
            time.sleep(seconds)
            try:
                self._engine.wait_until_free(self._log.warn)
            except DatabaseError as error:
                self._run.problems.append(str(error))  # what has been built is reported nevertheless
                return result
            plan = again

    def _again(self, whole: Plan, asked: Plan, result: DbtResult, last: DbtResult) -> Plan | None:
        """What to build in the next attempt; None if there is nothing to try again."""
        if self._run.stopped:
            return None
        judge = self._patience.classify_error
        if last.crashed:
            unanswered = [table for table in asked.tables if table.unique_id not in last.nodes]
            if not should_restart_after_crash(unanswered, last, judge):
                return None
            tests = [test for test in asked.tests if test.unique_id not in last.nodes]
            again = self._run.plan_again(unanswered, tests)
        else:
            graph, failed_gates = self._run.selection.graph, self._run.failed_gates
            again = self._run.plan_again(
                *retryable_nodes(graph, whole.tables, whole.tests, result, judge, failed_gates=failed_gates)
            )
        return again or None

    def _log_retry(self, again: Plan, last: DbtResult, seconds: float, threads: int | None) -> None:
        things: list[Table | DbtTest] = [*again.tables, *again.tests]
        names = ", ".join(thing.name for thing in things)
        if threads:
            self._log.warn(f"The queue is full; retrying in {seconds:g} s with {counted(threads, 'thread')}: {names}")
        else:
            said = "\n".join(_messages(last, things))
            self._log.warn(f"Retrying in {seconds:g} s after a transient failure: {names}\n{said}".rstrip())


def _messages(result: DbtResult, asked: Sequence[Table | DbtTest]) -> Iterator[str]:
    """Why an attempt failed. If the next one succeeds, nothing else reports it."""
    if result.crashed:
        yield result.reason
        return
    for thing in asked:
        node = result.nodes.get(thing.unique_id)
        if node and node.status not in (*FINE_STATUS, "skipped"):
            yield f"{thing.name}: {node.message}"
