"""A lakehouse with a fake connector, installed by a fake uv: real subprocesses, no network."""

from __future__ import annotations

import json
import stat
import sys
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

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_path = root / "fake.yaml"
        self.settings = Settings(
            duckdb_path=root / "data" / "lakehouse.duckdb", connectors_dir=root / "connectors", duckdb_lock_timeout=0.5
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

    def write(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.config))

    def scenario(self, **scenario: Any) -> None:
        """What the connector does from now on."""
        (self.root / "scenario.json").write_text(json.dumps(scenario))

    def run(self, **options: Any) -> IngestReport:
        self.write()
        return run_ingest(self.settings, config_path=self.config_path, progress=self.lines.append, **options)

    def query(self, sql: str) -> list[Any]:
        import duckdb

        with duckdb.connect(str(self.database), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql).fetchall()

    def column(self, sql: str) -> list[Any]:
        return [row[0] for row in self.query(sql)]


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
def lake(tmp_path: Path, bin_directory: Path) -> Lake:
    """A new lakehouse with the fake connector's file."""
    return Lake(tmp_path)
