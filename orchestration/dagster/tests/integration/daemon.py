"""Helpers: a lakehouse in a temporary folder, `dagster dev` on it, and the GraphQL calls that the UI makes."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
from lakehouse_analytics.settings import repository_root

from tests.dagster_ui import DagsterUI, free_port, poll

from .databases import Database, DuckDB, Postgres, Row, new_database, raw_rows_of, raw_rows_to_postgres

CODE = Path(__file__).parents[2]
COUNT = 200


@dataclass(frozen=True)
class Lake:
    """Everything one instance needs, in one folder; nothing of the checkout but its code and its connectors."""

    root: Path
    database: Database
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def project(self) -> Path:
        return self.root / "dbt"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_"))}
        return {
            **inherited,
            **self.database.environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "DAGSTER_HOME": str(self.home),
            "LAKEHOUSE_DBT_PROJECT_DIR": str(self.project),
            "LAKEHOUSE_DBT_TARGET_PATH": str(self.root / "target"),
            "LAKEHOUSE_CONNECTORS_DIR": str(repository_root() / ".connectors"),
            **self.variables,
        }

    def command(self, *args: str) -> str:
        """Run one command to its end; its output."""
        done = subprocess.run(
            args,
            cwd=CODE,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(args)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def sql(self, statement: str) -> list[Row]:
        return self.database.sql(statement)

    def contents(self) -> dict[str, list[Row]]:
        return self.database.contents()


def last_days(count: int, zone: str = "UTC") -> dict[str, str]:
    """Tags of a run that builds the last days that have ended."""
    today = datetime.now(ZoneInfo(zone)).date()
    first, last = today - timedelta(days=count), today - timedelta(days=1)
    return {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }


def full_refresh(days: int, zone: str = "UTC") -> tuple[str, ...]:
    """The main job in a process of its own, with windows for the last days."""
    job = ("dagster", "job", "execute", "-m", "lakehouse_analytics.definitions", "-j", "full_refresh")
    return (*job, "--tags", json.dumps(last_days(days, zone)))


RAW = "lakehouse.duckdb"


@cache
def raw_data_and_project() -> Path:
    """Real connector data in a DuckDB file, ingested once a session, and the dbt project."""
    root = Path(tempfile.mkdtemp(prefix="lakehouse-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    lake = Lake(root, DuckDB(root / RAW))
    shutil.copytree(repository_root() / "dbt", lake.project, ignore=shutil.ignore_patterns("target", "logs"))
    lake.command("lakehouse", "ingest", "--count", str(COUNT))
    return root


def new_lake(root: Path, engine: str, variables: Mapping[str, str] | None = None) -> Lake:
    """A lake with raw data, a manifest and a DAGSTER_HOME, and nothing built. The same raw rows on every engine."""
    shutil.copytree(raw_data_and_project(), root, dirs_exist_ok=True)
    lake = Lake(root, new_database(engine, root / RAW), variables or {})
    if isinstance(lake.database, Postgres):
        raw_rows_to_postgres(root / RAW, lake.database)
    elif engine != "duckdb":
        raw_rows_of(root / RAW, lake.database)
    # Made here and not copied: the manifest names the database, whose name is that of the file.
    lake.command("lakehouse", "manifest")
    lake.command("lakehouse", "init")
    return lake


def dbt_below(pid: int) -> list[psutil.Process]:
    """The processes of dbt that descend from one process."""

    def is_dbt(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return any(
                Path(word).name == "dbt" or word == "lakehouse_analytics.dbt.server" for word in process.cmdline()
            )
        return False

    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children(recursive=True) if is_dbt(child)]
    return []


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Child:
    """A program in a process group of its own; its output goes to a file."""

    def __init__(self, lake: Lake, log: Path, *args: str) -> None:
        self.args, self.log = args, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                args,
                cwd=CODE,
                env=lake.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # Started from a script's background, a child would ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,  # noqa: PLW1509
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        return f"--- the last words of {' '.join(self.args)} ---\n" + "\n".join(self.said.splitlines()[-60:])

    def wait_for(self, words: str, *, after: int = 0, seconds: float = 120) -> None:
        """Wait for words in its output, from a place in it on."""

        def heard() -> bool:
            if words in self.said[after:]:
                return True
            assert self.process.poll() is None, f"ended before it said {words!r}\n{self.tail()}"
            return False

        poll(heard, seconds=seconds, what=f"the words {words!r}", because=self.tail)

    def wait(self, *, seconds: float = 240) -> int:
        poll(lambda: self.process.poll() is not None, seconds=seconds, what="its end", because=self.tail)
        return self.process.returncode

    def kill_group(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it and whatever it left behind."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with suppress(ProcessLookupError):
            self.kill_group()
        self.process.wait()


class Webhook:
    """Takes what is posted to it. Its path is the secret, as with Slack."""

    secret = "T0LAKE/B0HOUSE/this-is-the-secret-part"

    def __init__(self) -> None:
        self.texts: list[str] = []
        texts = self.texts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                texts.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{self.secret}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Dev(DagsterUI):
    """`dagster dev`: webserver, daemon and code server."""

    def __init__(self, lake: Lake, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}/graphql")
        self.lake = lake
        self.child = Child(lake, lake.root / "dev.log", "dagster", "dev", "--host", "127.0.0.1", "--port", str(port))

    def because(self) -> str:
        return self.child.tail()

    def alive(self) -> None:
        assert self.child.process.poll() is None, f"dagster dev ended\n{self.child.tail()}"

    def planned_checks(self, run_id: str) -> set[tuple[str, str]]:
        """The checks a run promised, as Dagster stored them."""
        from dagster import DagsterEventType, DagsterInstance

        with DagsterInstance.from_config(str(self.lake.home)) as instance:
            records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
            events = (record.event_log_entry.dagster_event for record in records.records)
            keys = [event.asset_check_planned_data.asset_check_key for event in events if event]
        return {(key.asset_key.to_user_string(), key.name) for key in keys}


@contextmanager
def dagster_dev(lake: Lake) -> Iterator[Dev]:
    """`dagster dev` for as long as the block; when something fails in it, the tail of its log is printed."""
    dev = Dev(lake, free_port())
    try:
        dev.wait_until_ready()
        yield dev
    finally:
        dev.child.stop()
