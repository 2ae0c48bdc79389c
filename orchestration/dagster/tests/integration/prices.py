"""Models by day and market and a monthly one above them, to be added to the project of `shop`.

raw.prices → gold prices (daily × market) → metrics price_months (monthly)
"""

from __future__ import annotations

from collections.abc import Iterable

from dagster import AssetKey, DagsterInstance

from .daemon import Lake

MARKETS = ("DE", "IT")
PRICES = "gold/prices"
MONTHS = "metrics/price_months"


def files(begin: str) -> dict[str, str]:
    """The models; history begins on a day."""
    config = (
        "{{ config(materialized='incremental', incremental_strategy='replace_window', "
        f"event_time='%s', begin='{begin}') }}}}\n"
    )
    return {
        "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: orders}, {name: prices}]}]",
        "models/gold/prices.sql": config
        % "delivered_at"
        + "select delivered_at, market, price from {{ source('raw', 'prices') }} "
        "where {{ in_window('delivered_at') }} and {{ in_partition('market') }}",
        "models/metrics/price_months.sql": config
        % "month"
        + "select cast(date_trunc('month', delivered_at) as date) as month, market, "
        "cast(sum(price) as bigint) as price from {{ ref('prices') }} "
        "where {{ in_window('delivered_at') }} group by 1, 2",
        "models/prices.yml": """
            models:
              - name: prices
                config: {meta: {lakehouse: {partition: {grain: daily, by: market, values: [DE, IT]}}}}
              - name: price_months
                config: {meta: {lakehouse: {partition: monthly}}}
            """,
    }


def fill(lake: Lake, days: Iterable[str]) -> None:
    """Create the raw table, with a price per day, market and hour of two."""
    lake.sql("create table raw.prices (delivered_at timestamp(6), market varchar, price bigint)")
    hours = [f"(timestamp '{day} {hour}:00:00', '{m}', 10)" for day in days for m in MARKETS for hour in ("06", "18")]
    lake.sql("insert into raw.prices values " + ", ".join(hours))


def correct(lake: Lake, price: int) -> None:
    """Change all prices, so that partitions that are built from now on have others than those before."""
    lake.sql(f"update raw.prices set price = {price}")


def keys(days: Iterable[str], *markets: str) -> list[str]:
    """The keys of partitions."""
    return [f"{day}|{market}" for day in days for market in markets]


def built(lake: Lake, asset: str = PRICES) -> set[str]:
    """The partitions of an asset that Dagster knows as materialized."""
    with DagsterInstance.from_config(str(lake.home)) as instance:
        return instance.get_materialized_partitions(AssetKey(asset.split("/")))


def rows(lake: Lake) -> dict[str, tuple[int, ...]]:
    """The prices of each partition, as the table has them."""
    found: dict[str, tuple[int, ...]] = {}
    for day, market, price in lake.sql("select cast(delivered_at as date), market, price from gold.prices"):
        key = f"{day}|{market}"
        found[key] = (*found.get(key, ()), int(str(price)))
    return found


def months(lake: Lake) -> list[tuple[object, ...]]:
    """The rows of the monthly model."""
    return [tuple(row) for row in lake.sql("select month, market, price from metrics.price_months order by 1, 2")]
