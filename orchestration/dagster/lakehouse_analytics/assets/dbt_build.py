"""One dbt build while it runs: its log, the finished nodes, the row counts, and the gates.

dbt runs in its own process. Its messages arrive in a queue, together with the row counts and the messages of locks from
other threads of this process. One thread reads the queue and yields reports in the order in which dbt finished nodes.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, Self

from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.checks.runner import CountResult
from lakehouse_analytics.dbt import FINISHING, STARTING, UNCHANGED
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.run_results import BUILT_STATUS, DbtResult, NodeResult
from lakehouse_analytics.dbt.session import (
    CommandEnded,
    DbtProcess,
    LogLine,
    NodeFinished,
    Question,
    Request,
    start_process,
)

#: Seconds for which the report of a table waits for its row count.
PATIENCE = 1.0
#: The reason why a table has no row count if dbt, whose connection counts, ended too early.
NOT_COUNTED = "dbt ended before the table was counted"


@dataclass
class Report:
    """The report of one node.

    Attributes:
        node: dbt's result; None if the table is only counted.
        table: The table; None if the node is a test or a function.
        answer: The table's row count, or the reason why there is none; None if it is not known yet.
        late: Whether this is the row count of a table that has been reported without it.
        finished: When dbt finished the node, in seconds of the monotonic clock.
    """

    node: NodeResult | None = None
    table: Table | None = None
    answer: CountResult | None = None
    late: bool = False
    finished: float = field(default_factory=time.monotonic)


class Lock(Protocol):
    """Locks a table against other writers for as long as the block runs."""

    def __call__(
        self, table: Table, log: Callable[[str], None], stop: threading.Event
    ) -> AbstractContextManager[object]:
        """Return a context manager that waits for the lock and holds it.

        Args:
            table: The table.
            log: Called with a message that names the holder of the lock.
            stop: Ends the wait when it is set.
        """


class CutOff(Protocol):
    """Decides during a build that tables need not be built, because their inputs have become what they were."""

    @property
    def undecided(self) -> Collection[str]:
        """The unique ids of the tables that it may decide on."""

    def inputs(self, table: Table) -> Collection[str]:
        """Return the unique ids of what a table reads, also behind views."""

    def is_unchanged(self, table: Table) -> bool:
        """Return whether a table need not be built. Its inputs have been built and counted."""


@dataclass(frozen=True)
class _Counted:
    answers: Mapping[str, CountResult]


class DbtOfRun:
    """The dbt process of a run and its temporary folder. A context manager: both exist as long as the block runs.

    Attributes:
        folder: The folder for artifacts such as compiled SQL.
    """

    def __init__(self, adapter: str, manifest: str) -> None:
        self._adapter, self._manifest = adapter, manifest
        self._process: DbtProcess | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="dbt-", ignore_cleanup_errors=True)
        self.folder = self._folder.name

    def __enter__(self) -> Self:
        """Start the process."""
        self.process()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and remove the folder."""
        self.stop()
        self._folder.cleanup()

    def process(self) -> DbtProcess:
        """Return a process that can run a command: a new one if the last one died."""
        if self._process and not self._process.is_alive:
            self.stop()
        if self._process is None:
            self._process = start_process(self._adapter, self._manifest)
        return self._process

    def stop(self) -> None:
        """End the process and the command that it is running."""
        process, self._process = self._process, None
        if process:
            process.stop()


class DbtBuild:
    """One dbt build of a plan.

    Attributes:
        result: The result, once the build has ended.
    """

    def __init__(
        self,
        process: DbtProcess,
        plan: Plan,
        tables: Mapping[str, Table],
        *,
        count: Callable[[Sequence[Table]], Mapping[str, CountResult]],
        judge: Callable[[Table, CountResult], bool],
        log: Callable[[str, str], None],
        lock: Lock | None = None,
        cut_off: CutOff | None = None,
        gather: float = 0.0,
        threads: int = 4,
        complete: Collection[str] = (),
    ) -> None:
        """
        Args:
            process: The dbt process.
            plan: The plan to build.
            tables: All tables that the plan builds or counts, by unique id.
            count: Returns the row counts of tables, by unique id. Called in other threads while dbt is connected.
            judge: Returns whether the row count of a table allows dbt to build downstream tables. Called once per
                table.
            log: Called with the level and the text of each line.
            lock: Locks a table while it is built and counted; None if there are no other writers.
            cut_off: Decides which tables need not be built; None if all are.
            gather: Seconds for which tables whose row count is not a gate are collected for one statement.
            threads: Number of tables that dbt builds at once.
            complete: Unique ids of tables whose report always waits for the row count.
        """
        self._complete = frozenset(complete)
        self._process, self._plan, self._tables = process, plan, tables
        self._count, self._judge, self._log, self._lock = count, judge, log, lock
        self._inbox: queue.Queue[object] = queue.Queue()
        self._stop = threading.Event()
        self._cut_off, self._undecided = cut_off, frozenset(cut_off.undecided if cut_off else ())
        #: Tables that dbt has built and whose contents are not known yet.
        self._uncounted: set[str] = set()
        self._was_counted = threading.Condition()
        self._waiting: deque[Report] = deque()
        self._late: dict[str, Report] = {}
        self._counting: set[str] = set()
        self._gating = frozenset(plan.row_count_gates.values())
        self._gate_questions: dict[str, Question] = {}
        self._verdicts: dict[str, bool] = {}
        self._finishing: Question | None = None
        self._held: dict[str, contextlib.ExitStack] = {}
        self._nodes: dict[str, NodeResult] = {}
        self._errors: list[str] = []
        self._starters = ThreadPoolExecutor(max(1, threads), thread_name_prefix="table-lock")
        # Downstream tables wait for gates, so gates must not wait for counts that are only reported.
        self._gate_counter, self._counter = _Counting(self._count_some), _Counting(self._count_some, gather)
        self.result = DbtResult(-1, {})

    def run(self, request: Request) -> Iterator[Report]:
        """Build the plan, and yield reports while dbt runs."""
        try:
            self._process.start(request, self._hear)
            ended: CommandEnded | None = None
            while ended is None:
                try:
                    message = self._inbox.get(timeout=self._patience())
                except queue.Empty:
                    message = None
                if isinstance(message, CommandEnded):
                    ended = message
                else:
                    self._take(message)
                    yield from self._reports()
            yield from self._rest(ended)
        finally:
            self._close()

    def _hear(self, message: object) -> None:
        """Handle a message in the thread that reads them, so that dbt does not wait until events have been stored."""
        if not (isinstance(message, Question) and message.kind == STARTING):
            if isinstance(message, NodeFinished) and message.node.status in BUILT_STATUS:
                with self._was_counted:  # before dbt starts what is downstream
                    self._uncounted.add(message.node.unique_id)
            self._inbox.put(message)
        elif self._lock is None and message.node not in self._undecided:
            self._process.answer(message)
        else:
            with contextlib.suppress(RuntimeError):  # the pool is shut down, because dbt is being stopped
                self._starters.submit(self._start, message)

    def _patience(self) -> float | None:
        """Return the seconds until the next report has waited long enough; None if no report is waiting for a time."""
        if not self._waiting or self._waits_for_count(self._waiting[0]):
            return None
        return max(0.0, self._waiting[0].finished + PATIENCE - time.monotonic())

    def _waits_for_count(self, report: Report) -> bool:
        unique_id = report.table.unique_id if report.table else ""
        return unique_id in self._complete and unique_id in self._counting and report.answer is None

    def _take(self, message: object) -> None:
        if isinstance(message, LogLine):
            if message.level == "error":
                self._errors.append(message.message)
            self._log(message.level, message.message)
        elif isinstance(message, NodeFinished):
            self._finished(message.node)
        elif isinstance(message, Question):
            self._asked(message)
        elif isinstance(message, _Counted):
            self._counted(message.answers)
        if self._finishing and not self._counting:
            self._process.answer(self._finishing)
            self._finishing = None

    def _finished(self, node: NodeResult) -> None:
        self._nodes[node.unique_id] = node
        table = self._tables.get(node.unique_id)
        self._waiting.append(Report(node, table))
        if table is None:
            return
        # If a partitioned table failed, dbt may still have replaced some of its partitions.
        if node.status in BUILT_STATUS or (node.batches and node.batches.replaced):
            self._start_counting(table)
        else:
            self._release(node.unique_id)

    def _start_counting(self, table: Table) -> None:
        self._counting.add(table.unique_id)
        (self._gate_counter if table.unique_id in self._gating else self._counter).add(table)

    def _count_some(self, tables: Sequence[Table]) -> None:
        try:
            answers = self._count(tables)
        except Exception as error:
            answers = {table.unique_id: f"{type(error).__name__}: {error}" for table in tables}
        with self._was_counted:
            self._uncounted.difference_update(table.unique_id for table in tables)
            self._was_counted.notify_all()
        self._inbox.put(_Counted(answers))

    def _counted(self, answers: Mapping[str, CountResult]) -> None:
        waiting = {report.table.unique_id: report for report in self._waiting if report.table}
        for unique_id, answer in answers.items():
            self._counting.discard(unique_id)
            self._release(unique_id)
            table = self._tables[unique_id]
            node = self._nodes.get(unique_id)
            if node is None or node.status in BUILT_STATUS:
                self._verdicts[unique_id] = self._judge(table, answer)
            if unique_id in waiting:
                waiting[unique_id].answer = answer
            elif unique_id in self._late:
                self._waiting.append(Report(self._late.pop(unique_id).node, table, answer, late=True))
            else:
                self._waiting.append(Report(None, table, answer))
            if question := self._gate_questions.pop(unique_id, None):
                self._answer_gate(question, unique_id)

    def _asked(self, question: Question) -> None:
        if question.kind == FINISHING:
            self._finishing = question
        else:
            unique_id = self._plan.row_count_gates[question.node]
            if unique_id in self._verdicts:
                self._answer_gate(question, unique_id)
                return
            self._gate_questions[unique_id] = question
            if unique_id not in self._counting:
                self._start_counting(self._tables[unique_id])

    def _answer_gate(self, question: Question, unique_id: str) -> None:
        self._process.answer(question, None if self._verdicts[unique_id] else "its row count is wrong")

    def _start(self, question: Question) -> None:
        """Wait in a thread for the lock of a table, and then let dbt build it, if it must be built."""
        table = self._tables[question.node]
        stack = contextlib.ExitStack()
        try:
            if self._is_unchanged(table):
                reason = "its inputs have the same contents as before"
                self._inbox.put(LogLine("info", f"{table.name} is reused: {reason}"))
                self._process.answer(question, UNCHANGED)
                return
            if self._lock:
                stack.enter_context(self._lock(table, lambda text: self._inbox.put(LogLine("warn", text)), self._stop))
        except Exception as error:
            self._process.answer(question, str(error))
            return
        self._held[question.node] = stack
        if self._stop.is_set():
            self._release(question.node)
        self._process.answer(question)

    def _is_unchanged(self, table: Table) -> bool:
        """Wait until the contents of a table's inputs are known, and return whether it need not be built."""
        if self._cut_off is None or table.unique_id not in self._undecided:
            return False
        inputs = {*self._cut_off.inputs(table)}
        with self._was_counted:
            self._was_counted.wait_for(lambda: self._stop.is_set() or inputs.isdisjoint(self._uncounted))
        return not self._stop.is_set() and self._cut_off.is_unchanged(table)

    def _release(self, unique_id: str) -> None:
        if stack := self._held.pop(unique_id, None):
            stack.close()

    def _reports(self) -> Iterator[Report]:
        """Yield the reports that are ready, in order, up to the first one that still waits for its row count."""
        while self._waiting:
            report = self._waiting[0]
            if report.table and report.answer is None and report.table.unique_id in self._counting:
                if self._waits_for_count(report) or time.monotonic() < report.finished + PATIENCE:
                    return
                self._late[report.table.unique_id] = report
            self._waiting.popleft()
            yield report

    def _rest(self, ended: CommandEnded) -> Iterator[Report]:
        """Yield the remaining reports after dbt has ended, including those of tables that were not counted."""
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())
        for counter in (self._gate_counter, self._counter):
            counter.close()
        while not self._inbox.empty():  # the counts that were still running
            self._take(self._inbox.get_nowait())
        lost = dict.fromkeys(self._counting, NOT_COUNTED)
        if lost:
            self._counted(lost)
        self.result = DbtResult(ended.exit_code, self._nodes, (*(self._errors or ended.errors),), (*ended.stray,))
        yield from self._reports()

    def _close(self) -> None:
        self._stop.set()
        with self._was_counted:
            self._was_counted.notify_all()
        for counter in (self._gate_counter, self._counter):
            counter.close(wait=False)
        self._starters.shutdown(wait=False, cancel_futures=True)
        for unique_id in [*self._held]:
            self._release(unique_id)


class _Counting:
    """A thread that counts tables: each time, all tables that were added in the meantime."""

    def __init__(self, count: Callable[[Sequence[Table]], None], gather: float = 0.0) -> None:
        self._count, self._gather, self._closed = count, gather, threading.Event()
        self._tables: queue.SimpleQueue[Table | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, table: Table) -> None:
        """Add a table to the next count."""
        self._tables.put(table)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="row-counts", daemon=True)
            self._thread.start()

    def close(self, *, wait: bool = True) -> None:
        """End the thread after it has counted the tables that were added."""
        self._closed.set()
        self._tables.put(None)
        if wait and self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            added = [self._tables.get()]
            self._closed.wait(self._gather)
            with contextlib.suppress(queue.Empty):
                while True:
                    added.append(self._tables.get_nowait())
            if tables := [table for table in added if table]:
                self._count(tables)
            if None in added:
                return
