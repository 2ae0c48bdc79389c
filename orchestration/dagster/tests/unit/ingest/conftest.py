"""A lakehouse with a fake connector, installed by a fake uv: real subprocesses, no network.

Of both kinds: a DuckDB file, and Iceberg tables in a SQLite catalog over a folder (what pyiceberg does with them is the
same there as on PostgreSQL and S3).
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.ingest import IngestReport, run_ingest
from lakehouse_analytics.settings import Settings

FAKE = Path(__file__).parent / "source_fake.py"
ID = {"id": {"type": "integer"}}


class Lake:
    """One DuckDB file and one connection to sync into it."""

    def __init__(self, root: Path, data: Path | None = None) -> None:
        self.root = root
        self.data = data or root / "data"
        self.config_path = root / "fake.yaml"
        self.settings = Settings(
            duckdb_path=self.data / "lakehouse.duckdb", connectors_dir=root / "connectors", duckdb_lock_timeout=0.5
        )
        self.lines: list[str] = []
        self.config: dict[str, Any] = {
            "name": "fake",
            "connector": {"package": "source-fake", "version": "1.0", "lock": "fake.lock", "executable": "source-fake"},
            "streams": [{"name": "users"}],
        }
        (root / "fake.lock").write_text("source-fake==1.0 \\\n    --hash=sha256:00\n")
        self.scenario(schemas={"users": ID}, steps=[])

    @property
    def database(self) -> Path:
        return self.settings.duckdb_path

    @property
    def work(self) -> Path:
        """What the connector sends is kept here."""
        return self.data / ".ingest-fake" / "work"

    def write(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.config))

    def scenario(self, **scenario: Any) -> None:
        """What the connector does from now on."""
        (self.root / "scenario.json").write_text(json.dumps(scenario))

    def run(self, **options: Any) -> IngestReport:
        self.write()
        return run_ingest(self.settings, config_path=self.config_path, progress=self.lines.append, **options)

    def environ(self) -> dict[str, str]:
        """For a child process that loads the same settings."""
        return os.environ | {
            "LAKEHOUSE_ENV": self.settings.env,
            "LAKEHOUSE_DUCKDB_PATH": str(self.database),
            "LAKEHOUSE_CONNECTORS_DIR": str(self.settings.connectors_dir),
        }

    def query(self, sql: str) -> list[Any]:
        import duckdb

        with duckdb.connect(str(self.database), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql).fetchall()

    def column(self, sql: str) -> list[Any]:
        return [row[0] for row in self.query(sql)]

    def drop(self, table: str) -> None:
        import duckdb

        with duckdb.connect(str(self.database)) as connection:
            connection.execute(f"DROP TABLE raw.{table}")

    def make(self, table: str) -> None:
        """A table that no sync wrote."""
        import duckdb

        self.database.parent.mkdir(exist_ok=True)
        with duckdb.connect(str(self.database)) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
            connection.execute(f"CREATE TABLE raw.{table} AS SELECT 'mine' AS x")


class IcebergLake(Lake):
    """The same, into Iceberg tables."""

    def __init__(self, root: Path, data: Path | None = None) -> None:
        super().__init__(root, data)
        self.data.mkdir(exist_ok=True)
        self.settings = self.settings.model_copy(update={"env": "trino", "iceberg_catalog": "lake"})
        self.properties = {
            "TYPE": "sql",
            "URI": f"sqlite:///{self.data}/catalog.db",
            "WAREHOUSE": f"file://{self.data}/warehouse",
        }
        for name, value in self.properties.items():
            os.environ[f"PYICEBERG_CATALOG__LAKE__{name}"] = value
        from pyiceberg.catalog.sql import SqlCatalog

        SqlCatalog("lake", uri=self.properties["URI"], warehouse=self.properties["WAREHOUSE"])  # makes its tables

    @property
    def catalog(self) -> Any:
        from lakehouse_analytics.iceberg.catalog import open_catalog

        return open_catalog("lake")

    @property
    def work(self) -> Path:
        [base] = Path(tempfile.gettempdir()).glob("lakehouse-ingest-*/*/raw/.ingest-fake")
        return base / "work"

    def environ(self) -> dict[str, str]:
        return super().environ() | {"LAKEHOUSE_ICEBERG_CATALOG": "lake", "TMPDIR": tempfile.gettempdir()}

    def query(self, sql: str) -> list[Any]:
        """Over copies of the tables, as pyiceberg reads them."""
        import duckdb

        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("CREATE SCHEMA raw")
            for namespace, name in self.catalog.list_tables("raw"):
                content = self.catalog.load_table((namespace, name)).scan().to_arrow()  # noqa: F841  # read by DuckDB
                connection.execute(f'CREATE TABLE raw."{name}" AS FROM content')
            return connection.execute(sql).fetchall()

    def drop(self, table: str) -> None:
        self.catalog.drop_table(("raw", table))

    def make(self, table: str) -> None:
        import pyarrow as pa

        self.catalog.create_namespace("raw")
        self.catalog.create_table(("raw", table), pa.schema([("x", pa.string())])).append(pa.table({"x": ["mine"]}))


KINDS = {"duckdb": Lake, "iceberg": IcebergLake}


@pytest.fixture
def bin_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """First on PATH; holds a `uv` that installs the fake connector and counts its calls."""
    directory = tmp_path / "bin"
    directory.mkdir()
    uv = directory / "uv"
    uv.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/uv.log
if [ "$1" = venv ]; then
    for target; do :; done
    mkdir -p "$target/bin" && ln -s {sys.executable} "$target/bin/python"
else
    [ -e {tmp_path}/uv-fails ] && {{ echo "error: hash mismatch" >&2; exit 2; }}
    cp {FAKE} {tmp_path}/connectors/fake/bin/source-fake
    ln -s {tmp_path}/scenario.json {tmp_path}/connectors/fake/bin/scenario.json
fi
"""
    )
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own; and no catalog from outside."""
    for name in [*os.environ]:
        if name.startswith("PYICEBERG_"):
            monkeypatch.delenv(name)
    for name in ("TYPE", "URI", "WAREHOUSE"):
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name}", "")  # so that it is put back
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def lake(request: pytest.FixtureRequest, tmp_path: Path, bin_directory: Path, temporary: Path) -> Lake:
    """A new lakehouse with the fake connector's file: of every kind where the module says `LAKES = KINDS`."""
    return KINDS[getattr(request, "param", "duckdb")](tmp_path)


@pytest.fixture
def duckdb_lake(tmp_path: Path, bin_directory: Path) -> Lake:
    """A DuckDB file, for what is only so there."""
    return Lake(tmp_path)


@pytest.fixture
def iceberg_lake(tmp_path: Path, bin_directory: Path, temporary: Path) -> IcebergLake:
    """Iceberg tables, for what is only so there."""
    return IcebergLake(tmp_path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lake" in metafunc.fixturenames and hasattr(metafunc.module, "LAKES"):
        metafunc.parametrize("lake", metafunc.module.LAKES, indirect=True)
