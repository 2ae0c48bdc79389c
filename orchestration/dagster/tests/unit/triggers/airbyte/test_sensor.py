"""The sensor over a simulated Airbyte and a real instance, tick by tick."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import SourceContract
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.dbt.nodes import Node
from lakehouse_analytics.devtools.airbyte_simulator import Request, Response, Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers import event_log
from lakehouse_analytics.triggers.airbyte import events as sync_events
from lakehouse_analytics.triggers.airbyte import http, partial_rows
from lakehouse_analytics.triggers.airbyte import sensor as sync_sensor
from lakehouse_analytics.triggers.airbyte.connections import SourceTable
from lakehouse_analytics.triggers.airbyte.cursor import Cursor
from lakehouse_analytics.triggers.airbyte.sensor import airbyte_sync_sensor
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionCache
from lakehouse_analytics.triggers.airbyte.sync_job import sync_job
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace, airbyte_workspace, source_tables
from lakehouse_analytics.triggers.events import SYNC_CHECK
from manifests import Manifest

from .versions import as_version_1

SECRET = "the-client-secret"
SHOP, ADS = "6f1c7f0a-0000-4000-8000-000000000001", "6f1c7f0a-0000-4000-8000-000000000002"


def project() -> Manifest:
    """raw shop.{orders,items} → bronze; raw ads.clicks → bronze clicks → bronze deep → silver; nobody's: files.x."""
    m = Manifest()
    orders = m.source("shop", "orders", whole={"airbyte": {"connection": SHOP}})
    items = m.source("shop", "items", whole={"airbyte": {"connection": SHOP}})
    clicks = m.source("ads", "clicks", lakehouse={"airbyte": {"connection": "Ads", "allow_empty": True}})
    m.source("files", "x")
    m.model("stg_orders", orders, folder="bronze")
    m.model("stg_items", items, folder="bronze")
    stg_clicks = m.model("stg_clicks", clicks, folder="bronze")
    deep = m.model("deep", stg_clicks, folder="bronze")
    m.model("dim", deep, folder="silver")
    return m


class Clock:
    """Airbyte's clock. Ours is an hour behind."""

    def __init__(self) -> None:
        self.ahead = timedelta(hours=1)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class World:
    """Airbyte, Dagster, and the sensor between them."""

    def __init__(self, instance: dg.DagsterInstance, simulator: Simulator, workspace: AirbyteWorkspace) -> None:
        self.instance, self.simulator, self.store, self.workspace = instance, simulator, simulator.store, workspace
        self.sensor = airbyte_sync_sensor(workspace)
        self.cursor: str | None = None

    def evaluate(self) -> dg.SensorResult:
        """What the sensor says, and nothing stored."""
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, sensor_name=self.sensor.name
        ) as context:
            result = self.sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def tick(self) -> dg.SensorResult:
        """As the daemon: events one by one, then the cursor."""
        result = self.evaluate()
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = result.cursor or self.cursor
        return result

    def sync(self, connection: str, **end: Any) -> int:
        job = self.store.start(connection)
        self.store.end(job, **end)
        return job

    def history(self, key: str, check: str = SYNC_CHECK) -> list[Mapping[str, Any]]:
        """Evaluations of a source's check, the oldest first."""
        records = self.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(key.split("/")), check), limit=100
        )
        found = [record.evaluation for record in reversed(records) if record.evaluation]
        return [
            {"passed": e.passed, "severity": e.severity.value, "said": e.description}
            | {name: value.value for name, value in e.metadata.items()}
            for e in found
        ]

    def syncs(self, key: str) -> list[str]:
        """Jobs of a source's materializations, the oldest first."""
        records = self.instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=100).records
        found = [record.asset_materialization for record in reversed(records)]
        return [str(one.metadata["airbyte/sync_id"].value) for one in found if one]

    def versions(self, key: str) -> list[str]:
        """Data versions of a source's materializations, the oldest first."""
        records = self.instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=100).records
        found = [record.asset_materialization for record in reversed(records)]
        return [(one.tags or {})["dagster/data_version"] for one in found if one]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    store = Store(Clock())
    store.add_connection("Shop", id=SHOP, streams=["orders", "items"])
    store.add_connection("Ads", id=ADS, streams=["clicks"])
    with Simulator(store, client=("the-client-id", SECRET)).serving() as simulator:
        yield simulator


@pytest.fixture
def world(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", simulator.url)
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_ID", "the-client-id")
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_SECRET", SECRET)
    workspace = airbyte_workspace(Settings.load(), project().graph())
    assert workspace
    with dg.DagsterInstance.ephemeral() as instance:
        made = World(instance, simulator, workspace)
        made.tick()
        yield made


def keys(result: dg.SensorResult) -> list[list[str]]:
    return [[key.to_user_string() for key in r.asset_selection or ()] for r in result.run_requests or ()]


def answered(result: dg.SensorResult) -> list[int]:
    """Jobs whose runs are requested."""
    return [int(request.tags["airbyte/sync_id"]) for request in result.run_requests or ()]


def skipped(result: dg.SensorResult) -> str:
    assert not result.run_requests
    assert result.skip_reason
    return result.skip_reason.skip_message or ""


def test_a_sync_is_recorded_on_its_sources_and_asks_for_a_run_of_the_bronze_below(world: World) -> None:
    job = world.sync(SHOP, rows=1234, bytes=99_000)
    result = world.tick()
    [request] = result.run_requests or ()
    assert keys(result) == [["bronze/stg_items", "bronze/stg_orders"]]
    assert request.run_key
    assert re.fullmatch(rf"airbyte_{job}-[0-9]{{8}}T[0-9]{{6}}Z-[0-9a-f]{{10}}", request.run_key)
    assert request.tags == {
        "source": "airbyte",
        "airbyte/sync_id": str(job),
        "airbyte/connection": "Shop",
        "dagster/retry_strategy": "FROM_ASSET_FAILURE",
        "dagster/max_runtime": "21600",
    }
    for key in ("shop/orders", "shop/items"):
        assert world.syncs(key) == [str(job)]
        assert world.versions(key) == [request.run_key.removeprefix("airbyte_")]
        [said] = world.history(key)
        assert said["passed"]
        assert said["said"] == f"sync {job} succeeded after 0 s: 1,234 rows"
        assert (said["airbyte/sync_id"], said["connection_rows"], said["connection_bytes"]) == (job, 1234, 99_000)
        assert said["airbyte/job"].endswith(
            f"/workspaces/{world.store.workspace}/connections/{SHOP}/timeline?jobId={job}"
        )
    assert world.syncs("ads/clicks") == []
    assert skipped(world.tick()) == "No Airbyte job has ended."


def test_a_sync_that_dagster_started_is_answered_as_any_other_and_once(world: World) -> None:
    world.simulator.run_sync = lambda _, job: world.store.end(job, rows=5)
    config = {"ops": {"sync": {"config": {"connection": "Shop"}}}}
    assert (
        sync_job(world.workspace, interval=0.02).execute_in_process(instance=world.instance, run_config=config).success
    )
    assert world.syncs("shop/orders") == []
    assert answered(world.tick()) == [1]
    assert not world.tick().run_requests
    assert world.syncs("shop/orders") == ["1"]


def test_what_ended_before_the_first_tick_is_let_be_and_what_ran_then_is_not(
    simulator: Simulator, world: World
) -> None:
    world.cursor = None
    before, running = world.sync(SHOP), world.store.start(SHOP)
    simulator.store.clock.ahead += timedelta(seconds=2)  # type: ignore[attr-defined]
    assert skipped(world.tick()) == "No Airbyte job has ended."
    world.store.end(running)
    assert answered(world.tick()) == [running]
    assert str(before) not in world.syncs("shop/orders")


def test_a_look_back_takes_in_what_ended_shortly_before_the_first_tick(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_LOOKBACK", "1h")
    workspace = airbyte_workspace(Settings.load(), project().graph())
    assert workspace
    job = world.sync(SHOP)
    world.cursor = None
    world.sensor = airbyte_sync_sensor(workspace)
    assert answered(world.tick()) == [job]


def test_several_syncs_of_a_connection_make_one_run_that_names_them_all(world: World) -> None:
    first, second, other = world.sync(SHOP), world.sync(SHOP), world.sync(ADS)
    result = world.tick()
    assert keys(result) == [["bronze/stg_items", "bronze/stg_orders"], ["bronze/deep", "bronze/stg_clicks"]]
    shop, ads = result.run_requests or ()
    assert shop.tags["airbyte/sync_id"] == str(second)
    assert shop.tags["airbyte/sync_ids"] == f"{first},{second}"
    assert ads.tags["airbyte/sync_id"] == str(other)
    assert "airbyte/sync_ids" not in ads.tags
    assert world.syncs("shop/orders") == [str(first), str(second)]


def test_a_sync_without_rows_is_a_warning_and_builds_nothing(world: World) -> None:
    job = world.sync(SHOP, rows=0, bytes=0)
    assert skipped(world.tick()) == "1 Airbyte job ended, but no run is needed."
    [said] = world.history("shop/orders")
    assert (said["passed"], said["severity"]) == (False, "WARN")
    assert "moved no rows" in said["said"]
    assert "meta.lakehouse.airbyte.allow_empty" in said["said"]
    assert said["airbyte/sync_id"] == job
    assert world.syncs("shop/orders") == []


def test_a_connection_that_may_be_empty_is_built_all_the_same(world: World) -> None:
    job = world.sync(ADS, rows=0, bytes=0)
    assert keys(world.tick()) == [["bronze/deep", "bronze/stg_clicks"]]
    assert world.history("ads/clicks")[0]["passed"]
    assert world.syncs("ads/clicks") == [str(job)]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("status", "rows"), [("failed", 500), ("cancelled", 500), ("failed", None)])
def test_rows_of_a_failed_sync_are_built_by_the_next_success_although_that_moved_none(
    world: World, status: str, rows: int | None, together: bool
) -> None:
    """Airbyte keeps the rows and the state of a job that fails late: the next one has nothing left to move."""
    world.sync(SHOP, status=status, rows=rows, bytes=None)
    if not together:
        assert not world.tick().run_requests
    job = world.sync(SHOP, rows=0, bytes=0)
    # A daemon dies after it stored the events: the tick that is repeated still asks for the run.
    for event in world.evaluate().asset_events:
        world.instance.report_runless_asset_event(event)
    assert answered(world.tick()) == [job]
    assert world.syncs("shop/orders") == [str(job)]
    assert world.history("shop/orders")[-1]["passed"]
    world.store.clock.ahead += timedelta(seconds=1)  # type: ignore[attr-defined]
    world.sync(SHOP, rows=0, bytes=0)
    assert "no run is needed" in skipped(world.tick())


@pytest.mark.parametrize("kind", ["sync", "clear"])
def test_a_failed_job_without_rows_leaves_nothing_to_build(world: World, kind: str) -> None:
    job = world.store.start(SHOP, kind)
    world.store.end(job, "failed", rows=0, bytes=0)
    world.tick()
    world.sync(SHOP, rows=0, bytes=0)
    assert "no run is needed" in skipped(world.tick())


def test_rows_of_a_failed_sync_are_not_forgotten_by_many_that_moved_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_rows, "MAX_HISTORY", 2)
    world.sync(SHOP, status="failed", rows=500)
    for _ in range(2 * partial_rows.MAX_HISTORY):
        world.sync(SHOP, status="failed", rows=0, bytes=0)
        world.tick()
    job = world.sync(SHOP, rows=0, bytes=0)
    assert answered(world.tick()) == [job]
    world.sync(SHOP, status="failed", rows=0, bytes=0)
    world.sync(SHOP, rows=0, bytes=0)
    assert "no run is needed" in skipped(world.tick())


#: What a job does, and whether it leaves rows that no success has followed; None: as it was.
JOBS: Mapping[tuple[str, str, int], bool | None] = {
    ("sync", "succeeded", 5): False,
    ("sync", "succeeded", 0): None,
    ("sync", "failed", 5): True,
    ("sync", "failed", 0): None,
    ("sync", "cancelled", 0): None,
    ("clear", "succeeded", 0): False,
}


@settings(
    max_examples=int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "300")) // 30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.tuples(st.sampled_from([*JOBS]), st.sampled_from(["", "tick", "died"])), max_size=12))
def test_a_success_without_rows_is_built_exactly_if_jobs_before_it_left_some(
    world: World, steps: Sequence[tuple[tuple[str, str, int], str]]
) -> None:
    """Whatever ended in one tick, and whichever ticks are repeated because their daemon died."""
    clear = ("clear", "succeeded", 0)
    left = False
    expected: dict[int, bool] = {}
    for (kind, status, rows), then in [(clear, "tick"), *steps, (clear, "tick")]:
        world.store.clock.ahead += timedelta(seconds=2)  # type: ignore[attr-defined]
        job = world.store.start(SHOP, kind)
        world.store.end(job, status, rows=rows, bytes=rows)
        filled = kind == "sync" and status == "succeeded" and (rows > 0 or left)
        expected[job] = filled
        after = JOBS[kind, status, rows]
        left = not filled and (left if after is None else after)
        if then == "died":
            for event in world.evaluate().asset_events:
                world.instance.report_runless_asset_event(event)
        if then:
            world.tick()
    said = {one["airbyte/sync_id"]: one["passed"] for one in world.history("shop/orders")}
    assert {job: said[job] for job in expected} == expected


def test_rows_of_a_job_that_failed_are_built_when_it_succeeds_under_its_id_without_any(world: World) -> None:
    job = world.sync(SHOP, status="failed", rows=500)
    assert not world.tick().run_requests
    world.store.clock.ahead += timedelta(seconds=1)  # type: ignore[attr-defined]
    world.store.end(job, rows=0, bytes=0)
    assert answered(world.tick()) == [job]


def test_a_success_in_the_same_tick_is_built_once(world: World) -> None:
    world.sync(SHOP, status="failed", rows=500)
    built = world.sync(SHOP, rows=0, bytes=0)
    empty = world.sync(SHOP, rows=0, bytes=0)
    assert answered(world.tick()) == [built]
    assert [said["passed"] for said in world.history("shop/orders")] == [False, True, False]
    assert world.history("shop/orders")[-1]["airbyte/sync_id"] == empty


def test_a_job_that_becomes_visible_late_does_not_hide_rows_of_a_later_one(world: World) -> None:
    late = world.store.start(SHOP)
    world.store.end(late, "failed", rows=0, bytes=0, late=timedelta(seconds=30))
    world.store.clock.ahead += timedelta(seconds=1)  # type: ignore[attr-defined]
    world.sync(SHOP, status="failed", rows=500)
    world.tick()
    assert len(world.history("shop/orders")) == 1
    world.store.clock.ahead += timedelta(seconds=40)  # type: ignore[attr-defined]
    world.tick()
    assert world.history("shop/orders")[-1]["airbyte/sync_id"] == late
    job = world.sync(SHOP, rows=0, bytes=0)
    assert answered(world.tick()) == [job]


@pytest.mark.parametrize("jobs", [1, 5])
def test_jobs_without_rows_cost_one_query_a_tick(world: World, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    world.sync(SHOP, rows=0, bytes=0)
    world.tick()
    sizes: list[int] = []
    latest = world.instance.event_log_storage.get_latest_asset_check_execution_by_key

    def counted(keys: Sequence[dg.AssetCheckKey], *more: Any, **named: Any) -> Any:
        sizes.append(len(keys))
        return latest(keys, *more, **named)

    monkeypatch.setattr(world.instance.event_log_storage, "get_latest_asset_check_execution_by_key", counted)
    monkeypatch.setattr(
        world.instance.event_log_storage,
        "get_asset_check_execution_history",
        lambda *_, **__: pytest.fail("reads the history of a check"),
    )
    for _ in range(jobs):
        world.sync(SHOP, rows=0, bytes=0)
        world.sync(SHOP, status="failed", rows=0, bytes=0)
    result = world.evaluate()
    assert len(result.asset_events) == 2 * 2 * jobs
    assert sizes == [2]  # shop/orders and shop/items


def test_a_history_is_read_once_a_tick_where_the_newest_evaluation_does_not_tell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an earlier version of this project, which recorded nothing of the jobs before."""
    with monkeypatch.context() as earlier:
        earlier.setattr(sync_events, "ROWS_BEFORE", "unknown to it")
        world.sync(SHOP, status="failed", rows=500)
        world.sync(SHOP, status="failed", rows=0, bytes=0)
        world.tick()
    read: list[str] = []
    history = world.instance.event_log_storage.get_asset_check_execution_history

    def counted(key: dg.AssetCheckKey, *more: Any, **named: Any) -> Any:
        read.append(key.asset_key.to_user_string())
        return history(key, *more, **named)

    monkeypatch.setattr(world.instance.event_log_storage, "get_asset_check_execution_history", counted)
    for _ in range(3):
        world.sync(SHOP, status="failed", rows=0, bytes=0)
    job = world.sync(SHOP, rows=0, bytes=0)
    assert answered(world.evaluate()) == [job]
    assert sorted(read) == ["shop/items", "shop/orders"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_sync_that_did_not_succeed_is_a_failed_check_until_the_next_one_does(world: World, status: str) -> None:
    world.sync(SHOP, status=status, rows=12)
    assert "no run is needed" in skipped(world.tick())
    [said] = world.history("shop/items")
    assert (said["passed"], said["severity"], said["airbyte/status"]) == (False, "ERROR", status)
    assert status in said["said"]
    assert "12 rows were written" in said["said"]
    world.sync(SHOP)
    assert len(keys(world.tick())) == 1
    assert [said["passed"] for said in world.history("shop/items")] == [False, True]


@pytest.mark.parametrize("kind", ["reset", "clear"])
def test_a_job_that_empties_the_tables_builds_nothing(world: World, kind: str) -> None:
    job = world.store.start(SHOP, kind)
    world.store.end(job)
    assert "no run is needed" in skipped(world.tick())
    assert "emptied the tables" in world.history("shop/orders")[0]["said"]
    assert world.syncs("shop/orders") == []


def test_a_tick_whose_daemon_died_leaves_nothing_twice(world: World) -> None:
    """It stored some of its events and not its cursor; then another sync ended."""
    first = world.sync(SHOP)
    events = world.evaluate().asset_events
    for stored in range(len(events) + 1):
        assert [type(e).__name__ for e in world.evaluate().asset_events] == [type(e).__name__ for e in events[stored:]]
        if stored < len(events):
            world.instance.report_runless_asset_event(events[stored])
    second = world.sync(SHOP)
    world.tick()
    for key in ("shop/orders", "shop/items"):
        assert world.syncs(key) == [str(first), str(second)]
        assert [said["airbyte/sync_id"] for said in world.history(key)] == [first, second]


@pytest.mark.parametrize("kept", ["in one database", "in files"])
@pytest.mark.parametrize(("stored", "deaths"), [(0, 1), (1, 1), (2, 1), (3, 1), (1, 2), (3, 3)])
def test_an_event_that_a_dying_daemon_stored_by_half_is_completed(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: str, stored: int, deaths: int
) -> None:
    """Dagster stores an event, and in a second transaction what its asset or its check points at."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as files:
        if kept == "in files":
            world.instance = files
        storage = type(world.instance.event_log_storage)
        job = world.sync(SHOP)
        events = [*world.evaluate().asset_events]
        assert len(events) == 4
        for event in events[:stored]:
            world.instance.report_runless_asset_event(event)
        with monkeypatch.context() as dying:
            tags = (
                "_store_asset_event_tags" if hasattr(storage, "_store_asset_event_tags") else "store_asset_event_tags"
            )
            for name in (tags, "store_asset_check_event"):
                dying.setattr(storage, name, killed)
            # The next daemon begins with the same event, and may die at the same place.
            for _ in range(deaths):
                with pytest.raises(Killed):
                    world.instance.report_runless_asset_event(events[stored])
        world.tick()
        for key in ("shop/orders", "shop/items"):
            assert world.syncs(key) == [str(job)]
            assert [said["airbyte/sync_id"] for said in world.history(key)] == [job]
            [record] = world.instance.get_asset_records([dg.AssetKey(key.split("/"))])
            newest = record.asset_entry.last_materialization
            assert newest
            assert newest.asset_materialization
            assert newest.asset_materialization.metadata["airbyte/sync_id"].value == job
        assert world.evaluate().asset_events == []


def test_an_event_that_was_stored_by_half_is_the_first_that_the_next_tick_stores(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else events of other connections would be newer when the next daemon dies, and this one would never be found."""
    world.sync(ADS, rows=1)
    job = world.sync(SHOP)
    events = [*world.evaluate().asset_events]
    *whole, half = events[:4]  # two of each connection
    assert isinstance(half, dg.AssetCheckEvaluation)
    for event in whole:
        world.instance.report_runless_asset_event(event)
    with monkeypatch.context() as dying:
        dying.setattr(type(world.instance.event_log_storage), "store_asset_check_event", killed)
        with pytest.raises(Killed):
            world.instance.report_runless_asset_event(half)
    world.sync(ADS, rows=1)  # stands with the first one of its connection, before the events of the other
    again = [*world.evaluate().asset_events]
    assert (again[0].asset_key, again[0].metadata["airbyte/sync_id"].value) == (half.asset_key, job)
    world.instance.report_runless_asset_event(again[0])
    world.instance.report_runless_asset_event(again[1])
    world.tick()
    assert [said["airbyte/sync_id"] for said in world.history("shop/orders")] == [job]


class Killed(BaseException):
    """What a kill does to a transaction that was not committed."""


def killed(*_: object, **__: object) -> NoReturn:
    raise Killed


def test_a_burst_of_one_connection_that_was_stored_in_full_leaves_nothing_twice(world: World) -> None:
    jobs = [world.sync(SHOP) for _ in range(130)]
    for event in world.evaluate().asset_events:
        world.instance.report_runless_asset_event(event)
    assert world.evaluate().asset_events == []
    assert [r.tags["airbyte/sync_ids"] for r in world.tick().run_requests or ()] == [",".join(map(str, jobs))]


def test_a_job_that_failed_and_succeeds_when_it_is_tried_again_is_answered(world: World) -> None:
    job = world.store.start(SHOP)
    world.store.end(job, "failed")
    assert "no run is needed" in skipped(world.tick())
    assert skipped(world.tick()) == "No Airbyte job has ended."
    world.store.clock.ahead += timedelta(seconds=5)  # type: ignore[attr-defined]
    world.store.end(job)
    assert answered(world.tick()) == [job]
    assert [said["airbyte/status"] for said in world.history("shop/orders")] == ["failed", "succeeded"]
    assert world.syncs("shop/orders") == [str(job)]
    assert not world.tick().asset_events


@pytest.mark.parametrize("same_connections", [True, False])
def test_an_airbyte_that_is_installed_again_and_counts_from_one_is_answered(
    world: World, *, same_connections: bool
) -> None:
    first = world.sync(SHOP)
    before = world.tick()
    store = Store(world.store.clock)
    store.add_connection("Shop", id=SHOP if same_connections else None, streams=["orders", "items"])
    store.add_connection("Ads", id=ADS if same_connections else None, streams=["clicks"])
    if not same_connections:
        # The contract then names the connection by its name, or by its new id.
        world.workspace = replace(
            world.workspace,
            connections=ConnectionCache(
                world.workspace.airbyte,
                [
                    replace(t, connection="Shop") if t.connection == SHOP else t
                    for t in source_tables(world.workspace.graph)
                ],
            ),
        )
        world.sensor = airbyte_sync_sensor(world.workspace)
    world.simulator.store = store
    world.store = store
    world.store.clock.ahead += timedelta(minutes=2)  # type: ignore[attr-defined]
    [shop, _] = store.connections
    again = world.sync(shop)
    assert again == first
    result = world.tick()
    assert answered(result) == [again]
    assert {r.run_key for r in result.run_requests or ()}.isdisjoint({r.run_key for r in before.run_requests or ()})
    assert world.syncs("shop/orders") == [str(first), str(again)]
    assert len({*world.versions("shop/orders")}) == 2
    assert not world.tick().asset_events


def test_another_server_with_the_same_connection_id_and_end_is_another_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = world.sync(SHOP)
    before = world.tick()
    with Simulator(world.store, client=("the-client-id", SECRET)).serving() as other:
        monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", other.url)
        workspace = airbyte_workspace(Settings.load(), project().graph())
        assert workspace
        world.sensor = airbyte_sync_sensor(workspace)
        result = world.tick()
        assert answered(result) == [job]
        assert [r.run_key for r in result.run_requests or ()] != [r.run_key for r in before.run_requests or ()]
        assert len({*world.versions("shop/orders")}) == 2
        assert skipped(world.tick()) == "No Airbyte job has ended."


def as_before(event: dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation) -> Any:
    """The event as release 0.1 stored it: known by the job's id."""
    added = ("airbyte/identity", "airbyte/connection_id", "started")
    metadata = {name: value for name, value in event.metadata.items() if name not in added}
    assert not isinstance(event, dg.AssetObservation)
    if isinstance(event, dg.AssetMaterialization):
        tags = {"dagster/data_version": str(event.metadata["airbyte/sync_id"].value)}
        return dg.AssetMaterialization(event.asset_key, description=event.description, metadata=metadata, tags=tags)
    return dg.AssetCheckEvaluation(
        asset_key=event.asset_key,
        check_name=event.check_name,
        passed=event.passed,
        severity=event.severity,
        description=event.description,
        metadata=metadata,
    )


def test_an_upgrade_neither_repeats_nor_loses_a_job(world: World) -> None:
    """Release 0.1 answered one job, and died while it stored the events of another; a third has ended since."""
    first = world.sync(SHOP)
    for event in world.tick().asset_events:
        world.instance.report_runless_asset_event(as_before(event))
    world.cursor = as_version_1(world.cursor or "")
    second = world.sync(SHOP)
    stored = [as_before(event) for event in world.evaluate().asset_events]
    assert len(stored) == 4
    for event in stored[:3]:
        world.instance.report_runless_asset_event(event)
    third = world.sync(ADS)
    result = world.tick()
    assert sorted(answered(result)) == [second, third]
    assert [(event.asset_key.to_user_string(), type(event).__name__) for event in result.asset_events] == [
        ("shop/items", "AssetCheckEvaluation"),
        ("ads/clicks", "AssetMaterialization"),
        ("ads/clicks", "AssetCheckEvaluation"),
    ]
    assert str(first) not in [str(job) for job in answered(result)]
    assert not world.tick().asset_events


def test_a_tick_reads_what_was_stored_since_the_last_one_and_nothing_of_the_history(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    found = dg.DagsterInstance.get_records_for_run

    def counted(*args: Any, **more: Any) -> Any:
        page = found(*args, **more)
        read.append(len(page.records))
        return page

    monkeypatch.setattr(event_log, "PAGE", 4)
    monkeypatch.setattr(dg.DagsterInstance, "get_records_for_run", counted)
    monkeypatch.setattr(
        type(world.instance.event_log_storage),
        "get_asset_check_execution_history",
        lambda *_, **__: pytest.fail("reads the history of a check"),
    )
    for _ in range(6):
        for _ in range(3):
            world.sync(SHOP)
        read.clear()
        assert len(world.tick().asset_events) == 12
        # Which event is the newest, twice; then, page by page, those of the last tick that came to its end.
        assert sum(read) <= 2 + 12 + 4
        assert len(read) <= 2 + 12 / 4 + 1


def test_a_replay_past_the_search_records_no_sync_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "PAGE", 4)
    monkeypatch.setattr(event_log, "MAX_SEARCHED", 12)
    jobs = [world.sync(SHOP) for _ in range(7)]
    for event in (events := world.evaluate().asset_events)[:-1]:
        world.instance.report_runless_asset_event(event)
    for number in range(16):
        world.instance.report_runless_asset_event(dg.AssetMaterialization(["files", str(number)]))
    # The newest twelve events are of others; what is not decided by them is looked up in the tables' own histories.
    assert [_told(event) for event in world.evaluate().asset_events] == [_told(events[-1])]
    world.tick()
    world.cursor = f"{datetime.now(UTC):%Y-%m-%dT00:00Z}"
    world.tick()
    assert world.tick().asset_events == []
    assert world.syncs("shop/orders") == world.syncs("shop/items") == [str(job) for job in jobs]


def _told(event: event_log.Event | Any) -> tuple[Any, ...]:
    return type(event), event.asset_key, event.metadata["airbyte/sync_id"].value


def test_numbers_of_another_database_are_not_trusted(world: World) -> None:
    """The events were moved to a new database, and the cursor knows the numbers of the old one."""
    world.cursor = replace(Cursor.loads(world.cursor or ""), stored=10**9).dumps()
    world.sync(SHOP)
    for event in world.evaluate().asset_events:
        world.instance.report_runless_asset_event(event)
    assert world.evaluate().asset_events == []


def test_the_events_of_a_burst_are_found_however_many_ticks_it_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tick dies after it stored all of its events; the next ones see the same jobs in smaller parts."""
    jobs = [world.sync(SHOP) for _ in range(20)]
    for event in world.evaluate().asset_events:
        world.instance.report_runless_asset_event(event)
    monkeypatch.setattr(sync_sensor, "MAX_JOBS", 7)
    requested: list[int] = []
    while requests := (result := world.tick()).run_requests:
        assert result.asset_events == []
        requested += [
            int(job) for r in requests for job in r.tags.get("airbyte/sync_ids", r.tags["airbyte/sync_id"]).split(",")
        ]
    assert requested == jobs


def test_a_cursor_set_to_a_time_replays_what_ended_since_in_runs_of_their_own(world: World) -> None:
    job = world.sync(SHOP)
    world.tick()
    world.cursor = f"{datetime.now(UTC):%Y-%m-%dT00:00Z}"
    assert "The next tick replays the jobs that ended since" in skipped(world.tick())
    [request] = world.tick().run_requests or ()
    assert request.run_key
    assert request.run_key.startswith(f"airbyte_{job}-")
    assert "_replay-" in request.run_key
    assert world.syncs("shop/orders") == [str(job)]
    later = world.sync(SHOP)
    assert answered(world.tick()) == [later]


def test_a_connection_that_no_source_names_is_told_and_one_that_is_left_out_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.store.add_connection("CRM", streams=["accounts"], tags=[{"name": "sales"}])
    world.sync(other)
    assert "Jobs ended of 1 connection without a dbt source: 'CRM'" in skipped(world.tick())
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_EXCLUDE", "tag:sales")
    workspace = airbyte_workspace(Settings.load(), project().graph())
    assert workspace
    world.sensor = airbyte_sync_sensor(workspace)
    world.sync(other)
    assert skipped(world.tick()) == "1 Airbyte job ended, but no run is needed."


def test_streams_and_tables_that_do_not_meet_are_named_and_a_renamed_stream_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = Manifest()
    for name in ("orders", "order_items", "customers"):
        m.model(f"stg_{name}", m.source("shop", name), folder="bronze")
    workspace = airbyte_workspace(Settings.load(), m.graph())
    assert workspace
    world.sensor = airbyte_sync_sensor(workspace)
    store = Store(world.store.clock)
    shop = store.add_connection("Shop", streams=["orders", "Order-Items", "Refunds"])
    world.simulator.store = world.store = store
    world.sync(shop)
    messages: list[str] = []
    monkeypatch.setattr(dg.SensorEvaluationContext, "log", property(lambda _: Log(messages)))
    assert keys(world.tick()) == [["bronze/stg_order_items", "bronze/stg_orders"]]
    assert messages == [
        "1 stream of connection 'Shop' without a source table: 'Refunds'.",
        "1 source table without a known connection: shop.customers. Set meta.lakehouse.airbyte on those that Airbyte "
        "fills.",
    ]


@pytest.mark.parametrize("wanted", [None, "Shop"])
def test_streams_of_several_connections_that_land_in_one_table_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    m = Manifest()
    named = {"lakehouse": {"airbyte": {"connection": wanted}}} if wanted else {}
    m.model("stg_order_items", m.source("shop", "order_items", **named), folder="bronze")
    workspace = airbyte_workspace(Settings.load(), m.graph())
    assert workspace
    world.sensor = airbyte_sync_sensor(workspace)
    store = Store(world.store.clock)
    shop = store.add_connection("Shop", streams=["order_items"], destinationId="lake")
    crm = store.add_connection("CRM", streams=["Order-Items"], destinationId="lake")
    world.simulator.store = world.store = store
    world.sync(shop)
    messages: list[str] = []
    monkeypatch.setattr(dg.SensorEvaluationContext, "log", property(lambda _: Log(messages)))
    assert keys(world.tick()) == [["bronze/stg_order_items"]]
    [said] = messages
    assert (
        f"('order_items' of connection 'Shop' ({shop}), 'Order-Items' of connection 'CRM' ({crm})), and each sync may "
        "replace the rows of another"
    ) in said


class Log:
    """Keeps the warnings of a tick."""

    def __init__(self, messages: list[str]) -> None:
        self.warning = messages.append


def test_a_sync_that_runs_beyond_its_usual_time_fails_its_check_once_and_the_next_success_clears_it(
    world: World,
) -> None:
    clock: Clock = world.store.clock  # type: ignore[assignment]
    for _ in range(3):
        job = world.store.start(SHOP)
        clock.ahead += timedelta(minutes=20)
        world.store.end(job)
    world.tick()
    stuck = world.store.start(SHOP)
    for minutes, stalled in ((59, 0), (2, 1), (10, 1)):
        clock.ahead += timedelta(minutes=minutes)
        assert world.cursor
        world.cursor = world.cursor.replace(f'"asked_for_stalled":{_asked(world.cursor)}', '"asked_for_stalled":0')
        world.tick()
        found = [said for said in world.history("shop/orders") if said["airbyte/status"] == "stalled"]
        assert len(found) == stalled
    assert found[0]["said"] == f"sync {stuck} has been running for 61 min, usually 20 min"
    assert (found[0]["passed"], found[0]["severity"]) == (False, "ERROR")
    world.store.end(stuck)
    world.tick()
    assert world.history("shop/orders")[-1]["passed"]


def test_a_stalled_sync_is_found_behind_many_that_take_their_usual_time(world: World) -> None:
    clock: Clock = world.store.clock  # type: ignore[assignment]
    world.store.end(world.store.start(SHOP))
    long = [world.store.add_connection(f"long {n}", streams=["x"]) for n in range(8)]
    for connection in long:
        world.store.start(connection)
    stuck = world.store.start(SHOP)
    tables = [SourceTable((name, "x"), name, "x", connection=name) for name in (f"long {n}" for n in range(8))]
    sources = {
        f"s{n}": Source(f"s{n}", table.key, SourceContract(), Node(f"s{n}", "source", "x"))
        for n, table in enumerate(tables)
    }
    graph = replace(world.workspace.graph, sources={**world.workspace.graph.sources, **sources})
    cache = ConnectionCache(world.workspace.airbyte, [*source_tables(world.workspace.graph), *tables])
    world.sensor = airbyte_sync_sensor(replace(world.workspace, graph=graph, connections=cache))
    clock.ahead += timedelta(hours=2)
    assert world.cursor
    world.cursor = world.cursor.replace(f'"asked_for_stalled":{_asked(world.cursor)}', '"asked_for_stalled":0')
    world.tick()
    assert [
        said["airbyte/sync_id"] for said in world.history("shop/orders") if said["airbyte/status"] == "stalled"
    ] == [stuck]


def _asked(cursor: str) -> int:
    return round(Cursor.loads(cursor).stalled_checked)


def html(_: Request) -> Response:
    return Response(200, "<html>login</html>", kind="text/html")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (html, "answered with text/html where JSON was expected: LAKEHOUSE_AIRBYTE_URL"),
        (lambda _: Response(200, {"message": "workspace not found"}), "without a list of jobs: workspace not found"),
        (lambda _: Response(200, {"status": "error", "data": None}), "without a list of jobs"),
        (lambda _: Response(503, "x", kind="text/plain"), "answered 503"),
        (lambda _: Response(401, {"detail": f"bad {SECRET}"}), "rejects the credentials"),
        (lambda _: Response(403, {}), "LAKEHOUSE_AIRBYTE_CLIENT_ID"),
        (lambda _: Response(200, hang_up=True), "cannot be reached"),
    ],
)
def test_an_airbyte_that_does_not_answer_as_it_should_is_told_in_one_line_and_recovered_from(
    world: World, fault: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = world.sync(SHOP)
    before = world.cursor
    world.simulator.faults.append(fault)
    said = skipped(world.tick())
    assert words in said
    assert said.endswith("The cursor is unchanged.")
    assert "\n" not in said
    assert world.cursor == before
    world.simulator.faults.clear()
    assert answered(world.tick()) == [job]
    heard = capsys.readouterr()
    assert SECRET not in said + heard.out + heard.err


def test_a_server_that_ignores_the_offset_is_named_and_what_it_lists_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One second in which more jobs end than a page holds.
    now = world.store.clock().replace(microsecond=0)
    world.store.clock = lambda: now
    jobs = [world.sync(SHOP) for _ in range(102)]
    listed = Simulator._list_jobs
    monkeypatch.setattr(
        Simulator,
        "_list_jobs",
        lambda self, request: listed(self, replace(request, query={**request.query, "offset": ["0"]})),
    )
    result = world.tick()
    assert answered(result) == [jobs[99]]
    said = skipped(world.tick())
    assert "ignores `offset`" in said
    assert "More jobs are waiting" not in said
    monkeypatch.undo()
    assert answered(world.tick()) == [jobs[101]]


def test_a_job_with_an_end_in_the_future_hides_none_of_those_after_it(world: World) -> None:
    job = world.store.start(SHOP)
    world.store.end(job, early=timedelta(days=-365))
    assert answered(world.tick()) == [job]
    for _ in range(3):
        world.store.clock.ahead += timedelta(minutes=30)  # type: ignore[attr-defined]
        assert "No Airbyte job has ended" in skipped(world.tick())
        later = world.sync(SHOP)
        assert answered(world.tick()) == [later]


def test_a_clock_of_airbyte_that_is_set_back_loses_no_job(world: World) -> None:
    clock = world.store.clock
    clock.ahead += timedelta(days=1)  # type: ignore[attr-defined]
    before = [world.sync(SHOP)]
    assert answered(world.tick()) == before
    for _ in range(3):
        world.tick()
    clock.ahead -= timedelta(days=1)  # type: ignore[attr-defined]
    job = world.sync(SHOP)
    assert "Airbyte's clock was set back" in skipped(world.tick())
    assert answered(world.tick()) == [job]
    assert "No Airbyte job has ended" in skipped(world.tick())
    assert world.syncs("shop/orders") == [str(number) for number in (*before, job)]


def test_connections_that_cannot_be_listed_cost_no_job(world: World) -> None:
    job = world.sync(SHOP)
    world.workspace.connections._fetched = -10_000.0
    world.simulator.faults.append(lambda r: Response(500, {}) if r.path.endswith("/connections") else None)
    assert "connections answered 500" in skipped(world.tick())
    world.simulator.faults.clear()
    assert answered(world.tick()) == [job]


def test_a_cursor_that_cannot_be_read_is_kept_and_told(world: World) -> None:
    world.cursor = '{"version": 3}'
    assert "version 3, and this code reads versions up to 2" in skipped(world.tick())
    assert world.cursor == '{"version": 3}'


def test_an_empty_workspace_is_nothing_unusual(world: World) -> None:
    world.store.connections.clear()
    world.workspace.connections._fetched = -10_000.0
    assert skipped(world.tick()) == "No Airbyte job has ended."


def test_a_quiet_tick_is_one_request(world: World) -> None:
    for connection in (SHOP, ADS):
        world.sync(connection)
    world.tick()
    sent = len(world.simulator.requests)
    for _ in range(3):
        world.tick()
    assert [f"{r.method} {r.path[-5:]}" for r in world.simulator.requests[sent:]] == ["GET /jobs"] * 3
