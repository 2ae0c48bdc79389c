"""The probe of arrivals, on real folders and a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.doctor.arrivals import arrivals
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, Status
from lakehouse_analytics.settings import Settings
from manifests import Manifest
from postgres_server import postgres_server

TABLE = {"database": "shop", "table": "orders", "mode": "incremental", "update_key": "updated_at", "primary_key": "id"}


def probe(project: Path, **arrives: object) -> Finding:
    manifest = Manifest()
    for name, contract in arrives.items():
        source = manifest.source("raw", name, lakehouse={"arrives": contract})
        if not (isinstance(contract, dict) and "to" in contract):
            manifest.model(f"stg_{name}", source, folder="bronze")
    context = ProbeContext(timeout=15)
    context.settings = Settings(dbt_project_dir=project)
    context.graph = manifest.graph()
    return arrivals(context)


def test_a_project_without_arrivals_is_left_out(tmp_path: Path) -> None:
    assert probe(tmp_path, orders={"webhook": True}).status is Status.SKIPPED


def test_files_are_counted_and_tables_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").touch()
    with postgres_server() as server:
        name = server.new_database()
        server.ask("create table orders (id int primary key, updated_at timestamptz)", database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        found = probe(tmp_path, prices={"files": "in/*.csv"}, orders=TABLE)
        assert found.status is Status.OK, found.message
        assert found.message.splitlines() == [
            f"raw/orders: table public.orders of postgresql://postgres@127.0.0.1:{server.port}/{name}, 2 columns",
            f"raw/prices: 1 file of {tmp_path}/in/*.csv",
        ]
        wrong = probe(tmp_path, prices={"files": "out/*.csv"}, orders={**TABLE, "update_key": "updatd_at"})
    assert wrong.status is Status.FAILED
    orders, prices = wrong.message.splitlines()
    assert "updatd_at" in orders
    assert "updated_at" in orders
    assert "/out does not exist" in prices


def test_a_connection_that_is_not_set_is_named(tmp_path: Path) -> None:
    found = probe(tmp_path, orders=TABLE)
    assert found.status is Status.FAILED
    assert "LAKEHOUSE_CONNECTION_SHOP is not set" in found.message


def test_a_table_is_created_where_a_source_is_copied_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    to = TABLE | {"to": "reports", "to_table": "reporting.orders"}
    with postgres_server() as server:
        name = server.new_database()
        server.ask("create table orders (id int primary key, updated_at timestamptz)", database=name)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_SHOP", server.url(name))
        assert "LAKEHOUSE_CONNECTION_REPORTS is not set" in probe(tmp_path, orders=to).message
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_REPORTS", f"chdb://{tmp_path}/reports")
        found = probe(tmp_path, orders=to)
        assert found.status is Status.OK, found.message
        end = f"; to chdb://{tmp_path}/reports, database reporting, where a table was created and dropped"
        assert found.message.endswith(end)
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_REPORTS", f"chdb://{tmp_path}/file/reports")
        assert probe(tmp_path, orders=to).status is Status.FAILED
