"""Runs the attempts of a build. Each retry builds what failed for a transient reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from lakehouse_analytics.assets.build_events import Event
from lakehouse_analytics.assets.dbt_retries import Patience, merge, retryable_nodes, should_restart_after_crash
from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.assets.run_log import RunLog
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.dbt.graph import DbtTest, Table
from lakehouse_analytics.dbt.run_results import FINE_STATUS, DbtResult
from lakehouse_analytics.engines.base import DatabaseError, Engine

#: Builds a plan once. The number of threads is None for the run's own.
BuildOnce = Callable[[Plan, Patience, int | None], Generator[Event, None, DbtResult]]


class Attempts:
    """Builds the plan of a run until there is nothing to retry."""

    def __init__(self, run: Run, engine: Engine, log: RunLog, build: BuildOnce, *, threads: int) -> None:
        """
        Args:
            run: The state of the run. Nothing downstream of its failed gates is retried.
            engine: Classifies failures as transient or permanent.
            log: Gets a line for each retry.
            build: Runs one attempt.
            threads: Number of dbt's threads in the first attempt.
        """
        self._run, self._engine, self._log, self._build, self._threads = run, engine, log, build, threads
        self._patience = Patience(engine.classify_error, engine.queue_timeout)

    def events(self, plan: Plan) -> Generator[Event, None, DbtResult]:
        """Build a plan, yield the events, and return the merged result of all attempts."""
        whole, threads = plan, None
        result: DbtResult | None = None
        while True:
            last = yield from self._build(plan, self._patience, threads)
            result = merge(result, last) if result else last
            retry = self._retry_plan(whole, plan, result, last)
            if not retry:
                return result
            seconds, full = self._patience.wait(last)
            # Run fewer statements at once, so that this run does not fill the queue itself.
            threads = max(1, self._threads >> self._patience.refusals) if full else None
            self._log_retry(retry, last, seconds, threads)
            time.sleep(seconds)
            try:
                self._engine.wait_until_free(self._log.warn)
            except DatabaseError as error:
                self._run.problems.append(str(error))  # the caller still reports what has been built
                return result
            plan = retry

    def _retry_plan(self, whole: Plan, attempted: Plan, result: DbtResult, last: DbtResult) -> Plan | None:
        """Return the plan of the next attempt; None if there is nothing to retry.

        Args:
            whole: The plan of the first attempt.
            attempted: The plan of the last attempt.
            result: The merged result of all attempts.
            last: The result of the last attempt.
        """
        if self._run.stopped:
            return None
        classify = self._patience.classify_error
        if last.crashed:
            unreported = [table for table in attempted.tables if table.unique_id not in last.nodes]
            if not should_restart_after_crash(unreported, last, classify):
                return None
            tests = [test for test in attempted.tests if test.unique_id not in last.nodes]
            retry = self._run.plan_again(unreported, tests)
        else:
            graph, failed_gates = self._run.selection.graph, self._run.failed_gates
            retry = self._run.plan_again(
                *retryable_nodes(graph, whole.tables, whole.tests, result, classify, failed_gates=failed_gates)
            )
        return retry or None

    def _log_retry(self, retry: Plan, last: DbtResult, seconds: float, threads: int | None) -> None:
        nodes: list[Table | DbtTest] = [*retry.tables, *retry.tests]
        names = ", ".join(node.name for node in nodes)
        if threads:
            self._log.warn(f"The queue is full; retrying in {seconds:g} s with {counted(threads, 'thread')}: {names}")
        else:
            messages = "\n".join(_messages(last, nodes))
            self._log.warn(f"Retrying in {seconds:g} s after a transient failure: {names}\n{messages}".rstrip())


def _messages(result: DbtResult, nodes: Sequence[Table | DbtTest]) -> Iterator[str]:
    """Yield the reasons why an attempt failed. If the next attempt succeeds, nothing else reports them."""
    if result.crashed:
        yield result.reason
        return
    for node in nodes:
        found = result.nodes.get(node.unique_id)
        if found and found.status not in (*FINE_STATUS, "skipped"):
            yield f"{node.name}: {found.message}"
