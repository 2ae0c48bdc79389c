"""Counts by window against counting in Python, on a real DuckDB."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.checks.partition_counts import read_window_counts, window_count_sql
from lakehouse_analytics.checks.row_count_rules import CountRequest
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.engines.partition_bins import Bins
from lakehouse_analytics.partitions.definitions import PartitionRange, windows
from windowed import NOW, at, calendar

BEGIN, END = dt.datetime(2026, 3, 20), dt.datetime(2026, 11, 10)
TYPES = ["timestamp", "timestamptz", "date"]


def bins_of(span: PartitionRange) -> Bins:
    return Bins([w.key for w in span.windows], [*(w.start for w in span.windows), span.end])


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'America/Los_Angeles'")  # whatever the session's is
    return connection


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    grain=st.sampled_from(["hourly", "daily", "weekly", "monthly"]),
    column=st.sampled_from(TYPES),
    rows=st.lists(st.tuples(st.datetimes(BEGIN, END), st.integers(0, 3)), max_size=40),
    edges=st.lists(st.integers(0, 400), max_size=10),
    first=st.integers(0, 300),
    length=st.integers(1, 60),
)
def test_every_row_is_counted_in_the_window_that_holds_it(
    connection: duckdb.DuckDBPyConnection,
    zone: str,
    grain: Grain,
    column: str,
    rows: list[tuple[dt.datetime, int]],
    edges: list[int],
    first: int,
    length: int,
) -> None:
    if grain == "hourly" and (column == "date" or zone == "Australia/Lord_Howe"):
        return
    with at(NOW):
        c = calendar(grain, "2026-03-20", zone)
        keys = c.get_partition_keys()
        first %= len(keys)
        span = PartitionRange(windows(c, keys[first : first + length]))
        borders = [w.start for w in windows(c, keys)]
    # Borders themselves, and just before them.
    for n, edge in enumerate(edges):
        border = borders[edge % len(borders)].astimezone(dt.UTC).replace(tzinfo=None)
        rows.append((border - dt.timedelta(microseconds=n % 2), n % 4))

    def moment(time: dt.datetime) -> dt.datetime:
        return time.replace(tzinfo=dt.UTC)

    def stored(time: dt.datetime) -> object:
        if column == "date":
            return moment(time).astimezone(ZoneInfo(zone)).date()
        return moment(time) if column == "timestamptz" else time

    connection.execute(f'create or replace table t ("at" {column}, k integer)')
    if rows:
        connection.executemany("insert into t values (?, ?)", [(stored(time), k) for time, k in rows])
    connection.execute("insert into t values (null, 1)")
    table = CountRequest('"memory"."main"."t"', ("k",), "at")
    other = CountRequest('"memory"."main"."t"', (), "at")
    sql = window_count_sql("duckdb", bins_of(span), [table, other])
    counts, plain = read_window_counts(bins_of(span), [table, other], connection.execute(sql).fetchall())

    placed = [(w.key, k) for time, k in rows for w in span.windows if w.start <= moment(time) < w.end]
    expected = Counter(key for key, _ in placed)
    assert {key: found.rows for key, found in counts.items()} == {w.key: expected[w.key] for w in span.windows}
    assert {key: found.rows for key, found in plain.items()} == {key: found.rows for key, found in counts.items()}
    for key, found in counts.items():
        assert found.distinct == {"k": len({k for where, k in placed if where == key})}
        assert (found.newest is None) == (found.rows == 0)
