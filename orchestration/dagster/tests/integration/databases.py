"""The engine a suite runs on: `pytest integration` takes DuckDB, `pytest integration --engine trino` the local stack.

Tests write SQL in DuckDB's words; for Trino sqlglot translates it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlglot
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.engines.duckdb.database import connect

from .stack import stack_environment

Row = tuple[Any, ...]


class Database(ABC):
    """One lakehouse's tables."""

    engine: str
    #: Variables with which the code location uses it.
    environment: Mapping[str, str]

    @abstractmethod
    def sql(self, statement: str) -> list[Row]:
        """Run one statement, written for DuckDB; its rows."""

    @abstractmethod
    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        """Name and type of each column, in order."""

    def tables(self, schemas: Collection[str]) -> list[tuple[str, str]]:
        """Schema and name of every table and view in some schemas."""
        names = ", ".join(f"'{schema}'" for schema in schemas)
        found = self.sql(
            "select table_schema, table_name from information_schema.tables "
            f"where table_schema in ({names}) order by 1, 2"
        )
        return [(str(schema), str(table)) for schema, table in found]

    def contents(self, schemas: Collection[str] = LAYERS) -> dict[str, list[Row]]:
        """Every table: its column names and types, then its rows in a stable order."""
        found = {}
        for schema, table in self.tables(schemas):
            if "__dbt_tmp_" in table:
                continue  # a killed run's; upkeep drops it
            columns = self.columns(schema, table)
            rows = self.sql(f'select * from "{schema}"."{table}"')
            heading = tuple(f"{name} {kind}" for name, kind in columns)
            found[f"{schema}/{table}"] = [heading, *sorted(rows, key=lambda row: tuple(map(_sortable, row)))]
        return found

    def insert_changed(self, relation: str, where: str, **changes: str) -> None:
        """Insert rows of a table again, with some columns given anew as expressions."""
        schema, table = relation.split(".")
        names = [name for name, _ in self.columns(schema, table)]
        values = ", ".join(changes.get(name, f'"{name}"') for name in names)
        listed = ", ".join(f'"{name}"' for name in names)
        self.sql(f"insert into {relation} ({listed}) select {values} from {relation} where {where}")


class DuckDB(Database):
    """A file."""

    engine = "duckdb"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"LAKEHOUSE_DUCKDB_PATH": str(path)}

    def sql(self, statement: str) -> list[Row]:
        with connect(self.path, read_only=False, timeout=10) as connection:
            connection.execute("set TimeZone = 'UTC'")
            return connection.execute(statement).fetchall()

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        return [(str(row[0]), str(row[1])) for row in self.sql(f'describe "{schema}"."{table}"')]


class Trino(Database):
    """One of the stack's catalogs for tests, emptied."""

    engine = "trino"

    def __init__(self, catalog: str, stack: Mapping[str, str] | None = None) -> None:
        self.catalog = catalog
        stack = stack or stack_environment()
        pyiceberg = {
            key.replace("__LAKEHOUSE__", f"__{catalog.upper()}__"): value
            for key, value in stack.items()
            if key.startswith("PYICEBERG_CATALOG__LAKEHOUSE__")
        }
        pyiceberg[f"PYICEBERG_CATALOG__{catalog.upper()}__WAREHOUSE"] = f"s3://lakehouse/{catalog}"
        self.environment = {
            **stack,
            **pyiceberg,
            "LAKEHOUSE_ENV": "trino",
            "LAKEHOUSE_TRINO_CATALOG": catalog,
            "LAKEHOUSE_ICEBERG_CATALOG": catalog,
        }
        self.wipe()

    def sql(self, statement: str) -> list[Row]:
        return self.ask(";".join(sqlglot.transpile(statement, read="duckdb", write="trino")))

    def ask(self, statement: str) -> list[Row]:
        """Run one statement of Trino's own."""
        import trino

        connection = trino.dbapi.connect(
            host=self.environment["LAKEHOUSE_TRINO_HOST"],
            port=int(self.environment["LAKEHOUSE_TRINO_PORT"]),
            http_scheme="https",
            user=self.environment["LAKEHOUSE_TRINO_USER"],
            auth=trino.auth.BasicAuthentication(
                self.environment["LAKEHOUSE_TRINO_USER"], self.environment["LAKEHOUSE_TRINO_PASSWORD"]
            ),
            http_session=_session(self.environment["LAKEHOUSE_TRINO_CA_BUNDLE"]),
            verify=self.environment["LAKEHOUSE_TRINO_CA_BUNDLE"],
            catalog=self.catalog,
            timezone="UTC",
            source="tests",
        )
        try:
            cursor = connection.cursor()
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]
        finally:
            connection.close()

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        return [(str(row[0]), str(row[1])) for row in self.ask(f'describe "{schema}"."{table}"')]

    def wipe(self, keep: Collection[str] = ()) -> None:
        """Drop every schema but some."""
        for (schema,) in self.ask("show schemas"):
            if schema not in ("information_schema", "system", *keep):
                self.ask(f'drop schema "{schema}" cascade')


def new_database(engine: str, path: Path) -> Database:
    """An empty database: the file at a path, or this worker's catalog."""
    if engine == "duckdb":
        return DuckDB(path)
    # Workers of pytest-xdist run at the same time: gw0, gw1, …
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return Trino(f"test{int(worker) + 1}")


def raw_rows_of(path: Path, database: Database, schema: str = "raw") -> None:
    """Copy every raw table of a DuckDB file into a lakehouse on Iceberg, typed as `lakehouse ingest` does."""
    from lakehouse_analytics.iceberg.catalog import open_catalog
    from lakehouse_analytics.ingest.iceberg_table import replace

    with patch.dict(os.environ, database.environment), connect(path) as connection:
        connection.execute("set TimeZone = 'UTC'")
        catalog = open_catalog(database.environment["LAKEHOUSE_ICEBERG_CATALOG"])
        catalog.create_namespace_if_not_exists(schema)
        tables = connection.execute(
            "select table_name from duckdb_tables() where schema_name = ? and not starts_with(table_name, '_')",
            [schema],
        ).fetchall()
        for (table,) in tables:
            relation = connection.sql(f'from "{schema}"."{table}"')
            columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
            replace(catalog, (schema, table), columns, relation.to_arrow_reader(10_000))


def _session(ca_bundle: str) -> Any:
    import requests

    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
    session.verify = ca_bundle
    return session


def _sortable(value: object) -> tuple[bool, str]:
    return (value is not None, str(value))
