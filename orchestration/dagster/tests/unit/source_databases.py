"""Databases with tables to sync, on real servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lakehouse_analytics.arrivals.connections import Connection, connection
from lakehouse_analytics.arrivals.databases.sync import SCHEMES, SyncReport, sync_table
from lakehouse_analytics.arrivals.raw_tables.base import RawTable
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable
from lakehouse_analytics.contract.arrivals import TableArrival
from mariadb_server import MariaDBServer
from postgres_server import PostgresServer
from raw_clickhouse import clickhouse_table

Kind = Literal["PostgreSQL", "MariaDB"]


@dataclass
class SourceDatabase:
    """An empty database of a server."""

    server: PostgresServer | MariaDBServer
    name: str

    @classmethod
    def on(cls, server: PostgresServer | MariaDBServer) -> SourceDatabase:
        """A new database."""
        return cls(server, server.new_database())

    @property
    def is_postgres(self) -> bool:
        """Whether it is one of PostgreSQL."""
        return isinstance(self.server, PostgresServer)

    @property
    def schema(self) -> str:
        """What precedes the names of its tables."""
        return "public" if self.is_postgres else self.name

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url(self.name)

    @property
    def connection(self) -> Connection:
        """Its connection, named shop."""
        return connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": self.url})

    @property
    def time(self) -> str:
        """The usual type of updated_at."""
        return "timestamptz" if self.is_postgres else "datetime(6)"

    def ask(self, statement: str, *parameters: object) -> Sequence[tuple[Any, ...]]:
        """The rows of a statement."""
        return self.server.ask(statement, *parameters, database=self.name)

    def session(self) -> Any:
        """A session that does not commit by itself."""
        import psycopg2

        if isinstance(self.server, PostgresServer):
            return psycopg2.connect(self.url)
        session = self.server.connect(self.name)
        session.autocommit(False)
        return session


@dataclass
class Sync:
    """A table of a database, and the raw table into which it is synced."""

    source: SourceDatabase
    folder: Path
    table: str = "t"
    file: str = "lake.duckdb"
    #: A catalog with the raw table, in place of the file.
    catalog: str | None = None
    #: Whether the raw table is in ClickHouse, in place of the file.
    clickhouse: bool = False

    def in_iceberg(self) -> Sync:
        """Use a catalog of the folder. Its variables stay set, with a name of their own."""
        from pyiceberg.catalog.sql import SqlCatalog

        name = f"c{uuid.uuid4().hex}"
        uri, warehouse = f"sqlite:///{self.folder}/{name}.db", f"file://{self.folder}/{name}"
        SqlCatalog(name, uri=uri, warehouse=warehouse)  # creates its tables
        for key, value in {"TYPE": "sql", "URI": uri, "WAREHOUSE": warehouse}.items():
            os.environ[f"PYICEBERG_CATALOG__{name.upper()}__{key}"] = value
        return replace(self, catalog=name)

    @property
    def raw(self) -> RawTable:
        """The raw table."""
        if self.catalog:
            return IcebergTable(self.catalog, "raw", "t")
        if self.clickhouse:
            return clickhouse_table(self.folder / "clickhouse", "raw", "t", "id")
        return DuckDBTable(self.folder / self.file, 30, "raw", "t")

    def __call__(self, *, full_refresh: bool = False, **contract: Any) -> SyncReport:
        """Sync it."""
        arrival = TableArrival.model_validate({"database": "shop", **contract})
        staging = self.folder / f"staging-{uuid.uuid4().hex}"
        return sync_table(
            arrival, self.raw, self.source.connection, staging, table=self.table, full_refresh=full_refresh
        )

    def rows(self, columns: str = "* exclude (_lakehouse_synced_at)", order: str = "all") -> list[tuple[Any, ...]]:
        """The rows of the raw table."""
        return [*self.raw.query(f"select {columns} from {{table}} order by {order}")]

    @property
    def types(self) -> dict[str, str]:
        """The types of the raw table's columns."""
        return dict(self.raw.read().columns)
