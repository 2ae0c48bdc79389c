"""One raw table in each kind of storage: a DuckDB file, Iceberg tables in a SQLite catalog over a folder, and chdb."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import Change, Outcome, RawTable
from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient
from raw_clickhouse import clickhouse_table

SCHEMA, TABLE = "raw", "orders"


class Storage:
    """A storage with one raw table."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.data = root / "data"
        self.data.mkdir(parents=True)
        self.files = 0
        self.environment: dict[str, str] = {}
        if kind == "iceberg":
            self._create_catalog()

    def _create_catalog(self) -> None:
        from pyiceberg.catalog.sql import SqlCatalog

        uri, warehouse = f"sqlite:///{self.data}/catalog.db", f"file://{self.data}/warehouse"
        SqlCatalog("lake", uri=uri, warehouse=warehouse)  # creates its tables
        for name, value in {"TYPE": "sql", "URI": uri, "WAREHOUSE": warehouse}.items():
            self.environment[f"PYICEBERG_CATALOG__LAKE__{name}"] = value
        os.environ.update(self.environment)

    def table(self, name: str = TABLE) -> RawTable:
        """A client of the table."""
        if self.kind == "duckdb":
            from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable

            return DuckDBTable(self.data / "lakehouse.duckdb", 5.0, SCHEMA, name)
        if self.kind == "clickhouse":
            return clickhouse_table(self.data / "clickhouse", SCHEMA, name)
        from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable

        return IcebergTable("lake", SCHEMA, name)

    def parquet(self, query: str) -> Path:
        """Write the rows of a query to a file."""
        import duckdb

        self.files += 1
        path = self.root / f"rows-{self.files}.parquet"
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return path

    def rows(self, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows to a file."""
        import duckdb

        self.files += 1
        path = self.root / f"rows-{self.files}.parquet"
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
            for row in rows:
                db.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(columns))})", [row.get(n) for n in columns])
            db.execute(f"COPY t TO '{path}' (FORMAT parquet)")
        return path

    def change(self, query: str | None = None, **options: Any) -> Outcome:
        """Apply a change with the rows of a query, whose columns and types become those of the table."""
        import duckdb

        table = self.table()
        columns = options.pop("columns", None)
        if columns is None and query:
            with duckdb.connect() as db:
                columns = {name: kind for name, kind, *_ in db.execute(f"DESCRIBE {query}").fetchall()}
        rows = [self.parquet(query)] if query else []
        change = Change(columns=columns or {}, rows=rows, state=options.pop("state", {}), **options)
        return table.apply(change, table.read())

    def drop(self) -> None:
        """Drop the table, as another program does."""
        import duckdb

        if self.kind == "duckdb":
            with duckdb.connect(str(self.data / "lakehouse.duckdb")) as db:
                db.execute(f"DROP TABLE {SCHEMA}.{TABLE}")
        elif self.kind == "clickhouse":
            self.clickhouse(f"drop table {SCHEMA}.{TABLE} sync")
        else:
            self.catalog.drop_table((SCHEMA, TABLE))

    def create(self, query: str) -> None:
        """Create the table, as another program does."""
        import duckdb

        if self.kind == "duckdb":
            with duckdb.connect(str(self.data / "lakehouse.duckdb")) as db:
                db.execute(f"CREATE TABLE {SCHEMA}.{TABLE} AS {query}")
        elif self.kind == "clickhouse":
            self.clickhouse(
                f"create table {SCHEMA}.{TABLE} (id Nullable(Int32), name Nullable(String)) engine = Memory"
            )
            self.clickhouse(f"insert into {SCHEMA}.{TABLE} values (1, 'a'), (2, 'b'), (3, null)")
        else:
            with duckdb.connect() as db:
                rows = db.sql(query).to_arrow_table()
            self.catalog.create_table((SCHEMA, TABLE), rows.schema).append(rows)

    def clickhouse(self, statement: str) -> None:
        """Run a statement in ClickHouse, as another program does."""
        with ClickHouseClient(clickhouse_table(self.data / "clickhouse", SCHEMA, TABLE).connection, None) as session:
            session.run(statement)

    @property
    def catalog(self) -> Any:
        """The catalog of Iceberg tables."""
        from lakehouse_analytics.iceberg.catalog import open_catalog

        return open_catalog("lake")

    def content(self, order: str = "ALL", columns: str = "*") -> list[tuple[Any, ...]]:
        """All rows."""
        return list(self.table().query(f"SELECT {columns} FROM {{table}} ORDER BY {order}"))


KINDS = ("duckdb", "iceberg", "clickhouse")
#: Those that evaluate a condition on rows to delete, which loads of files need.
KINDS_WITH_CONDITIONS = ("duckdb", "iceberg")


@pytest.fixture
def new_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Storage]:
    """Create a storage of a kind; and no catalog from outside."""
    for name in [*os.environ]:
        if name.startswith("PYICEBERG_"):
            monkeypatch.delenv(name)
    for name in ("TYPE", "URI", "WAREHOUSE"):
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name}", "")  # so that it is restored
    return lambda kind: Storage(tmp_path / kind, kind)


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, new_storage: Callable[[str], Storage]) -> Storage:
    """A storage of each kind."""
    return new_storage(request.param)


@pytest.fixture(params=KINDS_WITH_CONDITIONS)
def storage_with_conditions(request: pytest.FixtureRequest, new_storage: Callable[[str], Storage]) -> Storage:
    """A storage of each kind that evaluates conditions."""
    return new_storage(request.param)
