"""Which catalogs can have branches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from lakehouse_analytics.branches import nessie_api
from lakehouse_analytics.branches.catalog import BranchError, Name
from lakehouse_analytics.branches.opening import (
    branches_of,
    copies_tables,
    existing_branches,
    has_branches,
    open_branches,
)
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.settings import Settings, SettingsError
from pyiceberg.catalog.sql import SqlCatalog


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


def settings(engine: str, catalog: str | None = None) -> Settings:
    return cast("Settings", SimpleNamespace(engine_type=ENGINES[engine], iceberg_catalog=catalog))


def test_where_tables_are_not_copied(rest_catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__AWS__TYPE", "glue")
    lite = SqlCatalog("lite", uri=f"sqlite:///{tmp_path}/lite.db", warehouse=str(tmp_path))  # creates its tables
    lite.engine.dispose()
    monkeypatch.setenv("PYICEBERG_CATALOG__LITE__URI", f"sqlite:///{tmp_path}/lite.db")
    for catalog in (None, rest_catalog, "aws", "lite"):
        assert not copies_tables(settings("trino", catalog))
    for engine in ("duckdb", "postgres"):
        assert not copies_tables(settings(engine, "lite"))


def test_branches_of_a_duckdb_file_are_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ENGINE", "duckdb")
    monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", str(tmp_path / "lake.duckdb"))
    loaded = Settings.load()
    branches = branches_of(loaded, print)
    assert not branches.copies_tables
    branches.create("pr_42", {Name("gold", "t"): True})
    found = existing_branches(loaded, print)
    assert found
    assert [branch.name for branch in found.branches()] == ["pr_42"]
    monkeypatch.setenv("LAKEHOUSE_PUBLISH", "run")
    with pytest.raises(SettingsError, match="PUBLISH=run: needs Iceberg tables, which the engine DuckDB does not have"):
        Settings.load()


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
