"""Helpers: a lakehouse in a temporary folder, `dagster dev` on it, and the GraphQL calls that the UI makes."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import psutil
from lakehouse_analytics.settings import repository_root

from .databases import Database, DuckDB, Row, new_database, raw_rows_of

CODE = Path(__file__).parents[2]
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "lakehouse_analytics"}
COUNT = 200
T = TypeVar("T")


def poll(question: Callable[[], T | None], *, seconds: float, what: str, because: Callable[[], str] = str) -> T:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while (answer := question()) is None or answer is False:
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{because()}"
        time.sleep(0.1)
    return answer


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
    if engine != "duckdb":
        raw_rows_of(root / RAW, lake.database)
    # Made here and not copied: dbt parses anew in every stage when its profile names another file.
    lake.command("lakehouse", "manifest")
    lake.command("lakehouse", "init")
    return lake


def dbt_below(pid: int) -> list[psutil.Process]:
    """The processes of dbt that descend from one process."""

    def is_dbt(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return any(Path(word).name == "dbt" or "dbt_server" in word for word in process.cmdline())
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


@dataclass(frozen=True)
class Run:
    """A run as the UI shows it."""

    run_id: str
    status: str
    start: float
    end: float
    tags: Mapping[str, str]
    parent: str | None
    materialised: frozenset[str]
    row_counts: Mapping[str, int]
    planned: frozenset[str]
    checks: Mapping[tuple[str, str], bool]
    words: str


class Dev:
    """`dagster dev`: webserver, daemon and code server, asked through GraphQL."""

    def __init__(self, lake: Lake, port: int) -> None:
        self.lake = lake
        self.url = f"http://127.0.0.1:{port}/graphql"
        self.child = Child(lake, lake.root / "dev.log", "dagster", "dev", "--host", "127.0.0.1", "--port", str(port))

    def ask(self, query: str, **variables: Any) -> Any:
        """One GraphQL request; the value of its only field."""
        request = urllib.request.Request(
            self.url,
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read().decode()[:2000]}\n{self.child.tail()}") from None
        assert not answer.get("errors"), answer["errors"]
        [value] = answer["data"].values()
        return value

    def wait_until_ready(self) -> None:
        """The location is loaded and every daemon has given a sign of life."""

        def ready() -> bool:
            assert self.child.process.poll() is None, f"dagster dev ended\n{self.child.tail()}"
            try:
                location = self.ask(
                    "query($name: String!) { workspaceLocationEntryOrError(name: $name) { __typename "
                    "... on WorkspaceLocationEntry { loadStatus locationOrLoadError { __typename "
                    "... on PythonError { message } } } } }",
                    name=REPOSITORY["repositoryLocationName"],
                )
                health = self.ask("{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }")
            except OSError:
                return False
            if location["__typename"] != "WorkspaceLocationEntry" or location["loadStatus"] != "LOADED":
                return False
            assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
            daemons = [d for d in health["daemonHealth"]["allDaemonStatuses"] if d["required"]]
            return bool(daemons) and all(d["healthy"] for d in daemons)

        poll(ready, seconds=120, what="dagster dev", because=self.child.tail)

    def launch(self, job: str, *, assets: Sequence[str] = (), tags: Mapping[str, str] | None = None) -> str:
        """Launch a job, or assets ad hoc as the button "Materialize selected" does; the run's id."""
        selection = {"assetSelection": [{"path": key.split("/")} for key in assets]} if assets else {}
        answer = self.ask(
            "mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } "
            "... on RunConfigValidationInvalid { errors { message } } } }",
            params={
                "selector": {**REPOSITORY, "pipelineName": job, **selection},
                "mode": "default",
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
            },
        )
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def retry_failed_assets(self, run_id: str) -> str:
        """The button "Re-execute: from asset failure"; the new run's id."""
        answer = self.ask(
            "mutation($params: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $params) { "
            "__typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } } }",
            params={"parentRunId": run_id, "strategy": "FROM_ASSET_FAILURE"},
        )
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        """The button "Terminate"."""
        answer = self.ask(
            "mutation($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }",
            id=run_id,
        )
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run_id: str) -> str:
        return self.ask("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)["status"]

    def run_ids(self) -> list[str]:
        """Every run, newest first."""
        return [run["runId"] for run in self.ask("{ runsOrError { ... on Runs { results { runId } } } }")["results"]]

    def finished(self, run_id: str, *, seconds: float = 240) -> Run:
        """Wait for the end of a run, and read it."""
        ends = ("SUCCESS", "FAILURE", "CANCELED")
        poll(
            lambda: self.status(run_id) in ends,
            seconds=seconds,
            what=f"the end of run {run_id}",
            because=self.child.tail,
        )
        answer = self.ask(_RUN, id=run_id)
        events = answer["eventConnection"]["events"]
        counts = {
            _key(event): entry["intValue"]
            for event in events
            if event["__typename"] == "MaterializationEvent"
            for entry in event["metadataEntries"]
            if entry["label"] == "dagster/row_count"
        }
        evaluations = [e["evaluation"] for e in events if e["__typename"] == "AssetCheckEvaluationEvent"]
        return Run(
            run_id=run_id,
            status=answer["status"],
            start=answer["startTime"],
            end=answer["endTime"],
            tags={tag["key"]: tag["value"] for tag in answer["tags"]},
            parent=answer["parentRunId"],
            materialised=frozenset(_key(e) for e in events if e["__typename"] == "MaterializationEvent"),
            row_counts=counts,
            planned=frozenset(_key(e) for e in events if e["__typename"] == "AssetMaterializationPlannedEvent"),
            checks={("/".join(e["assetKey"]["path"]), e["checkName"]): e["success"] for e in evaluations},
            words="\n".join(
                part
                for event in events
                if event["__typename"] in ("ExecutionStepFailureEvent", "RunFailureEvent", "LogMessageEvent")
                for part in (
                    event["message"],
                    ((event.get("failureMetadata") or {}).get("description")) or "",
                    ((event.get("error") or {}).get("message")) or "",
                )
            ),
        )

    def planned_checks(self, run_id: str) -> set[tuple[str, str]]:
        """The checks a run promised, as Dagster stored them."""
        from dagster import DagsterEventType, DagsterInstance

        with DagsterInstance.from_config(str(self.lake.home)) as instance:
            records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
            events = (record.event_log_entry.dagster_event for record in records.records)
            keys = [event.asset_check_planned_data.asset_check_key for event in events if event]
        return {(key.asset_key.to_user_string(), key.name) for key in keys}

    def start_sensor(self, name: str) -> None:
        answer = self.ask(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename "
            "... on Sensor { sensorState { status } } ... on PythonError { message } } }",
            s={**REPOSITORY, "sensorName": name},
        )
        assert answer["sensorState"]["status"] == "RUNNING", answer

    def evaluate_sensor(self, name: str) -> dict[str, Any]:
        """The button "Preview tick result": what the sensor would do now."""
        answer = self.ask(
            "mutation($s: SensorSelector!) { sensorDryRun(selectorData: $s, cursor: null) { __typename "
            "... on PythonError { message } ... on DryRunInstigationTick { evaluationResult { skipReason "
            "runRequests { runKey } error { message } } } } }",
            s={**REPOSITORY, "sensorName": name},
        )
        result: dict[str, Any] = answer["evaluationResult"]
        assert not result["error"], result["error"]
        return result

    def ticks(self, name: str) -> list[dict[str, Any]]:
        """What the daemon's evaluations of a sensor came to, newest first."""
        answer = self.ask(
            "query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState { "
            "ticks(limit: 100) { status skipReason runIds error { message } } } } } }",
            s={**REPOSITORY, "sensorName": name},
        )
        return answer["sensorState"]["ticks"]


_RUN = """
query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status startTime endTime parentRunId tags { key value }
  eventConnection(limit: 1000) { events {
    __typename
    ... on MessageEvent { message }
    ... on MaterializationEvent { assetKey { path } metadataEntries { label ... on IntMetadataEntry { intValue } } }
    ... on AssetMaterializationPlannedEvent { assetKey { path } }
    ... on AssetCheckEvaluationEvent { evaluation { assetKey { path } checkName success } }
    ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
  } }
} } }
"""


def _key(event: Mapping[str, Any]) -> str:
    return "/".join(event["assetKey"]["path"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def dagster_dev(lake: Lake) -> Iterator[Dev]:
    """`dagster dev` for as long as the block; when something fails in it, the tail of its log is printed."""
    dev = Dev(lake, free_port())
    try:
        dev.wait_until_ready()
        yield dev
    finally:
        dev.child.stop()
