"""Row-count rules of sources that the lakehouse loads itself: real files, a real PostgreSQL, and DuckDB."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from lakehouse_analytics.arrivals.files.load import FileLoader
from lakehouse_analytics.arrivals.files.storage import storage_of
from lakehouse_analytics.arrivals.files.tables import tables_of
from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.keys import broken_row_count_tag, has_broken_row_count
from lakehouse_analytics.settings import Settings
from manifests import Manifest
from postgres_server import postgres_server

PRICES = dg.AssetKey(["landing", "prices"])


class Loads:
    """A source, its loads, and their checks."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, source: str, arrives: dict[str, Any], **rows: Any):
        manifest = Manifest()
        manifest.source(*source.split("."), lakehouse={"arrives": arrives, "rows": rows})
        graph, self.settings = manifest.graph(), Settings(duckdb_path=folder / "lake.duckdb")
        [self.source], [self.asset] = graph.sources.values(), arrival_assets(graph, self.settings)
        self.instance = instance

    def load(self, **config: Any) -> tuple[bool, dict[str, bool], dict[str, str]]:
        """Whether the run succeeded, and the results and descriptions of the checks of row counts."""
        run_config = {"ops": {self.asset.op.name: {"config": config}}}
        self.run = dg.materialize([self.asset], instance=self.instance, run_config=run_config, raise_on_error=False)
        found = [check for check in self.run.get_asset_check_evaluations() if check.check_name.startswith("row_count")]
        assert not self.instance.all_logs(self.run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
        return (
            self.run.success,
            {check.check_name: check.passed for check in found},
            {check.check_name: check.description or "" for check in found},
        )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def put(folder: Path, day: int, rows: int) -> None:
    file = folder / "in" / f"2026-01-0{day}.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text("n\n" + "".join(f"{number}\n" for number in range(rows)))
    os.utime(file, (time.time() - 60 - rows,) * 2)


def test_files_that_lose_rows(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    arrives = {"files": f"{tmp_path}/in/{{date}}.csv", "begin": "2026-01-01"}
    loads = Loads(tmp_path, instance, "landing.prices", arrives, min=2, max_drop=0.5)
    put(tmp_path, 1, 10)
    put(tmp_path, 2, 10)
    assert loads.load()[:2] == (True, {"row_count": True})
    put(tmp_path, 1, 1)
    put(tmp_path, 2, 2)
    success, checks, texts = loads.load()
    assert (success, checks) == (False, {"row_count": False})
    assert texts["row_count"].startswith(
        "3 rows, 85% fewer than the 20 of the last passed check (max_drop 50%); to acc"
    )
    assert "accept_row_count: true" in texts["row_count"]
    [failure] = [event for event in loads.run.all_events if event.is_step_failure]
    assert "landing/prices: row_count: 3 rows, 85% fewer" in str(failure.step_failure_data.user_failure_data)
    stored = instance.get_run_by_id(loads.run.run_id)
    assert stored is not None
    assert has_broken_row_count(stored)

    # The rows are loaded and reported: there is nothing that the next run has to do again.
    assert loads.load() == (True, {}, {})
    assert loads.run.asset_materializations_for_node("load_landing_prices") == []
    put(tmp_path, 2, 3)
    assert loads.load()[:2] == (False, {"row_count": False})
    assert loads.load(accept_row_count=True)[:2] == (True, {"row_count": True})
    put(tmp_path, 2, 2)
    assert loads.load()[:2] == (True, {"row_count": True})


def test_rows_of_a_load_that_was_killed_after_its_commit_are_counted(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Its files have no dates, so the next load has no partition to report."""
    arrives = {"files": f"{tmp_path}/in/*.csv"}
    loads = Loads(tmp_path, instance, "landing.prices", arrives, max=10)
    put(tmp_path, 1, 10)
    # A new execution of a run whose row count was wrong inherits its tag.
    inherited = broken_row_count_tag("another-run", ["row_count"])
    killed = create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE, tags=inherited)
    arrival = FileArrival.model_validate(arrives)
    tables = tables_of(loads.settings, relation_of(loads.source.node))
    [_] = FileLoader(arrival, storage_of(arrival, tmp_path), tables).load_new(killed.run_id)
    assert loads.load()[:2] == (True, {"row_count": True})
    [event] = loads.run.asset_materializations_for_node("load_landing_prices")
    assert event.metadata["files"].value == 0
    put(tmp_path, 2, 1)
    assert loads.load()[:2] == (False, {"row_count": False})
    assert loads.load() == (True, {}, {})


def test_a_database_that_loses_rows(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift = {"min_history": 3, "mads": 3, "severity": "error"}
    loads = Loads(tmp_path, instance, "shop.orders", {"database": "shop"}, severity="warn", max=60, drift=drift)
    with postgres_server() as server:
        name = server.new_database()
        server.ask("create table orders as select generate_series(1, 50) as id", database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        for _ in range(3):
            success, checks, texts = loads.load()
            assert (success, checks) == (True, {"row_count": True, "row_count_drift": True})
        assert texts["row_count_drift"] == "not compared: 2 earlier counts, 3 are needed"
        server.ask("insert into orders select generate_series(51, 70)", database=name)
        success, checks, texts = loads.load()
        # Of the two, only the one with the severity `error` fails the run.
        assert (success, checks) == (False, {"row_count": False, "row_count_drift": False})
        assert texts["row_count"] == "70 rows, expected at most 60 (max)"
        assert texts["row_count_drift"].startswith("70 rows, 50 ± 3 expected from 3 earlier counts; to accept")
        server.ask("delete from orders where id > 55", database=name)
        assert loads.load(accept_row_count=True)[:2] == (True, {"row_count": True, "row_count_drift": True})
