"""Runs and maintenance in processes of their own, forked from one that has imported Dagster, dbt and the location.

A new interpreter for each needs seconds, and a test of hundreds of killed runs has no time for that. A run that is
killed here is killed as anywhere: it is a process with its own session, and so is its dbt.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

CODE = Path(__file__).parents[2]
#: What a run would import.
MODULES = (
    "boto3.s3.transfer",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.noop_compute_log_manager",
    "dagster_postgres",
    "dbt.adapters.trino",
    "dbt.cli.main",
    "lakehouse_analytics.assets.maintenance",
    "lakehouse_analytics.branches.opening",
    "lakehouse_analytics.branches.nessie_catalog",
    "lakehouse_analytics.branches.sql_catalog",
    "lakehouse_analytics.column_lineage.query",
    "lakehouse_analytics.dbt.build_task",
    "lakehouse_analytics.dbt.server",
    "lakehouse_analytics.engines.trino.resource",
    "lakehouse_analytics.locks.postgres.session",
    "psycopg2",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "sqlglot.dialects.trino",
    "sqlglot.optimizer.qualify",
    "tenacity",
    "upath",
)
#: How long a killed run's mark of its branch lasts.
LEASE = timedelta(seconds=10)
#: The location, which is loaded once.
DEFINITIONS: list[Any] = []


class Job:
    """A forked process. It writes its result to a file when it has ended; without one, it has died."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def result(self) -> dict[str, Any] | None:
        """What it returned; None if it was killed."""
        path = self.folder / "result.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None

    @property
    def dbt(self) -> int | None:
        """The process of its dbt."""
        path = self.folder / "dbt.pid"
        return int(path.read_text()) if path.is_file() else None

    @property
    def is_publishing(self) -> bool:
        return (self.folder / "publishing").is_file()

    @property
    def is_alive(self) -> bool:
        return _exists(self.pid)

    def kill(self, *, with_dbt: bool) -> None:
        """Kill it as the kernel or Kubernetes would. Without its parent, dbt ends by itself."""
        pids = [self.pid, *([self.dbt] if with_dbt and self.dbt else [])]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def wait(self, seconds: float = 240) -> None:
        """Wait for its end, and that of its dbt."""
        end = time.monotonic() + seconds
        while self.is_alive or (self.dbt and _exists(self.dbt)):
            assert time.monotonic() < end, f"{self.pid} has not ended\n{self.log[-4000:]}"
            time.sleep(0.02)


class RunServer:
    """The process that forks. A context manager: leaving it ends the process."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._folder, self._count = folder, 0
        with (folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.run_server"],
                cwd=CODE,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, kind: str, **arguments: Any) -> Job:
        """Fork a process that runs one of the functions below."""
        self._count += 1
        folder = self._folder / f"{self._count:04}-{kind}"
        folder.mkdir()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"kind": kind, "folder": str(folder), "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        pid = self._process.stdout.readline()
        assert pid, (self._folder / "server.log").read_text()[-4000:]
        return Job(int(pid), folder)

    def __enter__(self) -> RunServer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class WaitingDbt:
    """What `dbt.session` uses of a `subprocess.Popen`: dbt's process, forked while the run has only one thread."""

    def __init__(self, folder: Path) -> None:
        self._socket, theirs = socket.socketpair()
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            os.close(read)
            _serve(theirs, write)
        (folder / "dbt.pid").write_text(str(self.pid))
        theirs.close()
        os.close(write)
        self.stdout = os.fdopen(read, "rb")
        self._code: int | None = None

    def start(self, control: socket.socket) -> WaitingDbt:
        socket.send_fds(self._socket, [b"."], [control.fileno()])
        self._socket.close()
        return self

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout if timeout is not None else 1e9)
        while self._code is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
                    break
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("dbt", timeout or 0.0)
            time.sleep(0.02)
        return self._code

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _serve(waiting: socket.socket, output: int) -> None:
    from lakehouse_analytics.dbt import server

    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    _, descriptors, *_ = socket.recv_fds(waiting, 1, 1)
    if not descriptors:
        os._exit(0)  # the run has ended before it needed dbt
    tempfile.tempdir = None
    sys.argv = ["server", str(descriptors[0])]
    server.main()
    os._exit(0)


def run(folder: Path, run_id: str) -> dict[str, Any]:
    """Build everything as a run with LAKEHOUSE_PUBLISH=run. On Nessie, its marks expire soon after its death."""
    dbt = WaitingDbt(folder)  # before there are threads

    import dagster as dg
    from lakehouse_analytics.branches import nessie_leases
    from lakehouse_analytics.branches.nessie_publications import NessiePublications
    from lakehouse_analytics.branches.sql_publications import SqlPublications
    from lakehouse_analytics.dbt import session

    session.start_server = dbt.start  # type: ignore[assignment]
    seconds: list[float] = []
    nessie_leases.EXPIRY, nessie_leases.RENEWAL = LEASE, 1.0

    def observe(catalog: Any) -> None:
        publish = catalog.publish

        def observed(*arguments: Any, **options: Any) -> Any:
            (folder / "publishing").touch()
            done = publish(*arguments, **options)
            seconds.append(done.seconds)
            return done

        catalog.publish = observed

    observe(SqlPublications)
    observe(NessiePublications)
    with dg.DagsterInstance.get() as instance:
        job = DEFINITIONS[0].resolve_job_def("full_refresh")
        done = job.execute_in_process(instance=instance, raise_on_error=False, run_id=run_id)
        failures = [event.step_failure_data for event in done.all_events if event.is_step_failure]
        words = [
            (f.user_failure_data.description if f.user_failure_data else f.error.to_string() if f.error else "") or ""
            for f in failures
        ]
        return {"success": done.success, "failure": "\n".join(words), "seconds": max(seconds, default=0.0)}


def maintain(folder: Path, retain: str) -> dict[str, Any]:
    """Maintain all tables at once, whatever their age."""
    del folder
    from dataclasses import replace

    import dagster as dg
    from lakehouse_analytics.assets.maintenance import maintenance_assets
    from lakehouse_analytics.branches.opening import existing_branches
    from lakehouse_analytics.contract.models import Maintenance
    from lakehouse_analytics.dbt.manifest import read
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.engines.trino.resource import TrinoResource
    from lakehouse_analytics.maintenance import plan
    from lakehouse_analytics.settings import Settings

    plan.MARGIN = timedelta()
    settings = Settings.load()
    policy = Maintenance.model_validate({"retain": retain, "orphans": "1s", "small_files": 5, "analyze": False})
    project = DbtProject.from_settings(settings)
    graph = read(project.manifest(), project.configuration(), project_dir=project.project_dir)
    tables = {
        unique_id: replace(table, contract=table.contract.model_copy(update={"maintenance": policy}))
        for unique_id, table in graph.tables.items()
    }
    assets = maintenance_assets(
        replace(graph, tables=tables),
        floor=timedelta(),
        max_runtime=0,
        branches=partial(existing_branches, settings),
    )
    with dg.DagsterInstance.get() as instance:
        done = dg.materialize(
            assets, instance=instance, resources={"engine": TrinoResource.of(settings)}, raise_on_error=False
        )
        steps = [
            str(event.step_materialization_data.materialization.metadata["steps"].value)
            for event in done.get_asset_materialization_events()
        ]
        return {"success": done.success, "steps": steps}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {"run": run, "maintain": maintain}


def _in_child(kind: str, folder: Path, arguments: dict[str, Any]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, stream in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, stream)
        result = FUNCTIONS[kind](folder, **arguments)
        (folder / "result.new").write_text(json.dumps(result))
        (folder / "result.new").rename(folder / "result.json")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Fork a process for each line of the standard input."""
    for name in MODULES:
        importlib.import_module(name)
    DEFINITIONS.append(importlib.import_module("lakehouse_analytics.definitions").defs())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    for line in sys.stdin:
        work = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _in_child(work["kind"], Path(work["folder"]), work["arguments"])
        print(pid, flush=True)


if __name__ == "__main__":
    main()
