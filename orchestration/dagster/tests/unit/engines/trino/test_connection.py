"""One list of fields for the settings, the resource and the client."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.engines.trino.connection import TrinoConnection
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.engines.trino.settings import TrinoSettings
from lakehouse_analytics.settings import Settings


def test_the_defaults_are_those_of_the_settings() -> None:
    connection = TrinoSettings().trino_connection
    given = {
        name: getattr(connection, name) for name, field in TrinoConnection.model_fields.items() if field.is_required()
    }
    assert TrinoConnection(**given) == connection


def test_the_resource_and_its_client_have_the_connection_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    values = {
        "ENGINE": "trino",
        "TRINO_HOST": "trino.example",
        "TRINO_PORT": "8443",
        "TRINO_HTTP_SCHEME": "https",
        "TRINO_USER": "ann",
        "TRINO_CATALOG": "lake",
        "TRINO_PASSWORD": "the-secret",
        "TRINO_CA_BUNDLE": str(certificates),
        "TRINO_SESSION_PROPERTIES": '{"query_max_run_time": "1h"}',
        "TRINO_REQUEST_TIMEOUT": "1.5",
        "TRINO_START_TIMEOUT": "2.5",
        "TRINO_QUEUE_TIMEOUT": "3.5",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
    settings = Settings.load()
    resource = TrinoResource.of(settings)
    server = resource.server()
    expected = TrinoConnection(
        host="trino.example",
        port=8443,
        http_scheme="https",
        user="ann",
        catalog="lake",
        auth="password",
        ca_bundle=str(certificates),
        session_properties={"query_max_run_time": "1h"},
        request_timeout=1.5,
        start_timeout=2.5,
        queue_timeout=3.5,
    )
    assert settings.trino_connection == expected
    for one in (resource, server):
        assert {name: getattr(one, name) for name in TrinoConnection.model_fields} == dict(expected)
    assert server.secret
    assert server.secret.get_secret_value() == "the-secret"
    for shown in (repr(settings), repr(resource), repr(server), str(server), resource.model_dump_json()):
        assert "the-secret" not in shown
