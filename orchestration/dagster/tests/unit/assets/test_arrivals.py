"""Sources that are copied straight to ClickHouse: their assets, and the models and tests that cannot read them."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.arrivals.connections import connection
from lakehouse_analytics.assets.arrivals import arrival_assets
from lakehouse_analytics.contract.models import ContractError
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
