"""Models that are partitioned by time and by the values of a column, through real dbt, an engine and an instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from . import shop
from .conftest import Lakehouse, lakehouse_with
from .databases import Database

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")

Row = tuple[int, str, str, int]
KOELN = "Köln's"
#: id, time, region, amount: three days of three regions.
ORDERS: list[Row] = [
    (10 * day + n, f"2026-03-0{day} {12 + n}:30:00", region, 10 * day + n)
    for day in (1, 2, 3)
    for n, region in enumerate(("IT", "IT", "DE", KOELN))
]


def config(time: str, begin: str = "2026-03-01") -> str:
    return (
        f"{{{{ config(materialized='incremental', incremental_strategy='replace_window', event_time='{time}', "
        f"begin='{begin}') }}}}\n"
    )


def partition(grain: str, more: str = "") -> str:
    listed = f'{{grain: {grain}, by: region, values: [IT, DE, "{KOELN}"]}}'
    return f"{{meta: {{lakehouse: {{partition: {listed}{more}}}}}}}"


def files() -> dict[str, str]:
    kept = {name: text for name, text in shop.files("2026-03-20").items() if not name.startswith("models/")}
    where = "where {{ in_window('placed_at') }} and {{ in_partition('region') }}"
    return {
        **kept,
        "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: orders}]}]",
        "models/bronze/orders.sql": "select id, placed_at, region, amount from {{ source('raw', 'orders') }}",
        "models/silver/placed.sql": config("placed_at")
        + "select id, placed_at, region, amount from {{ ref('orders') }} "
        + where,
        "models/gold/sums.sql": config("day")
        + "select cast(placed_at as date) as day, region, cast(sum(amount) as bigint) as amount "
        + "from {{ ref('placed') }} "
        + where
        + " group by 1, 2",
        # By the day only, and by the region only.
        "models/gold/days.sql": config("day")
        + "select day, cast(sum(amount) as bigint) as amount from {{ ref('sums') }} "
        "where {{ in_window('day', 'date') }} group by day",
        "models/gold/regions.sql": "{{ config(materialized='incremental', incremental_strategy='replace_window') }}\n"
        "select region, cast(sum(amount) as bigint) as amount from {{ ref('sums') }} "
        "where {{ in_partition('region') }} group by region",
        "models/models.yml": f"""
            models:
              - {{name: placed, config: {partition("daily", ", rows: {min: 1, severity: warn}, distinct: [id]")}}}
              - {{name: sums, config: {partition("daily")}}}
              - {{name: days, config: {{meta: {{lakehouse: {{partition: daily}}}}}}}}
              - {{name: regions, config: {{meta: {{lakehouse: {{partition: {{by: region, values: [IT, DE, "{KOELN}"]}},
                                                              rows: {{max_drop: 0.5, severity: error}}}}}}}}}}
            """,
    }


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Lakehouse]:
    with lakehouse_with(files(), tmp_path, monkeypatch, database) as made:
        made.sql("create table raw.orders (id bigint, placed_at timestamp(6), region varchar, amount bigint)")
        fill(made, ORDERS)
        yield made


def fill(lakehouse: Lakehouse, orders: list[Row]) -> None:
    lakehouse.sql("delete from raw.orders")
    values = ", ".join(
        "({}, timestamp '{}', '{}', {})".format(number, at, region.replace("'", "''"), amount)
        for number, at, region, amount in orders
    )
    lakehouse.sql(f"insert into raw.orders values {values}")
    assert lakehouse.run(assets=["bronze/orders"]).success


def stored(lakehouse: Lakehouse) -> Counter[Row]:
    found = lakehouse.sql("select id, cast(placed_at as varchar), region, amount from silver.placed")
    return Counter((number, str(at)[:19], region, amount) for number, at, region, amount in found)


def changed(orders: list[Row], *, add: int) -> list[Row]:
    """Every order with another id and amount, and one more of each day and region."""
    more = {(at[:10], region): (900 + n, at, region, 1) for n, (_, at, region, _) in enumerate(orders)}
    return [(number + 100, at, region, amount + add) for number, at, region, amount in orders] + [*more.values()]


def of(orders: list[Row], days: set[str], regions: set[str]) -> list[Row]:
    return [row for row in orders if row[1][:10] in days and row[2] in regions]


def test_runs_replace_exactly_the_rows_of_their_days_and_values(lakehouse: Lakehouse) -> None:
    first = lakehouse.run("daily_region_refresh", windows=("2026-03-01|IT", f"2026-03-03|{KOELN}"))
    assert first.success, first.failure
    assert len(first.partitions["silver/placed"]) == 9
    assert stored(lakehouse) == Counter(ORDERS)

    late = changed(ORDERS, add=1)
    fill(lakehouse, late)
    days, regions = {"2026-03-02", "2026-03-03"}, {"DE", KOELN}
    again = lakehouse.run("daily_region_refresh", windows=("2026-03-02|DE", f"2026-03-03|{KOELN}"))
    assert again.success, again.failure
    chosen = {f"{day}|{region}" for day in days for region in regions}
    assert again.partitions == {"silver/placed": chosen, "gold/sums": chosen}
    kept = Counter(ORDERS) - Counter(of(ORDERS, days, regions))
    assert stored(lakehouse) == kept + Counter(of(late, days, regions))

    # One partition, which is empty now.
    fill(lakehouse, of(late, {"2026-03-01", "2026-03-02"}, {"DE"}))
    one = lakehouse.run("daily_region_refresh", windows=("2026-03-03|IT", "2026-03-03|IT"))
    assert one.success, one.failure
    kept -= Counter(of(ORDERS, {"2026-03-03"}, {"IT"}))
    assert stored(lakehouse) == kept + Counter(of(late, days, regions))
    assert one.checks["silver/placed:row_count"] is False  # a warning: fewer than one row


def partition_rows(lakehouse: Lakehouse, name: str) -> dict[str, tuple[int, bool]]:
    """The rows and the outcome of the newest row count of each partition."""
    key = dg.AssetCheckKey(dg.AssetKey(name.split("/")), "row_count")
    records = lakehouse.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    found: dict[str, tuple[int, bool]] = {}
    for record in records:  # newest first
        evaluation = record.event.asset_check_evaluation if record.event else None
        if evaluation and evaluation.partition and evaluation.partition not in found:
            found[evaluation.partition] = (int(str(evaluation.metadata["rows"].value)), evaluation.passed)
    return found


def test_each_partition_shows_and_checks_its_own_rows(lakehouse: Lakehouse) -> None:
    outcome = lakehouse.run("daily_region_refresh", windows=("2026-03-01|IT", f"2026-03-02|{KOELN}"))
    assert outcome.success, outcome.failure
    rows = {"IT": 2, "DE": 1, KOELN: 1}
    assert partition_rows(lakehouse, "silver/placed") == {
        f"2026-03-0{day}|{region}": (count, True) for day in (1, 2) for region, count in rows.items()
    }
    metadata = outcome.partition_metadata["silver/placed"]
    assert {key: found["dagster/partition_row_count"] for key, found in metadata.items()} == {
        f"2026-03-0{day}|{region}": count for day in (1, 2) for region, count in rows.items()
    }
    assert metadata["2026-03-01|IT"]["unique_ids"] == 2

    assert lakehouse.run("region_refresh", windows=("IT", KOELN)).success
    assert partition_rows(lakehouse, "gold/regions") == dict.fromkeys(("IT", "DE", KOELN), (1, True))
    # The gate of one value: its rows fall from one to none, those of the other values do not count.
    lakehouse.sql("delete from gold.sums where region = 'DE'")
    some = lakehouse.run("region_refresh", windows=("IT", "DE"))
    assert not some.success
    assert partition_rows(lakehouse, "gold/regions") == {"IT": (1, True), "DE": (0, False), KOELN: (1, True)}


@pytest.mark.nightly("trino")
def test_a_day_waits_for_all_of_its_values_and_a_run_needs_both_dimensions(lakehouse: Lakehouse) -> None:
    without = lakehouse.run("daily_region_refresh")
    assert (without.success, without.built) == (False, set())
    assert "and a value of region, or for a range" in without.failure
    assert lakehouse.run("daily_region_refresh", windows=("2026-03-01|IT", "2026-03-01|DE")).success
    early = lakehouse.run(assets=["gold/days"], windows=("2026-03-01", "2026-03-01"))
    assert (early.success, early.built) == (False, set())
    assert f"gold/sums does not have 2026-03-01|{KOELN}" in early.failure
    rest = lakehouse.run("daily_region_refresh", windows=(f"2026-03-01|{KOELN}", f"2026-03-01|{KOELN}"))
    assert rest.success, rest.failure
    complete = lakehouse.run(assets=["gold/days"], windows=("2026-03-01", "2026-03-01"))
    assert complete.success, complete.failure
    assert [amount for _, amount in lakehouse.sql("select day, amount from gold.days")] == [46]
    some = lakehouse.run(
        "daily_region_refresh", windows=("2026-03-01|IT", f"2026-03-02|{KOELN}"), config={"full_refresh": True}
    )
    assert (some.success, some.built) == (False, set())
    assert "needs every partition in one run" in some.failure
