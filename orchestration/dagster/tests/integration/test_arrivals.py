"""Files become rows, partitions and models: from a disk into DuckDB, and from S3 into Iceberg, through real sensors."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import clickhouse_connect
import dagster as dg
import obstore
import pytest
from dagster._core.test_utils import create_run_for_test
from lakehouse_analytics.arrivals.files.copies import Copies
from lakehouse_analytics.arrivals.files.load import FileLoader
from lakehouse_analytics.arrivals.files.storage import FileStorage, storage_of
from lakehouse_analytics.arrivals.files.tables import tables_of
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.cli import example
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.keys import UNREADABLE_FILES
from lakehouse_analytics.settings import Settings, repository_root
from obstore.store import LocalStore, ObjectStore, S3Store
from postgres_server import postgres_server
from unreadable import unreadable

from .conftest import Lakehouse, project_on
from .databases import Trino, new_database

pytestmark = [pytest.mark.integration, pytest.mark.engine("duckdb", "trino")]

SOURCE = dg.AssetKey(["landing", "prices"])
FILES = {
    "dbt_project.yml": """
        name: energy
        version: "1.0"
        profile: lakehouse
        models:
          energy:
            bronze: {+schema: bronze}
        """,
    "models/bronze/sources.yml": """
        sources:
          - name: landing
            schema: landing
            tables:
              - name: prices
                config:
                  meta:
                    lakehouse:
                      arrives:
                        files: "%s/dam/{date}_*.csv"
                        begin: 2026-11-01
                        split_by: market
                        columns: {starts: timestamptz, price: "decimal(10,2)"}
                        max_bad_rows: 0.5
        """,
    "models/bronze/stg_prices.sql": """
        {{ config(materialized='incremental', incremental_strategy='replace_window', event_time='starts',
                  begin='2026-11-01', meta={'lakehouse': {'partition': 'daily'}}) }}
        select market, starts, price from {{ source('landing', 'prices') }}
        where {{ in_window('starts', 'timestamptz') }}
        """,
}


class Arriving(Lakehouse):
    """A project with sensors, and their cursors."""

    cursors: dict[str, str]

    def tick(self, sensor: str) -> list[dg.DagsterRun]:
        """Evaluate a sensor and execute the runs that it requests."""
        definitions = self.definitions()
        [found] = [
            one for one in definitions.sensors or () if isinstance(one, dg.SensorDefinition) and one.name == sensor
        ]
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursors.get(sensor), definitions=definitions
        )
        result = found.evaluate_tick(context)
        self.cursors[sensor] = result.cursor or self.cursors.get(sensor, "")
        everything = definitions.resolve_implicit_global_asset_job_def()
        runs = []
        for request in result.run_requests or ():
            job = everything.get_subset(asset_selection=set(request.asset_selection or ()))
            done = job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False)
            assert done.success, self.outcome(done.run_id, success=False).failure
            runs.append(done.dagster_run)
        return runs


class Energy(Arriving):
    """A project that reads files, and the place of the files."""

    store: ObjectStore

    def put(self, day: int, text: str, name: str = "a") -> None:
        path = f"dam/2026-11-{day:02}_{name}.csv"
        obstore.put(self.store, path, text.encode())
        if isinstance(self.store, LocalStore):
            # A file that has just changed is not read yet.
            os.utime(self.root / "landing" / path, (time.time() - 60,) * 2)

    def prices(self, day: int, **prices: object) -> str:
        lines = [
            f"{market},2026-11-{day:02}T{hour:02}:00:00Z,{price}\n"
            for market, price in prices.items()
            for hour in (0, 23)
        ]
        return "market,starts,price\n" + "".join(lines)

    def rows(self, table: str = "landing.prices", columns: str = "market, starts, price") -> list[tuple[Any, ...]]:
        return sorted(self.sql(f"select {columns} from {table}"), key=repr)

    def materialized(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(SOURCE))


@pytest.fixture
def energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> Iterator[Energy]:
    database = new_database(engine, tmp_path / "lake.duckdb")
    with dg.instance_for_test() as instance:
        lake = Energy(tmp_path, database, instance)
        lake.cursors = {}
        if isinstance(database, Trino):
            prefix = f"landing-{uuid.uuid4().hex}"
            root = f"s3://lakehouse/{prefix}"
            for name in ("REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
                monkeypatch.setenv(f"AWS_{name}", database.environment[f"PYICEBERG_CATALOG__LAKEHOUSE__S3__{name}"])
            monkeypatch.setenv("AWS_ENDPOINT_URL", database.environment["PYICEBERG_CATALOG__LAKEHOUSE__S3__ENDPOINT"])
            lake.store = S3Store(
                "lakehouse", prefix=prefix, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True}
            )
        else:
            (tmp_path / "landing" / "dam").mkdir(parents=True)
            root = f"{tmp_path}/landing"
            lake.store = LocalStore(tmp_path / "landing")
        lake.files = {name: text.replace("%s", root) for name, text in FILES.items()}
        lake.write()
        shutil.copytree(repository_root() / "dbt/macros", lake.project / "macros")
        project_on(tmp_path, monkeypatch, database)
        yield lake


@pytest.mark.nightly("trino")
def test_models_by_the_values_of_a_source_are_built_for_the_loaded_values(energy: Energy) -> None:
    energy.files["models/bronze/markets.sql"] = """
        {{ config(materialized='incremental', incremental_strategy='replace_window',
                  meta={'lakehouse': {'partition': {'by': 'market'}}}) }}
        select market, starts, price from {{ source('landing', 'prices') }} where {{ in_partition('market') }}
        """
    energy.write()
    energy.put(1, energy.prices(1, IT=1, DE=1.5))
    energy.tick("landing_prices_files")
    outcomes = [energy.outcome(run.run_id, True) for run in energy.tick("arrivals_sensor")]
    assert [found for one in outcomes if (found := one.partitions.get("bronze/markets"))] == [{"IT", "DE"}]
    assert energy.rows("bronze.markets") == energy.rows()

    # A file of one market, which is new, builds that market only.
    energy.put(2, energy.prices(2, FR=2))
    energy.tick("landing_prices_files")
    outcomes = [energy.outcome(run.run_id, True) for run in energy.tick("arrivals_sensor")]
    assert [found for one in outcomes if (found := one.partitions.get("bronze/markets"))] == [{"FR"}]
    assert energy.rows("bronze.markets") == energy.rows()


def test_files_become_rows_partitions_and_models(energy: Energy) -> None:
    for day in (1, 2):
        energy.put(day, energy.prices(day, IT=day, DE=day + 0.5))
    [loaded] = energy.tick("landing_prices_files")
    assert energy.materialized() == {f"2026-11-0{day}|{market}" for day in (1, 2) for market in ("DE", "IT")}
    assert len(energy.rows()) == 8
    assert energy.outcome(loaded.run_id, True).checks == {
        "landing/prices:arrived": True,
        "landing/prices:quarantined_rows": True,
    }
    [built] = energy.tick("arrivals_sensor")
    assert energy.outcome(built.run_id, True).partitions == {"bronze/stg_prices": {"2026-11-01", "2026-11-02"}}
    assert energy.rows("bronze.stg_prices") == energy.rows()
    assert not energy.tick("landing_prices_files")
    assert not energy.tick("arrivals_sensor")

    # A listing that has changed without a new file: the load finds nothing, and the rows stay.
    obstore.delete(energy.store, "dam/2026-11-02_a.csv")
    [loaded] = energy.tick("landing_prices_files")
    assert energy.outcome(loaded.run_id, True).checks == {}
    assert len(energy.rows()) == 8
    assert not energy.tick("arrivals_sensor")

    # A file is overwritten, a late one has a new market and a bad row: only their dates are built again.
    energy.put(1, energy.prices(1, IT=10))
    energy.put(3, energy.prices(3, NL=3, DE="n/a"))
    [loaded] = energy.tick("landing_prices_files")
    outcome = energy.outcome(loaded.run_id, True)
    assert outcome.checks["landing/prices:quarantined_rows"] is False
    assert (
        "price is 'n/a', which is not DECIMAL(10,2) (2 rows)" in outcome.descriptions["landing/prices:quarantined_rows"]
    )
    assert [(market, float(price)) for market, _, price in energy.rows()] == [
        *[("DE", 2.5)] * 2,
        *[("IT", 10.0)] * 2,
        *[("IT", 2.0)] * 2,
        *[("NL", 3.0)] * 2,
    ]
    assert energy.sql("select count(*) from landing.prices__quarantine") == [(2,)]
    assert len(energy.rows("landing.prices__files", "_file, status")) == 3
    runs = energy.tick("arrivals_sensor")
    built_days = [energy.outcome(run.run_id, True).partitions["bronze/stg_prices"] for run in runs]
    assert built_days == [{"2026-11-01"}, {"2026-11-03"}]
    assert energy.rows("bronze.stg_prices") == energy.rows()


def test_a_run_for_partitions_replaces_these_and_nothing_else(energy: Energy) -> None:
    for day in (1, 2):
        energy.put(day, energy.prices(day, IT=day, DE=day + 0.5))
    energy.tick("landing_prices_files")
    before = energy.rows()
    energy.sql("update landing.prices set price = 99")
    definitions = energy.definitions()
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={SOURCE})

    def load(first: str, last: str) -> dict[str, bool]:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        done = job.execute_in_process(instance=energy.instance, tags=tags, raise_on_error=False)
        outcome = energy.outcome(done.run_id, done.success)
        assert outcome.success, outcome.failure
        return outcome.checks

    load("2026-11-01|IT", "2026-11-01|IT")
    changed = [row for row in energy.rows() if row[2] != 99]
    assert changed == [row for row in before if row[0] == "IT" and row[1].date() == date(2026, 11, 1)]
    # Dagster reads a range as all dates and all values between its ends.
    first, last = sorted(energy.instance.get_dynamic_partitions("landing/prices/market"), key=["DE", "IT"].index)
    checks = load(f"2026-11-01|{first}", f"2026-11-02|{last}")
    assert checks["landing/prices:arrived"] is True
    assert energy.rows() == before
    assert load("2026-11-05|IT", "2026-11-05|IT")["landing/prices:arrived"] is False
    assert energy.rows() == before


@pytest.mark.engine("duckdb")
def test_partitions_of_a_run_that_died_after_its_commit_are_reported_by_the_next(energy: Energy) -> None:
    energy.put(1, energy.prices(1, IT=1))
    energy.definitions()
    died = create_run_for_test(energy.instance, job_name="any", status=dg.DagsterRunStatus.FAILURE)
    settings = Settings.load()
    arrival = FileArrival(
        files=f"{energy.root}/landing/dam/{{date}}_*.csv",
        begin=date(2026, 11, 1),
        split_by="market",
        columns={"starts": "timestamptz", "price": "decimal(10,2)"},
    )
    tables = tables_of(settings, Relation("lake", "landing", "prices"))
    assert len([*FileLoader(arrival, storage_of(arrival, energy.project), tables).load_new(died.run_id)]) == 1
    assert energy.materialized() == set()
    energy.tick("landing_prices_files")
    assert energy.materialized() == {"2026-11-01|IT"}
    [built] = energy.tick("arrivals_sensor")
    assert energy.outcome(built.run_id, True).partitions == {"bronze/stg_prices": {"2026-11-01"}}


@pytest.mark.engine("duckdb")
def test_a_file_that_cannot_be_read_is_reported_and_read_again(energy: Energy, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2):
        energy.put(day, energy.prices(day, IT=day))
    read = FileStorage.read

    def as_another_user(storage: FileStorage, files: Sequence[FileVersion], folder: Path) -> Copies:
        with unreadable(energy.root / "landing/dam/2026-11-02_a.csv", folder):
            return read(storage, files, folder)

    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "read", as_another_user)
        [loaded] = energy.tick("landing_prices_files")
    outcome = energy.outcome(loaded.run_id, True)
    assert outcome.checks == {"landing/prices:arrived": True, "landing/prices:quarantined_rows": False}
    assert outcome.descriptions["landing/prices:quarantined_rows"].startswith("2026-11-02_a.csv: it cannot be read now")
    assert energy.materialized() == {"2026-11-01|IT"}
    run = energy.instance.get_run_by_id(loaded.run_id)
    assert run is not None
    assert run.tags[UNREADABLE_FILES] == "1"
    energy.put(3, energy.prices(3, IT=3))
    [loaded] = energy.tick("landing_prices_files")
    assert energy.outcome(loaded.run_id, True).checks["landing/prices:quarantined_rows"]
    assert energy.materialized() == {f"2026-11-0{day}|IT" for day in (1, 2, 3)}


CUSTOMERS = """
create table customers (id int primary key, name text, country text, created_at timestamptz default now(),
  updated_at timestamptz default now());
insert into customers (id, name, country) values (1, 'Ana', 'PT'), (2, 'Zoë', 'FR'), (3, 'Bo', 'FR')"""


@pytest.mark.engine("duckdb")
def test_the_example_customers_from_a_database_to_dashboards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project of `examples/customers`, with a real PostgreSQL and ClickHouse in the process."""
    example.copy("customers", tmp_path / "dbt")
    database = new_database("duckdb", tmp_path / "customers.duckdb")
    project_on(tmp_path, monkeypatch, database, LAKEHOUSE_DBT_PROFILES_DIR=str(tmp_path / "dbt"))
    with postgres_server() as server, dg.instance_for_test() as instance:
        name = server.new_database()
        server.ask(CUSTOMERS, database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_CLICKHOUSE", f"chdb://{tmp_path}/clickhouse")
        lake = Arriving(tmp_path, database, instance)
        lake.cursors = {}

        def serve() -> list[tuple[Any, ...]]:
            assert lake.run("customers_sync").success
            [built] = lake.tick("arrivals_sensor")
            assert lake.outcome(built.run_id, True).built == {"bronze/stg_customers"}
            assert lake.run("full_refresh", assets=["gold/customers_by_country"]).success
            outcome = lake.run("exports")
            assert outcome.success, outcome.failure
            assert outcome.checks == {"clickhouse/crm/customers_by_country:rows_served": True}
            client = clickhouse_connect.get_client(interface="chdb", path=f"{tmp_path}/clickhouse")
            try:
                query = "select country, customers from crm.customers_by_country order by country"
                return [tuple(row) for row in client.query(query).result_rows]
            finally:
                client.close()

        assert serve() == [("FR", 2), ("PT", 1)]
        server.ask("update customers set country = 'DE', updated_at = now() where id = 1", database=name)
        server.ask("delete from customers where id = 3", database=name)
        assert serve() == [("DE", 1), ("FR", 1)]
