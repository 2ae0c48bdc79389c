"""Calendars and how windows depend on windows: in every zone, over changes of the clock."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import ContractError, Grain
from lakehouse_analytics.partitions.definitions import (
    GRAINS,
    PartitionRange,
    grain_partitions,
    missing_upstream_partitions,
    overlapping_keys,
    partition_mapping,
    refuse_mismatched_zones,
    windows,
)
from manifests import Manifest
from windowed import NOW, at, calendar, ladder, windowed

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo"]


@pytest.mark.parametrize(
    ("grain", "begin", "first"),
    [
        ("hourly", "2026-01-15T10:30:00", "2026-01-15-10:00"),
        ("daily", "2026-01-15T10:30:00", "2026-01-15"),
        ("weekly", "2026-01-15", "2026-01-12"),
        ("monthly", "2026-01-15", "2026-01-01"),
    ],
)
def test_begin_is_cut_down_to_a_whole_window(grain: Grain, begin: str, first: str) -> None:
    # Dagster itself would begin after it, and the rows in between would be in no window.
    with at(NOW):
        assert calendar(grain, begin).get_first_partition_key() == first


def test_models_of_a_grain_share_the_calendar_of_the_earliest() -> None:
    m = Manifest()
    for begin in ("2026-03-01", "2025-12-24", "2026-01-01"):
        windowed(m, f"m{begin[:4]}{begin[5:7]}", grain="daily", begin=begin)
    with at(NOW):
        assert grain_partitions(m.graph(), "UTC")["daily"].get_first_partition_key() == "2025-12-24"


def test_the_last_window_is_the_last_that_has_ended() -> None:
    with at(dt.datetime(2026, 11, 21, 23, 30, tzinfo=dt.UTC)):
        assert calendar("daily", "2026-01-01").get_last_partition_key() == "2026-11-20"
        # In Berlin it is the 22nd already.
        assert calendar("daily", "2026-01-01", "Europe/Berlin").get_last_partition_key() == "2026-11-21"
        assert calendar("daily", "2026-01-01", end_offset=1).get_last_partition_key() == "2026-11-21"


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Europe/Berlin", "2028-02-29", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_has_it(zone: str, day: str, hours: float) -> None:
    with at(dt.datetime(2029, 1, 1, tzinfo=dt.UTC)):
        [window] = windows(calendar("daily", "2026-01-01", zone), [day])
    assert (window.end - window.start).total_seconds() == 24 * 3600 or hours != 24
    assert window.end.timestamp() - window.start.timestamp() == hours * 3600
    assert window.start.astimezone(ZoneInfo(zone)).hour == 0


def test_hours_of_the_clocks_change_are_told_apart() -> None:
    with at(NOW):
        c = calendar("hourly", "2026-10-25", "Europe/Berlin")
        keys = [key for key in c.get_partition_keys() if key.startswith("2026-10-25")]
        assert len(keys) == len(set(keys)) == 25
        found = windows(c, keys)
        assert all(one.end == other.start for one, other in pairwise(found))


def test_hours_of_a_clock_that_changes_by_half_an_hour_are_refused() -> None:
    # Dagster 1.13.27 has the window 11:30 to 12:30 of 2026-10-04 or 12:00 to 13:00, by where it begins to count.
    with pytest.raises(ContractError, match="UTC offset of Australia/Lord_Howe changes by less than an hour"):
        calendar("hourly", "2026-01-01", "Australia/Lord_Howe")
    for zone in ("Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "UTC"):
        assert calendar("hourly", "2026-01-01", zone)


def grains_of(zone: str) -> list[Grain]:
    """Those that Dagster can cut there."""
    return [grain for grain in GRAINS if grain != "hourly" or zone != "Australia/Lord_Howe"]


@settings(max_examples=150, deadline=None)
@given(
    grain=st.sampled_from(GRAINS),
    zone=st.sampled_from(ZONES),
    begin=st.dates(dt.date(2025, 1, 1), dt.date(2026, 6, 1)),
    length=st.integers(1, 400),
)
def test_windows_follow_each_other_without_a_gap(grain: Grain, zone: str, begin: dt.date, length: int) -> None:
    if grain not in grains_of(zone):
        return
    with at(NOW):
        c = calendar(grain, begin.isoformat(), zone)
        found = windows(c, c.get_partition_keys()[:length])
    start = dt.datetime.combine(begin, dt.time(), ZoneInfo(zone))
    assert not found or found[0].start <= start
    for one, other in pairwise(found):
        assert one.end == other.start
        assert one.start < one.end


@settings(max_examples=150, deadline=None)
@given(
    pair=st.sampled_from([(a, b) for a in GRAINS for b in GRAINS]),
    zone=st.sampled_from(ZONES),
    # Over the changes of the clock in autumn, or in spring south of the equator.
    begins=st.tuples(*[st.dates(dt.date(2026, 8, 20), dt.date(2026, 9, 20))] * 2),
    place=st.floats(0, 1, exclude_max=True),
)
def test_a_window_depends_on_all_upstream_windows_that_it_shares_a_moment_with(
    pair: tuple[Grain, Grain], zone: str, begins: tuple[dt.date, dt.date], place: float
) -> None:
    above, below = pair
    if not {*pair} <= {*grains_of(zone)}:
        return
    with at(NOW):
        up, down = calendar(above, begins[0].isoformat(), zone), calendar(below, begins[1].isoformat(), zone)
        keys = down.get_partition_keys()
        key = keys[int(place * len(keys))]
        [window] = windows(down, [key])
        found = partition_mapping(above, below).get_upstream_mapped_partitions_result_for_partitions(  # type: ignore[union-attr]
            down.subset_with_partition_keys([key]), down, up
        )
        wanted = {w.key for w in windows(up, up.get_partition_keys()) if w.start < window.end and w.end > window.start}
        assert set(found.partitions_subset.get_partition_keys()) == wanted
        # What is before the beginning of the upstream calendar is not waited for.
        assert not found.required_but_nonexistent_subset or found.required_but_nonexistent_subset.is_empty
        assert set(overlapping_keys(up, window.start, window.end)) == wanted


def test_what_is_built_as_a_whole_is_mapped_by_dagster() -> None:
    assert partition_mapping(None, "daily") is None
    assert partition_mapping("daily", None) is None


def test_a_month_lacks_the_days_that_were_never_built() -> None:
    graph = ladder("2026-09-15").graph()
    all_of_them = grain_partitions(graph, "Europe/Berlin")
    [months] = [table for table in graph.tables.values() if table.grain == "monthly"]
    with dg.DagsterInstance.ephemeral() as instance, at(NOW):
        for month, lacking in (("2026-09-01", 16), ("2026-10-01", 31)):
            span = PartitionRange(windows(all_of_them["monthly"], [month]))
            [(above, keys)] = missing_upstream_partitions(graph, months, span, all_of_them, instance)
            assert (above.key, len(keys)) == (("silver", "days"), lacking)
        for day in overlapping_keys(all_of_them["daily"], span.start, span.end)[1:]:
            instance.report_runless_asset_event(dg.AssetMaterialization(["silver", "days"], partition=day))
        assert list(missing_upstream_partitions(graph, months, span, all_of_them, instance)) == [
            (above, ["2026-10-01"])
        ]


def test_a_day_does_not_wait_for_its_month() -> None:
    m = Manifest()
    months = windowed(m, "months", grain="monthly")
    days = windowed(m, "days", months, grain="daily")
    graph = m.graph()
    found = grain_partitions(graph, "UTC")
    with dg.DagsterInstance.ephemeral() as instance, at(NOW):
        span = PartitionRange(windows(found["daily"], ["2026-10-05"]))
        assert list(missing_upstream_partitions(graph, graph.tables[days], span, found, instance)) == []


def test_windows_of_two_zones_do_not_meet() -> None:
    def spec(key: str, zone: str, *deps: str) -> dg.AssetSpec:
        return dg.AssetSpec(key, deps=deps, partitions_def=calendar("daily", "2026-01-01", zone))

    refuse_mismatched_zones([spec("a", "UTC"), spec("b", "UTC", "a"), dg.AssetSpec("c", deps=["a", "b"])])
    with pytest.raises(
        ContractError, match="b has partitions in Europe/Berlin, and reads a, whose partitions are in UTC"
    ):
        refuse_mismatched_zones([spec("a", "UTC"), spec("b", "Europe/Berlin", "a")])
