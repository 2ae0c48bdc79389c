"""Windows of time through real dbt, a real engine and a real instance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from . import shop
from .conftest import Lakehouse, project_on
from .databases import Database

pytestmark = pytest.mark.engine("duckdb", "trino")

ZONE = "Europe/Berlin"
BEGIN = "2026-03-20"
DAYS = [f"2026-03-{day}" for day in range(20, 32)]
#: Two orders a day of Berlin at least, and every border from both sides: midnight, and the hour that is skipped.
ROWS = [
    (n, at, n % 3, 10 + n)
    for n, at in enumerate(
        moment.astimezone(dt.UTC).replace(tzinfo=None)
        for day in range(20, 32)
        for midnight in [dt.datetime(2026, 3, day, tzinfo=ZoneInfo(ZONE))]
        for moment in (midnight, midnight + dt.timedelta(hours=12), midnight - dt.timedelta(microseconds=1))
    )
]


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Lakehouse]:
    project_on(tmp_path, monkeypatch, database, LAKEHOUSE_TIMEZONE=ZONE)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        made = Lakehouse(tmp_path, database, instance, shop.files(BEGIN))
        made.write()
        made.sql("create schema raw")
        made.sql("create table raw.orders (id bigint, ordered_at timestamp(6), customer bigint, amount bigint)")
        insert(made, ROWS)
        yield made


def insert(lakehouse: Lakehouse, rows: list[tuple[int, dt.datetime, int, int]]) -> None:
    values = ", ".join(f"({n}, timestamp '{at}', {customer}, {amount})" for n, at, customer, amount in rows)
    lakehouse.sql(f"insert into raw.orders values {values}")


def sums(lakehouse: Lakehouse) -> dict[dt.date, tuple[int, int]]:
    return {day: (orders, int(amount)) for day, orders, amount in lakehouse.sql("select * from gold.day_sums")}


def test_windows_in_any_order_twice_and_with_late_rows_between_are_one_full_rebuild(lakehouse: Lakehouse) -> None:
    # Over the change of the clock on 29 March; the day before the first belongs to no window.
    first = lakehouse.run(windows=("2026-03-28", "2026-03-30"))
    assert first.success, first.failure
    assert first.partitions["silver/days"] == {"2026-03-28", "2026-03-29", "2026-03-30"}
    assert set(sums(lakehouse)) == {dt.date(2026, 3, day) for day in (28, 29, 30)}

    late = [(1000 + n, at - dt.timedelta(minutes=1), 7, 1) for n, (_, at, _, _) in enumerate(ROWS[3::4])]
    insert(lakehouse, late)
    lakehouse.sql("delete from raw.orders where id = 28")
    for windows in (("2026-03-20", "2026-03-24"), ("2026-03-29", "2026-03-31"), ("2026-03-23", "2026-03-28")):
        outcome = lakehouse.run("daily_backfill" if windows[0] != "2026-03-20" else "full_refresh", windows=windows)
        assert outcome.success, outcome.failure
    again = lakehouse.run(windows=(DAYS[0], DAYS[-1]))
    assert again.success, again.failure
    by_windows = shop.contents_of_days(lakehouse)

    rebuilt = lakehouse.run(windows=("2026-03-20", last_day()), config={"full_refresh": True})
    assert rebuilt.success, rebuilt.failure
    assert {k: [r for r in rows if in_march(r)] for k, rows in shop.contents_of_days(lakehouse).items()} == by_windows
    stored = [row for row in [*ROWS, *late] if row[0] != 28]
    expected = shop.expected_sums(stored, ZONE)
    assert sums(lakehouse) == {day: found for day, found in expected.items() if day >= dt.date(2026, 3, 20)}


def last_day() -> str:
    return (dt.datetime.now(ZoneInfo(ZONE)).date() - dt.timedelta(days=1)).isoformat()


def in_march(row: tuple[object, ...]) -> bool:
    return any(isinstance(value, dt.date) and (value.year, value.month) == (2026, 3) for value in row)


def test_each_partition_has_its_own_rows_and_checks(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run(windows=("2026-03-21", "2026-03-23"))
    assert outcome.success, outcome.failure
    # Midnight, noon, and the last microsecond, which is the next day's in the list.
    assert outcome.rows["silver/days"] == {"2026-03-21": 3, "2026-03-22": 3, "2026-03-23": 3}
    assert outcome.metadata["silver/days"]["unique_customers"] == 3
    found = outcome.by_partition["silver/days:row_count"]
    assert {key: (e.passed, e.description) for key, e in found.items()} == {
        key: (True, "3 rows; max_drop not judged: no earlier count") for key in found
    }
    # What is built as a whole has no partitions, and one row of a test of dbt.
    assert outcome.partitions["bronze/orders"] == set()
    assert outcome.checks["silver/days:unique_days_id"]
    assert "metrics/total" in outcome.built

    lakehouse.sql("delete from raw.orders where ordered_at >= timestamp '2026-03-21 23:00:00' and id % 3 > 0")
    dropped = lakehouse.run(windows=("2026-03-21", "2026-03-23"))
    assert not dropped.success
    judged = dropped.by_partition["silver/days:row_count"]
    assert [judged[key].passed for key in sorted(judged)] == [True, False, False]
    assert "row_count: 2026-03-22: 1 rows, 67% fewer than the 3 of the last passed check" in dropped.failure
    assert "gold/day_sums was blocked by silver/days" in dropped.failure
    # The baseline is carried on: looking twice does not make it normal.
    again = lakehouse.run(windows=("2026-03-22", "2026-03-22"))
    assert "1 rows, 67% fewer than the 3" in again.failure
    accepted = lakehouse.run(windows=("2026-03-22", "2026-03-22"), config={"accept_row_counts": ["days"]})
    assert accepted.success, accepted.failure
    assert accepted.rows["silver/days"] == {"2026-03-22": 1}


def test_a_run_of_windows_without_one_is_refused_before_anything_is_built(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run()
    assert (outcome.success, outcome.built) == (False, set())
    assert "This run was started without a partition, and builds gold/day_sums, silver/days" in outcome.failure
    missing = lakehouse.run(windows=("2026-03-19", "2026-03-20"))
    assert (missing.success, missing.built) == (False, set())
    assert "There is no partition 2026-03-19 of gold/day_sums, silver/days: their windows go from 2026-03-20" in (
        missing.failure
    )
    # What has no windows needs none.
    assert lakehouse.run(assets=["bronze/orders"]).success


def test_a_part_of_history_is_no_full_refresh(lakehouse: Lakehouse) -> None:
    assert lakehouse.run(windows=(DAYS[0], DAYS[-1])).success
    outcome = lakehouse.run(windows=("2026-03-21", "2026-03-21"), config={"full_refresh": True})
    assert (outcome.success, outcome.built) == (False, set())
    assert "full_refresh of partitioned tables needs every partition in one run, 2026-03-20..." in outcome.failure
    assert len(sums(lakehouse)) == 12


def test_a_month_is_built_of_all_its_days_or_not_at_all(lakehouse: Lakehouse) -> None:
    assert lakehouse.run(windows=("2026-03-20", "2026-03-30")).success
    lacking = lakehouse.run("monthly_refresh", windows=("2026-03-01", "2026-03-01"))
    assert (lacking.success, lacking.built) == (False, set())
    assert "2026-03-01 cannot be built yet: gold/day_sums lacks 2026-03-31. Build those first" in lacking.failure
    all_the_same = {"allow_missing_partitions": True}
    partial = lakehouse.run("monthly_refresh", windows=("2026-03-01", "2026-03-01"), config=all_the_same)
    assert partial.success, partial.failure
    assert lakehouse.run("daily_backfill", windows=("2026-03-31", "2026-03-31")).success
    # Days before `begin` do not exist, and are not waited for.
    whole = lakehouse.run("monthly_refresh", windows=("2026-03-01", "2026-03-01"))
    assert whole.success, whole.failure
    [[month, orders, amount]] = lakehouse.sql("select month, orders, amount from metrics.months")
    expected = [found for day, found in shop.expected_sums(ROWS, ZONE).items() if day >= dt.date(2026, 3, 20)]
    assert (month, orders, int(amount)) == (dt.date(2026, 3, 1), *map(sum, zip(*expected, strict=True)))


def test_a_window_whose_rows_are_gone_is_cleared(lakehouse: Lakehouse) -> None:
    assert lakehouse.run(windows=("2026-03-21", "2026-03-23")).success
    lakehouse.sql("delete from raw.orders where ordered_at >= timestamp '2026-03-21 23:00:00'")
    outcome = lakehouse.run(windows=("2026-03-22", "2026-03-23"), config={"accept_row_counts": ["days"]})
    assert outcome.success, outcome.failure
    assert outcome.rows["silver/days"] == {"2026-03-22": 0, "2026-03-23": 0}
    assert set(sums(lakehouse)) == {dt.date(2026, 3, 21)}
