"""The probe of exports, on chdb and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.doctor.exports import exports
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, Status
from lakehouse_analytics.exports.clickhouse_client import connect
from lakehouse_analytics.exports.registry import connection_of
from manifests import Manifest
from postgres_server import postgres_server


def probe(*serves: dict[str, str]) -> Finding:
    manifest = Manifest()
    for number, serve in enumerate(serves):
        manifest.model(f"m{number}", folder="gold", lakehouse={"serve": serve})
    context = ProbeContext(timeout=15)
    context.graph = manifest.graph()
    return exports(context)


def test_a_project_without_exports_is_left_out() -> None:
    assert probe().status is Status.SKIPPED


def test_a_table_is_created_and_dropped_in_each_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_CH", f"chdb://{tmp_path}/ch")
    with postgres_server() as server:
        monkeypatch.setenv("LAKEHOUSE_CONNECTION_PG", server.url("postgres"))
        tables = [{"to": "ch", "table": "a.t"}, {"to": "ch", "table": "a.u"}, {"to": "ch", "table": "b.t"}]
        found = probe(*tables, {"to": "pg", "table": "t"})
        assert found.status is Status.OK, found.message
        assert found.message.splitlines() == [
            f"chdb://{tmp_path}/ch, schema a: 2 exports; a table was created and dropped",
            f"chdb://{tmp_path}/ch, schema b: 1 export; a table was created and dropped",
            f"postgresql://postgres@127.0.0.1:{server.port}/postgres: 1 export; a table was created and dropped",
        ]
        assert server.ask("select count(*) from pg_tables where schemaname = 'public'") == [(0,)]
    client = connect(connection_of("ch"))
    assert client.query("select count() from system.tables where database in ('a', 'b')").result_rows == [(0,)]
    client.close()


def test_what_is_missing_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_PG", "postgresql://u:s3cret-Wort@127.0.0.1:1/d")
    found = probe({"to": "pg", "table": "t"}, {"to": "ch", "table": "t"})
    assert found.status is Status.FAILED
    unset, refused = found.message.splitlines()
    assert unset.startswith("ch: LAKEHOUSE_CONNECTION_CH is not set")
    assert refused.startswith("pg: postgresql://u:****@127.0.0.1:1/d: ")
    assert "Connection refused" in refused
    assert "s3cret" not in found.message
    assert found.fix.startswith("Check LAKEHOUSE_CONNECTION_CH, LAKEHOUSE_CONNECTION_PG, and that its user may create")
