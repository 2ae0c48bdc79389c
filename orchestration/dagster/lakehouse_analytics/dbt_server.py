"""A process that has imported dbt, and forks a fresh dbt for every command it is sent.

dbt spends 3 to 4 CPU seconds importing itself; a build starts it once a stage. Here the import happens once
a run. Every command still is a process of its own: own memory, own connections, gone when it ends.

Speaks over a socket, so that nothing dbt or its libraries print can be taken for an answer. In: one byte that
carries the file to print to, then a line of JSON `{args, cwd, env}`, with `hook` where `dbt_hooks` has one for the
command. Out, as lines: the command's process id
once it listens to SIGINT, and its exit code.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from typing import Any

#: Seconds between SIGINT, on which dbt cancels its queries, and SIGKILL. Pods need a longer grace period.
TERMINATION_SECONDS = 25.0
POLL_SECONDS = 0.05


def main() -> None:
    """Serve commands until the other end of the socket, whose descriptor is the first argument, is closed."""
    # SIGINT is for the forked dbt, which cancels its queries; this process ends with its socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, adapter = sys.argv[1:]
    _show_warnings_only()
    importlib.import_module("dbt.cli.main")
    if adapter:
        importlib.import_module(f"dbt.adapters.{adapter}")
    with socket.socket(fileno=int(descriptor)) as control, control.makefile("r") as lines:
        while (received := socket.recv_fds(control, 1, 1))[0]:
            command, output = json.loads(lines.readline()), received[1][0]
            child = os.fork()
            if child == 0:
                _become_dbt(command, output, control)
            os.close(output)
            control.sendall(f"{_wait(child, control)}\n".encode())


def _show_warnings_only() -> None:
    """Keep Python's default for libraries' logs: from WARNING on, on stderr.

    One of dbt's dependencies calls `logging.basicConfig()` when it is imported, which shows every level; the Trino
    client then says twice in each run that the module keyring is missing, which only OAuth2 log-ins use.
    """
    if logging.lastResort:
        logging.basicConfig(handlers=[logging.lastResort])


def _wait(child: int, control: socket.socket) -> int:
    """Wait for the command; stop it when whoever sent it is gone, so that it does not hold the database."""
    stopping: float | None = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        # Readable while a command runs: the other end is closed.
        gone = bool(select.select([control], [], [], POLL_SECONDS)[0])
        if gone and stopping is None:
            stopping = time.monotonic()
            os.kill(child, signal.SIGINT)
        elif stopping is not None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - stopping > TERMINATION_SECONDS:
                os.kill(child, signal.SIGKILL)


def _become_dbt(command: dict[str, Any], output: int, control: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    control.sendall(f"{os.getpid()}\n".encode())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = ["dbt", *command["args"]]

    if command.get("hook"):
        from lakehouse_analytics import dbt_hooks

        dbt_hooks.install(**command["hook"])

    from dbt.cli.main import cli

    cli()  # ends this process, as dbt's own script does


if __name__ == "__main__":
    main()
