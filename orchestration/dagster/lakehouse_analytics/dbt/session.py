"""The run's side of its dbt process. See `server`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from typing import Any

from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.dbt.server import TERMINATION_SECONDS
from lakehouse_analytics.dbt.run_results import COMPILED_CODE, NodeResult

#: The level of lines that are not dbt's own.
STRAY = "stray"
#: The level of lines in which dbt repeats, at a build's end, what it has already reported of a node.
REPEATED = "repeated"
#: dbt's events of that kind: https://github.com/dbt-labs/dbt-core/blob/main/core/dbt/task/printer.py
REPEATED_EVENTS = frozenset(
    ("RunResultError", "RunResultErrorNoMessage", "RunResultFailure", "RunResultWarning", "RunResultWarningMessage")
)
#: The process ends without tidying up, and Python's resource tracker, which removes what is left, would say so.
_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"
#: Lines that are not dbt's own and may say why it died.
_LAST_LINES = 20


@dataclass(frozen=True)
class Logged:
    """A line of dbt's log: `level` is dbt's (debug, info, warn, error), `REPEATED` or `STRAY`."""

    level: str
    message: str


@dataclass(frozen=True)
class Finished:
    """dbt is done with a node."""

    node: NodeResult


@dataclass(frozen=True)
class Question:
    """dbt waits for an answer. See `build_task` for the kinds."""

    number: int
    kind: str
    node: str


@dataclass(frozen=True)
class Ended:
    """The end of a build, or of the process: then `alive` is false.

    Attributes:
        exit_code: dbt's, or the process's; negative is a signal.
        errors: What dbt said of its end.
        stray: The last lines that were not dbt's own.
    """

    exit_code: int
    errors: Sequence[str] = ()
    stray: Sequence[str] = ()
    alive: bool = True


Message = Logged | Finished | Question | Ended


@dataclass(frozen=True)
class Request:
    """One command.

    Attributes:
        args: dbt's command line.
        folder: dbt's working directory.
        environment: dbt's whole environment.
        manifest: The path of `partial_parse.msgpack`, if the command need not parse.
        plan: Fields of `build_task.BuildPlan`, if it is to build one.
        hook: Arguments of `dbt_hooks.installed`.
        levels: Of the log lines that are wanted.
    """

    args: Sequence[str]
    folder: str
    environment: Mapping[str, str] = field(repr=False)
    manifest: str | None = None
    plan: Mapping[str, Any] | None = None
    hook: Mapping[str, str] | None = None
    levels: Sequence[str] = ("info", "warn", "error")


def start_server(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start `server` in a new interpreter, with the other end of the run's socket."""
    return subprocess.Popen(
        [sys.executable, "-W", _QUIET, "-m", "lakehouse_analytics.dbt.server", str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[control.fileno()],
        start_new_session=True,  # Ctrl-C reaches dbt once, from us
    )


class DbtProcess:
    """A child process that imports dbt while this process does something else, and runs its commands.

    Attributes:
        alive: Whether it can take a command.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = start_server(theirs)
        self._sending = threading.Lock()
        self._put: Callable[[Message], None] | None = None
        self._rows: dict[int, Future[list[list[Any]]]] = {}
        self._queries = 0
        self._stray: deque[str] = deque(maxlen=_LAST_LINES)
        self._environment: Mapping[str, str] = os.environ
        self._mask: Callable[[str], str] | None = None
        self._output = threading.Thread(target=self._read_output, name="dbt-output", daemon=True)
        self._reader = threading.Thread(target=self._read, name="dbt", daemon=True)
        self.alive = True
        _running.add(self)
        self._output.start()
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def prepare(self, adapter: str, manifest: str | None = None) -> None:
        """Have it import an adapter, and load a manifest, before it is asked to build."""
        self._send({"prepare": {"adapter": adapter, "manifest": manifest}})

    def start(self, request: Request, put: Callable[[Message], None]) -> None:
        """Start a command. `put` gets its messages, in another thread; the last is `Ended`."""
        self._put, self._environment, self._mask = put, request.environment, None
        if not self.alive:
            put(self._end())
            return
        self._send(
            {
                "command": {
                    "args": [*request.args],
                    "cwd": request.folder,
                    "env": {**request.environment},
                    "levels": [*request.levels],
                    "manifest": request.manifest,
                    "plan": None if request.plan is None else {**request.plan},
                    "hook": None if request.hook is None else {**request.hook},
                }
            }
        )

    def answer(self, asked: Question, value: str | None = None) -> None:
        """Answer a question: with nothing to go on, else with the reason why not."""
        self._send({"answer": asked.number, "value": value})

    def fetch_all(self, sql: str) -> list[list[Any]]:
        """Every row of one statement, on dbt's connection, while a build lasts.

        Raises:
            RuntimeError: the statement failed, or dbt has ended; with dbt's message.
        """
        answer: Future[list[list[Any]]] = Future()
        with self._sending:
            self._queries += 1
            number = self._queries
            self._rows[number] = answer
        self._send({"query": number, "sql": sql})
        if not self.alive:
            self._lose_queries()
        return answer.result()

    def stop(self) -> bool:
        """End it. A build that goes on is interrupted, and killed after `TERMINATION_SECONDS`.

        Returns:
            Whether it ended by itself.
        """
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # on which it interrupts its build
        try:
            self._process.wait(TERMINATION_SECONDS)
            ended = True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            ended = False
        _running.discard(self)
        self._reader.join()
        self._output.join(1.0)  # a process of dbt's own may have its output still
        self._control.close()
        return ended

    def kill(self) -> None:
        """Kill it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):  # it is gone: the reader says so
            self._control.sendall(data)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._control.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._take(json.loads(line))
        self.alive = False
        self._lose_queries()
        if self._put:
            self._put(self._end())

    def _take(self, message: dict[str, Any]) -> None:
        if "rows" in message:
            if waiting := self._rows.pop(message["rows"], None):
                if "error" in message:
                    waiting.set_exception(RuntimeError(message["error"]))
                else:
                    waiting.set_result(message["values"])
        elif self._put is None:
            return
        elif "log" in message:
            level = REPEATED if message["name"] in REPEATED_EVENTS else message["level"]
            self._put(Logged(level, COMPILED_CODE.sub("", message["log"])))
        elif "finished" in message:
            reasons = {int(number): reason for number, reason in message["reasons"].items()}
            self._put(Finished(NodeResult.read(message["finished"], reasons)))
        elif "ask" in message:
            self._put(Question(message["ask"], message["kind"], message["node"]))
        elif "ended" in message:
            put, self._put = self._put, None
            put(Ended(message["ended"], message["errors"], [*self._stray]))

    def _end(self) -> Ended:
        """What is left to say of a process that is gone."""
        self._put = None
        exit_code = self._process.wait()
        self._output.join(1.0)
        return Ended(exit_code or -1, (), [*self._stray], alive=False)

    def _lose_queries(self) -> None:
        for number in [*self._rows]:
            if waiting := self._rows.pop(number, None):
                waiting.set_exception(RuntimeError("dbt has ended before it answered"))

    def _read_output(self) -> None:
        """What is not dbt's own: Python, libraries, and models in Python that print."""
        if self._process.stdout is None:
            return
        for line in iter(self._process.stdout.readline, b""):
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            self._mask = self._mask or Redactor(secret_values(self._environment))
            text = self._mask(text)  # dbt's own lines are masked in `server`
            self._stray.append(text)
            if put := self._put:
                put(Logged(STRAY, text))
            else:
                os.write(1, f"{text}\n".encode())


_running: weakref.WeakSet[DbtProcess] = weakref.WeakSet()


def _stop_all() -> None:
    for process in [*_running]:
        process.stop()


# An interrupt that Dagster raises between two events reaches no code of ours. Unlike `atexit`, this runs at the end of a
# run that the code server has started, too.
Finalize(None, _stop_all, exitpriority=0)

_early: queue.SimpleQueue[DbtProcess] = queue.SimpleQueue()


def start_early() -> None:
    """Start a process before it is known what it builds. `start_process` takes it."""
    process = DbtProcess()
    process.prepare("")
    _early.put(process)


def start_process(adapter: str, manifest: str | None = None) -> DbtProcess:
    """A dbt process: the one that was started early, where there is one.

    Args:
        adapter: The adapter's name, such as `duckdb`.
        manifest: The manifest to load, if it is known.
    """
    try:
        process = _early.get_nowait()
    except queue.Empty:
        process = DbtProcess()
    process.prepare(adapter, manifest)
    return process
