"""`make demo` as a person runs it: real connector, real dbt, real Dagster instance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import duckdb
import pytest

LAKEHOUSE = Path(sys.executable).parent / "lakehouse"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def _environment(home: Path) -> dict[str, str]:
    ours = {
        "DAGSTER_HOME": str(home / "dagster"),
        "LAKEHOUSE_DUCKDB_PATH": str(home / "lakehouse.duckdb"),
        "LAKEHOUSE_DBT_TARGET_PATH": str(home / "target"),
    }
    return {**{k: v for k, v in os.environ.items() if not k.startswith("LAKEHOUSE_")}, **ours}


def _demo(home: Path, *args: str) -> str:
    done = subprocess.run(
        [LAKEHOUSE, "demo", *args], env=_environment(home), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rows(home: Path, relation: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(home / "lakehouse.duckdb"), read_only=True) as connection:
        return connection.execute(f"select * from {relation} order by all").fetchall()


def test_a_first_demo_builds_every_layer_and_reports_it(home: Path) -> None:
    said = _demo(home, "--count", "300")

    for asset in ("stg_customers", "dim_customer_history", "fct_orders", "daily_revenue"):
        [line] = [line for line in said.splitlines() if f" {asset} " in line and "of" not in line.split()]
        assert line.split()[-1] == "0", line  # nothing failed
    assert "11 of 11 assets built" in said
    assert " 0 failed" in said
    assert "make dev" in said
    assert len(_rows(home, "silver.dim_customer")) == 300


def test_the_syncs_and_the_run_are_in_dagsters_history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        synced = instance.get_latest_materialization_event(dg.AssetKey(["faker", "users"]))
        assert synced
        assert synced.asset_materialization
        assert synced.asset_materialization.metadata["dagster/row_count"].value == 300
        built = instance.get_latest_materialization_event(dg.AssetKey(["metrics", "daily_revenue"]))
        assert built
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]


def test_a_second_demo_is_incremental_and_heals_a_dropped_table(home: Path) -> None:
    before = {relation: _rows(home, relation) for relation in ("silver.dim_customer", "gold.fct_orders")}
    with duckdb.connect(str(home / "lakehouse.duckdb")) as connection:
        connection.execute("drop table silver.dim_customer")
        connection.execute("drop table gold.fct_orders")

    said = _demo(home, "--count", "300")

    assert "Incremental: nothing new since the last sync." in said
    assert {relation: _rows(home, relation) for relation in before} == before


def test_dbts_unit_tests_pass(home: Path) -> None:
    done = subprocess.run(
        [LAKEHOUSE.parent / "dbt", "test", "--select", "test_type:unit"],
        cwd=Path(__file__).parents[4] / "dbt",
        env={
            **_environment(home),
            "DBT_TARGET_PATH": str(home / "unit"),
            "DBT_LOG_PATH": str(home / "unit"),
            "DBT_USE_COLORS": "false",
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if " PASS " in line]
    assert passed, done.stdout


def test_a_demo_that_fails_says_why_and_exits_with_one(home: Path) -> None:
    with duckdb.connect(str(home / "lakehouse.duckdb")) as connection:
        connection.execute("update raw.products set id = null where id = 1")
    done = subprocess.run(
        [LAKEHOUSE, "demo", "--count", "300"], env=_environment(home), text=True, capture_output=True, check=False
    )

    assert done.returncode == 1
    assert "bronze/stg_products failed its gate" in done.stdout
    assert "silver/dim_product was blocked by bronze/stg_products" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LAKEHOUSE_ENV", "prd", "LAKEHOUSE_ENV: expected one of: local, trino, prod"),
        ("LAKEHOUSE_TIMEZONE", "Europe/Berln", "did you mean Europe/Berlin?"),
        ("LAKEHOUSE_DBT_PROJECT_DIR", "/nowhere", "/nowhere/dbt_project.yml does not exist"),
        ("DAGSTER_HOME", "/dev/null/home", "DAGSTER_HOME /dev/null/home is not writable"),
    ],
)
def test_bad_input_is_one_error_without_a_traceback(home: Path, variable: str, value: str, said: str) -> None:
    command = "init" if variable == "DAGSTER_HOME" else "manifest"
    done = subprocess.run(
        [LAKEHOUSE, command], env={**_environment(home), variable: value}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
