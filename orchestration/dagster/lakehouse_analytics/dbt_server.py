"""A process that has imported dbt, and forks a fresh dbt for every command it reads.

dbt spends 3 to 4 CPU seconds importing itself; a build starts it once a stage. Here the import happens once
a run. Every command still is a process of its own: own memory, own connections, gone when it ends.

Speaks lines on standard input (a JSON object `{args, cwd, env}`) and output (`{"dbt_server_started": pid}`, dbt's
log as it comes, then `{"dbt_server_exit": code}`).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any, NoReturn

STARTED = "dbt_server_started"
EXIT = "dbt_server_exit"


def main() -> None:
    """Serve commands until standard input ends."""
    # SIGINT is for the forked dbt, which cancels its queries; this process ends with its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module("dbt.cli.main")
    adapter = sys.argv[1]
    if adapter:
        importlib.import_module(f"dbt.adapters.{adapter}")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        _say(STARTED, child)
        _, status = os.waitpid(child, 0)
        _say(EXIT, os.waitstatus_to_exitcode(status))


def _say(what: str, number: int) -> None:
    print(json.dumps({what: number}), flush=True)  # noqa: T201  # the protocol


def _run(command: dict[str, Any]) -> NoReturn:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The commands behind this one are not dbt's to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = ["dbt", *command["args"]]
    from dbt.cli.main import cli

    try:
        cli()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:  # whatever it was, this is a fork: it must not run on as the server
        import traceback

        traceback.print_exc()
        code = 2
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
