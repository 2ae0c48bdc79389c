"""Exports to ClickHouse: its dates, and failures to connect."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.exports.clickhouse import connect

from .copies import Chdb, Lake, connection_to


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


def test_a_folder_that_another_process_has_open_can_be_tried_again(lake: Lake, tmp_path: Path) -> None:
    copies = Chdb(tmp_path / "clickhouse")
    code = f"""
import clickhouse_connect
client = clickhouse_connect.get_client(interface="chdb", path={str(tmp_path / "clickhouse")!r})
print("open", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        with pytest.raises(
            ExportError, match="cannot be opened: check whether another process has the folder"
        ) as caught:
            lake.export(copies.connection)
        assert caught.value.transient
        other.communicate("\n")
    assert lake.export(copies.connection).checksum.rows == 1


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ExportError, match="unknown option verfy; known are verify, ca_cert, client_cert"):
        connect(connection_to("clickhouse://127.0.0.1:1/d?verfy=false"))


def test_a_server_that_is_down_can_be_tried_again() -> None:
    with pytest.raises(ExportError, match="Connection refused") as caught:
        connect(connection_to("clickhouse://u:s3cret-Wort@127.0.0.1:1/d"))
    assert caught.value.transient
    assert "s3cret" not in str(caught.value)


@contextmanager
def refusing(status: int, body: str, headers: dict[str, str]) -> Iterator[int]:
    """A server that answers every request as ClickHouse does if it refuses a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_wrong_password_is_one_clear_error_without_it() -> None:
    body = (
        "Code: 516. DB::Exception: loader: Authentication failed: password is incorrect, or there is no user with such "
        "name: s3cret/Wort. (AUTHENTICATION_FAILED) (version 26.3.1.1 (official build))\n"
    )
    with (
        refusing(403, body, {"X-ClickHouse-Exception-Code": "516"}) as port,
        pytest.raises(ExportError, match="Authentication failed: password is incorrect") as caught,
    ):
        connect(connection_to(f"clickhouse://loader:s3cret%2FWort@127.0.0.1:{port}/d"))
    assert not caught.value.transient
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith(f"clickhouse://loader:****@127.0.0.1:{port}/d: ")
