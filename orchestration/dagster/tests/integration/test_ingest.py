"""The published Airbyte faker, installed from its lock, into a DuckDB file. Needs uv and the package index once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.ingest import IngestReport, run_ingest
from lakehouse_analytics.settings import Settings

#: What a seed fixes. `updated_at` is the time of the sync; the faker draws a purchase's product and later dates from
#: a range that ends now, so two runs seconds apart may differ there.
FIXED = {
    "users": "* EXCLUDE (_airbyte_raw_id, _airbyte_extracted_at, _airbyte_generation_id, _airbyte_meta, updated_at)",
    "products": "id, make, model, year, price, created_at",
    "purchases": "id, user_id, created_at",
}
COUNT = 400


@pytest.fixture(scope="module")
def connectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("connectors")


class Lake:
    def __init__(self, connectors: Path, root: Path) -> None:
        self.settings = Settings(duckdb_path=root / "lakehouse.duckdb", connectors_dir=connectors)
        self.lines: list[str] = []

    def run(self, **options: Any) -> IngestReport:
        return run_ingest(self.settings, progress=self.lines.append, **options)

    def query(self, sql: str) -> list[Any]:
        import duckdb

        with duckdb.connect(str(self.settings.duckdb_path), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def content(self) -> dict[str, list[Any]]:
        return {table: self.query(f"SELECT {columns} FROM raw.{table} ORDER BY id") for table, columns in FIXED.items()}


@pytest.fixture
def lake(connectors: Path, tmp_path: Path) -> Lake:
    return Lake(connectors, tmp_path)


def test_first_second_and_changed(lake: Lake) -> None:
    first = {s.stream: s for s in lake.run(count=COUNT).streams}
    assert {name: (s.mode, s.rows_total) for name, s in first.items()} == {
        "users": ("first", COUNT),
        "products": ("first", 100),
        "purchases": ("first", COUNT),
    }
    assert lake.query("SELECT DISTINCT _airbyte_meta.changes FROM raw.users") == [([],)]
    before = lake.content()

    second = lake.run(count=COUNT).streams
    assert [(s.mode, s.rows_read, s.generation_id) for s in second] == [("incremental", 0, 1)] * 3
    assert lake.content() == before

    third = {s.stream: s for s in lake.run(count=COUNT + 100).streams}
    assert {(s.mode, s.generation_id) for s in third.values()} == {("refresh", 2)}
    assert third["users"].rows_total == COUNT + 100
    assert "users: refresh, because config count changed" in lake.lines
    # The same seed: the users of the smaller run come first.
    assert lake.content()["users"][:COUNT] == before["users"]


def test_another_seed_is_another_content(lake: Lake) -> None:
    lake.run(count=50)
    before = lake.content()["users"]
    lake.run(count=50, seed=7)
    assert lake.content()["users"] != before


def test_killed_half_way_then_run_again_equals_undisturbed(connectors: Path, tmp_path: Path) -> None:
    for name in ("killed", "calm"):
        (tmp_path / name).mkdir()
    killed, calm = Lake(connectors, tmp_path / "killed"), Lake(connectors, tmp_path / "calm")
    killed.run(count=COUNT)
    program = (
        "import sys; from lakehouse_analytics.ingest import run_ingest; "
        "from lakehouse_analytics.settings import Settings; "
        "run_ingest(Settings(duckdb_path=sys.argv[1], connectors_dir=sys.argv[2]), count=30_000, "
        "progress=lambda line: print(line, flush=True))"
    )
    arguments = [str(killed.settings.duckdb_path), str(connectors)]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as process:
        staged = killed.settings.duckdb_path.parent / ".ingest-faker" / "work"
        for _ in range(1200):
            if any(path.stat().st_size > 1_000_000 for path in staged.glob("*.ndjson")):
                break
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert killed.query("SELECT count(*), max(_airbyte_generation_id) FROM raw.users") == [(COUNT, 1)]

    assert {s.mode for s in killed.run(count=2 * COUNT).streams} == {"refresh"}
    calm.run(count=2 * COUNT)
    assert killed.content() == calm.content()
    assert not staged.exists()
