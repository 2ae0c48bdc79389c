"""`lakehouse doctor` as a person runs it: a lakehouse that is well, and the same one broken piece by piece."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat
from lakehouse_analytics.devtools.airbyte_simulator import Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.settings import repository_root

from .conftest import Lakehouse

pytestmark = pytest.mark.integration

#: On two busy cores each probe may take as long as it likes.
PATIENT = ("--timeout", "90")


@dataclass(frozen=True)
class Report:
    """What the command said."""

    exit_code: int
    text: str
    findings: dict[str, dict[str, str]]

    def status(self, name: str) -> str:
        return self.findings[name]["status"]

    def said(self, name: str) -> str:
        return self.findings[name]["message"]

    @property
    def failed(self) -> list[str]:
        return [name for name in self.findings if self.status(name) == "failed"]


def doctor(*words: str, only: tuple[str, ...] = (), **environment: str) -> Report:
    """Run the command in a process of its own."""
    from lakehouse_analytics.doctor.probes import NAMES

    left_out = [word for name in NAMES if only and name not in only for word in ("--skip", name)]
    command = [sys.executable, "-c", "from lakehouse_analytics.cli import main; main()", "doctor", "--json"]
    words = words if "--timeout" in words else (*PATIENT, *words)
    done = subprocess.run(
        [*command, *words, *left_out], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return Report(done.returncode, done.stdout, {one["name"]: one for one in json.loads(done.stdout)})


def revive(lakehouse: Lakehouse) -> None:
    """As if the daemons ran."""
    for kind in lakehouse.instance.get_required_daemon_types():
        lakehouse.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, "id", []))


def start(lakehouse: Lakehouse, schedule: str) -> None:
    """As the UI does; the location has the name of `dagster_workspace.yaml`."""
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData

    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lakehouse_analytics"), "__repository__")
    state = InstigatorState(
        repository.get_instigator_origin(schedule),
        InstigatorType.SCHEDULE,
        InstigatorStatus.RUNNING,
        ScheduleInstigatorData("0 2 * * *", time.time()),
    )
    lakehouse.instance.add_instigator_state(state)


@pytest.mark.engine("duckdb", "trino")
def test_a_lakehouse_that_is_well_and_then_is_not(lakehouse: Lakehouse) -> None:
    trino = lakehouse.database.engine == "trino"
    lakehouse.definitions()  # parses

    new = doctor()
    assert new.failed == [*([] if trino else ["limits"]), "daemons", "schedules"], new.text
    assert "dbt's first build creates them: bronze, gold, metrics, silver" in new.said("catalog")

    if not trino:
        assert new.said("limits") == "the limit of the pool duckdb is not set"
        lakehouse.instance.event_log_storage.set_concurrency_slots("duckdb", 1)
    assert lakehouse.run().success
    revive(lakehouse)
    start(lakehouse, "daily_refresh")
    if trino:
        start(lakehouse, "iceberg_maintenance")
    well = doctor()
    assert (well.exit_code, well.failed) == (0, []), well.text
    assert well.said("manifest").endswith("is fresh: 7 tables, 2 source tables")
    assert "a fresh interpreter loads it in" in well.said("location")
    assert well.said("catalog").endswith(" has bronze, gold, metrics, raw, silver")
    assert "; its schema is up to date" in well.said("storage")
    assert "daily_refresh" in well.said("schedules")
    if trino:
        assert well.said("engine").startswith("Trino 4")
        assert "accepts lakehouse (log-in by password)" in well.said("engine")
        assert "an object was written below s3://lakehouse/" in well.said("warehouse")
        assert "agrees with Trino's" in well.said("clock")
    else:
        assert well.said("engine").startswith("DuckDB v")
        assert well.status("warehouse") == well.status("airbyte") == "skipped"

    lakehouse.sql("drop schema raw cascade")
    (lakehouse.project / "models/silver/sa.sql").write_text("select 1 as id")
    stale = doctor("--skip", "warehouse")
    assert stale.exit_code == 1
    assert stale.failed == ["manifest"]
    assert stale.said("manifest").endswith("is stale: changed since it was made: models/silver/sa.sql")
    assert stale.findings["manifest"]["fix"] == "Run `lakehouse manifest`."
    assert stale.said("catalog") == stale.said("location") == "not checked, because manifest failed"
    assert stale.status("engine") == "ok"

    lakehouse.definitions()
    no_raw = doctor(only=("settings", "manifest", "engine", "catalog"))
    assert no_raw.failed == ["catalog"]
    name = lakehouse.database.environment.get("LAKEHOUSE_TRINO_CATALOG", "small")
    assert no_raw.said("catalog").splitlines()[0] == f"schemas of dbt's sources are missing: {name}.raw"
    assert "lakehouse ingest" in no_raw.findings["catalog"]["fix"]


@pytest.mark.engine("duckdb", "trino")
def test_an_instance_without_limits_for_runs_of_windows(lakehouse: Lakehouse) -> None:
    lakehouse.instance.event_log_storage.set_concurrency_slots("duckdb", 1)
    (lakehouse.project / "models/gold/ga.sql").write_text(
        "{{ config(materialized='incremental', incremental_strategy='replace_window', event_time='at', "
        "begin='2026-01-01', meta={'lakehouse': {'partition': 'daily'}}) }} select current_timestamp as at, 1 as n"
    )
    macros = repository_root() / "dbt" / "macros"
    for macro in macros.glob("*.sql"):
        shutil.copy(macro, lakehouse.project / "macros")
    lakehouse.definitions()
    only = ("settings", "manifest", "storage", "queue", "limits")

    without = doctor(only=only)
    assert without.failed == ["limits"], without.text
    tags = [line.rpartition(" ")[2] for line in without.said("limits").splitlines()]
    assert tags == ["dagster/backfill", "lakehouse/windows_of"]

    home = Path(os.environ["DAGSTER_HOME"])
    ours = yaml.safe_load((repository_root() / "orchestration/dagster/dagster.yaml").read_text())
    theirs = yaml.safe_load((home / "dagster.yaml").read_text())
    (home / "dagster.yaml").write_text(yaml.safe_dump(theirs | {"concurrency": ours["concurrency"]}))
    assert doctor(only=only).failed == []


@pytest.mark.engine("trino")
def test_trino_with_a_wrong_password_or_catalog(lakehouse: Lakehouse) -> None:
    lakehouse.definitions()
    only = ("settings", "manifest", "engine", "catalog", "clock")
    wrong = doctor(only=only, LAKEHOUSE_TRINO_PASSWORD="wr0ng-passw0rd")
    assert wrong.failed == ["engine"]
    assert ": UNAUTHORIZED: error 401" in wrong.said("engine")
    assert "LAKEHOUSE_TRINO_PASSWORD" in wrong.findings["engine"]["fix"]
    assert "agrees with Trino's" in wrong.said("clock")  # a log-in may fail because of the clock
    assert "wr0ng" not in wrong.text

    environment = lakehouse.database.environment
    untrusted = doctor(only=only, LAKEHOUSE_TRINO_CA_BUNDLE="")
    assert untrusted.failed == ["engine"]
    assert "LAKEHOUSE_TRINO_CA_BUNDLE" in untrusted.findings["engine"]["fix"]

    key = f"PYICEBERG_CATALOG__{environment['LAKEHOUSE_ICEBERG_CATALOG'].upper()}__S3__SECRET_ACCESS_KEY"
    refused = doctor(only=("settings", "warehouse"), **{key: "wr0ng-k3y-of-s3"})
    assert refused.failed == ["warehouse"]
    assert refused.said("warehouse").startswith("nothing can be written below s3://lakehouse/")
    for report in (wrong, untrusted, refused):
        assert environment["LAKEHOUSE_TRINO_PASSWORD"] not in report.text
        assert "wr0ng-k3y" not in report.text


def test_a_file_that_is_missing_locked_or_no_database(lakehouse: Lakehouse, tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"

    def engine() -> tuple[str, str]:
        report = doctor(only=("settings", "engine"), LAKEHOUSE_DUCKDB_PATH=str(path))
        assert report.failed == ["engine"]
        return report.said("engine"), report.findings["engine"]["fix"]

    message, fix = engine()
    assert (message, "lakehouse ingest" in fix) == (f"{path} does not exist yet", True)
    assert not path.exists()

    program = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        message, fix = engine()
        assert f"{path} is locked by " in message
        assert str(holder.pid) in message
        assert fix.startswith("Close that program")
        holder.stdin.write("\n")

    path.write_bytes(b"not a database" * 1000)
    message, fix = engine()
    assert message.startswith(f"{path} cannot be opened: ")
    assert fix == "Check LAKEHOUSE_DUCKDB_PATH."


@contextmanager
def serving(simulator: Simulator) -> Iterator[dict[str, str]]:
    """An Airbyte with an application, and the variables of a client."""
    thread = threading.Thread(target=simulator.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield {
            "LAKEHOUSE_AIRBYTE_URL": simulator.url,
            "LAKEHOUSE_AIRBYTE_CLIENT_ID": "doctor",
            "LAKEHOUSE_AIRBYTE_CLIENT_SECRET": "th3-s3cret",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        simulator.shutdown()
        thread.join()
        simulator.server_close()


def test_airbyte_with_the_right_and_a_wrong_log_in(lakehouse: Lakehouse) -> None:
    store = Store()
    store.add_connection("Shop", streams=["a", "Log-Lines"])
    for name in ("Ads", "Mail"):
        store.add_connection(name, streams=["other"])
    lakehouse.definitions()
    only = ("settings", "manifest", "airbyte", "clock")
    with serving(Simulator(store, client=("doctor", "th3-s3cret"))) as environment:
        well = doctor(only=only, **environment)
        assert (well.exit_code, well.failed) == (0, []), well.text
        first, *others = well.said("airbyte").splitlines()
        assert first.endswith(" accepts the credentials; 3 connections, 1 mapped to 1 of 2 source tables")
        assert others == [
            "connections without a source: Ads, Mail",
            "streams of Shop without a source table: Log-Lines",
            "source tables without a known connection: raw.b",
        ]
        assert "agrees with Airbyte's" in well.said("clock")

        fewer = doctor(only=only, LAKEHOUSE_AIRBYTE_EXCLUDE="Ads", **environment)
        assert "3 connections, 2 of them included" in fewer.said("airbyte")

        without = doctor(only=("settings", "airbyte"), **environment)
        assert "is unknown without a manifest" in without.said("airbyte")

        wrong = doctor(only=only, **{**environment, "LAKEHOUSE_AIRBYTE_CLIENT_SECRET": "wr0ng-s3cret"})
        assert wrong.failed == ["airbyte"]
        assert "rejects the credentials (401" in wrong.said("airbyte")
        assert "LAKEHOUSE_AIRBYTE_CLIENT_SECRET" in wrong.findings["airbyte"]["fix"]
        for report in (well, fewer, without, wrong):
            assert not [secret for secret in ("th3-s3cret", "wr0ng-s3cret") if secret in report.text]

        store.add_connection("CRM", streams=["á"])  # some destinations drop the accent
        shared = doctor(only=only, **environment)
        assert shared.failed == ["airbyte"]
        assert (
            "source raw.a: streams of several connections may be written to this table ('a' of connection 'Shop' ("
            in (shared.said("airbyte"))
        )
        assert "meta.lakehouse.airbyte" in shared.findings["airbyte"]["fix"]

        named = "{connection: Shopp}"
        lakehouse.files["models/sources.yml"] = f"""
            sources:
              - name: raw
                schema: raw
                tables:
                  - name: a
                    config: {{meta: {{lakehouse: {{airbyte: {named}}}}}}}
                  - name: b
            """
        lakehouse.write()
        lakehouse.definitions()
        mistaken = doctor(only=only, **environment)
        assert mistaken.failed == ["airbyte"]
        assert "did you mean 'Shop'?" in mistaken.said("airbyte")
        assert "meta.lakehouse.airbyte" in mistaken.findings["airbyte"]["fix"]
