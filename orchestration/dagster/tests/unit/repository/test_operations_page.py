"""docs/operations.md: every file of a real DAGSTER_HOME and every table of a real database of Dagster is explained."""

from __future__ import annotations

import re
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.telemetry_upload import uploading_logging_thread
from lakehouse_analytics.instance.home import open_home
from lakehouse_analytics.locks import Owner
from lakehouse_analytics.locks.files import FOLDER, FileLocks
from lakehouse_analytics.locks.postgres.registry import CREATE, TABLE
from postgres_server import postgres_server

PAGE = (Path(__file__).parents[5] / "docs" / "operations.md").read_text()


def names(heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    section = PAGE[PAGE.index(f"### {heading}\n") :].partition("\n### ")[0]
    return [
        name for cell in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", cell)
    ]


def own_job() -> dg.JobDefinition:
    @dg.asset
    def first() -> int:
        print("output")
        return 1

    @dg.asset
    def second(first: int) -> None: ...

    return dg.define_asset_job("job").resolve(asset_graph=dg.Definitions(assets=[first, second]).resolve_asset_graph())


def test_every_entry_of_dagster_home_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_home() as instance:
        result = own_job().execute_in_process(instance=instance)
        instance.report_runless_asset_event(dg.AssetMaterialization("source"))
        assert instance.all_instigator_state() == []
        locks = FileLocks(str(tmp_path), Owner(result.run_id, "step"))
        locks.acquire("lake.silver.orders", waits=False, has_ended=lambda _: False)
        locks.release("lake.silver.orders")
        with uploading_logging_thread():  # as the daemon and the webserver do
            deadline = time.monotonic() + 30
            while not (tmp_path / ".logs_queue").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
    explained = names("What lies in DAGSTER_HOME")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    found = {_entry(file, result.run_id) for file in files}
    found |= {
        f"{path.name}/" for path in tmp_path.iterdir() if path.is_dir() and path.name not in ("history", "schedules")
    }
    assert f"{FOLDER}/" in found
    assert found == set(explained)
    assert any("/compute_logs/" in file for file in files)
    assert "storage/first" in files  # the value that one asset passes to the other


def _entry(file: str, run_id: str) -> str:
    """Return a file as the page names it."""
    first = file.partition("/")[0]
    file = re.sub(r"-(wal|shm|journal)$", "", file)
    return file.replace(run_id, "<run id>") if first in ("history", "schedules", "dagster.yaml") else f"{first}/"


def test_every_table_of_dagsters_database_is_explained(tmp_path: Path) -> None:
    with postgres_server() as server:
        database = server.new_database()
        storage = {"storage": {"postgres": {"postgres_url": server.url(database)}}}
        with dg.instance_for_test(storage, temp_dir=str(tmp_path)) as instance:
            assert own_job().execute_in_process(instance=instance).success
        server.ask(CREATE, database=database)
        rows = server.ask("select tablename from pg_tables where schemaname = 'public'", database=database)
    explained = names("The tables of Dagster's PostgreSQL")
    assert TABLE in explained
    assert len(rows) > 15
    assert sorted(explained) == sorted(name for (name,) in rows)
