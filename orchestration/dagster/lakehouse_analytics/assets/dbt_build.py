"""One dbt build of a run, while it goes on: its log, what it finished, the row counts, and its gates.

dbt works in a process of its own. What it says arrives in a queue, together with row counts and locks that threads of
this process wait for; one thread takes from the queue and yields reports, in the order in which dbt finished.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, Self

from lakehouse_analytics.assets.gates.plan import Plan
from lakehouse_analytics.checks.runner import CountResult
from lakehouse_analytics.dbt import FINISHING, STARTING
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

#: Seconds that the report of a table waits for its row count.
PATIENCE = 1.0


@dataclass
class Report:
    """What a run tells of one node.

    Attributes:
        node: dbt's result; None of a table that is only counted.
        table: The table, unless the node is a test or a function.
        answer: Its row count, or why there is none; None if it is not known yet.
        late: The row count of a table that has been reported without it.
    """

    node: NodeResult | None = None
    table: Table | None = None
    answer: CountResult | None = None
    late: bool = False
    finished: float = field(default_factory=time.monotonic)


class Lock(Protocol):
    """Locks a table against other writers, for as long as the block runs."""

    def __call__(
        self, table: Table, log: Callable[[str], None], stop: threading.Event
    ) -> AbstractContextManager[object]:
        """Wait for the table until `stop` is set; `log` is called with who has it."""


@dataclass(frozen=True)
class _Counted:
    answers: Mapping[str, CountResult]


class DbtOfRun:
    """dbt's process of a run, and its folder for as long as the block runs.

    Attributes:
        folder: For compiled SQL.
    """

    def __init__(self, adapter: str, manifest: str) -> None:
        self._adapter, self._manifest = adapter, manifest
        self._process: DbtProcess | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="dbt-", ignore_cleanup_errors=True)
        self.folder = self._folder.name

    def __enter__(self) -> Self:
        """Start it."""
        self.process()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()
        self._folder.cleanup()

    def process(self) -> DbtProcess:
        """One that can take a build; a new one if the last one died."""
        if self._process and not self._process.is_alive:
            self.stop()
        if self._process is None:
            self._process = start_process(self._adapter, self._manifest)
        return self._process

    def stop(self) -> None:
        """End it, and what it is doing."""
        process, self._process = self._process, None
        if process:
            process.stop()


class DbtBuild:
    """One build.

    Attributes:
        result: What came of it, once it has ended.
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
        gather: float = 0.0,
        threads: int = 4,
    ) -> None:
        """
        Args:
            process: Where dbt is.
            plan: What to build.
            tables: Every table that the plan builds or counts, by unique id.
            count: Counts tables, by unique id. Called in other threads, as long as dbt has its connection.
            judge: Whether what was counted lets the tables below be built. Called once for each table.
            log: Called with the level and the text of each line.
            lock: Holds a table while it is built and counted; None where nothing else can write.
            gather: Seconds in which tables whose count is no gate come together for one statement.
            threads: Tables that dbt builds at once.
        """
        self._process, self._plan, self._tables = process, plan, tables
        self._count, self._judge, self._log, self._lock = count, judge, log, lock
        self._inbox: queue.Queue[object] = queue.Queue()
        self._stop = threading.Event()
        self._waiting: deque[Report] = deque()
        self._late: dict[str, Report] = {}
        self._counting: set[str] = set()
        self._gating = frozenset(plan.row_count_gates.values())
        self._gates_asked: dict[str, Question] = {}
        self._verdicts: dict[str, bool] = {}
        self._finishing: Question | None = None
        self._held: dict[str, contextlib.ExitStack] = {}
        self._nodes: dict[str, NodeResult] = {}
        self._errors: list[str] = []
        self._starters = ThreadPoolExecutor(max(1, threads), thread_name_prefix="table-lock")
        # Other tables wait for gates, so gates never wait for counts that are only reported.
        self._gate_counter, self._counter = _Counting(self._count_some), _Counting(self._count_some, gather)
        self.result = DbtResult(-1, {})

    def run(self, request: Request) -> Iterator[Report]:
        """Build, and yield what there is to report as it happens."""
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
        """A message, in the thread that reads them. A table need not wait until this process has stored its events."""
        if not (isinstance(message, Question) and message.kind == STARTING):
            self._inbox.put(message)
        elif self._lock is None:
            self._process.answer(message)
        else:
            with contextlib.suppress(RuntimeError):  # closed: dbt is being ended
                self._starters.submit(self._start, message, self._lock)

    def _patience(self) -> float | None:
        """Seconds until the next report has waited long enough; None if none waits."""
        return max(0.0, self._waiting[0].finished + PATIENCE - time.monotonic()) if self._waiting else None

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
        # Of a table in windows some may have been replaced.
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
            if asked := self._gates_asked.pop(unique_id, None):
                self._answer_gate(asked, unique_id)

    def _asked(self, asked: Question) -> None:
        if asked.kind == FINISHING:
            self._finishing = asked
        else:
            unique_id = self._plan.row_count_gates[asked.node]
            if unique_id in self._verdicts:
                self._answer_gate(asked, unique_id)
                return
            self._gates_asked[unique_id] = asked
            if unique_id not in self._counting:
                self._start_counting(self._tables[unique_id])

    def _answer_gate(self, asked: Question, unique_id: str) -> None:
        self._process.answer(asked, None if self._verdicts[unique_id] else "its row count is wrong")

    def _start(self, asked: Question, lock: Lock) -> None:
        """Wait for the lock of a table, in a thread."""
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(
                lock(self._tables[asked.node], lambda text: self._inbox.put(LogLine("warn", text)), self._stop)
            )
        except Exception as error:
            self._process.answer(asked, str(error))
            return
        self._held[asked.node] = stack
        if self._stop.is_set():
            self._release(asked.node)
        self._process.answer(asked)

    def _release(self, unique_id: str) -> None:
        if stack := self._held.pop(unique_id, None):
            stack.close()

    def _reports(self) -> Iterator[Report]:
        """The first reports, up to one that still may wait."""
        while self._waiting:
            report = self._waiting[0]
            if report.table and report.answer is None and report.table.unique_id in self._counting:
                if time.monotonic() < report.finished + PATIENCE:
                    return
                self._late[report.table.unique_id] = report
            self._waiting.popleft()
            yield report

    def _rest(self, ended: CommandEnded) -> Iterator[Report]:
        """What is known at the end, and what never will be."""
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())
        for counter in (self._gate_counter, self._counter):
            counter.close()
        while not self._inbox.empty():  # what they were still counting
            self._take(self._inbox.get_nowait())
        lost = dict.fromkeys(self._counting, "dbt ended before it was counted")
        if lost:
            self._counted(lost)
        self.result = DbtResult(ended.exit_code, self._nodes, (*(self._errors or ended.errors),), (*ended.stray,))
        yield from self._reports()

    def _close(self) -> None:
        self._stop.set()
        for counter in (self._gate_counter, self._counter):
            counter.close(wait=False)
        self._starters.shutdown(wait=False, cancel_futures=True)
        for unique_id in [*self._held]:
            self._release(unique_id)


class _Counting:
    """A thread that counts: each time all that has come together meanwhile."""

    def __init__(self, count: Callable[[Sequence[Table]], None], gather: float = 0.0) -> None:
        self._count, self._gather, self._closed = count, gather, threading.Event()
        self._tables: queue.SimpleQueue[Table | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, table: Table) -> None:
        """Count a table soon."""
        self._tables.put(table)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="row-counts", daemon=True)
            self._thread.start()

    def close(self, *, wait: bool = True) -> None:
        """End the thread once it has counted what it has."""
        self._closed.set()
        self._tables.put(None)
        if wait and self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            together = [self._tables.get()]
            self._closed.wait(self._gather)
            with contextlib.suppress(queue.Empty):
                while True:
                    together.append(self._tables.get_nowait())
            if tables := [table for table in together if table]:
                self._count(tables)
            if None in together:
                return
