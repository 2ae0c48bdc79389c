"""Airbyte's syncs through the real sensor daemon, which is killed again and again, on an instance in PostgreSQL.

Every job must be in Dagster's history exactly once: a materialization and a check evaluation on each of its tables,
and one run. Runs stay queued: what they would do is not the question here.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import dagster as dg
import psycopg2
import pytest
from dagster._core.scheduler.instigation import InstigatorTick
from lakehouse_analytics.devtools.airbyte_simulator import Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.settings import repository_root
from lakehouse_analytics.triggers.airbyte.events import SYNC_ID
from lakehouse_analytics.triggers.airbyte.sensor import NAME
from lakehouse_analytics.triggers.events import SYNC_CHECK

from tests.dagster_ui import free_port, poll

from .stack import empty_database

pytestmark = [pytest.mark.integration, pytest.mark.trino]  # for the stack's PostgreSQL

CONNECTIONS = {f"c{n}": str(uuid.UUID(int=n)) for n in range(4)}
TABLES = ("orders", "items")
KILLS = int(os.environ.get("LAKEHOUSE_TEST_KILLS", "8"))
SECRET = "the-secret-of-this-test"


def write_project(root: Path) -> None:
    """Four sources of two tables, each filled by a connection and read by a bronze model."""
    sources = "\n".join(
        f"  - name: {name}\n    config: {{meta: {{lakehouse: {{airbyte: {{connection: {connection}}}}}}}}}\n"
        f"    tables: [{', '.join(f'{{name: {table}}}' for table in TABLES)}]"
        for name, connection in CONNECTIONS.items()
    )
    files = {
        "dbt_project.yml": """
            name: small
            version: "1.0"
            profile: lakehouse
            models: {small: {bronze: {+schema: bronze}}}
            """,
        "models/sources.yml": "sources:\n" + sources,
        **{
            f"models/bronze/{name}_{table}.sql": f"select * from {{{{ source('{name}', '{table}') }}}}"
            for name in CONNECTIONS
            for table in TABLES
        },
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(text).lstrip())


class Orchestrator:
    """An instance in PostgreSQL, a code server that lives, and a daemon that does not."""

    def __init__(self, root: Path, storage: str, airbyte: str) -> None:
        self.root, self.port = root, free_port()
        self.home = root / "home"
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(
            f"storage: {{postgres: {{postgres_url: '{storage}'}}}}\n"
            "telemetry: {enabled: false}\n"
            "run_queue: {max_concurrent_runs: 0}\n"
        )
        server = f"{{host: 127.0.0.1, port: {self.port}, location_name: lakehouse_analytics}}"
        (root / "workspace.yaml").write_text(f"load_from: [{{grpc_server: {server}}}]\n")
        write_project(root / "dbt")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_"))}
        self.environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "NO_PROXY": "127.0.0.1",
            "DAGSTER_HOME": str(self.home),
            "LAKEHOUSE_DBT_PROJECT_DIR": str(root / "dbt"),
            "LAKEHOUSE_DBT_PROFILES_DIR": str(repository_root() / "dbt"),
            "LAKEHOUSE_DBT_TARGET_PATH": str(root / "target"),
            "LAKEHOUSE_DUCKDB_PATH": str(root / "lakehouse.duckdb"),
            "LAKEHOUSE_AIRBYTE_URL": airbyte,
            "LAKEHOUSE_AIRBYTE_CLIENT_ID": "id",
            "LAKEHOUSE_AIRBYTE_CLIENT_SECRET": SECRET,
            "LAKEHOUSE_AIRBYTE_INTERVAL": "1",
        }

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    @contextmanager
    def code_server(self) -> Iterator[None]:
        subprocess.run(["lakehouse", "manifest"], cwd=self.root, env=self.environment, check=True, capture_output=True)
        server = self.start(
            "dagster", "api", "grpc", "--host", "127.0.0.1", "--port", str(self.port),
            "--module-name", "lakehouse_analytics.definitions",
        )  # fmt: skip
        try:
            probe = ["dagster", "api", "grpc-health-check", "--port", str(self.port)]
            poll(
                lambda: subprocess.run(probe, env=self.environment, check=False, capture_output=True).returncode == 0,
                seconds=120,
                what="the code server",
                because=self.log,
            )
            yield
        finally:
            kill(server)

    def daemon(self) -> subprocess.Popen[bytes]:
        return self.start("dagster-daemon", "run", "--workspace", str(self.root / "workspace.yaml"))

    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")[-6000:]


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def storage() -> Iterator[str]:
    """The address of an empty database of the stack's PostgreSQL."""
    with empty_database() as address:
        yield address


@pytest.fixture
def airbyte() -> Iterator[Simulator]:
    store = Store()
    for name, connection in CONNECTIONS.items():
        store.add_connection(name, id=connection, streams=TABLES)
    with Simulator(store, client=("id", SECRET)).serving() as simulator:
        yield simulator


def ticks(instance: dg.DagsterInstance) -> list[InstigatorTick]:
    """Of the sensor, the newest first."""
    state = next((s for s in instance.all_instigator_state() if s.instigator_name == NAME), None)
    return [*instance.get_ticks(state.instigator_origin_id, state.selector_id)] if state else []


def test_every_sync_is_in_the_history_exactly_once_however_often_the_daemon_is_killed(
    tmp_path: Path, storage: str, airbyte: Simulator
) -> None:
    orchestrator = Orchestrator(tmp_path, storage, airbyte.url)
    chance = random.Random(20261121)
    ended: list[int] = []
    lock = threading.Lock()
    over = threading.Event()

    def syncs_end() -> None:
        """A few at a time, so that ticks have many events to store."""
        while not over.wait(chance.uniform(0.2, 1.5)):
            for connection in chance.sample([*CONNECTIONS.values()], k=chance.randint(1, 4)):
                job = airbyte.store.start(connection)
                airbyte.store.end(job, rows=job)
                with lock:
                    ended.append(job)

    with dg.DagsterInstance.from_config(str(orchestrator.home)) as instance, orchestrator.code_server():
        events = psycopg2.connect(storage)
        events.autocommit = True

        def stored() -> int:
            with events.cursor() as cursor:
                cursor.execute("select count(*) from event_logs")
                return int(cursor.fetchone()[0])

        # The first tick says from when on syncs count.
        daemon = orchestrator.daemon()
        poll(lambda: any(t.is_completed for t in ticks(instance)), seconds=120, what="a tick", because=orchestrator.log)
        writer = threading.Thread(target=syncs_end, daemon=True)
        writer.start()
        amid = 0
        for number in range(KILLS):
            if number:
                daemon = orchestrator.daemon()
            before = stored()
            # While it stores what a tick found, or at any moment.
            poll(lambda: stored() > before, seconds=120, what="an event", because=orchestrator.log)  # noqa: B023
            time.sleep(chance.choice([0.0, 0.02, 0.05, 0.1, 0.3, chance.uniform(0, 6)]))
            kill(daemon)
            amid += ticks(instance)[0].status.value == "STARTED"
        over.set()
        writer.join()

        daemon = orchestrator.daemon()
        try:
            poll(
                lambda: {*ended} == run_by(instance).keys() and quiet(instance),
                seconds=180,
                what="a run for every sync",
                because=lambda: f"{sorted({*ended} - run_by(instance).keys())}\n{orchestrator.log()}",
            )
        finally:
            kill(daemon)
        events.close()

        assert amid, "no kill fell into a tick"
        assert len(ended) > KILLS
        print(f"{KILLS} kills, {amid} of them amid a tick, {len(ended)} syncs")
        assert run_by(instance) == dict.fromkeys(ended, 1)
        connection_of = {job.id: job.connection for job in airbyte.store.jobs.values()}
        for name, connection in CONNECTIONS.items():
            mine = dict.fromkeys([job for job in ended if connection_of[job] == connection], 1)
            for table in TABLES:
                key = dg.AssetKey([name, table])
                assert materialized(instance, key) == mine
                assert evaluated(instance, key) == mine
        assert SECRET not in (tmp_path / "log").read_text(errors="replace")


def run_by(instance: dg.DagsterInstance) -> Counter[int]:
    """How many runs answer each sync."""
    tags = [run.tags for run in instance.get_runs()]
    ids = (tag.get("airbyte/sync_ids", tag["airbyte/sync_id"]).split(",") for tag in tags)
    return Counter(int(job) for of_run in ids for job in of_run)


def quiet(instance: dg.DagsterInstance) -> bool:
    newest = ticks(instance)[0]
    return newest.status.value == "SKIPPED" and "No Airbyte job has ended" in (newest.skip_reason or "")


def materialized(instance: dg.DagsterInstance, key: dg.AssetKey) -> Counter[int]:
    records = instance.fetch_materializations(key, limit=10_000).records
    found = [record.asset_materialization for record in records]
    return Counter(int(one.metadata[SYNC_ID].value) for one in found if one)  # type: ignore[arg-type]


def evaluated(instance: dg.DagsterInstance, key: dg.AssetKey) -> Counter[int]:
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key, SYNC_CHECK), limit=10_000
    )
    found = [record.evaluation for record in history]
    return Counter(int(one.metadata[SYNC_ID].value) for one in found if one)  # type: ignore[arg-type]
