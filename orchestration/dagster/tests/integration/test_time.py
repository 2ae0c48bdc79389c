"""Windows of time through real dbt, a real engine and a real instance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.partitions.definitions import PartitionRange, windows
from lakehouse_analytics.settings import Settings

from . import shop
from .conftest import Lakehouse, project_on
from .databases import Database

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")

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
        for moment in (midnight, midnight + dt.timedelta(hours=12), midnight - dt.timedelta(milliseconds=1))
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


days = st.integers(0, len(DAYS) - 1)
steps = st.one_of(
    st.tuples(st.just("build"), days, days),
    st.tuples(st.just("late"), days, st.sampled_from([0, 1, 720, 1439])),
    st.tuples(st.just("gone"), days, days),
)


def test_windows_in_any_order_twice_and_with_late_rows_between_are_one_full_rebuild(
    lakehouse: Lakehouse, engine: str
) -> None:
    lakehouse.definitions()  # parses
    settings_ = Settings.load()
    runner = dbt_runner(settings_, DbtProject.from_settings(settings_))
    partitions_def = dg.DailyPartitionsDefinition(BEGIN, timezone=ZONE)
    stored: dict[int, tuple[int, dt.datetime, int, int]] = {}

    with runner.session(engine, runner.database_environment) as dbt:

        def build(first: int, last: int) -> None:
            span = PartitionRange(windows(partitions_def, DAYS[first : last + 1]))
            args = ["run", "--select", "orders", "days", "day_sums", *span.dbt_args()]
            result = dbt.run(args, lambda *_: None, target_path=Path(runner.target_path))
            assert result.exit_code == 0, result.errors

        @settings(max_examples=4 if engine == "duckdb" else 2, deadline=None, suppress_health_check=[*HealthCheck])
        @given(did=st.lists(steps, min_size=2, max_size=5), cut=st.integers(1, 11), backwards=st.booleans())
        def anything(did: list[tuple[str, int, int]], cut: int, backwards: bool) -> None:
            for table in ("silver.days", "gold.day_sums"):
                lakehouse.sql(f"drop table if exists {table}")
            lakehouse.sql("delete from raw.orders where id >= 0")
            insert(lakehouse, ROWS)
            stored.clear()
            stored.update({row[0]: row for row in ROWS})
            for what, day, other in did:
                if what == "build":
                    build(min(day, other), max(day, other))
                elif what == "late":
                    at = ROWS[3 * day][1] + dt.timedelta(minutes=other)
                    row = (1000 + len(stored), at, 9, 1)
                    insert(lakehouse, [row])
                    stored[row[0]] = row
                else:
                    gone = {row[0] for row in ROWS[3 * min(day, other) : 3 * max(day, other)]}
                    lakehouse.sql(f"delete from raw.orders where id in ({', '.join(map(str, [*gone, -1]))})")
                    for key in gone:
                        stored.pop(key, None)
            parts = [(0, cut - 1), (cut, len(DAYS) - 1)]
            for part in reversed(parts) if backwards else parts:
                build(*part)
            by_windows = shop.contents_of_days(lakehouse)
            for table in ("silver.days", "gold.day_sums"):
                lakehouse.sql(f"drop table {table}")
            build(0, len(DAYS) - 1)
            assert by_windows == shop.contents_of_days(lakehouse)
            expected = shop.expected_sums([*stored.values()], ZONE)
            assert sums(lakehouse) == {day: n for day, n in expected.items() if day >= dt.date(2026, 3, 20)}

        anything()


def test_each_partition_has_its_own_rows_and_checks(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run(windows=("2026-03-21", "2026-03-23"))
    assert outcome.success, outcome.failure
    # Midnight, noon, and the last millisecond, which is the next day's in the list.
    assert outcome.rows["silver/days"] == {"2026-03-21": 3, "2026-03-22": 3, "2026-03-23": 3}
    assert outcome.metadata["silver/days"]["unique_customers"] == 3
    found = outcome.by_partition["silver/days:row_count"]
    said = {(key, e.passed, e.description) for key, e in found.items()}
    assert said == {(f"2026-03-{day}", True, "3 rows; max_drop not checked: no earlier count") for day in (21, 22, 23)}
    # Dagster takes an evaluation for current only where it names the partition's latest materialization.
    targets = [target for e in found.values() if (target := e.target_materialization_data)]
    assert {target.run_id for target in targets} == {outcome.run_id}
    assert len({target.storage_id for target in targets}) == len(found)
    # What is built as a whole has no partitions, and one row of a test of dbt.
    assert outcome.partitions["bronze/orders"] == set()
    assert outcome.checks["silver/days:unique_days_id"]
    assert "metrics/total" in outcome.built

    lakehouse.sql("delete from raw.orders where ordered_at >= timestamp '2026-03-21 23:00:00' and id % 3 > 0")
    some = ["bronze/orders", "silver/days", "gold/day_sums"]
    dropped = lakehouse.run(assets=some, windows=("2026-03-21", "2026-03-23"))
    assert not dropped.success
    judged = dropped.by_partition["silver/days:row_count"]
    assert [judged[key].passed for key in sorted(judged)] == [True, False, False]
    assert "row_count: 2026-03-22: 1 rows, 67% fewer than the 3 of the last passed check" in dropped.failure
    assert "gold/day_sums was blocked by silver/days" in dropped.failure
    # The baseline is carried on: looking twice does not make it normal.
    again = lakehouse.run(assets=some[1:2], windows=("2026-03-22", "2026-03-22"))
    assert "1 rows, 67% fewer than the 3" in again.failure
    config = {"accept_row_counts": ["days"]}
    accepted = lakehouse.run(assets=some[1:2], windows=("2026-03-22", "2026-03-22"), config=config)
    assert accepted.success, accepted.failure
    assert accepted.rows["silver/days"] == {"2026-03-22": 1}


def test_a_run_of_windows_without_one_is_refused_before_anything_is_built(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run()
    assert (outcome.success, outcome.built) == (False, set())
    assert "This run was started without a partition, and builds gold/day_sums, silver/days" in outcome.failure
    missing = lakehouse.run(windows=("2026-03-19", "2026-03-20"))
    assert (missing.success, missing.built) == (False, set())
    assert "There is no partition 2026-03-19 of gold/day_sums, silver/days: their partitions are 2026-03-20" in (
        missing.failure
    )
    # What has no windows needs none.
    assert lakehouse.run(assets=["bronze/orders"]).success


@pytest.mark.nightly("trino", "postgres")
def test_a_part_of_history_is_no_full_refresh(
    lakehouse: Lakehouse, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ["bronze/orders", "silver/days"]
    assert lakehouse.run(assets=some, windows=(DAYS[0], DAYS[-1])).success
    with monkeypatch.context() as patch:
        patch.setenv("DBT_FULL_REFRESH", "True")
        by_variable = lakehouse.run(windows=("2026-03-21", "2026-03-21"))
    assert (by_variable.success, by_variable.built) == (False, set())
    assert "full_refresh (or DBT_FULL_REFRESH) of partitioned tables needs every partition" in by_variable.failure
    outcome = lakehouse.run(windows=("2026-03-21", "2026-03-21"), config={"full_refresh": True})
    assert (outcome.success, outcome.built) == (False, set())
    assert "of partitioned tables needs every partition in one run, 2026-03-20..." in outcome.failure
    assert len(lakehouse.sql("select * from silver.days")) == 35

    everything = (DAYS[0], (dt.datetime.now(ZoneInfo(ZONE)).date() - dt.timedelta(days=1)).isoformat())
    lakehouse.sql("insert into silver.days values (77, timestamp '2026-03-01 00:00:00', date '2026-03-01', 1, 1)")
    rebuilt = lakehouse.run(assets=some[1:], windows=everything, config={"full_refresh": True})
    if engine != "trino":
        # Of its whole history and nothing else: the row that lay in no window is gone.
        assert rebuilt.success, rebuilt.failure
        assert len(lakehouse.sql("select * from silver.days")) == 35
    else:
        assert "Trino cannot rebuild it in one statement" in rebuilt.failure
        assert len(lakehouse.sql("select * from silver.days")) == 36


@pytest.mark.nightly("trino", "postgres")
def test_a_month_is_built_of_all_its_days_or_not_at_all(lakehouse: Lakehouse) -> None:
    some = ["bronze/orders", "silver/days", "gold/day_sums"]
    assert lakehouse.run(assets=some, windows=("2026-03-20", "2026-03-30")).success
    lacking = lakehouse.run("monthly_refresh", windows=("2026-03-01", "2026-03-01"))
    assert (lacking.success, lacking.built) == (False, set())
    assert (
        "2026-03-01 cannot be built yet: gold/day_sums does not have 2026-03-31. Build those first" in lacking.failure
    )
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
