"""A retry that Dagster's daemon passed over, or could not launch: with its own code, on a real instance."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, JobFailureData, RunFailureReason
from dagster._core.events.log import EventLogEntry
from dagster._core.test_utils import create_run_for_test, create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from lakehouse_analytics.notifications import Alert, NotifyError
from lakehouse_analytics.runs.retry_watchdog import CURSOR_KEY, GIVE_UP, PATIENCE, lost_retries

LOCATION = """
import dagster as dg

@dg.op
def work(): ...

@dg.job
def nightly():
    work()

defs = dg.Definitions(jobs=[nightly])
"""
CONFIG = {
    "run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False},
    "run_coordinator": {"module": "dagster._core.test_utils", "class": "MockedRunCoordinator"},
}
STATUS = dg.DagsterRunStatus


class Ears:
    """A notifier that remembers, and may be deaf."""

    def __init__(self) -> None:
        self.heard: list[Alert] = []
        self.deaf = False

    def send(self, alert: Alert) -> None:
        if self.deaf:
            raise NotifyError("no server")
        self.heard.append(alert)


@dataclass
class House:
    """An instance, its daemon that retries, and the sensor."""

    context: WorkspaceProcessContext
    ears: Ears
    others: Ears
    cursor: str | None = None

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.context.instance

    def run(self, **tags: str) -> dg.DagsterRun:
        """Of the job, started."""
        workspace = self.context.create_request_context()
        [location] = workspace.code_locations
        [repository] = location.get_repositories().values()
        job = repository.get_full_job("nightly")
        run: dg.DagsterRun = create_run_for_test(
            self.instance,
            job_name="nightly",
            status=STATUS.STARTED,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            # From its failure on, a run would need a plan of its steps.
            tags={"dagster/retry_strategy": "ALL_STEPS", **tags},
        )
        return run

    def fails(self, run: dg.DagsterRun, *, ago: float, passed_over: bool) -> None:
        """As the engine tells of it; the daemon may come by between the event and the status."""
        event = DagsterEvent(
            dg.DagsterEventType.RUN_FAILURE.value,
            run.job_name,
            event_specific_data=JobFailureData(None, RunFailureReason.RUN_EXCEPTION),
        )
        entry = EventLogEntry(None, logging.ERROR, "", run.run_id, time.time() - ago, None, run.job_name, event)
        store = self.instance.event_log_storage.store_event

        def slow(stored: EventLogEntry) -> None:
            store(stored)
            if passed_over:
                self.daemon()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.instance.event_log_storage, "store_event", slow)
            self.instance.handle_new_event(entry)

    def daemon(self) -> None:
        """One iteration of the daemon that retries."""
        for _ in EventLogConsumerDaemon().run_iteration(self.context):
            pass

    def tick(self) -> str:
        """One of the sensor, and what it says."""
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = lost_retries([self.others, self.ears], "http://dagster")(context)
        assert isinstance(result, dg.SensorResult)
        assert not result.run_requests
        assert result.skip_reason
        self.cursor = result.cursor
        return str(result.skip_reason.skip_message)

    def retries_of(self, run: dg.DagsterRun) -> int:
        """How many."""
        return self.instance.get_runs_count(dg.RunsFilter(tags={"dagster/parent_run_id": run.run_id}))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceProcessContext]:
    folder = tmp_path_factory.mktemp("location")
    (folder / "nightly.py").write_text(LOCATION)
    target = PythonFileTarget(str(folder / "nightly.py"), None, str(folder), None)
    with (
        dg.instance_for_test(overrides=CONFIG) as instance,
        create_test_daemon_workspace_context(target, instance) as made,
    ):
        yield made


@pytest.fixture
def house(context: WorkspaceProcessContext) -> House:
    """Without any run; the daemon reads from here on."""
    context.instance.wipe()
    context.instance.daemon_cursor_storage.set_cursor_values({CURSOR_KEY: "0"})
    return House(context, Ears(), Ears())


def test_a_run_that_the_daemon_passed_over_is_retried_once(house: House) -> None:
    run = house.run()
    house.fails(run, ago=PATIENCE + 1, passed_over=True)
    found = house.instance.get_run_by_id(run.run_id)
    assert found
    assert found.tags["dagster/will_retry"] == "true"
    house.daemon()
    assert house.retries_of(run) == 0  # what Dagster does, without us
    assert run.run_id in house.tick()
    house.daemon()
    house.daemon()
    assert house.retries_of(run) == 1
    assert house.tick() == "No retry is missing."
    assert json.loads(house.cursor or "") == [run.run_id]
    house.daemon()
    assert house.retries_of(run) == 1
    assert house.ears.heard == []


def test_what_dagster_retries_by_itself_is_left_alone(house: House) -> None:
    done, fresh = house.run(), house.run()
    house.fails(done, ago=PATIENCE + 1, passed_over=False)
    house.daemon()
    house.fails(fresh, ago=1, passed_over=True)
    assert house.tick() == "No retry is missing."  # of the fresh one it may still come
    house.daemon()
    assert (house.retries_of(done), house.retries_of(fresh)) == (1, 0)


def test_what_a_person_has_retried_is_left_alone(house: House) -> None:
    run = house.run()
    house.fails(run, ago=PATIENCE + 1, passed_over=True)
    create_run_for_test(house.instance, job_name="nightly", tags={"dagster/parent_run_id": run.run_id})
    assert house.tick() == "No retry is missing."


def test_a_failure_that_is_not_retried_is_left_alone(house: House) -> None:
    run = house.run(**{"dagster/max_retries": "0"})
    house.fails(run, ago=GIVE_UP + 1, passed_over=True)
    assert house.tick() == "No retry is missing."
    assert house.ears.heard == []


def test_a_retry_that_could_not_be_launched_is_told_once_and_until_somebody_hears(house: House) -> None:
    run = house.run()
    house.fails(run, ago=PATIENCE + 1, passed_over=False)
    with pytest.MonkeyPatch.context() as patch:
        # As where the code location is being replaced.
        def gone(*_: object, **__: object) -> None:
            raise RuntimeError("no such location")

        patch.setattr("dagster._daemon.auto_run_reexecution.auto_run_reexecution.retry_run", gone)
        house.daemon()
    house.ears.deaf = house.others.deaf = True
    house.tick()
    house.ears.deaf = False
    house.tick()
    house.tick()  # the others do not get it again and again for want of one
    [alert] = house.ears.heard
    assert alert.title == "Run of nightly failed, and its retry could not be started"
    assert alert.url == f"http://dagster/runs/{run.run_id}"


def test_a_retry_that_never_comes_is_told(house: House) -> None:
    run = house.run()
    house.fails(run, ago=GIVE_UP + 1, passed_over=True)
    house.tick()
    [alert] = house.ears.heard
    assert run.run_id in alert.url
