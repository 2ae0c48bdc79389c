"""Rows per value, and per window and value, against the rows themselves, on DuckDB."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.checks.row_count_rules import CountRequest
from lakehouse_analytics.checks.value_counts import ValueCounts
from lakehouse_analytics.engines.partition_bins import Bins

DAYS = [dt.datetime(2026, 3, day, tzinfo=dt.UTC) for day in range(1, 5)]
VALUES = ["IT", "it's", "7"]
rows = st.lists(st.tuples(st.integers(0, 99), st.sampled_from([*VALUES, "other", None])), max_size=20)


@given(drawn=rows)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("by_time", [True, False])
def test_every_row_is_counted_in_its_partition(drawn: list[tuple[int, str | None]], *, by_time: bool) -> None:
    windows = [f"{day:%Y-%m-%d}" for day in DAYS[:3]] if by_time else [""]
    bins = Bins(windows, DAYS) if by_time else None
    keys = {(window, value): f"{window}|{value}" for window in windows for value in VALUES}
    counts = ValueCounts("duckdb", "region", keys, bins)
    tables = [CountRequest("t", ("id",), "moment"), CountRequest("t", (), "moment")]
    start = DAYS[0].replace(tzinfo=None) - dt.timedelta(days=1)
    with duckdb.connect() as connection:
        connection.execute("create table t (id bigint, moment timestamp, region varchar)")
        for number, region in drawn:
            moment = start + dt.timedelta(hours=number)
            connection.execute("insert into t values (?, ?, ?)", [number, moment, region])
        found = counts.read(tables, connection.execute(counts.sql(tables)).fetchall())
    expected: Counter[str] = Counter()
    for number, region in drawn:
        window = f"{start + dt.timedelta(hours=number):%Y-%m-%d}" if by_time else ""
        expected[keys.get((window, str(region)), "none")] += 1
    for answer in found:
        assert {key: count.rows for key, count in answer.items()} == {key: expected[key] for key in keys.values()}
    distinct = {key: count.distinct["id"] for key, count in found[0].items()}
    assert all(distinct[key] <= expected[key] for key in distinct)


def test_the_values_of_a_number_are_compared_as_text() -> None:
    counts = ValueCounts("duckdb", "id", {("", "7"): "7", ("", "8"): "8"})
    table = CountRequest("(select 7 as id union all select 7 union all select 77)", (), None)
    [found] = counts.read([table], duckdb.execute(counts.sql([table])).fetchall())
    assert {key: count.rows for key, count in found.items()} == {"7": 2, "8": 0}
