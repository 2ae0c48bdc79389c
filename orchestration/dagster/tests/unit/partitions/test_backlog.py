"""What schedules owe, over changes of the clock, dead daemons and late sources."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.partitions.backlog import BACKLOG_TAG, SchedulePlan, synced_until
from lakehouse_analytics.partitions.definitions import grain_partitions, windows
from lakehouse_analytics.schedules import plans, schedule_definitions, value_schedules
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.events import JobOrigin, job_events
from lakehouse_analytics.triggers.airbyte.job_outcome import job_outcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from manifests import Manifest
from windowed import at, ladder, windowed

CRONS = {"hourly": "10 * * * *", "daily": "0 2 * * *", "weekly": "0 4 * * 1", "monthly": "0 5 1 * *"}


def settings_in(zone: str) -> Settings:
    """Settings with a schedule per grain."""
    crons: dict[str, Any] = {f"{grain}_refresh_cron": cron for grain, cron in CRONS.items()}
    return Settings.model_construct(timezone=zone, catch_up=7, **crons)


def plan(grain: Grain, zone: str = "UTC", **more: Any) -> SchedulePlan:
    m = Manifest()
    windowed(m, "m", grain=grain, begin="2026-01-01")
    graph = m.graph()
    found = settings_in(zone)
    [made] = plans(
        found.model_copy(update=more), graph, grain_partitions(graph, zone, end_offset=more.pop("end_offset", 0))
    )
    return made


def ticks(made: SchedulePlan, since: dt.datetime) -> Iterator[dt.datetime]:
    return schedule_execution_time_iterator(since.timestamp(), made.cron, made.timezone)


@pytest.mark.parametrize(
    ("zone", "since", "expected"),
    [
        # 02:00 does not exist on 29 March: the tick comes at 03:00, for the 28th all the same.
        ("Europe/Berlin", "2026-03-27T12:00", ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30"]),
        # 02:00 comes twice on 25 October; the tick once.
        ("Europe/Berlin", "2026-10-23T12:00", ["2026-10-23", "2026-10-24", "2026-10-25", "2026-10-26"]),
        ("America/New_York", "2026-03-06T12:00", ["2026-03-06", "2026-03-07", "2026-03-08", "2026-03-09"]),
        ("America/New_York", "2026-10-30T12:00", ["2026-10-30", "2026-10-31", "2026-11-01", "2026-11-02"]),
        ("Australia/Lord_Howe", "2026-10-02T12:00", ["2026-10-02", "2026-10-03", "2026-10-04", "2026-10-05"]),
        ("Australia/Lord_Howe", "2026-04-03T12:00", ["2026-04-03", "2026-04-04", "2026-04-05", "2026-04-06"]),
        ("UTC", "2028-02-27T12:00", ["2028-02-27", "2028-02-28", "2028-02-29", "2028-03-01"]),
        ("UTC", "2026-12-30T12:00", ["2026-12-30", "2026-12-31", "2027-01-01", "2027-01-02"]),
    ],
)
def test_each_night_closes_its_day_once(zone: str, since: str, expected: list[str]) -> None:
    made = plan("daily", zone)
    found, before = [], dt.datetime.fromisoformat(since).replace(tzinfo=dt.UTC)
    for tick in islice(ticks(made, before), 4):
        [window] = made.backlog(before, tick, None)
        found.append(window.key)
        assert window.end <= tick
        before = tick
    assert found == expected


def test_the_night_of_the_missing_hour_fires_at_three_and_that_of_the_double_hour_once() -> None:
    made = plan("daily", "Europe/Berlin")
    spring = next(ticks(made, dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC)))
    autumn = list(islice(ticks(made, dt.datetime(2026, 10, 24, 12, tzinfo=dt.UTC)), 2))
    assert spring.isoformat() == "2026-03-29T03:00:00+02:00"
    assert [tick.date().isoformat() for tick in autumn] == ["2026-10-25", "2026-10-26"]


@pytest.mark.parametrize(
    ("grain", "tick", "window"),
    [
        ("hourly", "2026-05-05T15:10", "2026-05-05-14:00"),
        ("weekly", "2026-05-04T04:00", "2026-04-27"),
        ("monthly", "2026-03-01T05:00", "2026-02-01"),
        ("monthly", "2027-01-01T05:00", "2026-12-01"),
    ],
)
def test_other_grains_close_their_last_window(grain: Grain, tick: str, window: str) -> None:
    made, moment = plan(grain), dt.datetime.fromisoformat(tick).replace(tzinfo=dt.UTC)
    assert next(ticks(made, moment)) == moment
    assert [w.key for w in made.backlog(None, moment, None)] == [window]


def test_a_schedule_of_weekdays_owes_friday_saturday_and_sunday_on_monday() -> None:
    made = plan("daily", daily_refresh_cron="0 2 * * 1-5")
    friday, monday = (next(ticks(made, dt.datetime(2026, 5, day, 1, tzinfo=dt.UTC))) for day in (1, 4))
    assert [w.key for w in made.backlog(friday, monday, None)] == ["2026-05-01", "2026-05-02", "2026-05-03"]


def test_what_came_due_before_the_schedule_was_started_is_not_owed() -> None:
    made, tick = plan("daily"), dt.datetime(2026, 5, 10, 2, tzinfo=dt.UTC)
    started = dt.datetime(2026, 5, 8, 1, tzinfo=dt.UTC)
    assert [w.key for w in made.backlog(None, tick, started)] == ["2026-05-07", "2026-05-08", "2026-05-09"]
    # Started ten minutes after it is due, an hour waits for no day.
    assert made.backlog(None, tick, tick + dt.timedelta(minutes=10)) == []


def test_the_window_that_is_running_is_there_only_with_an_offset() -> None:
    moment = dt.datetime(2026, 5, 10, 2, tzinfo=dt.UTC)
    assert plan("daily").current(moment) is None
    offset = plan("daily", end_offset=1)
    running = offset.current(moment)
    assert running
    assert running.key == "2026-05-10"
    # What was built of it before its end does not settle it: the sensor looks for this tag.
    with dg.instance_for_test() as instance:
        [now] = offset.requests(running, "now", instance, ended=False)
        [then] = offset.requests(running, "then", instance)
    assert BACKLOG_TAG not in now.tags
    assert then.tags[BACKLOG_TAG] == "daily_refresh/2026-05-10"
    # What has ended is owed as ever, and the running one is not among it.
    assert [w.key for w in offset.backlog(moment - dt.timedelta(days=1), moment, None)] == ["2026-05-09"]


@settings(max_examples=60, deadline=None)
@given(
    grain=st.sampled_from(["hourly", "daily", "weekly", "monthly"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
    begin=st.datetimes(dt.datetime(2026, 2, 1), dt.datetime(2026, 11, 1)),
    outages=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    catch_up=st.integers(1, 10),
)
def test_after_any_outage_each_window_is_owed_once_and_the_newest_within_the_bound(
    grain: Grain, zone: str, begin: dt.datetime, outages: list[int], catch_up: int
) -> None:
    made = plan(grain, zone, catch_up=catch_up)
    begin = begin.replace(tzinfo=dt.UTC)
    coming = ticks(made, begin)
    before: dt.datetime | None = None
    owed: list[str] = []
    expected: list[str] = []
    for lost in outages:
        # Dagster evaluates the last tick of those that a dead daemon missed.
        *_, tick = islice(coming, lost + 1)
        found = [w.key for w in made.backlog(before, tick, begin)]
        with at(tick):
            keys = made.partitions_def.get_partition_keys()[-40:]
            since = before or begin - dt.timedelta(microseconds=1)
            due = [w.key for w in windows(made.partitions_def, keys) if since < made.due_at(w) <= tick]
        assert found == due[-catch_up:]
        owed += found
        expected += due[-catch_up:]
        before = tick
    assert len(owed) == len(set(owed))
    assert owed == expected


def sync(
    instance: dg.DagsterInstance,
    ended: dt.datetime,
    seconds: float | None,
    started: dt.datetime | None = None,
    source: str = "shop",
) -> None:
    metadata: dict[str, Any] = {"ended": dg.MetadataValue.timestamp(ended)}
    if seconds is not None:
        metadata["runtime_seconds"] = seconds
    if started:
        metadata["started"] = dg.MetadataValue.timestamp(started)
    instance.report_runless_asset_event(dg.AssetMaterialization([source, "orders"], metadata=metadata))


def test_a_window_waits_for_a_sync_that_began_after_its_end() -> None:
    m = Manifest()
    windowed(m, "days", m.source("shop", "orders"), grain="daily", lakehouse={"after": "shop.orders"})
    graph = m.graph()
    base = settings_in("UTC")
    [made] = plans(base, graph, grain_partitions(graph, "UTC"))
    assert made.may_wait
    tick = dt.datetime(2026, 5, 10, 2, tzinfo=dt.UTC)
    [window] = made.backlog(None, tick, None)
    midnight = dt.datetime(2026, 5, 10, tzinfo=dt.UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        assert made.unmet_conditions(window, instance) == [
            "shop.orders has not synced since 2026-05-10 00:00 UTC (no sync is recorded)"
        ]
        # Ended after midnight, but begun before: what came in between is not in it.
        minutes = [dt.timedelta(minutes=n) for n in range(60)]
        sync(instance, midnight + minutes[5], 600, midnight - minutes[5])
        assert synced_until(instance, dg.AssetKey(["shop", "orders"])) == midnight - minutes[5]
        assert "its last sync began 2026-05-09 23:55 UTC" in made.unmet_conditions(window, instance)[0]
        # A short last attempt, no duration at all, another's materialization: none of them says when reading began.
        sync(instance, midnight + minutes[50], 10, midnight - minutes[10])
        sync(instance, midnight + minutes[51], 60)
        sync(instance, midnight + minutes[52], None)
        instance.report_runless_asset_event(dg.AssetMaterialization(["shop", "orders"]))
        assert "its last sync began 2026-05-09 23:55 UTC" in made.unmet_conditions(window, instance)[0]
        sync(instance, midnight + minutes[59], 600, midnight)
        assert made.unmet_conditions(window, instance) == []


def test_a_sync_without_its_begin_is_named_with_a_way_out_and_another_tool_can_give_the_begin() -> None:
    m = Manifest()
    windowed(m, "days", m.source("shop", "orders"), grain="daily", lakehouse={"after": "shop.orders"})
    graph = m.graph()
    base = settings_in("UTC")
    [made] = plans(base, graph, grain_partitions(graph, "UTC"))
    [window] = made.backlog(None, dt.datetime(2026, 5, 10, 2, tzinfo=dt.UTC), None)
    midnight = dt.datetime(2026, 5, 10, tzinfo=dt.UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        sync(instance, midnight + dt.timedelta(minutes=20), 60)
        [said] = made.unmet_conditions(window, instance)
        assert "its newest materialization does not say when its sync began" in said
        assert "`started`" in said
        assert f"launch {made.job} for 2026-05-09" in said
        # What Dagster's REST endpoint `/report_asset_materialization/shop/orders` makes of JSON.
        for wrong in ("soon", "2026-05-10T00:01:00", True):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(["shop", "orders"], metadata={"started": wrong})
            )
            assert made.unmet_conditions(window, instance) == [said]
        instance.report_runless_asset_event(
            dg.AssetMaterialization(["shop", "orders"], metadata={"started": "2026-05-10T02:00:01+02:00"})
        )
        assert made.unmet_conditions(window, instance) == []


def test_a_window_waits_for_a_sync_after_the_tables_were_emptied() -> None:
    """A Clear in Airbyte leaves no rows: what a sync before it read is no longer there."""
    key = dg.AssetKey(["shop", "orders"])
    begin = dt.datetime(2026, 5, 10, tzinfo=dt.UTC)
    hour = dt.timedelta(hours=1)
    with dg.DagsterInstance.ephemeral() as instance:
        for number, (kind, status) in enumerate(
            [("sync", "succeeded"), ("clear", "succeeded"), ("sync", "failed"), ("sync", "succeeded")]
        ):
            started = begin + number * hour
            job = Job(number + 1, "c", kind, status, started, started + hour / 2, 1800.0, 5, 100)
            for event in job_events(
                job, job_outcome(job), [key], JobOrigin("Shop", "http://airbyte", "http://airbyte/1")
            ):
                instance.report_runless_asset_event(event)
            expected = [begin, None, None, begin + 3 * hour][number]
            assert synced_until(instance, key) == expected


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


SOURCES = (f"shop{number}" for number in count())


@settings(max_examples=20, deadline=None)
@given(
    syncs=st.lists(
        st.tuples(st.integers(-90, 90), st.integers(0, 180), st.booleans(), st.sampled_from([None, 0, 10, 600])),
        max_size=6,
    )
)
def test_a_window_is_ready_when_a_sync_began_after_its_end_in_whatever_order_syncs_are_recorded(
    instance: dg.DagsterInstance, syncs: list[tuple[int, int, bool, float | None]]
) -> None:
    m, source = Manifest(), next(SOURCES)
    windowed(m, "days", m.source(source, "orders"), grain="daily", lakehouse={"after": f"{source}.orders"})
    graph = m.graph()
    base = settings_in("UTC")
    [made] = plans(base, graph, grain_partitions(graph, "UTC"))
    [window] = made.backlog(None, dt.datetime(2026, 5, 10, 2, tzinfo=dt.UTC), None)
    ready = False
    for begin, length, known, seconds in syncs:
        started = window.end + dt.timedelta(minutes=begin)
        sync(instance, started + dt.timedelta(minutes=length), seconds, started if known else None, source)
        ready = ready or (known and begin >= 0)
        assert (made.unmet_conditions(window, instance) == []) == ready


def test_a_month_waits_for_its_days_and_a_day_for_its_hours() -> None:
    graph = ladder().graph()
    base = settings_in("UTC")
    made = {p.name: p for p in plans(base, graph, grain_partitions(graph, "UTC"))}
    assert {name: p.may_wait for name, p in made.items()} == {
        "hourly_refresh": False,
        "daily_refresh": True,
        "weekly_refresh": True,
        "monthly_refresh": True,
    }
    monthly = made["monthly_refresh"]
    tick = dt.datetime(2026, 3, 1, 5, tzinfo=dt.UTC)
    [window] = monthly.backlog(None, tick, None)
    with dg.DagsterInstance.ephemeral() as instance:
        assert monthly.unmet_conditions(window, instance) == [
            "silver/days does not have 2026-02-01, 2026-02-02, 2026-02-03 and 25 more"
        ]
        for day in range(1, 29):
            done = dg.AssetMaterialization(["silver", "days"], partition=f"2026-02-{day:02}")
            instance.report_runless_asset_event(done)
        assert monthly.unmet_conditions(window, instance) == []


def test_a_window_of_a_column_is_requested_for_all_values_and_days_wait_for_them() -> None:
    m = Manifest()
    both = {"partition": {"grain": "daily", "by": "market"}}
    windowed(m, "days", windowed(m, "both", grain="daily", lakehouse=both), grain="daily")
    graph = m.graph()
    found = Settings.model_construct(timezone="UTC", max_partitions_per_run=2)
    made = {one.name: one for one in plans(found, graph, grain_partitions(graph, "UTC"))}
    assert {name: one.job for name, one in made.items()} == {
        "daily_refresh": "full_refresh",
        "daily_market_refresh": "daily_market_refresh",
    }
    # The column may have no values yet.
    assert (made["daily_refresh"].may_wait, made["daily_market_refresh"].may_wait) == (True, True)
    [window] = windows(made["daily_refresh"].partitions_def, ["2026-03-01"])
    with dg.instance_for_test() as instance:
        assert made["daily_market_refresh"].requests(window, "key", instance) == []
        assert made["daily_market_refresh"].unmet_conditions(window, instance) == ["market has no values yet"]
        instance.add_dynamic_partitions("market", ["IT", "DE", "FR"])
        assert made["daily_market_refresh"].unmet_conditions(window, instance) == []
        requests = made["daily_market_refresh"].requests(window, "key", instance)
        start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
        assert [(request.tags[start], request.tags[end]) for request in requests] == [
            ("2026-03-01|IT", "2026-03-01|DE"),
            ("2026-03-01|FR", "2026-03-01|FR"),
        ]
        assert {request.tags[BACKLOG_TAG] for request in requests} == {"daily_market_refresh/2026-03-01"}
        assert len({request.run_key for request in requests}) == 2
        for value in ("IT", "FR"):
            built = dg.AssetMaterialization(["silver", "both"], partition=f"2026-03-01|{value}")
            instance.report_runless_asset_event(built)
        assert made["daily_refresh"].unmet_conditions(window, instance) == [
            "silver/both does not have 2026-03-01|DE (a new value of market needs a backfill: Assets → silver/both → "
            'Materialize, these windows and all values, with "Backfill only failed and missing partitions")'
        ]
        instance.report_runless_asset_event(dg.AssetMaterialization(["silver", "both"], partition="2026-03-01|DE"))
        assert made["daily_refresh"].unmet_conditions(window, instance) == []


def test_a_window_whose_column_has_no_values_waits_for_them() -> None:
    m = Manifest()
    windowed(m, "both", grain="daily", lakehouse={"partition": {"grain": "daily", "by": "market"}})
    listed = {"grain": "daily", "by": "region", "values": ["north"]}
    windowed(m, "listed", grain="daily", lakehouse={"partition": listed})
    graph = m.graph()
    found = Settings.model_construct(timezone="UTC", catch_up=7, max_partitions_per_run=None)
    found = found.model_copy(update={f"{g}_refresh_cron": c for g, c in CRONS.items()})
    made = plans(found, graph, grain_partitions(graph, "UTC"))
    assert {one.name: one.may_wait for one in made} == {"daily_market_refresh": True, "daily_region_refresh": False}
    definitions = schedule_definitions(found, made, [], [], [])
    schedules = {one.name: one for one in definitions.schedules or () if isinstance(one, dg.ScheduleDefinition)}
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance, dt.datetime(2026, 3, 2, 2, tzinfo=dt.UTC))
        tick = schedules["daily_market_refresh"].evaluate_tick(context)
        assert tick.run_requests == []
        assert tick.skip_message == (
            "2026-03-01 waits: market has no values yet. The sensor waiting_schedules will run it."
        )
        instance.add_dynamic_partitions("market", ["IT"])
        [request] = schedules["daily_market_refresh"].evaluate_tick(context).run_requests or ()
        assert request.tags[BACKLOG_TAG] == "daily_market_refresh/2026-03-01"


def test_the_schedule_of_a_column_requests_all_of_its_values() -> None:
    m = Manifest()
    replaced = {"materialized": "incremental", "incremental_strategy": "replace_window", "folder": "silver"}
    m.model("markets", lakehouse={"partition": {"by": "market"}}, **replaced)
    found = Settings.model_construct(timezone="UTC", daily_refresh_cron="0 2 * * *", max_partitions_per_run=None)
    [schedule] = value_schedules(found, m.graph())
    assert (schedule.name, schedule.default_status) == ("market_refresh", dg.DefaultScheduleStatus.STOPPED)
    with dg.instance_for_test() as instance:
        context = dg.build_schedule_context(instance, dt.datetime(2026, 3, 1, 2, tzinfo=dt.UTC))
        assert schedule.evaluate_tick(context).skip_message == "market has no values yet."
        instance.add_dynamic_partitions("market", ["IT", "DE", "FR"])
        [request] = schedule.evaluate_tick(context).run_requests or ()
        assert request.tags["dagster/asset_partition_range_start"] == "IT"
        assert request.tags["dagster/asset_partition_range_end"] == "FR"
