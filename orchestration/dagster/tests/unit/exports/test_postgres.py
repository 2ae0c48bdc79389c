"""Exports to PostgreSQL: what depends on the copy, rights, and credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.settings import repository_root
from postgres_server import PostgresServer, postgres_server

from .copies import Lake, PostgresCopies, connection_to


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as found:
        found.ask("create role analyst login")
        yield found


@pytest.fixture
def copies(server: PostgresServer) -> PostgresCopies:
    return PostgresCopies(server)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake.duckdb")
    found.sql("create table gold.t as select i as n, i::varchar as s from range(10) t(i)")
    return found


def test_views_and_grants_stay(lake: Lake, copies: PostgresCopies) -> None:
    lake.export(copies.connection, key=["n"])
    copies.run("create view public.big as select n from reporting.t where n > 100")
    copies.run("grant usage on schema reporting to analyst; grant select on reporting.t to analyst, public")
    lake.sql("insert into gold.t values (101, 'new')")
    lake.export(copies.connection, key=["n"])
    assert copies.rows("select * from big") == [(101,)]

    lake.sql("alter table gold.t add column more integer")
    with pytest.raises(ExportError, match=r"view big depends on table reporting\.t"):
        lake.export(copies.connection, key=["n"])
    assert copies.tables() == {"t"}
    assert copies.rows("select * from big") == [(101,)]

    copies.run("drop view public.big")
    lake.export(copies.connection, key=["n"])
    assert copies.rows("select n, more from reporting.t where n > 100") == [(101, None)]
    granted = copies.rows(
        "select grantee, privilege_type from information_schema.table_privileges "
        "where table_name = 't' and grantee <> 'postgres' order by 1"
    )
    assert granted == [("PUBLIC", "SELECT"), ("analyst", "SELECT")]
    [(index,)] = copies.rows("select indexdef from pg_indexes where tablename = 't'")
    assert str(index).endswith("(n)")


def test_a_reader_with_an_older_snapshot_sees_the_old_rows(lake: Lake, copies: PostgresCopies) -> None:
    lake.export(copies.connection)
    with copies.session() as session, session.cursor() as cursor:
        session.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("select 1")  # takes the snapshot
        lake.sql("delete from gold.t where n > 0")
        lake.export(copies.connection)
        cursor.execute("select count(*) from reporting.t")
        assert cursor.fetchall() == [(10,)]
    assert copies.rows("select count(*) from reporting.t") == [(1,)]


def test_an_export_waits_for_a_reader_only_to_replace_the_table(
    lake: Lake, copies: PostgresCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse_analytics.exports.postgres.LOCK_ATTEMPTS", 1)
    monkeypatch.setattr("lakehouse_analytics.exports.postgres.LOCK_TIMEOUT", "100ms")
    lake.export(copies.connection)
    with copies.session() as session, session.cursor() as cursor:
        cursor.execute("select * from reporting.t")
        lake.sql("insert into gold.t values (10, 'x')")
        lake.export(copies.connection)  # the same columns
        lake.sql("alter table gold.t add column more integer")
        with pytest.raises(ExportError, match="lock timeout") as caught:
            lake.export(copies.connection)
        assert caught.value.transient
    assert copies.tables() == {"t"}
    lake.export(copies.connection)
    assert copies.rows("select count(more), count(*) from reporting.t") == [(0, 11)]


def test_a_trigger_that_drops_rows_is_found(lake: Lake, copies: PostgresCopies) -> None:
    lake.export(copies.connection)
    copies.run("create function nothing() returns trigger language plpgsql as 'begin return null; end'")
    copies.run("create trigger t before insert on reporting.t for each row execute function nothing()")
    with pytest.raises(ExportError, match="0 of 10 rows were inserted"):
        lake.export(copies.connection)
    assert copies.rows("select count(*) from reporting.t") == [(10,)]


def test_missing_rights_are_the_servers_message(lake: Lake, copies: PostgresCopies) -> None:
    analyst = connection_to(copies.server.url(copies.database, "analyst"))
    with pytest.raises(ExportError, match="permission denied for database") as caught:
        lake.export(analyst)
    assert not caught.value.transient


@pytest.mark.parametrize("schema_exists", [True, False])
def test_the_rights_of_the_documentation_are_enough(lake: Lake, copies: PostgresCopies, schema_exists: bool) -> None:
    page = (repository_root() / "docs/exports.md").read_text()
    of_schema, of_database = re.findall(r"^grant .*;", page.partition("-- PostgreSQL\n")[2].partition("```")[0], re.M)
    copies.run("drop role if exists lakehouse; create role lakehouse login")
    try:
        if schema_exists:
            copies.run(f"create schema reporting; {of_schema}")
        else:
            copies.run(of_database.replace("analytics", copies.database))
        loader = connection_to(copies.server.url(copies.database, "lakehouse"))
        assert lake.export(loader, key=["n"]).checksum.rows == 10
        lake.sql("insert into gold.t values (101, 'new')")
        assert lake.export(loader, key=["n"]).checksum.rows == 11
        lake.sql("alter table gold.t add column more integer")
        assert lake.export(loader, key=["n"]).checksum.rows == 11
        assert copies.rows("select count(*), max(n), count(more) from reporting.t") == [(11, 101, 0)]
        assert copies.tables() == {"t"}
        roles = copies.rows("select rolsuper, rolcreatedb from pg_roles where rolname = 'lakehouse'")
        assert roles == [(False, False)]
    finally:
        copies.run("drop owned by lakehouse cascade; drop role lakehouse")


def test_a_wrong_password_is_one_clear_error_without_it(lake: Lake, copies: PostgresCopies) -> None:
    server, password = copies.server, "s3cret/Wort"
    rules = server.data / "pg_hba.conf"
    server.ask("create role loader login password 'right'")
    rules.write_text(f"host all loader 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    server.ask("select pg_reload_conf()")
    url = f"postgresql://loader:s3cret%2FWort@127.0.0.1:{server.port}/{copies.database}"
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url)  # as soon as the server has read its rules
    with pytest.raises(ExportError, match="password authentication failed for user") as caught:
        lake.export(connection_to(url))
    assert not caught.value.transient
    assert password not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "loader:****@" in str(caught.value)


def test_a_server_that_is_down_can_be_tried_again(lake: Lake) -> None:
    with pytest.raises(ExportError, match="Connection refused") as caught:
        lake.export(connection_to("postgresql://a:b@127.0.0.1:1/c"))
    assert caught.value.transient
