"""Which failures of a catalog and its storage may pass: real clients, and servers that are not there or refuse."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable
from lakehouse_analytics.iceberg.errors import is_transient
from postgres_server import PostgresServer, free_port, postgres_server

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Configure the catalog `lake`, and no other."""
    for name in [*os.environ]:
        if name.startswith("PYICEBERG_"):
            monkeypatch.delenv(name)

    def set_variables(**properties: str) -> None:
        for name, value in properties.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name.upper()}", value)

    return set_variables


def passes() -> bool:
    with pytest.raises(ArrivalError) as caught:
        IcebergTable("lake", "raw", "orders").read()
    return caught.value.transient


def test_a_rest_catalog_that_does_not_answer(configure: Configure) -> None:
    configure(type="rest", uri=f"http://127.0.0.1:{free_port()}")
    assert passes()


def test_a_catalog_that_is_not_configured(configure: Configure) -> None:
    configure()
    assert not passes()


def with_tables(server: PostgresServer) -> str:
    from pyiceberg.catalog.sql import SqlCatalog

    uri = server.url(server.new_database()).replace("postgresql://", "postgresql+psycopg2://")
    SqlCatalog("lake", uri=uri, warehouse="file:///nowhere")  # creates its tables
    return uri


def test_a_sql_catalog_whose_database_restarts(configure: Configure) -> None:
    with postgres_server() as server:
        uri = with_tables(server)
        configure(type="sql", uri=uri, warehouse="file:///nowhere")
        table = IcebergTable("lake", "raw", "orders")
        assert not table.read().exists
        server.stop()
        assert passes()  # opened before
        configure(type="sql", uri=f"{uri}?connect_timeout=5", warehouse="file:///nowhere")
        assert passes()  # while it is opened
        server.start()
        assert not table.read().exists
        configure(type="sql", uri=server.url("none").replace("postgresql://", "postgresql+psycopg2://"))
        assert not passes()


def test_storage_that_does_not_answer() -> None:
    from pyarrow import fs

    options = {"scheme": "http", "access_key": "a", "secret_key": "b", "region": "x"}
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=1)
    files = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{free_port()}", retry_strategy=retries, connect_timeout=5, **options
    )
    with pytest.raises(OSError, match="NETWORK_CONNECTION") as caught:
        files.open_input_file("bucket/file")
    assert is_transient(caught.value)
    assert not is_transient(OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."))
    assert not is_transient(FileNotFoundError("bucket/file"))
