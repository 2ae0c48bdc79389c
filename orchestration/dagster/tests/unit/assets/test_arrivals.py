"""Sources that the lakehouse loads itself: their assets, their retries, and readers of those in ClickHouse."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import ErrorSource
from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.arrivals.files.load import FileLoader
from lakehouse_analytics.arrivals.files.storage import storage_of
from lakehouse_analytics.arrivals.files.tables import tables_of
from lakehouse_analytics.assets import transfer_retries
from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.assets.file_loads import FileLoad
from lakehouse_analytics.assets.table_loads import TableLoad
from lakehouse_analytics.assets.transfer_retries import RETRIES
from lakehouse_analytics.contract.arrivals import FileArrival
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.exports.clickhouse_client import connect
from lakehouse_analytics.maintenance.policy import maintained_tables
from lakehouse_analytics.settings import Settings
from manifests import Manifest
from postgres_server import postgres_server

ARRIVES = {
    "database": "shop",
    "mode": "incremental",
    "update_key": "updated_at",
    "primary_key": "id",
    "to": "reports",
    "to_table": "reporting.customers",
}

LIMITS = {"floor": timedelta(days=1), "longest_write": timedelta(hours=1)}


def test_a_source_that_is_copied_elsewhere_has_no_readers() -> None:
    manifest = Manifest()
    source = manifest.source("shop", "customers", lakehouse={"arrives": ARRIVES})
    manifest.source("shop", "orders", lakehouse={"arrives": {"database": "shop"}})
    assert len(arrival_assets(manifest.graph(), Settings())) == 2
    manifest.model("stg_customers", source, folder="bronze")
    manifest.test("not_null_customers_id", source, attached=source)
    with pytest.raises(ContractError) as caught:
        arrival_assets(manifest.graph(), Settings())
    expected = (
        r"models/sources\.yml: source shop\.customers: meta\.lakehouse\.arrives\.to: .* \(connection reports\), .* "
        r"it is read by model stg_customers.* test not_null_customers_id.*\. Remove `to` to .* `serve`"
    )
    assert re.match(expected, str(caught.value)), str(caught.value)


def test_its_table_has_no_maintenance() -> None:
    manifest = Manifest()
    manifest.source("shop", "customers", lakehouse={"arrives": ARRIVES})
    kept = manifest.source("shop", "orders", lakehouse={"arrives": {"database": "shop"}})
    assert [table.unique_id for table in maintained_tables(manifest.graph(), **LIMITS)] == [kept]


def test_its_run_reports_rows_and_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest()
    manifest.source("shop", "customers", lakehouse={"arrives": ARRIVES})
    [asset] = arrival_assets(manifest.graph(), Settings(duckdb_path=tmp_path / "lake.duckdb"))
    spec = asset.specs_by_key[dg.AssetKey(["shop", "customers"])]
    assert spec.kinds == {"clickhouse", "database"}
    assert spec.metadata["dagster/table_name"] == "reporting.customers"
    with postgres_server() as server, dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        name = server.new_database()
        server.ask("create table customers (id int primary key, name text, updated_at timestamptz)", database=name)
        server.ask("insert into customers values (1, 'Ana', now()), (2, 'Zoë', now())", database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        failed = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert not failed.success
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_REPORTS", f"chdb://{tmp_path}/reports")
        for rows in (2, 3):
            run = dg.materialize([asset], instance=instance)
            [event] = run.asset_materializations_for_node("load_shop_customers")
            assert event.metadata["dagster/row_count"].value == rows
            [check] = run.get_asset_check_evaluations()
            assert (check.check_name, check.passed) == ("arrived", True)
            server.ask("insert into customers values (3, 'Bo', now()) on conflict do nothing", database=name)
    client = connect(connection("reports", ["chdb"]))
    assert client.query("select id, name from reporting.customers order by id").result_rows == [
        (1, "Ana"),
        (2, "Zoë"),
        (3, "Bo"),
    ]
    client.close()
    assert not (tmp_path / "lake.duckdb").exists()


def failed_attempts(instance: dg.DagsterInstance, run_id: str) -> int:
    """How often the step of a run failed and is executed again."""
    return len(instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY))


def test_a_load_is_retried_while_its_database_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 3, 9 and 21 seconds, in which PostgreSQL starts also on a busy machine.
    slower = dg.RetryPolicy(RETRIES.max_retries, delay=3, backoff=RETRIES.backoff)
    monkeypatch.setattr(transfer_retries, "RETRIES", slower)
    manifest = Manifest()
    manifest.source("shop", "customers", lakehouse={"arrives": {"database": "shop"}})
    [asset] = arrival_assets(manifest.graph(), Settings(duckdb_path=tmp_path / "lake.duckdb"))
    with postgres_server() as server, dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        name = server.new_database()
        server.ask("create table customers as select 1 as id", database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        server.stop()
        listener = socket.create_server(("127.0.0.1", server.port))
        listener.settimeout(60)

        def drop_one_connection_and_start() -> None:
            listener.accept()[0].close()
            listener.close()
            server.start()

        starter = Thread(target=drop_one_connection_and_start)
        starter.start()
        run = dg.materialize([asset], instance=instance)
        starter.join()
        retries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
        assert retries
        retry = retries[0].dagster_event
        assert retry is not None
        assert f"/{name}: " in retry.step_retry_data.error.to_string()  # the reason, which names the database
        [event] = run.asset_materializations_for_node("load_shop_customers")
        assert event.metadata["dagster/row_count"].value == 1

        server.ask("drop table customers", database=name)
        failed = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert not failed.success
        assert not failed_attempts(instance, failed.run_id)
        monkeypatch.delenv("LAKEHOUSE_CONNECTION_SHOP")
        unset = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert not unset.success
        assert not failed_attempts(instance, unset.run_id)


def test_an_interrupted_load_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Canceling a run sends SIGINT to its process."""
    manifest = Manifest()
    manifest.source("shop", "customers", lakehouse={"arrives": {"database": "shop"}})
    [asset] = arrival_assets(manifest.graph(), Settings(duckdb_path=tmp_path / "lake.duckdb"))
    with socket.create_server(("127.0.0.1", 0)) as database, dg.DagsterInstance.ephemeral() as instance:
        database.settimeout(60)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", f"postgresql://u@127.0.0.1:{database.getsockname()[1]}/d")

        def interrupt() -> None:
            connected = database.accept()[0]
            os.kill(os.getpid(), signal.SIGINT)
            connected.close()
            database.close()

        interrupter = Thread(target=interrupt)
        interrupter.start()
        run = dg.materialize([asset], instance=instance, raise_on_error=False)
        interrupter.join()
        assert not failed_attempts(instance, run.run_id)
        [failure] = run.get_step_failure_events()
        assert failure.step_failure_data.error_source == ErrorSource.INTERRUPT


def test_an_unexpected_exception_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def events(*_: object, **__: object) -> Iterator[object]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TableLoad, "events", events)
    manifest = Manifest()
    manifest.source("shop", "customers", lakehouse={"arrives": {"database": "shop"}})
    [asset] = arrival_assets(manifest.graph(), Settings(duckdb_path=tmp_path / "lake.duckdb"))
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert not failed_attempts(instance, run.run_id)
        [failure] = run.get_step_failure_events()
        assert "a bug" in str(failure.step_failure_data.error)


def test_a_retry_reports_what_the_failed_attempt_has_committed(tmp_path: Path) -> None:
    """An attempt may fail between its commit and its events, such as when a catalog does not answer any more."""
    manifest = Manifest()
    contract = {"files": f"{tmp_path}/in/{{date}}.csv", "begin": "2026-01-01", "max_bad_rows": 1}
    manifest.source("landing", "prices", lakehouse={"arrives": contract})
    [source] = manifest.graph().sources.values()
    config = Settings(duckdb_path=tmp_path / "lake.duckdb")
    arrival = FileArrival.model_validate(contract)
    file = tmp_path / "in" / "2026-01-01.csv"
    file.parent.mkdir()
    file.write_text("n\n1\n2,too many\n")
    os.utime(file, (time.time() - 60,) * 2)
    [spec] = [asset.get_asset_spec() for asset in arrival_assets(manifest.graph(), config)]

    @dg.multi_asset(specs=[spec], check_specs=FileLoad(source, arrival, config).check_specs(), can_subset=True)
    def load(context: dg.AssetExecutionContext) -> Iterator[object]:
        if not context.retry_number:
            tables = tables_of(config, relation_of(source.node))
            [_] = FileLoader(arrival, storage_of(arrival, tmp_path), tables).load_new(context.run.run_id)
            raise dg.RetryRequested(max_retries=1)
        yield from FileLoad(source, arrival, config).events(context, reload=False)

    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        run = dg.materialize([load], instance=instance)
        assert run.success
        assert instance.get_materialized_partitions(spec.key) == {"2026-01-01"}
        checks = {check.check_name: check for check in run.get_asset_check_evaluations()}
        assert checks["arrived"].metadata["files"].value == 1
        assert not checks["quarantined_rows"].passed
        assert checks["quarantined_rows"].metadata["bad_rows"].value == 1
