"""dbt's processes, forked from one that has imported dbt.

The suite starts hundreds; importing dbt again for each of them is a third of its time. What starts them for users, a
new interpreter, is tested in `test_dbt_process`, and wherever a test runs a command or the daemon.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    modules = ("dbt.cli.main", "dbt.adapters.duckdb", "dbt.adapters.trino", "lakehouse_analytics.dbt.build_task")
    context.set_forkserver_preload([*modules, "lakehouse_analytics.dbt.server"])
    return context


def _serve(control: socket.socket, output: Connection) -> None:
    from lakehouse_analytics.dbt import server

    os.setsid()
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    tempfile.tempdir = None  # dbt's import may have looked it up
    sys.argv = ["server", str(control.detach())]
    server.main()


class ForkedServer:
    """What `dbt.session` uses of a `subprocess.Popen`."""

    def __init__(self, control: socket.socket) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        with theirs:
            self._process = _context().Process(target=_serve, args=(control, theirs))
            self._process.start()
        self.stdout = os.fdopen(os.dup(ours.fileno()), "rb")
        ours.close()
        self.pid = self._process.pid or 0
        self._waiting = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        with self._waiting:  # `multiprocessing` knows the exit code once
            self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("dbt", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)
