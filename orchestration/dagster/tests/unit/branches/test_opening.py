"""Which catalogs can have branches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from lakehouse_analytics.branches import nessie_api
from lakehouse_analytics.branches.catalog import BranchError
from lakehouse_analytics.branches.opening import has_branches, open_branches


class _Config(BaseHTTPRequestHandler):
    """What every REST catalog answers first: its configuration, here with nothing in it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"defaults": {}, "overrides": {}}).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def rest_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Config) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PYICEBERG_CATALOG__OTHER__TYPE", "rest")
        monkeypatch.setenv("PYICEBERG_CATALOG__OTHER__URI", f"http://127.0.0.1:{server.server_port}")
        yield "other"
        server.shutdown()
        thread.join()


def test_a_rest_catalog_that_is_not_nessie_is_refused(rest_catalog: str) -> None:
    assert not has_branches(rest_catalog)
    with pytest.raises(
        BranchError, match=r"is other, a REST catalog that is not Nessie\. On other servers, `drop table`"
    ):
        open_branches(rest_catalog)


def test_other_types_of_catalogs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__AWS__TYPE", "glue")
    monkeypatch.setenv("PYICEBERG_CATALOG__AWS__GLUE__REGION", "us-east-1")
    assert not has_branches("aws")
    with pytest.raises(BranchError, match=r"is aws, a catalog of type GlueCatalog\. Copies of tables, and with them"):
        open_branches("aws")


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({}, "does not say where Nessie's API is"),
        (
            {"uri": "https://nessie.example/iceberg/main", "nessie.core-base-uri": "http://nessie.example/api/"},
            "its API is at http://nessie.example/api, without TLS, and the token of the catalog lake is not sent there",
        ),
    ],
)
def test_the_token_is_sent_to_a_known_address_only(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, str], problem: str
) -> None:
    opened = SimpleNamespace(properties=properties, _session=None)
    monkeypatch.setattr(nessie_api, "open_catalog", lambda _: opened)
    with pytest.raises(BranchError, match=problem):
        nessie_api.Nessie("lake")
