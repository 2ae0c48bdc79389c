"""The commands of docs/arrivals.md and docs/exports.md, as they are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from lakehouse_analytics.exports.clickhouse_client import connect
from lakehouse_analytics.exports.registry import connection_of
from lakehouse_analytics.settings import repository_root
from postgres_server import postgres_server

from tests.dagster_ui import free_port, poll
from tests.docs_examples import block, blocks, with_serve

from .daemon import Child, Lake
from .databases import new_database

pytestmark = pytest.mark.engine("duckdb")

ROOT = repository_root()
#: The blocks of the pages, by the beginning of each. test_example.py runs one more.
LAUNCH = ("arrivals.md", "dg launch --assets landing/day_ahead_prices")
CUSTOMERS = ("arrivals.md", ". .venv/bin/activate")
STRAIGHT = ("arrivals.md", "cat >> models/bronze/sources.yml")
WEBHOOK = ("arrivals.md", "export LAKEHOUSE_WEBHOOK_TOKEN")
CURL = ("arrivals.md", "curl ")
SCAFFOLD = ("arrivals.md", "dg scaffold defs")
EXPORTS = ("exports.md", "make demo")


def environment(**variables: object) -> dict[str, str]:
    """That of a shell in which the virtual environment is active."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**inherited, "PATH": path, **{name: str(value) for name, value in variables.items()}}


def bash(script: str, variables: Mapping[str, str], folder: Path = ROOT) -> str:
    """Run commands as one shell does, up to the first that fails; their output."""
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\nended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def rows_in_clickhouse(folder: Path, query: str) -> list[tuple[object, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_CONNECTION_DOCS", f"chdb://{folder}")
        client = connect(connection_of("docs"))
    try:
        return [tuple(row) for row in client.query(query).result_rows]
    finally:
        client.close()


def test_every_block_of_commands_is_run() -> None:
    of_others = ("arrivals.md", "lakehouse example energy")
    known = [LAUNCH, CUSTOMERS, STRAIGHT, WEBHOOK, CURL, SCAFFOLD, EXPORTS, of_others]
    shown = [(page, text) for page in ("arrivals.md", "exports.md") for text in blocks(page)]
    assert len(shown) == len(known)
    assert [block(*one) for one in known]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A project with the sources of docs/arrivals.md. Its files are in a folder."""
    variables = {"LAKEHOUSE_DBT_PROFILES_DIR": str(ROOT / "dbt")}
    made = Lake(tmp_path, new_database("duckdb", tmp_path / "lake.duckdb"), variables)
    sources = block("arrivals.md", "sources:\n  - name: landing", "yaml").replace("s3://landing", f"{tmp_path}/landing")
    files = {"dbt_project.yml": "name: docs\nversion: '1.0'\nprofile: lakehouse\n", "models/sources.yml": sources}
    for name, text in files.items():
        path = made.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made.command("lakehouse", "init")
    made.command("lakehouse", "manifest")
    return made


def write_prices(lake: Lake, days: Sequence[str], price: int) -> None:
    folder = lake.root / "landing" / "dam"
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        path = folder / f"{day}_prices.csv"
        path.write_text(f"market,price\nDE,{price}\nIT,{price}\n")
        os.utime(path, (time.time() - 60,) * 2)  # a file that has just changed is not read yet


def prices(lake: Lake) -> dict[tuple[str, str], str]:
    found = lake.sql("select cast(_file_date as varchar), market, price from landing.day_ahead_prices")
    return {(str(day), str(market)): str(price) for day, market, price in found}


#: What the sensor of the files requests: the values of `market` become partitions.
FIRST_LOAD = """
import dagster as dg
from lakehouse_analytics.definitions import defs

job = defs().resolve_implicit_global_asset_job_def()
load = job.get_subset(asset_selection={dg.AssetKey(["landing", "day_ahead_prices"])})
assert load.execute_in_process(instance=dg.DagsterInstance.get()).success
"""


@pytest.mark.nightly
def test_dg_launch_loads_one_partition_and_a_range(lake: Lake) -> None:
    one, several = block(*LAUNCH).splitlines()
    days = [f"2026-11-0{day}" for day in range(1, 7)]
    write_prices(lake, days, 10)
    lake.command(sys.executable, "-c", FIRST_LOAD)
    everything = {(day, market): "10" for day in days for market in ("DE", "IT")}
    assert prices(lake) == everything

    write_prices(lake, days, 20)
    bash(one, lake.environment)
    assert prices(lake) == everything | {("2026-11-02", "DE"): "20"}
    write_prices(lake, days, 30)
    bash(several, lake.environment)
    assert prices(lake) == everything | {(f"2026-11-0{day}", "DE"): "30" for day in range(2, 6)}


@pytest.mark.nightly
def test_the_example_customers_and_a_table_straight_to_clickhouse(tmp_path: Path) -> None:
    """The pages say `~`, which is another folder here, and PostgreSQL has another port."""
    with postgres_server() as server:
        server.ask("create database shop")
        server.ask(block("arrivals.md", "create table customers", "sql"), database="shop")
        first = block(*CUSTOMERS).replace(
            "cd ~/customers\n", f"cd ~/customers\nsed -i 's/:5432/:{server.port}/' config/local.env\n"
        )
        bash(first + block(*STRAIGHT), environment(HOME=tmp_path))
    folder = tmp_path / "customers" / "clickhouse"
    by_country = "select country, customers from crm.customers_by_country order by country"
    assert rows_in_clickhouse(folder, by_country) == [("FR", 1), ("PT", 1)]
    straight = "select id, name, country from reporting.customers order by id"
    assert rows_in_clickhouse(folder, straight) == [(1, "Ana", "PT"), (2, "Zoë", "FR")]


def test_a_load_is_reported_to_the_webhook(lake: Lake) -> None:
    """The page's port is another one here."""
    port = free_port()
    script = block(*WEBHOOK).replace(
        "lakehouse webhook", f"echo $LAKEHOUSE_WEBHOOK_TOKEN > {lake.root}/token\nlakehouse webhook"
    )
    on_port = Lake(lake.root, lake.database, {**lake.variables, "LAKEHOUSE_WEBHOOK_PORT": str(port)})
    server = Child(on_port, lake.root / "webhook.log", "bash", "-ec", script)
    try:
        health = f"curl --silent --fail http://127.0.0.1:{port}/health"

        def healthy() -> bool:
            assert server.process.poll() is None, server.tail()
            with suppress(AssertionError):
                return bool(json.loads(bash(health, lake.environment)) == {"status": "ok"})
            return False

        poll(healthy, seconds=120, what="the webhook", because=server.tail)
        report = block(*CURL).replace(":8089", f":{port}").replace("curl ", "curl --silent ", 1)
        token = lake.environment | {"LAKEHOUSE_WEBHOOK_TOKEN": (lake.root / "token").read_text().strip()}
        answers = [json.loads(bash(report, token)) for _ in range(2)]
    finally:
        server.stop()
    first = {"source": "shop/orders", "id": "batch-2026-05-10", "stored": True}
    assert answers == [first, first | {"stored": False}]
    assert f"`{json.dumps(first)}`" in (ROOT / "docs" / "arrivals.md").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files of the checkout, with its tools."""
    copy = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
            os.utime(copy / name, (0, 0))  # older than what make has installed from it
    for name in (".venv", ".tools"):
        (copy / name).symlink_to(ROOT / name)
    return copy


def variables_of(checkout: Path) -> dict[str, str]:
    """Python imports the package of the copy, although another one is installed."""
    return environment(PYTHONPATH=checkout / "orchestration/dagster", LAKEHOUSE_CONNECTORS_DIR=ROOT / ".connectors")


@pytest.mark.nightly
def test_a_component_is_scaffolded_where_the_page_says(checkout: Path) -> None:
    folder = checkout / "orchestration" / "dagster"
    bash(block(*SCAFFOLD), variables_of(checkout), folder)
    written = folder / "lakehouse_analytics/defs/day_ahead_prices/defs.yaml"
    assert "type: lakehouse_analytics.FileLanding" in written.read_text()


@pytest.mark.nightly
def test_the_demo_is_exported(checkout: Path) -> None:
    models = checkout / "dbt/models/gold/models.yml"
    models.write_text(with_serve(models.read_text()))
    said = bash(block(*EXPORTS), variables_of(checkout), checkout)
    with duckdb.connect(str(checkout / ".data/lakehouse.duckdb"), read_only=True) as lakehouse:
        [(rows,)] = lakehouse.sql("select count(*) from gold.revenue_daily").fetchall()
    assert said.split()[-1] == str(rows)
    assert rows > 0
