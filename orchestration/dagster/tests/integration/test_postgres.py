"""What PostgreSQL alone does: lost connections, sessions of a dead dbt, what doctor says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli import main
from lakehouse_analytics.doctor.probes import NAMES
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.postgres.resource import PostgresResource

from tests.dagster_ui import poll

from .conftest import EVERYTHING, Lakehouse
from .databases import Postgres

pytestmark = pytest.mark.engine("postgres")
SLOW = "select id, n + 1 as n, pg_sleep(3)::text as slept from {{ ref('a') }} where id = 1"


def sessions(lakehouse: Lakehouse, text: str) -> list[int]:
    rows = lakehouse.sql(
        f"select pid from pg_stat_activity where query like '%{text}%' and pid <> pg_backend_pid() and state = 'active'"
    )
    return [int(pid) for (pid,) in rows]


def test_a_connection_that_the_server_ends_is_retried(lakehouse: Lakehouse) -> None:
    lakehouse.files["models/silver/sa.sql"] = SLOW
    lakehouse.write()
    ended: list[int] = []

    def end_one() -> None:
        ended.extend(poll(lambda: sessions(lakehouse, "pg_sleep") or None, seconds=60, what="the slow model"))
        for pid in ended:
            lakehouse.sql(f"select pg_terminate_backend({pid})")

    disturbance = threading.Thread(target=end_one)
    disturbance.start()
    outcome = lakehouse.run()
    disturbance.join()

    assert ended
    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    assert outcome.metadata["silver/sa"]["dagster/row_count"] == 1


def test_sessions_of_a_dead_dbt_are_ended_and_no_others(lakehouse: Lakehouse) -> None:
    assert isinstance(lakehouse.database, Postgres)
    orphan, other = (psycopg2.connect(lakehouse.database.address) for _ in range(2))
    run_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    with orphan.cursor() as cursor:
        cursor.execute(f"/* {json.dumps({'run_id': run_id})} */ select 1")
    with other.cursor() as cursor:
        cursor.execute("select 1")
    PostgresResource().kill_queries(run_id)

    with pytest.raises(psycopg2.Error), orphan.cursor() as cursor:
        cursor.execute("select 1")
    with other.cursor() as cursor:
        cursor.execute("select 2")
        assert cursor.fetchall() == [(2,)]
    other.close()


def test_a_password_that_is_wrong_is_one_message_at_once_without_it(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.definitions()
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_PASSWORD", "hunter-9")
    with pytest.raises(DatabaseError) as caught:
        PostgresResource(start_timeout=600).wait_until_free(print)
    assert "target `postgres` of profile `lakehouse`" in str(caught.value)
    assert "password authentication failed" in str(caught.value)
    assert "hunter-9" not in str(caught.value)


def test_doctor_says_what_it_found(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lakehouse.definitions()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    looked_at = {"settings", "manifest", "engine", "catalog", "maintenance"}
    skipped = [word for name in NAMES if name not in looked_at for word in ("--skip", name)]
    answer = CliRunner().invoke(main, ["doctor", "--json", *skipped])
    found = {one["name"]: one for one in json.loads(answer.stdout)}
    assert found["engine"]["status"] == "ok", found
    assert found["engine"]["message"].startswith("PostgreSQL ")
    assert found["catalog"]["status"] == "ok", found
    assert "has raw" in found["catalog"]["message"]
    assert found["maintenance"]["status"] == "skipped"


@pytest.fixture
def role(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A role without rights, as which the lakehouse connects from now on."""
    database = lakehouse.database
    assert isinstance(database, Postgres)
    name = new_role(database, "limited")
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_USER", name)
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_PASSWORD", "limited")
    yield name
    drop_role(database, name)


def new_role(database: Postgres, prefix: str) -> str:
    # Roles are of the server, which other workers use.
    name = f"{prefix}_{database.environment['LAKEHOUSE_POSTGRES_DATABASE']}"
    drop_role(database, name)
    database.ask(f"create role {name} login password 'limited'")
    return name


def drop_role(database: Postgres, name: str) -> None:
    if database.ask(f"select 1 from pg_roles where rolname = '{name}'"):
        database.ask(f"drop owned by {name} cascade")
        database.ask(f"drop role {name}")


def grant_documented(database: Postgres, role: str) -> None:
    """What the page on engines says a role needs."""
    database.ask(f"grant create on database {database.environment['LAKEHOUSE_POSTGRES_DATABASE']} to {role}")
    database.ask(f"grant usage on schema raw to {role}")
    database.ask(f"grant select on all tables in schema raw to {role}")


def test_the_rights_that_the_documentation_lists_are_enough(lakehouse: Lakehouse, role: str) -> None:
    database = lakehouse.database
    assert isinstance(database, Postgres)
    database.ask(f"grant create on database {database.environment['LAKEHOUSE_POSTGRES_DATABASE']} to {role}")
    refused = lakehouse.run()
    assert not refused.success
    assert "permission denied for schema raw" in refused.failure
    assert "docs/engines.md (PostgreSQL)" in refused.failure

    grant_documented(database, role)
    assert lakehouse.run().built == EVERYTHING
    database.ask("create view public.of_another as select * from gold.ga")
    again = lakehouse.run()
    assert again.success, again.failure
    # dbt drops the table that it replaces with `cascade`.
    assert database.ask("select 1 from pg_views where viewname = 'of_another'") == []


@pytest.mark.nightly
def test_a_table_of_another_role_is_replaced_by_members_of_that_role(lakehouse: Lakehouse, role: str) -> None:
    database = lakehouse.database
    assert isinstance(database, Postgres)
    grant_documented(database, role)
    assert lakehouse.run().success
    owner = new_role(database, "owner")
    database.ask(f"alter table silver.sa owner to {owner}")
    database.ask(f"alter schema gold owner to {owner}")
    database.ask(f"alter table gold.gb owner to {owner}")
    try:
        refused = lakehouse.run()
        assert "must be owner of table sa" in refused.failure
        assert "permission denied for schema gold" in refused.failure
        assert refused.built == EVERYTHING - {"silver/sa", "gold/ga", "gold/gb", "metrics/m"}

        database.ask(f"grant {owner} to {role}")
        allowed = lakehouse.run()
        assert allowed.success, allowed.failure
        owners = "select tableowner from pg_tables where schemaname in ('silver', 'gold')"
        assert set(database.ask(owners)) == {(role,)}
    finally:
        drop_role(database, owner)


@pytest.mark.nightly
def test_the_replacement_of_a_table_waits_for_its_readers_and_new_readers_wait_for_it(lakehouse: Lakehouse) -> None:
    database = lakehouse.database
    assert isinstance(database, Postgres)
    assert lakehouse.run().success
    waiting = "select wait_event_type from pg_stat_activity where query ilike '%alter table%sa%rename%'"
    seen: list[object] = []
    reader = psycopg2.connect(database.address)
    with reader.cursor() as cursor:
        cursor.execute("select count(*) from silver.sa")

    def read_later() -> None:
        try:
            poll(lambda: ("Lock",) in database.ask(waiting), seconds=60, what="the replacement, waiting for a lock")
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                database.ask("set lock_timeout = '200ms'; select count(*) from silver.sa")
            seen.append("a new reader waited")
        finally:
            reader.close()

    later = threading.Thread(target=read_later)
    later.start()
    outcome = lakehouse.run()
    later.join()
    assert seen == ["a new reader waited"]
    assert outcome.success, outcome.failure
