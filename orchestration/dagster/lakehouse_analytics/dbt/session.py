"""The run's end of the socket to dbt's process. See `server`."""

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
from lakehouse_analytics.dbt.run_results import COMPILED_CODE, NodeResult
from lakehouse_analytics.dbt.server import TERMINATION_SECONDS

#: Level of lines that dbt did not log.
STRAY = "stray"
#: Level of lines with which dbt repeats results of nodes at the end of a build.
REPEATED = "repeated"
#: dbt's events that do so: https://github.com/dbt-labs/dbt-core/blob/main/core/dbt/task/printer.py
REPEATED_EVENTS = frozenset(
    ("RunResultError", "RunResultErrorNoMessage", "RunResultFailure", "RunResultWarning", "RunResultWarningMessage")
)
#: The process ends without releasing its resources. Python's resource tracker releases them, and would log a warning.
_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"
#: Number of lines kept of the output that dbt did not log, which may contain the reason for a crash.
_LAST_LINES = 20


@dataclass(frozen=True)
class LogLine:
    """A line of dbt's log.

    Attributes:
        level: One of dbt's levels (debug, info, warn, error), `REPEATED` or `STRAY`.
        message: The text.
    """

    level: str
    message: str


@dataclass(frozen=True)
class NodeFinished:
    """The result of a node."""

    node: NodeResult


@dataclass(frozen=True)
class Question:
    """A question for which dbt waits for the answer.

    Attributes:
        number: The number of the question.
        kind: `STARTING`, `GATE` or `FINISHING`. See `build_task`.
        node: The unique id of the node or gate.
    """

    number: int
    kind: str
    node: str


@dataclass(frozen=True)
class CommandEnded:
    """The end of a command, or of the process.

    Attributes:
        exit_code: dbt's exit code, or that of the process. A negative one is the number of a signal.
        errors: dbt's errors.
        stray: The last lines of output that dbt did not log.
        is_alive: Whether the process is still running.
    """

    exit_code: int
    errors: Sequence[str] = ()
    stray: Sequence[str] = ()
    is_alive: bool = True


Message = LogLine | NodeFinished | Question | CommandEnded


@dataclass(frozen=True)
class Request:
    """A dbt command.

    Attributes:
        args: dbt's command-line arguments.
        folder: dbt's working directory.
        environment: dbt's complete environment.
        manifest: The path of `partial_parse.msgpack`, unless the command parses the project.
        plan: The fields of `build_task.BuildPlan`, if the command builds one.
        hook: Options of `hooks.install_hook`.
        levels: The levels of the log lines to send.
    """

    args: Sequence[str]
    folder: str
    environment: Mapping[str, str] = field(repr=False)
    manifest: str | None = None
    plan: Mapping[str, Any] | None = None
    hook: Mapping[str, str] | None = None
    levels: Sequence[str] = ("info", "warn", "error")


def start_server(control: socket.socket) -> subprocess.Popen[bytes]:
    """Start `server` in a new interpreter.

    Args:
        control: The child's end of the socket.
    """
    return subprocess.Popen(
        [sys.executable, "-W", _QUIET, "-m", "lakehouse_analytics.dbt.server", str(control.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[control.fileno()],
        start_new_session=True,  # otherwise, Ctrl-C would interrupt dbt twice
    )


class DbtProcess:
    """A child process that imports dbt in the background and runs its commands.

    Attributes:
        is_alive: Whether the process can run a command.
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
        self.is_alive = True
        _running.add(self)
        self._output.start()
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    def prepare(self, adapter: str, manifest: str | None = None) -> None:
        """Import an adapter and load a manifest in the background, before the first command."""
        self._send({"prepare": {"adapter": adapter, "manifest": manifest}})

    def start(self, request: Request, put: Callable[[Message], None]) -> None:
        """Start a command.

        Args:
            request: The command.
            put: Called with each message of the command, in another thread. The last one is `CommandEnded`.
        """
        self._put, self._environment, self._mask = put, request.environment, None
        if not self.is_alive:
            put(self._process_ended())
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

    def answer(self, question: Question, value: str | None = None) -> None:
        """Answer a question.

        Args:
            question: The question.
            value: The reason why the node must not be built or the gate failed, or None; `UNCHANGED` if it need not be
                built.
        """
        self._send({"answer": question.number, "value": value})

    def fetch_all(self, sql: str) -> list[list[Any]]:
        """Run one statement on dbt's connection during a build, and return all of its rows.

        Raises:
            RuntimeError: The statement failed, or dbt has ended. The message contains dbt's error.
        """
        answer: Future[list[list[Any]]] = Future()
        with self._sending:
            self._queries += 1
            number = self._queries
            self._rows[number] = answer
        self._send({"query": number, "sql": sql})
        if not self.is_alive:
            self._fail_queries()
        return answer.result()

    def stop(self) -> bool:
        """Stop the process. A running command is interrupted, and killed after `TERMINATION_SECONDS`.

        Returns:
            Whether the process ended without being killed.
        """
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # upon which it interrupts its command
        try:
            self._process.wait(TERMINATION_SECONDS)
            ended = True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            ended = False
        _running.discard(self)
        self._reader.join()
        self._output.join(1.0)  # a child process of dbt may keep its output open
        self._control.close()
        return ended

    def kill(self) -> None:
        """Kill the process immediately."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):  # the process has ended, which the reader reports
            self._control.sendall(data)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._control.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._handle(json.loads(line))
        self.is_alive = False
        self._fail_queries()
        if self._put:
            self._put(self._process_ended())

    def _handle(self, message: dict[str, Any]) -> None:
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
            self._put(LogLine(level, COMPILED_CODE.sub("", message["log"])))
        elif "finished" in message:
            reasons = {int(number): reason for number, reason in message["reasons"].items()}
            self._put(NodeFinished(NodeResult.read(message["finished"], reasons)))
        elif "ask" in message:
            self._put(Question(message["ask"], message["kind"], message["node"]))
        elif "ended" in message:
            put, self._put = self._put, None
            put(CommandEnded(message["ended"], message["errors"], [*self._stray]))

    def _process_ended(self) -> CommandEnded:
        """Return the last message of a process that has ended."""
        self._put = None
        exit_code = self._process.wait()
        self._output.join(1.0)
        return CommandEnded(exit_code or -1, (), [*self._stray], is_alive=False)

    def _fail_queries(self) -> None:
        for number in [*self._rows]:
            if waiting := self._rows.pop(number, None):
                waiting.set_exception(RuntimeError("dbt has ended before it answered"))

    def _read_output(self) -> None:
        """Log the output that is not dbt's own: of Python, of libraries, and of Python models."""
        if self._process.stdout is None:
            return
        for line in iter(self._process.stdout.readline, b""):
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            self._mask = self._mask or Redactor(secret_values(self._environment))
            text = self._mask(text)  # `server` masks dbt's own lines
            self._stray.append(text)
            if put := self._put:
                put(LogLine(STRAY, text))
            else:
                os.write(1, f"{text}\n".encode())


_running: weakref.WeakSet[DbtProcess] = weakref.WeakSet()


def _stop_all() -> None:
    for process in [*_running]:
        process.stop()


# If Dagster raises an interrupt between two events, none of our code is on the stack to stop the process. Unlike
# `atexit`, this also runs at the end of a run that the code server has started.
Finalize(None, _stop_all, exitpriority=0)

_early: queue.SimpleQueue[DbtProcess] = queue.SimpleQueue()


def start_early() -> None:
    """Start a process before it is known what it will build. The next call of `start_process` returns it."""
    process = DbtProcess()
    process.prepare("")
    _early.put(process)


def start_process(adapter: str, manifest: str | None = None) -> DbtProcess:
    """Return a dbt process: the one that was started early, if there is one, otherwise a new one.

    Args:
        adapter: The name of the adapter, such as `duckdb`.
        manifest: The path of the manifest to load, if it is known.
    """
    try:
        process = _early.get_nowait()
    except queue.Empty:
        process = DbtProcess()
    process.prepare(adapter, manifest)
    return process
