"""The process that has imported dbt and runs its commands: one per run, and one for `lakehouse manifest`.

It is a separate process, so that a killed dbt is a failed step and not a dead run. It communicates over a socket, so
that output of dbt or its libraries cannot be mistaken for a message. Messages are lines of JSON in both directions,
each an object whose first key is its type.

From the run: `prepare` (the adapter to import and the manifest to load), `command` (the arguments, the environment, and
for a build its plan), `answer` to a question, and `query` (a statement for dbt's own connection). To the run: `log`,
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

from lakehouse_analytics.dbt import UNCHANGED
from lakehouse_analytics.dbt.batches import BatchErrors
from lakehouse_analytics.dbt.secrets_in_text import SecretsInText

#: Seconds between SIGINT, upon which dbt cancels its queries, and SIGKILL. Pods need a longer grace period.
TERMINATION_SECONDS = 25.0
#: Seconds between two attempts to interrupt a build.
INTERRUPT_SECONDS = 0.5
#: Seconds between two attempts to cancel the queries of an interrupted build.
CANCEL_SECONDS = 1.0
#: Maximum number of concurrent statements of the run: gates, and counts that are only reported.
QUERIES = 2
#: dbt's exit codes (https://docs.getdbt.com/reference/exit-codes).
FINE, FAILED, CRASHED = 0, 1, 2

#: Kinds of nodes whose SQL the run analyzes after they are built.
_WITH_LINEAGE = ("model", "snapshot")

#: dbt's event that names a file in the temporary folder, which is deleted at the end of the run.
_COMPILED_PATH = "SQLCompiledPath"


class ManifestError(Exception):
    """The parsed project is missing or cannot be read."""


class StoppingError(Exception):
    """The run does not answer questions anymore."""


class Server:
    """The child's end of the socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = control.makefile("r", encoding="utf-8")
        self._sending = threading.Lock()
        self._work: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Any]] = {}
        self._question_count = 0
        self._stopping = threading.Event()
        self._building = False
        self._manifests: dict[str, Any] = {}
        self._queries = ThreadPoolExecutor(QUERIES, thread_name_prefix="row-counts")
        self._adapter: Any = None
        self._context = contextvars.copy_context()
        self._reported: set[str] = set()
        self._reasons = BatchErrors()
        self._mask = SecretsInText()

    def serve(self) -> None:
        """Run commands until the run closes the socket."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        threading.Thread(target=self._read, name="run", daemon=True).start()
        while work := self._work.get():
            if "prepare" in work:
                self._prepare(**work["prepare"])
            else:
                self._run_command(**work["command"])
        # Skips the threads of libraries, which would keep the process alive although no one reads its messages.
        sys.stdout.flush()
        os._exit(0)

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        if self._building and not self._stopping.is_set():
            self._stopping.set()
            self._release_waiting()
            threading.Thread(target=self._cancel, name="cancel", daemon=True).start()
            raise KeyboardInterrupt

    def _cancel(self) -> None:
        """Cancel queries until the build has ended.

        dbt cancels them only once, and a thread may start its next query after that.
        """
        while self._building:
            time.sleep(CANCEL_SECONDS)
            if adapter := self._adapter:
                with contextlib.suppress(Exception):  # a connection may be opening or closing: try again
                    adapter.cancel_open_connections()

    def _release_waiting(self) -> None:
        """Release the threads that wait for an answer, because dbt would wait for them."""
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
        # The run has ended, so dbt must not keep the database locked.
        self._work.put(None)
        # A signal that arrives at the moment when the main thread begins to wait for a lock does not wake it.
        end = time.monotonic() + TERMINATION_SECONDS
        while time.monotonic() < end:
            if not self._stopping.is_set():
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(INTERRUPT_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending, contextlib.suppress(OSError):  # the run has ended, and the reader ends this process
            self._control.sendall(json.dumps(message, default=str).encode() + b"\n")

    def _prepare(self, adapter: str, manifest: str | None = None) -> None:
        importlib.import_module("dbt.cli.main")
        if adapter:
            importlib.import_module(f"dbt.adapters.{adapter}")
        importlib.import_module("lakehouse_analytics.dbt.build_task")
        if manifest:
            with contextlib.suppress(ManifestError):  # the build reports the error
                self._manifests[manifest] = _load(manifest)

    def _run_command(self, args: list[str], cwd: str, env: dict[str, str], **how: Any) -> None:
        """Run a command, and send how it ended."""
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        self._mask.reset()
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

        from lakehouse_analytics.dbt import build_task
        from lakehouse_analytics.dbt import hooks as dbt_hooks

        self._reported, self._reasons = set(), BatchErrors()
        if plan is not None:
            build_task.install_plan(build_task.BuildPlan(**plan), _BuildCallbacks(self))
        parsed = (self._manifests.pop(manifest, None) or _load(manifest)) if manifest else None
        if parsed and plan is not None:
            build_task.move_nodes(parsed, plan.get("schemas", {}))
        if manifest and plan is None:
            self._manifests[manifest] = parsed  # unlike a build, other commands do not modify it
        with dbt_hooks.install_hook(hook or {}) as reason:
            if reason == dbt_hooks.NOTHING_TO_DO:
                return FINE, []
            if reason:
                self._send({"log": self._mask(reason), "level": "info", "name": ""})
            result = dbtRunner(parsed, [lambda event: self._on_event(event, frozenset(levels))]).invoke(args)
        if plan is None:
            _close_databases()  # a build keeps them for a retry, because a database may be in memory
        for node in getattr(result.result, "results", None) or ():
            if node and node.node.unique_id not in self._reported:
                self.on_result(node)  # hooks, and nodes that dbt did not run
        errors = [str(result.exception)] if result.exception else []
        return FINE if result.success else CRASHED if result.exception else FAILED, errors

    def on_start(self, adapter: Any) -> None:
        """Handle the start of the build. dbt's adapters look up the invocation in the context of their thread."""
        self._context, self._adapter = contextvars.copy_context(), adapter

    def on_result(self, result: Any) -> None:
        """Send dbt's result of a node."""
        self._reported.add(result.node.unique_id)
        reasons = {
            number: self._mask(reason) for number, reason in self._reasons.for_model(result.node.unique_id).items()
        }
        self._send({"finished": _report_of(result, self._mask), "reasons": reasons})

    def ask(self, kind: str, node: str) -> Any:
        """Ask the run a question and wait for the answer. See `build_task.Run.ask`.

        Raises:
            StoppingError: The run has ended, or dbt has been interrupted.
        """
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._sending:
            self._question_count += 1
            number = self._question_count
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

    def _on_event(self, event: Any, levels: frozenset[str]) -> None:
        """Process an event of dbt, and send its message if the run wants its level."""
        info = event.info
        name = str(info.name)
        self._reasons.record(name, str(info.thread), event.data)
        if info.level in levels and name != _COMPILED_PATH and (message := str(info.msg)):
            self._send({"log": self._mask(message), "level": str(info.level), "name": name})


class _BuildCallbacks:
    """The methods of the server that a build uses."""

    def __init__(self, server: Server) -> None:
        self.on_result: Callable[[Any], None] = server.on_result
        self.ask: Callable[[str, str], Any] = server.ask
        self.on_start: Callable[[Any], None] = server.on_start


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
    """Close dbt-duckdb's database, which would otherwise stay open and locked after a command."""
    from dbt.adapters.factory import FACTORY

    for adapter in FACTORY.adapters.values():
        manager: Any = adapter.connections
        if close := getattr(manager, "close_all_connections", None):
            close()


def _report_of(result: Any, mask: Callable[[str], str]) -> dict[str, Any]:
    # Results of `dbt source freshness` have no batches.
    node, batches = result.node, getattr(result, "batch_results", None)
    status = str(result.status)
    report = {
        "unique_id": node.unique_id,
        "status": status,
        "message": result.message and mask(result.message),
        "execution_time": result.execution_time,
        "failures": result.failures,
        "adapter_response": {key: (result.adapter_response or {}).get(key) for key in ("query_id", UNCHANGED)},
    }
    kind = str(node.resource_type)
    if (kind == "test" and status != "pass") or (kind in _WITH_LINEAGE and status == "success"):
        code = getattr(node, "compiled_code", None)
        report["compiled_code"] = code and mask(code)
    if batches:
        report["batch_results"] = {
            kind: [[start.isoformat(), end.isoformat()] for start, end in getattr(batches, kind)]
            for kind in ("successful", "failed")
        }
    return report


def _show_warnings_only() -> None:
    """Restore Python's default for the logs of libraries: warnings and errors to stderr.

    One of dbt's dependencies calls `logging.basicConfig()` when it is imported, which enables every level. The Trino
    client then logs twice per run that the module keyring is missing, which only OAuth2 logins use.
    """
    if logging.lastResort:
        logging.basicConfig(handlers=[logging.lastResort])


def main() -> None:
    """Serve the run at the other end of the socket whose file descriptor is the first argument."""
    # Ignored until `serve` handles it: SIGINT is meant for dbt, which cancels its queries.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _show_warnings_only()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        Server(control).serve()


if __name__ == "__main__":
    main()
