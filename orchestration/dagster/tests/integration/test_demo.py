"""`make demo` as a person runs it: real connector, real dbt, real Dagster instance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from .databases import Database, new_database

pytestmark = [pytest.mark.engine("duckdb", "trino"), pytest.mark.nightly("trino")]

LAKEHOUSE = Path(sys.executable).parent / "lakehouse"
ROOT = Path(__file__).parents[4]
TARGETS = {"duckdb": "local", "trino": "trino"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def database(home: Path, engine: str) -> Database:
    return new_database(engine, home / "lakehouse.duckdb")


@pytest.fixture(scope="module")
def environment(home: Path, database: Database) -> dict[str, str]:
    ours = {"DAGSTER_HOME": str(home / "dagster"), "LAKEHOUSE_DBT_TARGET_PATH": str(home / "target")}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LAKEHOUSE_")}
    return {**inherited, **database.environment, **ours}


def _demo(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return _run(environment, str(LAKEHOUSE), "demo", "--count", "300")


def _run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


def test_a_first_demo_builds_every_layer_and_reports_it(environment: dict[str, str], database: Database) -> None:
    done = _run(environment, "make", "demo", "ARGS=--count 300")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout

    for asset in ("stg_customers", "dim_customer_history", "fct_orders", "daily_revenue"):
        [line] = [line for line in said.splitlines() if f" {asset} " in line and "of" not in line.split()]
        assert line.split()[-1] == "0", line  # nothing failed
    assert "14 of 14 assets built" in said
    assert " 0 failed" in said
    assert "make dev" in said
    assert database.sql("select count(*) from silver.dim_customer") == [(300,)]


def test_the_syncs_and_the_run_are_in_dagsters_history(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        synced = instance.get_latest_materialization_event(dg.AssetKey(["faker", "users"]))
        assert synced
        assert synced.asset_materialization
        assert synced.asset_materialization.metadata["dagster/row_count"].value == 300
        built = instance.get_latest_materialization_event(dg.AssetKey(["metrics", "daily_revenue"]))
        assert built
        assert {run.job_name: run.status for run in instance.get_runs()} == dict.fromkeys(
            ("full_refresh", "monthly_refresh"), dg.DagsterRunStatus.SUCCESS
        )
        days = instance.get_materialized_partitions(dg.AssetKey(["gold", "revenue_daily"]))
        # The last whole month, and what there is of this one.
        assert 28 <= len(days) <= 62
        assert len(instance.get_materialized_partitions(dg.AssetKey(["metrics", "revenue_monthly"]))) == 1


def test_a_second_demo_is_incremental_and_heals_a_dropped_table(
    environment: dict[str, str], database: Database
) -> None:
    relations = ("silver.dim_customer", "gold.customer_lifetime_value")
    before = {relation: database.sql(f"select * from {relation} order by customer_id") for relation in relations}
    for relation in relations:
        database.sql(f"drop table {relation}")

    done = _demo(environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Incremental: nothing new since the last sync." in done.stdout
    assert {r: database.sql(f"select * from {r} order by customer_id") for r in relations} == before


def test_dbts_unit_tests_pass(home: Path, environment: dict[str, str], engine: str) -> None:
    done = subprocess.run(
        [LAKEHOUSE.parent / "dbt", "test", "--select", "test_type:unit", "--target", TARGETS[engine]],
        cwd=ROOT / "dbt",
        env={
            **environment,
            "REQUESTS_CA_BUNDLE": environment.get("LAKEHOUSE_TRINO_CA_BUNDLE", ""),
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


def test_a_demo_that_fails_says_why_and_exits_with_one(environment: dict[str, str], database: Database) -> None:
    database.sql("update raw.products set id = null where id = 1")
    done = _demo(environment)

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
def test_bad_input_is_one_error_without_a_traceback(
    environment: dict[str, str], variable: str, value: str, said: str
) -> None:
    command = "init" if variable == "DAGSTER_HOME" else "manifest"
    done = subprocess.run(
        [LAKEHOUSE, command], env={**environment, variable: value}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
