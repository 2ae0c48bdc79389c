"""Chooses the storage of raw tables: the DuckDB file of this machine, or an Iceberg catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, RawTable
from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


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
