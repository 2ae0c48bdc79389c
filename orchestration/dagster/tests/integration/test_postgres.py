"""What PostgreSQL alone does: lost connections, sessions of a dead dbt, what doctor says."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli import main
from lakehouse_analytics.doctor.probes import NAMES
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.postgres.resource import PostgresResource

from .conftest import EVERYTHING, Lakehouse
from .daemon import poll
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


def test_the_rights_that_the_documentation_lists_are_enough(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = lakehouse.database
    assert isinstance(database, Postgres)
    name = database.environment["LAKEHOUSE_POSTGRES_DATABASE"]
    role = f"limited_{name}"  # roles are of the server, which other workers use
    if database.ask(f"select 1 from pg_roles where rolname = '{role}'"):
        database.ask(f"drop owned by {role} cascade")
        database.ask(f"drop role {role}")
    database.ask(f"create role {role} login password 'limited'")
    database.ask(f"grant create on database {name} to {role}")
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_USER", role)
    monkeypatch.setenv("LAKEHOUSE_POSTGRES_PASSWORD", "limited")

    refused = lakehouse.run()
    assert not refused.success
    assert "permission denied for schema raw" in refused.failure
    assert "docs/engines.md (PostgreSQL)" in refused.failure

    database.ask(f"grant usage on schema raw to {role}")
    database.ask(f"grant select on all tables in schema raw to {role}")
    assert lakehouse.run().built == EVERYTHING
    database.ask("create view public.of_another as select * from gold.ga")
    again = lakehouse.run()
    assert again.success, again.failure
    # dbt drops the table that it replaces with `cascade`.
    assert database.ask("select 1 from pg_views where viewname = 'of_another'") == []
    database.ask(f"drop owned by {role} cascade")
    database.ask(f"drop role {role}")
