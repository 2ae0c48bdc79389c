"""The storage of raw tables follows from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable
from lakehouse_analytics.arrivals.raw_tables.registry import raw_table
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.settings import Settings


def test_a_table_of_the_duckdb_file(tmp_path: Path) -> None:
    settings = Settings(duckdb_path=tmp_path / "lake.duckdb", duckdb_lock_timeout=7)
    assert raw_table(settings, Relation("LAKE", "raw", "Orders")) == DuckDBTable(
        tmp_path / "lake.duckdb", 7, "raw", "Orders"
    )
    with pytest.raises(ArrivalError, match=r"is in the database other; .* into lake, the file /.*/lake\.duckdb"):
        raw_table(settings, Relation("other", "raw", "orders"))


def test_a_table_of_the_iceberg_catalog(tmp_path: Path) -> None:
    settings = Settings(duckdb_path=tmp_path / "x.duckdb").model_copy(update={"env": "trino"})
    relation = Relation("lakehouse", "raw", "Orders")
    with pytest.raises(ArrivalError, match=r"^LAKEHOUSE_ICEBERG_CATALOG is not set, but target trino has"):
        raw_table(settings.model_copy(update={"iceberg_catalog": None}), relation)
    settings = settings.model_copy(update={"iceberg_catalog": "lake"})
    assert raw_table(settings, relation) == IcebergTable("lake", "raw", "orders")


def test_postgres_is_not_supported(tmp_path: Path) -> None:
    settings = Settings(duckdb_path=tmp_path / "x.duckdb").model_copy(update={"engine": "postgres"})
    with pytest.raises(ArrivalError, match=r"on PostgreSQL; .* with an Airbyte connection to PostgreSQL"):
        raw_table(settings, Relation("lakehouse", "raw", "orders"))
