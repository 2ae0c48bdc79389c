"""A build that loses the lock of a table. A PostgreSQL server of its own has Dagster's storage and the tables."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.locks import TableBusyError, TableLocks, lock_name, postgres
from postgres_server import PostgresServer, postgres_server

from tests.dagster_ui import poll

from .conftest import Lakehouse, project_on, small_lakehouse
from .databases import Postgres

TABLE = lock_name(Relation("tables", "silver", "sa"))


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as made:
        yield made


@pytest.fixture
def lakehouse(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    database = Postgres("tables", server.url("postgres"))
    # One thread: the models of the other line are still to be built when the lock is lost.
    project_on(tmp_path, monkeypatch, database, LAKEHOUSE_DBT_THREADS="1", LAKEHOUSE_MAX_RUNTIME="60")
    storage = {"postgres": {"postgres_url": server.url(server.new_database())}}
    with dg.instance_for_test({"storage": storage}, temp_dir=str(tmp_path)) as instance:
        yield small_lakehouse(tmp_path, database, instance)


def test_a_build_that_loses_the_lock_of_a_table_stops_and_writes_nothing_afterwards(
    lakehouse: Lakehouse, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.files["models/silver/sa.sql"] = "select id, n, pg_sleep(1)::text as slept from {{ ref('a') }}"
    lakehouse.write()
    monkeypatch.setattr(postgres, "GRACE", 0.0)  # the other run does not wait for it to come back
    monkeypatch.setattr(postgres, "BEAT", 0.5)
    other_run = create_run_for_test(lakehouse.instance, status=dg.DagsterRunStatus.STARTED).run_id

    def builds() -> bool:
        return bool(
            server.ask(
                "select 1 from pg_stat_activity where query like '%pg_sleep%' and state = 'active' "
                "and pid <> pg_backend_pid()"
            )
        )

    def take(others: ExitStack) -> bool:
        """End the session of the build, and lock its table before it can."""
        server.ask(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
            "where application_name like 'lakehouse % build'"
        )
        with suppress(TableBusyError):
            others.enter_context(other.locked(TABLE))
            return True
        return False

    with TableLocks(lakehouse.instance, other_run, "build_other") as other, ExitStack() as others:
        with other.locked("iceberg/tables.silver.another"):  # opens its session
            pass

        def disturb() -> None:
            poll(builds, seconds=60, what="the slow model")
            poll(lambda: take(others), seconds=30, what="the lock")

        disturbance = threading.Thread(target=disturb)
        disturbance.start()
        outcome = lakehouse.run()
        disturbance.join()

        assert not outcome.success
        assert outcome.built == {"bronze/a", "bronze/b"}
        assert (
            f"tables.silver.sa: run {other_run[:8]} has locked the table since the database ended the session of run "
            f"{outcome.run_id[:8]}. Both may have written it: build it again."
        ) in outcome.failure
        assert "sb.sql: the build was stopped, because it has lost the lock of a table" in outcome.failure
        assert set(lakehouse.database.contents()) == {"bronze/a", "bronze/b"}
