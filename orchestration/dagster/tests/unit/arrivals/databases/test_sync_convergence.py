"""Random histories of a source, with syncs at random moments, some of which are killed: the raw table converges."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from killed_sync import Kill, run
from mariadb_server import MariaDBServer
from postgres_server import PostgresServer
from source_databases import SourceDatabase, Sync

#: Minutes. A late transaction commits before so many have passed since it set updated_at.
LAG = 5
CONTRACT: dict[str, Any] = {"mode": "incremental", "update_key": "updated_at", "primary_key": "id", "lag": f"{LAG}m"}
EXAMPLES = int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "300")) // 50

ids = st.integers(1, 6)
puts = st.tuples(st.just("put"), ids, st.booleans())
deletes = st.tuples(st.just("delete"), ids)
late = st.tuples(st.just("late"), st.integers(101, 102), st.integers(1, LAG))
waits = st.tuples(st.just("wait"), st.integers(1, 8))
kills = st.one_of(st.none(), st.none(), st.sampled_from(["before the commit", "after the commit"]), st.floats(0, 0.3))
#: A sync to ClickHouse, which is started in its process, or to Iceberg takes longer.
late_kills = st.one_of(kills, st.floats(0.3, 1.5))
syncs = st.tuples(st.just("sync"), kills)
histories = st.lists(st.one_of(puts, puts, deletes, late, waits, syncs, syncs), min_size=4, max_size=25)
late_syncs = st.tuples(st.just("sync"), late_kills)
slow_histories = st.lists(st.one_of(puts, puts, deletes, late, waits, late_syncs, late_syncs), min_size=4, max_size=12)


class History:
    """A source whose clock has minutes of its own, in the past."""

    def __init__(self, database: SourceDatabase, sync: Sync, contract: dict[str, Any]) -> None:
        self.database, self.sync, self.contract = database, sync, contract
        self.session = self.begin()
        self.now = self.value = self.killed = self.finished = 0
        #: By id: the session of an open transaction, and the minute in which it commits.
        self.open: dict[int, tuple[Any, int]] = {}

    def begin(self) -> Any:
        """Open a session that does not lock rows that it does not write."""
        session = self.database.session()
        if not self.database.is_postgres:
            self.execute(session, "set session transaction isolation level read committed")
        return session

    def execute(self, session: Any, statement: str) -> None:
        """Run a statement."""
        with session.cursor() as cursor:
            cursor.execute(statement)

    def write(self, session: Any, number: int, *, timed: bool = True, deleted: bool = False) -> None:
        """Insert or replace a row."""
        self.value += 1
        time = f"'2026-01-01 {self.now // 60:02}:{self.now % 60:02}:00'" if timed else "null"
        self.execute(session, f"delete from t where id = {number}")
        self.execute(session, f"insert into t values ({number}, {self.value}, {time}, {int(deleted)})")

    def put(self, number: int, timed: bool) -> None:
        """Write a row, with or without an updated_at."""
        self.write(self.session, number, timed=timed)
        self.session.commit()

    def delete(self, number: int) -> None:
        """Delete a row, or mark it, if the contract can find that."""
        if self.contract["deletes"] == "reconcile":
            self.execute(self.session, f"delete from t where id = {number}")
        elif self.contract["deletes"] == "soft(deleted)":
            self.write(self.session, number, deleted=True)
        self.session.commit()

    def late(self, number: int, minutes: int) -> None:
        """Write a row in a transaction that commits some minutes later."""
        if number not in self.open:
            session = self.begin()
            self.write(session, number)
            self.open[number] = (session, self.now + minutes)

    def wait(self, minutes: int) -> None:
        """Let time pass."""
        for _ in range(minutes):
            self.now += 1
            for number, (session, until) in [*self.open.items()]:
                if until <= self.now:
                    session.commit()
                    session.close()
                    del self.open[number]

    def run(self, kill: Kill) -> None:
        """Sync, or begin to."""
        killed = run(self.sync, self.contract, kill)
        self.killed, self.finished = self.killed + killed, self.finished + (not killed)
        ids = [row[0] for row in self.sync.rows("id")]
        assert len(ids) == len(set(ids))
        if not killed and not self.open:
            self.check()

    def check(self) -> None:
        """Compare both tables."""
        expected = self.database.ask("select id, value, updated_at is null from t where deleted = 0 order by id")
        found = self.sync.rows("id, value, updated_at is null")
        assert found == [(number, value, bool(empty)) for number, value, empty in expected]

    def end(self) -> None:
        """End all transactions."""
        for session, _ in self.open.values():
            session.close()
        self.session.close()


def sync_to(storage: str, database: SourceDatabase, folder: Path) -> Sync:
    """A sync into a storage."""
    sync = Sync(database, folder, clickhouse=storage == "clickhouse")
    return sync.in_iceberg() if storage == "iceberg" else sync


def converge(database: SourceDatabase, deletes: str, history: list[Any], *, to: str = "duckdb") -> None:
    """Run a history and a last sync, and compare."""
    database.ask("drop table if exists t")
    database.ask(f"create table t (id int primary key, value int, updated_at {database.time}, deleted int)")
    with tempfile.TemporaryDirectory() as folder:
        run_ = History(database, sync_to(to, database, Path(folder)), CONTRACT | {"deletes": deletes})
        steps: dict[str, Callable[..., None]] = {
            "put": run_.put,
            "delete": run_.delete,
            "late": run_.late,
            "wait": run_.wait,
            "sync": run_.run,
        }
        try:
            for name, *arguments in history:
                steps[name](*arguments)
                run_.wait(1)
            run_.wait(LAG)
            run_.run(None)
            run_.check()
        finally:
            run_.end()


random_histories = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate],  # a history of real servers and kills is too slow to shrink
)
policies = st.sampled_from(["ignore", "reconcile", "soft(deleted)"])


@pytest.fixture(scope="module")
def postgres_database(postgres: PostgresServer) -> SourceDatabase:
    return SourceDatabase.on(postgres)


@pytest.fixture(scope="module")
def mariadb_database(mariadb: MariaDBServer) -> SourceDatabase:
    return SourceDatabase.on(mariadb)


@random_histories
@given(policies, histories)
def test_histories_of_postgresql(postgres_database: SourceDatabase, deletes: str, history: list[Any]) -> None:
    converge(postgres_database, deletes, history)


@random_histories
@given(policies, histories)
def test_histories_of_mariadb(mariadb_database: SourceDatabase, deletes: str, history: list[Any]) -> None:
    converge(mariadb_database, deletes, history)


@random_histories
@given(policies, slow_histories)
def test_histories_of_postgresql_slow_histories(
    postgres_database: SourceDatabase, deletes: str, history: list[Any]
) -> None:
    converge(postgres_database, deletes, history, to="clickhouse")


@settings(random_histories, max_examples=max(1, EXAMPLES // 3))
@given(policies, slow_histories)
def test_histories_of_postgresql_to_iceberg(
    postgres_database: SourceDatabase, deletes: str, history: list[Any]
) -> None:
    converge(postgres_database, deletes, history, to="iceberg")


def kill_beside_the_commit(sync: Sync, kill: str) -> None:
    """Sync, change the source, and kill the next sync."""
    source = sync.source
    source.ask(f"create table t (id int primary key, value int, updated_at {source.time})")
    source.ask("insert into t values (1, 1, '2026-01-01'), (2, 1, '2026-01-01')")
    contract = CONTRACT | {"deletes": "reconcile"}
    sync(**contract)
    source.ask("delete from t where id = 1")
    source.ask("update t set value = 2, updated_at = '2026-01-02'")
    assert run(sync, contract, kill)
    expected = [(1, 1), (2, 1)] if kill == "before the commit" else [(2, 2)]
    assert sync.rows("id, value") == expected
    assert not run(sync, contract, None)
    assert sync.rows("id, value") == [(2, 2)]


@pytest.mark.parametrize("source", ["PostgreSQL"], indirect=True)
@pytest.mark.parametrize("kill", ["before the commit", "after the commit"])
def test_a_sync_to_iceberg_that_is_killed_beside_its_commit(source: SourceDatabase, tmp_path: Path, kill: str) -> None:
    kill_beside_the_commit(sync_to("iceberg", source, tmp_path), kill)


@pytest.mark.parametrize("storage", ["duckdb", "clickhouse"])
@pytest.mark.parametrize("kill", ["before the commit", "after the commit"])
def test_a_sync_that_is_killed_beside_its_commit(
    source: SourceDatabase, tmp_path: Path, kill: str, storage: str
) -> None:
    kill_beside_the_commit(sync_to(storage, source, tmp_path), kill)
