"""Models that are partitioned by the values of a column, through real dbt, a real engine and a real instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import shop
from .conftest import Lakehouse, lakehouse_with
from .databases import Database

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")

CONFIG = "{{ config(materialized='incremental', incremental_strategy='replace_window') }}\n"
KOELN = "Köln's 数量"
ORDERS = [(1, "IT", 10), (2, "IT", 20), (3, "DE", 30), (4, KOELN, 40)]


def files() -> dict[str, str]:
    kept = {name: text for name, text in shop.files("2026-03-20").items() if not name.startswith("models/")}
    by_region = f'{{by: region, values: [IT, DE, "{KOELN}"]}}'
    return {
        **kept,
        "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: orders}]}]",
        "models/bronze/orders.sql": "select id, region, amount from {{ source('raw', 'orders') }}",
        "models/silver/regions.sql": CONFIG
        + "select id, region, amount from {{ ref('orders') }} where {{ in_partition('region') }}",
        "models/gold/region_sums.sql": CONFIG
        + """
            select region, cast(sum(amount) as bigint) as amount
            from {{ ref('regions') }} where {{ in_partition('region') }} group by region
            """,
        "models/metrics/total.sql": "select cast(sum(amount) as bigint) as amount from {{ ref('region_sums') }}",
        "models/gold/by_id.sql": CONFIG + "select * from {{ ref('orders') }} where {{ in_partition('id', 'bigint') }}",
        "models/models.yml": f"""
            models:
              - {{name: regions, config: {{meta: {{lakehouse: {{partition: {by_region}, rows: {{min: 1}}}}}}}}}}
              - {{name: region_sums, config: {{meta: {{lakehouse: {{partition: {by_region}}}}}}}}}
              - {{name: by_id, config: {{meta: {{lakehouse: {{partition: {{by: id}}}}}}}}}}
            """,
    }


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Lakehouse]:
    with lakehouse_with(files(), tmp_path, monkeypatch, database) as made:
        made.sql("create table raw.orders (id bigint, region varchar, amount bigint)")
        fill(made, ORDERS)
        yield made


def fill(lakehouse: Lakehouse, orders: list[tuple[int, str, int]]) -> None:
    lakehouse.sql("delete from raw.orders")
    values = ", ".join("({}, '{}', {})".format(n, region.replace("'", "''"), amount) for n, region, amount in orders)
    lakehouse.sql(f"insert into raw.orders values {values}")
    assert lakehouse.run(assets=["bronze/orders"]).success


def stored(lakehouse: Lakehouse) -> Counter[tuple[object, ...]]:
    return Counter(lakehouse.sql("select id, region, amount from silver.regions"))


def test_runs_replace_the_rows_of_their_values_from_the_raw_table_to_gold(lakehouse: Lakehouse) -> None:
    first = lakehouse.run("region_refresh", windows=("IT", "IT"))
    assert first.success, first.failure
    assert first.partitions == {"silver/regions": {"IT"}, "gold/region_sums": {"IT"}}
    assert stored(lakehouse) == Counter(ORDERS[:2])
    rest = lakehouse.run("region_refresh", windows=("DE", KOELN))
    assert rest.success, rest.failure
    assert rest.partitions["silver/regions"] == {"DE", KOELN}
    assert stored(lakehouse) == Counter(ORDERS)

    fill(lakehouse, [(2, "IT", 21), (5, "IT", 50), (3, "DE", 31)])
    again = lakehouse.run("region_refresh", windows=("IT", "IT"))
    assert again.success, again.failure
    assert stored(lakehouse) == Counter([(2, "IT", 21), (5, "IT", 50), *ORDERS[2:]])
    sums = dict(lakehouse.sql("select region, amount from gold.region_sums"))
    assert sums == {"IT": 71, "DE": 30, KOELN: 40}
    # The row counts are of the values of the run.
    assert again.checks["silver/regions:row_count"]
    assert again.rows["silver/regions"] == {"IT": 2}

    whole = lakehouse.run()
    assert whole.success, whole.failure
    assert whole.built == {"bronze/orders", "metrics/total"}
    assert lakehouse.sql("select amount from metrics.total") == [(141,)]


def test_a_run_without_values_or_a_rebuild_of_some_is_refused_before_anything_is_built(lakehouse: Lakehouse) -> None:
    without = lakehouse.run("region_refresh")
    assert (without.success, without.built) == (False, set())
    assert "started without a partition, and builds gold/region_sums, silver/regions" in without.failure
    assert lakehouse.run("region_refresh", windows=("IT", KOELN)).success
    lakehouse.sql("insert into silver.regions values (9, 'no value', 9)")
    some = lakehouse.run("region_refresh", windows=("IT", "DE"), config={"full_refresh": True})
    assert (some.success, some.built) == (False, set())
    assert f"needs every value in one run, and this one does not have {KOELN}" in some.failure
    rebuilt = lakehouse.run("region_refresh", windows=("IT", KOELN), config={"full_refresh": True})
    assert rebuilt.success, rebuilt.failure
    assert stored(lakehouse) == Counter(ORDERS)


def test_values_that_were_added_to_dagster_are_partitions(lakehouse: Lakehouse) -> None:
    lakehouse.instance.add_dynamic_partitions("id", ["3", "4"])
    outcome = lakehouse.run("id_refresh", windows=("3", "4"))
    assert outcome.success, outcome.failure
    assert outcome.partitions["gold/by_id"] == {"3", "4"}
    fill(lakehouse, [(3, "DE", 99), (4, "IT", 99)])
    assert lakehouse.run("id_refresh", windows=("3", "3")).success
    assert set(lakehouse.sql("select id, region, amount from gold.by_id")) == {(3, "DE", 99), ORDERS[3]}
