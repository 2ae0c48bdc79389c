"""A process that has imported dbt and runs commands: one for a run, one for `lakehouse manifest`.

A process of its own, so that a dbt that is killed is a failed step and not a dead run. It speaks over a socket, so that
nothing that dbt or its libraries print can be taken for an answer: lines of JSON in both directions, each an object
whose first key says what it is.

From the run: `prepare` (the adapter to import and the manifest to load), `command` (arguments, environment, and for a
build its plan), `answer` to a question, and `query` (a statement for dbt's own connection). To the run: `log`,
`finished` (dbt's result of a node), `ask` (a question), `rows`, and `ended`.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lakehouse_analytics.dbt.batches import Reasons
from lakehouse_analytics.dbt.secrets_in_text import SecretsInText

#: Seconds between SIGINT, on which dbt cancels its queries, and SIGKILL. Pods need a longer grace period.
TERMINATION_SECONDS = 25.0
#: Seconds between two cancellations of what a build that was interrupted still asks.
CANCEL_SECONDS = 1.0
#: Statements of the run that this process runs at once: gates, and counts that are only reported.
QUERIES = 2
#: Exit codes of dbt (https://docs.getdbt.com/reference/exit-codes).
FINE, FAILED, CRASHED = 0, 1, 2

#: It names a file of a temporary folder, which is gone when the run ends.
_COMPILED_PATH = "SQLCompiledPath"


class ManifestError(Exception):
    """dbt has nothing to build from."""


class StoppingError(Exception):
    """The run does not answer any more."""


class Server:
    """The child's side of the socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = control.makefile("r", encoding="utf-8")
        self._sending = threading.Lock()
        self._work: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._asked = 0
        self._stopping = threading.Event()
        self._building = False
        self._manifests: dict[str, Any] = {}
        self._queries = ThreadPoolExecutor(QUERIES, thread_name_prefix="row-counts")
        self._adapter: Any = None
        self._context = contextvars.copy_context()
        self._reported: set[str] = set()
        self._reasons = Reasons()
        self._mask = SecretsInText()

    def serve(self) -> None:
        """Build until the run closes the socket."""
        signal.signal(signal.SIGINT, self._interrupted)
        threading.Thread(target=self._read, name="run", daemon=True).start()
        while work := self._work.get():
            if "prepare" in work:
                self._prepare(**work["prepare"])
            else:
                self._command(**work["command"])
        # Threads of libraries must not keep a process alive that has no reader.
        sys.stdout.flush()
        os._exit(0)

    def _interrupted(self, _number: int, _frame: object) -> None:
        if self._building and not self._stopping.is_set():
            self._stopping.set()
            self._release()
            threading.Thread(target=self._cancel, name="cancel", daemon=True).start()
            raise KeyboardInterrupt

    def _cancel(self) -> None:
        """Cancel queries until the build has ended: dbt does it once, and a thread may send its next one after that."""
        while self._building:
            time.sleep(CANCEL_SECONDS)
            if adapter := self._adapter:
                with contextlib.suppress(Exception):  # a connection that is opened or closed just now: next time
                    adapter.cancel_open_connections()

    def _release(self) -> None:
        """Let go of threads that wait for an answer, which dbt would wait for."""
        for waiting in [*self._answers.values()]:
            waiting.put(StoppingError())

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._lines:
                message = json.loads(line)
                if "answer" in message:
                    if waiting := self._answers.get(message["answer"]):
                        waiting.put(message.get("value"))
                elif "query" in message:
                    self._queries.submit(self._query, message["query"], message["sql"])
                else:
                    self._work.put(message)
        # The run is gone: its dbt must not hold the database.
        self._work.put(None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(TERMINATION_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending, contextlib.suppress(OSError):  # the run is gone; the reader ends this process
            self._control.sendall(json.dumps(message, default=str).encode() + b"\n")

    def _prepare(self, adapter: str, manifest: str | None = None) -> None:
        importlib.import_module("dbt.cli.main")
        if adapter:
            importlib.import_module(f"dbt.adapters.{adapter}")
        importlib.import_module("lakehouse_analytics.dbt.build_task")
        if manifest:
            with contextlib.suppress(ManifestError):  # the build says what is wrong
                self._manifests[manifest] = _load(manifest)

    def _command(self, args: list[str], cwd: str, env: dict[str, str], **how: Any) -> None:
        """Run a command, and tell how it ended."""
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        self._mask.forget()
        sys.argv = ["dbt", *args]
        try:
            self._building = True
            exit_code, errors = self._run_dbt(args, **how)
        except KeyboardInterrupt:
            exit_code, errors = CRASHED, ["it was interrupted"]
        except ManifestError as error:
            exit_code, errors = CRASHED, [str(error)]
        except Exception as error:
            exit_code, errors = CRASHED, [f"{type(error).__name__}: {error}"]
        finally:
            self._building = False
        self._adapter = None
        self._send({"ended": exit_code, "errors": [*map(self._mask, errors)]})

    def _run_dbt(
        self,
        args: list[str],
        levels: list[str],
        manifest: str | None,
        plan: dict[str, Any] | None,
        hook: dict[str, str] | None,
    ) -> tuple[int, list[str]]:
        from dbt.cli.main import dbtRunner

        from lakehouse_analytics.dbt import hooks as dbt_hooks
        from lakehouse_analytics.dbt import build_task

        self._reported, self._reasons = set(), Reasons()
        if plan is not None:
            build_task.install(build_task.BuildPlan(**plan), _Asking(self))
        parsed = (self._manifests.pop(manifest, None) or _load(manifest)) if manifest else None
        if manifest and plan is None:
            self._manifests[manifest] = parsed  # a build changes the manifest that it is given; other commands do not
        with dbt_hooks.installed(hook or {}) as reason:
            if reason == dbt_hooks.NOTHING_TO_DO:
                return FINE, []
            if reason:
                self._send({"log": self._mask(reason), "level": "info", "name": ""})
            result = dbtRunner(parsed, [lambda event: self._logged(event, frozenset(levels))]).invoke(args)
        if plan is None:
            _close_databases()  # a run keeps its own, which may be in memory, for another try
        for node in getattr(result.result, "results", None) or ():
            if node and node.node.unique_id not in self._reported:
                self.finished(node)  # hooks, and what dbt gave up
        errors = [str(result.exception)] if result.exception else []
        return FINE if result.success else CRASHED if result.exception else FAILED, errors

    def begun(self, adapter: Any) -> None:
        """See `build_task.Run`. dbt's adapters look up the invocation in the context of their thread."""
        self._context, self._adapter = contextvars.copy_context(), adapter

    def finished(self, result: Any) -> None:
        """Tell the run of a node's result."""
        self._reported.add(result.node.unique_id)
        reasons = {number: self._mask(reason) for number, reason in self._reasons.of(result.node.unique_id).items()}
        self._send({"finished": _report_of(result, self._mask), "reasons": reasons})

    def ask(self, kind: str, node: str) -> Any:
        """See `build_task.Run`.

        Raises:
            StoppingError: the run is gone, or dbt has been interrupted.
        """
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._sending:
            self._asked += 1
            number = self._asked
            self._answers[number] = answer
        self._send({"ask": number, "kind": kind, "node": node})
        if self._stopping.is_set():
            answer.put(StoppingError())
        value = answer.get()
        del self._answers[number]
        if isinstance(value, StoppingError):
            raise value
        return value

    def _query(self, number: int, sql: str) -> None:
        answer: dict[str, Any]
        try:
            answer = {"values": self._context.copy().run(self._fetch_all, number, sql)}
        except Exception as error:
            answer = {"error": self._mask(str(error))}
        self._send({"rows": number, **answer})

    def _fetch_all(self, number: int, sql: str) -> list[list[Any]]:
        if self._adapter is None:
            raise RuntimeError("dbt has closed its connection")
        with self._adapter.connection_named(f"row_counts_{number}"):
            _, table = self._adapter.execute(sql, auto_begin=False, fetch=True)
            return [[*row] for row in table.rows]

    def _logged(self, event: Any, levels: frozenset[str]) -> None:
        """Pass on an event of dbt."""
        info = event.info
        name = str(info.name)
        self._reasons.note(name, str(info.thread), event.data)
        if info.level in levels and name != _COMPILED_PATH and (message := str(info.msg)):
            self._send({"log": self._mask(message), "level": str(info.level), "name": name})


class _Asking:
    """What a build sees of the server."""

    def __init__(self, server: Server) -> None:
        self.finished: Callable[[Any], None] = server.finished
        self.ask: Callable[[str, str], Any] = server.ask
        self.begun: Callable[[Any], None] = server.begun


def _load(path: str) -> Any:
    from dbt.contracts.graph.manifest import Manifest

    way_out = "run `lakehouse manifest`"
    try:
        manifest: Any = Manifest.from_msgpack(Path(path).read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist: {way_out}") from None
    except Exception as error:
        raise ManifestError(f"{path} cannot be read: {way_out} ({error})") from None
    manifest.build_flat_graph()  # for macros that read `graph`
    return manifest


def _close_databases() -> None:
    """dbt-duckdb keeps a database open, and so locked, after a command."""
    from dbt.adapters.factory import FACTORY

    for adapter in FACTORY.adapters.values():
        manager: Any = adapter.connections
        if close := getattr(manager, "close_all_connections", None):
            close()


def _report_of(result: Any, mask: Callable[[str], str]) -> dict[str, Any]:
    # Of `source freshness` a result has no batches.
    node, batches = result.node, getattr(result, "batch_results", None)
    status = str(result.status)
    report = {
        "unique_id": node.unique_id,
        "status": status,
        "message": result.message and mask(result.message),
        "execution_time": result.execution_time,
        "failures": result.failures,
        "adapter_response": {"query_id": (result.adapter_response or {}).get("query_id")},
    }
    if str(node.resource_type) == "test" and status != "pass":
        code = getattr(node, "compiled_code", None)
        report["compiled_code"] = code and mask(code)
    if batches:
        report["batch_results"] = {
            kind: [[start.isoformat(), end.isoformat()] for start, end in getattr(batches, kind)]
            for kind in ("successful", "failed")
        }
    return report


def _show_warnings_only() -> None:
    """Keep Python's default for libraries' logs: from WARNING on, on stderr.

    One of dbt's dependencies calls `logging.basicConfig()` when it is imported, which shows every level; the Trino
    client then says twice in each run that the module keyring is missing, which only OAuth2 log-ins use.
    """
    if logging.lastResort:
        logging.basicConfig(handlers=[logging.lastResort])


def main() -> None:
    """Serve the run at the other end of the socket whose descriptor is the first argument."""
    # SIGINT is for dbt, which cancels its queries.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _show_warnings_only()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        Server(control).serve()


if __name__ == "__main__":
    main()
