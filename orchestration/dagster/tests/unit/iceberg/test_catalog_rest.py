"""A REST catalog with OAuth2 and vended credentials, configured as docs/engines.md says.

The server speaks as much of the REST specification as the client asks for:
https://iceberg.apache.org/spec/#iceberg-rest-catalog
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.doctor.probe import ProbeContext, Status
from lakehouse_analytics.doctor.warehouse import warehouse
from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog
from lakehouse_analytics.iceberg.row_counts import MetadataCounts
from lakehouse_analytics.settings import Settings

SECRET, TOKEN = "s3cr3t-of-the-client", "t0k3n-of-the-server"
ORDERS = Relation("lake", "silver", "orders")


class Server(ThreadingHTTPServer):
    """A catalog with one table."""

    def __init__(self, table: dict[str, Any], location: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.table, self.location = table, location
        self.delegations: set[str | None] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        form = {
            key: value[0]
            for key, value in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()
        }
        wanted = {
            "grant_type": "client_credentials",
            "client_id": "dagster",
            "client_secret": SECRET,
            "scope": "catalog",
        }
        if self.path != "/oauth/tokens" or form != wanted:
            said = f"no client has the secret {form.get('client_secret')}"  # as careless servers say
            return self._answer(401, {"error": "invalid_client", "error_description": said})
        return self._answer(200, {"access_token": TOKEN, "token_type": "bearer", "expires_in": 3600})

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            error = {"message": f"not authorized: {self.headers['Authorization']}", "type": "NotAuthorizedException"}
            return self._answer(401, {"error": error | {"code": 401}})
        self.server.delegations.add(self.headers["X-Iceberg-Access-Delegation"])
        answers: dict[str, dict[str, Any]] = {
            "/v1/config": {"defaults": {}, "overrides": {}},
            "/v1/namespaces": {"namespaces": [["silver"]]},
            "/v1/namespaces/silver": {"namespace": ["silver"], "properties": {"location": self.server.location}},
            "/v1/namespaces/silver/tables/orders": self.server.table,
        }
        path = urlsplit(self.path).path
        if path not in answers:
            return self._answer(404, {"error": {"message": path, "type": "NoSuchTableException", "code": 404}})
        return self._answer(200, answers[path])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    import pyarrow as pa
    from pyiceberg.catalog.memory import InMemoryCatalog

    made = InMemoryCatalog("made", warehouse=f"file://{tmp_path}")
    made.create_namespace("silver")
    table = made.create_table("silver.orders", schema=pa.schema([("id", pa.int64())]))
    table.append(pa.table({"id": [1, 2, 3]}))
    keys = {"s3.access-key-id": "vended", "s3.secret-access-key": "vended", "s3.endpoint": "http://127.0.0.1:1"}
    answer = {
        "metadata-location": table.metadata_location,
        "metadata": json.loads(table.metadata.model_dump_json()),
        "config": keys,
    }
    with Server(answer, "s3://lake/silver") as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        for name, value in {
            "TYPE": "rest",
            "URI": running.address,
            "WAREHOUSE": "lake",
            "CREDENTIAL": f"dagster:{SECRET}",
            "SCOPE": "catalog",
            "OAUTH2_SERVER_URI": f"{running.address}/oauth/tokens",
        }.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name}", value)
        monkeypatch.setenv("LAKEHOUSE_ICEBERG_CATALOG", "lake")
        yield running
        running.shutdown()


def test_rows_are_counted_behind_oauth2(server: Server) -> None:
    snapshot = server.table["metadata"]["current-snapshot-id"]
    found = MetadataCounts("lake", database="lake", fetch_all=lambda _: [(snapshot,)]).rows([ORDERS])
    assert found == {ORDERS: 3}


def test_keys_come_with_each_table(server: Server) -> None:
    table = open_catalog("lake").load_table("silver.orders")
    assert table.io.properties["s3.access-key-id"] == "vended"
    assert server.delegations == {"vended-credentials"}


def test_a_wrong_secret_is_refused_in_one_line_without_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__CREDENTIAL", "dagster:wr0ng-s3cr3t")
    with pytest.raises(CatalogError) as caught:
        open_catalog("lake")
    assert "invalid_client: no client has the secret ***" in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    monkeypatch.delenv("PYICEBERG_CATALOG__LAKE__CREDENTIAL")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TOKEN", "exp1r3d-t0k3n")
    with pytest.raises(CatalogError) as caught:
        open_catalog("lake")
    assert "exp1r3d" not in str(caught.value)


def test_doctor_does_not_call_it_a_fault_that_only_the_catalog_has_keys(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where no keys are found, the SDK asks the machine; and there is no S3 here.
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "of-this-process")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__S3__ENDPOINT", "http://127.0.0.1:1")
    known = ProbeContext(timeout=3)
    known.settings = Settings.load()
    finding = warehouse(known)
    assert finding.status is Status.SKIPPED
    assert "the catalog lake opens; nothing can be written below s3://lake/silver" in finding.message
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__S3__SECRET_ACCESS_KEY", "of-the-configuration")
    assert warehouse(known).status is Status.FAILED
