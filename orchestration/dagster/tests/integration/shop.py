"""A small project with windows of time, under the project's own macros.

raw.orders → bronze orders (whole) → silver days (daily) → gold day_sums (daily) → metrics months (monthly)
                                                                                 → metrics total (whole)
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from lakehouse_analytics.settings import repository_root

from .conftest import Lakehouse

MACROS = repository_root() / "dbt" / "macros"
INCREMENTAL = """
    materialized='incremental', incremental_strategy='replace_window', event_time='{time}', begin='{begin}',
    on_schema_change='fail', post_hook='{{{{ compact_window() }}}}',
    properties={{'partitioning': "ARRAY['{partitioning}']"}} if target.type == 'trino' else {{}},
"""


def files(begin: str) -> dict[str, str]:
    """The project; history begins on a day."""

    def config(time: str, partitioning: str) -> str:
        return "{{ config(" + INCREMENTAL.format(time=time, begin=begin, partitioning=partitioning) + ") }}\n"

    return {
        **{f"macros/{path.name}": path.read_text() for path in MACROS.glob("*.sql")},
        "macros/macros.yml": (MACROS / "macros.yml").read_text(),
        "dbt_project.yml": """
            name: shop
            version: "1.0"
            profile: lakehouse
            query-comment: {comment: "{{ query_comment(node) }}"}
            vars: {overlap_days: 3}
            models:
              shop:
                +materialized: table
                +on_table_exists: replace
                bronze: {+schema: bronze}
                silver: {+schema: silver}
                gold: {+schema: gold}
                metrics: {+schema: metrics}
            """,
        "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: orders}]}]",
        "models/bronze/orders.sql": "select id, ordered_at, customer, amount from {{ source('raw', 'orders') }}",
        "models/silver/days.sql": config("ordered_at", "day(ordered_at)")
        + """
            select id, ordered_at, {{ local_date('ordered_at') }} as day, customer, cast(amount as integer) as amount
            from {{ ref('orders') }} where {{ in_window('ordered_at') }}
            """,
        "models/gold/day_sums.sql": config("day", "day")
        + """
            select day, count(*) as orders, sum(amount) as amount
            from {{ ref('days') }} where {{ in_window('ordered_at') }} group by day
            """,
        "models/metrics/months.sql": config("month", "month")
        + """
            select cast(date_trunc('month', day) as date) as month, sum(orders) as orders, sum(amount) as amount
            from {{ ref('day_sums') }} where {{ in_window('day', 'date') }} group by 1
            """,
        "models/metrics/total.sql": "select sum(amount) as amount from {{ ref('day_sums') }}",
        "models/models.yml": """
            models:
              - name: days
                config:
                  meta:
                    lakehouse: {partition: daily, distinct: [customer], rows: {not_empty: false, max_drop: 0.5}}
                columns: [{name: id, data_tests: [unique]}]
              - name: day_sums
                config: {meta: {lakehouse: {partition: daily, rows: {not_empty: false, max: 1}}}}
              - name: months
                config: {meta: {lakehouse: {partition: monthly}}}
            """,
    }


def local_day(at: dt.datetime, zone: str) -> dt.date:
    """The day of a moment that is UTC without saying so."""
    return at.replace(tzinfo=dt.UTC).astimezone(ZoneInfo(zone)).date()


def expected_sums(rows: list[tuple[int, dt.datetime, int, int]], zone: str) -> dict[dt.date, tuple[int, int]]:
    """Orders and amount of each local day, by Python."""
    found: dict[dt.date, tuple[int, int]] = {}
    for _, at, _, amount in rows:
        day = local_day(at, zone)
        orders, total = found.get(day, (0, 0))
        found[day] = (orders + 1, total + amount)
    return found


def contents_of_days(lakehouse: Lakehouse) -> dict[str, list[tuple[object, ...]]]:
    """The daily tables, in an order."""
    return {name: sorted(lakehouse.sql(f"select * from {name}"), key=str) for name in ("silver.days", "gold.day_sums")}
