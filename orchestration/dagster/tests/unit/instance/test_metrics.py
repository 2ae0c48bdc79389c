"""The metrics of a real instance."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from lakehouse_analytics.instance.metrics import InstanceMetrics
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.dagster_ui import free_port, poll

STATUS = dg.DagsterRunStatus
NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
Values = dict[tuple[str, ...], float]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def values_of(instance: dg.DagsterInstance) -> Values:
    """Each sample by its name and its labels' values."""
    registry = CollectorRegistry()
    registry.register(InstanceMetrics(instance))
    return {(s.name, *s.labels.values()): s.value for family in registry.collect() for s in family.samples}


def queued(instance: dg.DagsterInstance, created: datetime, **tags: str) -> None:
    run = create_run_for_test(instance, job_name="j", tags=tags)
    # Only a workspace can ask for a run that waits.
    values = {"status": STATUS.QUEUED.value, "create_timestamp": created.replace(tzinfo=None)}
    assert isinstance(instance.run_storage, SqlRunStorage)
    with instance.run_storage.connect() as connection:
        connection.execute(RunsTable.update().where(RunsTable.c.run_id == run.run_id).values(values))


def test_a_daemon_that_is_needed_and_was_never_heard_of_is_told_like_a_dead_one(instance: dg.DagsterInstance) -> None:
    error = SerializableErrorInfo("boom", [], "Boom")
    instance.add_daemon_heartbeat(DaemonHeartbeat(NOW.timestamp(), "SENSOR", "1", [error, error]))
    found = values_of(instance)
    heard = {name[1]: value for name, value in found.items() if name[0].startswith("dagster_daemon_last_heartbeat")}
    assert heard == dict.fromkeys(instance.get_required_daemon_types(), 0) | {"SENSOR": NOW.timestamp()}
    assert found["dagster_daemon_errors", "SENSOR"] == 2
    assert found["dagster_daemon_errors", "BACKFILL"] == 0


def test_an_empty_queue_is_told_as_such(instance: dg.DagsterInstance) -> None:
    create_run_for_test(instance, job_name="j", status=STATUS.SUCCESS)
    found = values_of(instance)
    runs = {name[1]: value for name, value in found.items() if name[0] == "dagster_runs"}
    assert runs == {"QUEUED": 0, "NOT_STARTED": 0, "STARTING": 0, "STARTED": 0, "CANCELING": 0}
    assert ("dagster_queue_oldest_run_timestamp_seconds",) not in found


def test_the_oldest_in_the_queue_is_of_no_backfill(instance: dg.DagsterInstance) -> None:
    queued(instance, NOW - timedelta(hours=20), **{BACKFILL_ID_TAG: "b"})
    queued(instance, NOW - timedelta(hours=2))
    queued(instance, NOW)
    create_run_for_test(instance, job_name="j", status=STATUS.STARTED)
    found = values_of(instance)
    assert found["dagster_runs", "QUEUED"] == 3
    assert found["dagster_runs", "STARTED"] == 1
    assert found["dagster_queue_oldest_run_timestamp_seconds",] == (NOW - timedelta(hours=2)).timestamp()


def test_of_what_is_on_the_last_tick_that_ended_counts(instance: dg.DagsterInstance) -> None:
    def tick(name: str, status: InstigatorStatus, *ticks: TickStatus) -> None:
        target = LoadableTargetOrigin(executable_path=sys.executable, module_name="m")
        location = ManagedGrpcPythonEnvCodeLocationOrigin(target, "lakehouse_analytics")
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
        cron = ScheduleInstigatorData("0 2 * * *")
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, status, cron))
        for number, each in enumerate(ticks):
            at = (NOW + timedelta(minutes=number)).timestamp()
            selector = origin.get_selector().get_id()
            error = SerializableErrorInfo("boom", [], "Boom") if each == TickStatus.FAILURE else None
            instance.create_tick(
                TickData(
                    origin.get_id(),
                    name,
                    InstigatorType.SCHEDULE,
                    each,
                    at,
                    run_ids=[],
                    error=error,
                    selector_id=selector,
                )
            )

    running, stopped = InstigatorStatus.RUNNING, InstigatorStatus.STOPPED
    tick("fails", running, TickStatus.SUCCESS, TickStatus.FAILURE, TickStatus.STARTED)
    tick("recovered", InstigatorStatus.DECLARED_IN_CODE, TickStatus.FAILURE, TickStatus.SKIPPED)
    tick("off", stopped, TickStatus.FAILURE)
    tick("new", running)
    found = {name: value for name, value in values_of(instance).items() if name[0] == "dagster_last_tick_failed"}
    assert found == {
        ("dagster_last_tick_failed", "schedule", "fails", "lakehouse_analytics"): 1,
        ("dagster_last_tick_failed", "schedule", "recovered", "lakehouse_analytics"): 0,
    }


QUEUE = "dagster._core.run_coordinator.queued_run_coordinator.QueuedRunCoordinator"
SYNC = "dagster._core.run_coordinator.sync_in_memory_run_coordinator.SyncInMemoryRunCoordinator"
DERIVED = f"{__name__}.DerivedQueue"


class DerivedQueue(QueuedRunCoordinator):
    """A queue of another class."""


def name_run_coordinator(home: Path, path: str | None) -> None:
    """Write dagster.yaml as a ConfigMap of the official chart has it."""
    written: dict[str, object] = {"telemetry": {"enabled": False}}
    if path:
        module, _, name = path.rpartition(".")
        written["run_coordinator"] = {"module": module, "class": name}
    (home / "dagster.yaml").write_text(yaml.safe_dump(written))


@pytest.mark.parametrize(("path", "enabled"), [(None, 1), (QUEUE, 1), (DERIVED, 1), (SYNC, 0)])
def test_the_run_queue_is_on_if_the_run_coordinator_is_a_queue(tmp_path: Path, path: str | None, enabled: int) -> None:
    name_run_coordinator(tmp_path, path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert values_of(instance)["dagster_run_queue_enabled",] == enabled


def test_an_upgrade_that_switches_the_run_queue_off_is_seen_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name_run_coordinator(tmp_path, QUEUE)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert values_of(instance)["dagster_run_queue_enabled",] == 1
        name_run_coordinator(tmp_path, SYNC)
        assert values_of(instance)["dagster_run_queue_enabled",] == 0
        (tmp_path / "dagster.yaml").write_text("run_coordinator: [")
        found = values_of(instance)
    assert found["dagster_storage_up",] == 1  # the other metrics do not depend on it
    assert ("dagster_run_queue_enabled",) not in found
    assert f"dagster.yaml in {tmp_path} cannot be read" in caplog.text


def test_storage_that_fails_is_told_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        assert values_of(instance)["dagster_storage_up",] == 1
        for file in tmp_path.rglob("runs.db"):
            file.write_bytes(b"no database" * 100)
        assert values_of(instance) == {("dagster_storage_up",): 0}
        [line] = [record.getMessage() for record in caplog.records if "storage" in record.getMessage()]
        assert line.startswith("Dagster's storage does not answer: DatabaseError: ")
        assert "SELECT" not in line


def test_storage_that_hangs_is_told_and_scrapes_do_not_pile_up(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse_analytics.instance.metrics.MAX_WAIT", 0.1)
    metrics, began, hangs = InstanceMetrics(instance), threading.Event(), threading.Event()

    def hanging() -> dict[str, DaemonHeartbeat]:
        began.set()
        hangs.wait()
        return {}

    monkeypatch.setattr(instance, "get_daemon_heartbeats", hanging)
    first = threading.Thread(target=lambda: [*metrics.collect()])
    first.start()
    try:
        began.wait()
        [up] = metrics.collect()
        assert [sample.value for sample in up.samples] == [0]
    finally:
        hangs.set()
        first.join()
    assert next(iter(metrics.collect())).samples[0].value == 1


def test_the_command_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command: list[str | Path] = [
        Path(sys.executable).with_name("lakehouse"),
        "instance",
        "metrics",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}

    def answered() -> str | None:
        assert serving.poll() is None, serving.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as serving:
        try:
            text = poll(answered, seconds=60, what="the metrics")
            names = {family.name for family in text_string_to_metric_families(text)}
            assert {"dagster_storage_up", "dagster_runs", "dagster_daemon_last_heartbeat_timestamp_seconds"} <= names
            again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert again.returncode == 1
            assert f"127.0.0.1:{port}: Address already in use. Set --host or --port." in again.stderr
        finally:
            serving.terminate()
        serving.communicate(timeout=30)
