"""Exports to ClickHouse: its dates, its HTTP interface, and failures to connect."""

from __future__ import annotations

from pathlib import Path

import pytest
from clickhouse_http import clickhouse_http
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.exports.clickhouse_client import connect

from .copies import EVERY_TYPE, Chdb, Lake, connection_to


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake.duckdb")
    found.sql("create table gold.t as select 1 as n")
    return found


@pytest.mark.parametrize("value", ["date '1899-12-31'", "timestamp '2300-01-01'", "timestamptz '0001-01-01'"])
def test_a_date_that_clickhouse_has_not_is_refused(lake: Lake, tmp_path: Path, value: str) -> None:
    copies = Chdb(tmp_path / "clickhouse")
    lake.sql(f"create or replace table gold.t as select {value} as day")
    with pytest.raises(
        ExportError, match=r"Column day has a date in the year \d+\. ClickHouse has only those from 1900"
    ):
        lake.export(copies.connection)
    assert copies.tables() == set()


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ExportError, match="unknown option verfy; known are verify, ca_cert, client_cert"):
        connect(connection_to("clickhouse://127.0.0.1:1/d?verfy=false"))


def test_a_server_that_is_down_can_be_tried_again() -> None:
    with pytest.raises(ExportError, match="Connection refused") as caught:
        connect(connection_to("clickhouse://u:s3cret-Wort@127.0.0.1:1/d"))
    assert caught.value.transient
    assert "s3cret" not in str(caught.value)


def test_every_type_arrives_by_http(lake: Lake, tmp_path: Path) -> None:
    lake.sql(f"create or replace table gold.t as {EVERY_TYPE}")
    with clickhouse_http(tmp_path / "clickhouse") as server:
        connection = connection_to(server.url)
        first, second = (lake.export(connection, key=["id"]) for _ in range(2))
        assert first.checksum == second.checksum
        assert server.query("select count(), max(u64) from reporting.t") == "3\t18446744073709551615\n"
        assert server.query("select name from system.tables where database = 'reporting'") == "t\n"
        assert {(one["insert_deduplicate"], one["async_insert"]) for one in server.inserts} == {("0", "0")}


def test_an_error_of_the_server_is_the_message(lake: Lake, tmp_path: Path) -> None:
    with clickhouse_http(tmp_path / "clickhouse") as server:
        server.query("create database old engine = Memory")
        with pytest.raises(ExportError, match=r"^clickhouse://loader:\*\*\*\*@.*Code: \d+\.") as caught:
            lake.export(connection_to(server.url), "system.t")
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_one_clear_error_without_it(lake: Lake, tmp_path: Path) -> None:
    with clickhouse_http(tmp_path / "clickhouse") as server:
        url = server.url.replace("s3cret%2FWort", "an0ther%2FWort")
        with pytest.raises(ExportError, match="Authentication failed: password is incorrect") as caught:
            connect(connection_to(url))
    assert not caught.value.transient
    assert "an0ther" not in str(caught.value)
    assert str(caught.value).startswith(f"{connection_to(url).redacted}: ")
