"""The engine a suite runs on: `pytest integration` takes DuckDB, with `--engine trino` or `postgres` the local stack.

Tests write SQL in DuckDB's words; for the others sqlglot translates it.
"""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import sqlglot
from lakehouse_analytics.branches.catalog import SEPARATOR
from lakehouse_analytics.contract.models import LAYERS
from lakehouse_analytics.engines.duckdb.database import connect

from .stack import stack_environment, start_part

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
                continue  # a killed run's; maintenance drops it
            columns = self.columns(schema, table)
            rows = self.sql(f'select * from "{schema}"."{table}"')
            heading = tuple(f"{name} {kind}" for name, kind in columns)
            found[f"{schema}/{table}"] = [heading, *sorted(rows, key=lambda row: tuple(map(_sortable, row)))]
        return found

    def insert_changed(self, relation: str, where: str, **changes: str) -> None:
        """Insert rows of a table again, with expressions for some of the columns."""
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
        """Drop every branch, and every schema but some."""
        if any(SEPARATOR in schema for (schema,) in self.ask("show schemas")):
            self._drop_branches()  # a copy can only be dropped with its branch
        for (schema,) in self.ask("show schemas"):
            if schema not in ("information_schema", "system", *keep):
                self.ask(f'drop schema "{schema}" cascade')

    def _drop_branches(self) -> None:
        from lakehouse_analytics.branches.opening import open_branches

        with patch.dict(os.environ, self.environment):
            branches = open_branches(self.catalog)
            for branch in branches.branches():
                branches.drop(branch.name)


class Rest(Trino):
    """The catalog in Nessie, emptied. One test uses it at a time."""

    def __init__(self) -> None:
        start_part("rest")
        self.catalog = "rest"
        self.environment = {
            **stack_environment(),
            "LAKEHOUSE_ENV": "trino",
            "LAKEHOUSE_TRINO_CATALOG": self.catalog,
            "LAKEHOUSE_ICEBERG_CATALOG": self.catalog,
        }
        self.wipe()


class Postgres(Database):
    """A database of the stack's PostgreSQL, or of another server, emptied."""

    engine = "postgres"

    def __init__(self, name: str, server_url: str | None = None) -> None:
        address = urlsplit(
            server_url or stack_environment()["PYICEBERG_CATALOG__LAKEHOUSE__URI"].replace("+psycopg2", "")
        )
        self.address = address._replace(path=f"/{name}").geturl()
        self.environment = {
            "LAKEHOUSE_ENGINE": "postgres",
            "LAKEHOUSE_POSTGRES_HOST": str(address.hostname),
            "LAKEHOUSE_POSTGRES_PORT": str(address.port),
            "LAKEHOUSE_POSTGRES_USER": unquote(str(address.username)),
            "LAKEHOUSE_POSTGRES_PASSWORD": unquote(address.password or ""),
            "LAKEHOUSE_POSTGRES_DATABASE": name,
        }
        server = address._replace(path="/postgres").geturl()
        if not self._ask(server, f"select 1 from pg_database where datname = '{name}'"):
            self._ask(server, f"create database {name}")
        for (schema,) in self.ask(
            "select nspname from pg_namespace where nspname not like 'pg~_%' escape '~' and nspname not in "
            "('information_schema', 'public')"
        ):
            self.ask(f'drop schema "{schema}" cascade')

    def sql(self, statement: str) -> list[Row]:
        translated = ";".join(sqlglot.transpile(statement, read="duckdb", write="postgres"))
        # A series is a set of rows here, and a list in DuckDB.
        return self.ask(re.sub(r"UNNEST\((GENERATE_SERIES\([^()]*\))\)", r"\1", translated))

    def ask(self, statement: str) -> list[Row]:
        """Run one statement of PostgreSQL's own."""
        return self._ask(self.address, statement)

    def columns(self, schema: str, table: str) -> list[tuple[str, str]]:
        found = self.ask(
            "select column_name, data_type from information_schema.columns "
            f"where table_schema = '{schema}' and table_name = '{table}' order by ordinal_position"
        )
        return [(str(name), str(kind)) for name, kind in found]

    def copy(self, relation: str, file: Path) -> None:
        """Append the rows of a CSV file without a header."""
        import psycopg2

        with psycopg2.connect(self.address) as connection, connection.cursor() as cursor, file.open() as rows:
            cursor.copy_expert(f"copy {relation} from stdin with (format csv)", rows)
        connection.close()

    def _ask(self, address: str, statement: str) -> list[Row]:
        import psycopg2

        connection = psycopg2.connect(address, options="-c timezone=UTC")
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def new_database(engine: str, path: Path) -> Database:
    """An empty database: the file at a path, or this worker's catalog."""
    if engine == "duckdb":
        return DuckDB(path)
    # Workers of pytest-xdist run at the same time: gw0, gw1, …
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return Postgres(f"test{worker + 1}") if engine == "postgres" else Trino(f"test{worker + 1}")


def raw_rows_of(path: Path, database: Database, schema: str = "raw") -> None:
    """Copy every raw table of a DuckDB file into a lakehouse on Iceberg, typed as `lakehouse ingest` does."""
    from lakehouse_analytics.iceberg.catalog import open_catalog
    from lakehouse_analytics.ingest.iceberg_table import replace

    with patch.dict(os.environ, database.environment), connect(path) as connection:
        connection.execute("set TimeZone = 'UTC'")
        catalog = open_catalog(database.environment["LAKEHOUSE_ICEBERG_CATALOG"])
        catalog.create_namespace_if_not_exists(schema)
        for table in _raw_tables(connection, schema):
            relation = connection.sql(f'from "{schema}"."{table}"')
            columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
            replace(catalog, (schema, table), columns, relation.to_arrow_reader(10_000))


def raw_rows_to_postgres(path: Path, database: Postgres, schema: str = "raw") -> None:
    """Copy every raw table of a DuckDB file into PostgreSQL, typed as Airbyte's destination does."""
    types = {"DOUBLE": "double precision", "JSON": "jsonb"}

    def typed(kind: object) -> str:
        name = str(kind)
        return "jsonb" if name.startswith("STRUCT") or name.endswith("[]") else types.get(name, name)

    database.ask(f"create schema {schema}")
    with connect(path) as connection, tempfile.TemporaryDirectory() as folder:
        connection.execute("set TimeZone = 'UTC'")
        for table in _raw_tables(connection, schema):
            relation = connection.sql(f'from "{schema}"."{table}"')
            columns = {name: typed(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
            declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            database.ask(f'create table "{schema}"."{table}" ({declared})')
            file = Path(folder) / f"{table}.csv"
            values = (f'to_json("{name}")' if kind == "jsonb" else f'"{name}"' for name, kind in columns.items())
            relation.project(", ".join(values)).to_csv(str(file), header=False)
            database.copy(f'"{schema}"."{table}"', file)


def _raw_tables(connection: Any, schema: str) -> list[str]:
    """Names of the raw tables of a DuckDB file, without those of ingest itself."""
    found = connection.execute(
        "select table_name from duckdb_tables() where schema_name = ? and not starts_with(table_name, '_')", [schema]
    ).fetchall()
    return [name for (name,) in found]


def _session(ca_bundle: str) -> Any:
    import requests

    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
    session.verify = ca_bundle
    return session


def _sortable(value: object) -> tuple[bool, str]:
    return (value is not None, str(value))
