"""A process that has imported dbt, and forks a fresh dbt for every command it is sent.

dbt spends 3 to 4 CPU seconds importing itself; a build starts it once a stage. Here the import happens once
a run. Every command still is a process of its own: own memory, own connections, gone when it ends.

Speaks over a socket, so that nothing dbt or its libraries print can be taken for an answer. In: one byte that
carries the file to print to, then a line of JSON `{args, cwd, env}`. Out, as lines: the command's process id
once it listens to SIGINT, and its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from typing import Any


def main() -> None:
    """Serve commands until the other end of the socket, whose descriptor is the first argument, is closed."""
    # SIGINT is for the forked dbt, which cancels its queries; this process ends with its socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, adapter = sys.argv[1:]
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
            _, status = os.waitpid(child, 0)
            control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


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

    from dbt.cli.main import cli

    cli()  # ends this process, as dbt's own script does


if __name__ == "__main__":
    main()
