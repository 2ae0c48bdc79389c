"""A raw table in ClickHouse, embedded in the process."""

from __future__ import annotations

from pathlib import Path

from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.raw_tables.clickhouse import ClickHouseTable


def clickhouse_table(folder: Path, database: str, name: str, *key: str) -> ClickHouseTable:
    """A client of the table, sorted by a key."""
    there = connection("reports", ["chdb"], {"LAKEHOUSE_CONNECTION_REPORTS": f"chdb://{folder}"})
    return ClickHouseTable(there, database, name, "shop/orders", key)
