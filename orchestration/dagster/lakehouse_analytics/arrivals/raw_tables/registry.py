"""Chooses the storage of raw tables: the DuckDB file of this machine, an Iceberg catalog, or ClickHouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, RawTable
from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    from lakehouse_analytics.contract.arrivals import TableArrival
    from lakehouse_analytics.settings import Settings

#: The schemes of addresses to which a table of a database can be copied past the lakehouse.
CLICKHOUSE = ("clickhouse", "clickhouses", "chdb")


def raw_table(settings: Settings, relation: Relation) -> RawTable:
    """Return the raw table of a dbt source.

    Args:
        settings: The settings, which select the engine.
        relation: The name of the table.

    Raises:
        ArrivalError: Arrivals do not support the engine, the table is in another database than they write to, or
            LAKEHOUSE_ICEBERG_CATALOG is not set.
    """
    engine = settings.engine_type
    if engine.raw_tables is None:
        raise ArrivalError(
            f"dbt's target {settings.target} is on {engine.title}; files and databases are loaded into DuckDB and "
            f"Iceberg: load {relation} with an Airbyte connection to {engine.title}; docs/engines.md"
        )
    if engine.raw_tables == "duckdb_file":
        return _in_duckdb_file(settings, relation)
    if not settings.iceberg_catalog:
        raise ArrivalError(
            f"LAKEHOUSE_ICEBERG_CATALOG is not set, but target {settings.target} has its raw data in Iceberg tables: "
            "set it to the pyiceberg catalog that has Trino's tables (PYICEBERG_CATALOG__<NAME>__*); docs/ingest.md"
        )
    from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable

    # Trino uses names in lower case, regardless of their case in a query.
    return IcebergTable(settings.iceberg_catalog, relation.schema.lower(), relation.name.lower())


def _in_duckdb_file(settings: Settings, relation: Relation) -> RawTable:
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable

    path = settings.duckdb_path.absolute()
    database = settings.engine_type.database({"path": str(path)})
    if relation.catalog.lower() != database.lower():
        raise ArrivalError(
            f"{relation} is in the database {relation.catalog}; files and databases are loaded into {database}, the "
            f"file {path}. Remove `database` from the dbt source, or set it to {database}"
        )
    return DuckDBTable(path, settings.duckdb_lock_timeout, relation.schema, relation.name)


def clickhouse_table(arrival: TableArrival, origin: str, default: str) -> RawTable:
    """Return the table in ClickHouse of a source that is copied straight to it.

    Args:
        arrival: The contract, with `to`.
        origin: The source, for the comment of the table.
        default: The name of the table, if the contract has none.

    Raises:
        SettingsError: The variable of the connection is not set, or its address is wrong.
    """
    from lakehouse_analytics.arrivals.raw_tables.clickhouse import ClickHouseTable

    there = connection(str(arrival.to), CLICKHOUSE)
    database, _, table = (arrival.to_table or default).rpartition(".")
    return ClickHouseTable(there, database or None, table, origin, arrival.primary_key)
