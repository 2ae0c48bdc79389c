"""Schedules through Dagster's own scheduler and a real code server, over days that a frozen clock lets pass."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

from . import shop
from .conftest import Lakehouse, project_on
from .databases import Database

#: A dead daemon's Wednesday to Saturday, over the change of the clock in New York; long enough ago to have ended.
ZONE = "America/New_York"
MODULE = ModuleTarget(
    "lakehouse_analytics.definitions", attribute=None, working_directory=None, location_name="lakehouse_analytics"
)
LAUNCHER = {"run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}}


@dataclass
class Night:
    """The daemon's view of one code location."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    looked: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def start(self, name: str, at: dt.datetime) -> None:
        with freeze_time(at):
            self.instance.start_schedule(self._repository.get_schedule(name))

    @property
    def _repository(self):  # type: ignore[no-untyped-def]  # Dagster's own class, without a public name
        [location] = self.workspace.create_request_context().code_locations
        return location.get_repository("__repository__")

    def tick(self, name: str, at: dt.datetime) -> InstigatorTick:
        """Let the scheduler look at the clock."""
        with freeze_time(at):
            list(launch_scheduled_runs(self.workspace, logging.getLogger("test"), at, iteration_times={}))
        schedule = self._repository.get_schedule(name)
        return self.instance.get_ticks(schedule.get_remote_origin().get_id(), schedule.selector_id, limit=1)[0]

    def look(self) -> None:
        """Let the sensor daemon look once, a sensor's interval later than the last time."""
        self.looked += dt.timedelta(minutes=5)
        with freeze_time(self.looked):
            list(execute_sensor_iteration(self.workspace, logging.getLogger("test"), None, None))

    def windows(self) -> list[str]:
        """Of every run, oldest first."""
        runs = reversed(self.instance.get_runs())
        return [f"{run.job_name} {run.tags['dagster/partition']}" for run in runs]


def new_york(day: int, hour: int, minute: int = 0, month: int = 11) -> dt.datetime:
    from zoneinfo import ZoneInfo

    return dt.datetime(2026, month, day, hour, minute, tzinfo=ZoneInfo(ZONE))


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Night]:
    project_on(tmp_path, monkeypatch, database, LAKEHOUSE_TIMEZONE=ZONE, LAKEHOUSE_AFTER_DEADLINE="30m")
    monkeypatch.setenv("LAKEHOUSE_NOTIFY", "log")
    with dg.instance_for_test(overrides=LAUNCHER) as instance:
        files = shop.files("2026-09-01")
        files["models/models.yml"] = files["models/models.yml"].replace(
            "lakehouse: {partition: daily, distinct", "lakehouse: {partition: daily, after: raw.orders, distinct"
        )
        lakehouse = Lakehouse(tmp_path, database, instance, {name: dedent(text) for name, text in files.items()})
        lakehouse.write()
        lakehouse.definitions()  # parses
        with create_test_daemon_workspace_context(MODULE, instance) as workspace:
            yield Night(instance, workspace)


def synced(night: Night, at: dt.datetime) -> None:
    metadata: dict[str, Any] = {
        "started": dg.MetadataValue.timestamp(at - dt.timedelta(seconds=60)),
        "runtime_seconds": 60.0,
    }
    night.instance.report_runless_asset_event(dg.AssetMaterialization(["raw", "orders"], metadata=metadata))


def test_three_days_without_a_daemon_are_made_up_for_once(night: Night) -> None:
    synced(night, dt.datetime.now(dt.UTC))  # nothing has to wait
    night.start("daily_refresh", new_york(29, 12, month=10))
    assert night.tick("daily_refresh", new_york(30, 2, 1, month=10)).status.value == "SUCCESS"
    assert night.windows() == ["full_refresh 2026-10-29"]
    # Dead until the 2nd: 1 November has 25 hours, and 02:00 once.
    night.tick("daily_refresh", new_york(2, 9))
    assert night.windows() == ["full_refresh 2026-10-29"] + [
        f"full_refresh {day}" for day in ("2026-10-30", "2026-10-31", "2026-11-01")
    ]
    night.tick("daily_refresh", new_york(2, 10))
    night.look()
    assert len(night.windows()) == 4
    assert {run.tags["dagster/priority"] for run in night.instance.get_runs()} == {"1"}


def test_a_window_waits_for_its_sync_is_told_of_once_and_asked_for_once_it_is_there(
    night: Night, capfd: pytest.CaptureFixture[str]
) -> None:
    night.start("daily_refresh", new_york(9, 12))
    synced(night, new_york(9, 23))
    tick = night.tick("daily_refresh", new_york(10, 2, 1))
    assert tick.status.value == "SKIPPED"
    assert "2026-11-09 waits: raw.orders has not synced since 2026-11-10 00:00 EST" in (
        tick.tick_data.skip_reason or ""
    )
    night.look()
    assert night.windows() == []
    # The next day's sync came in time, the first day's window with it.
    synced(night, new_york(10, 3))
    night.look()
    assert night.windows() == ["full_refresh 2026-11-09"]
    night.look()
    assert night.windows() == ["full_refresh 2026-11-09"]
    tick = night.tick("daily_refresh", new_york(11, 2, 1))
    assert tick.status.value == "SKIPPED"
    assert night.windows() == ["full_refresh 2026-11-09"]


def test_a_month_waits_for_the_day_that_is_missing(night: Night) -> None:
    night.start("monthly_refresh", new_york(20, 12, month=10))
    for day in range(1, 31):
        done = dg.AssetMaterialization(["gold", "day_sums"], partition=f"2026-10-{day:02}")
        night.instance.report_runless_asset_event(done)
    tick = night.tick("monthly_refresh", new_york(1, 5, 1))
    assert tick.status.value == "SKIPPED"
    assert "2026-10-01 waits: gold/day_sums does not have 2026-10-31" in (tick.tick_data.skip_reason or "")
    night.look()
    assert night.windows() == []
    night.instance.report_runless_asset_event(dg.AssetMaterialization(["gold", "day_sums"], partition="2026-10-31"))
    night.look()
    assert night.windows() == ["monthly_refresh 2026-10-01"]
