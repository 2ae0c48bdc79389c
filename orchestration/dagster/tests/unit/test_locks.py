"""One writer per table, on real Dagster instances in SQLite and in PostgreSQL, with real processes that are killed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import dagster as dg
import psycopg2
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.locks import (
    Busy,
    Granted,
    LockStorageError,
    Owner,
    TableBusyError,
    TableLockLostError,
    TableLocks,
    lock_name,
    postgres,
)
from lakehouse_analytics.locks.postgres import PostgresLocks
from lakehouse_analytics.locks.postgres.advisory import lock_key
from lakehouse_analytics.locks.postgres.registry import CREATE, TABLE, LockRegistry
from lakehouse_analytics.locks.postgres.session import LockSession
from lock_process import run_process
from postgres_server import PostgresServer, postgres_server

A, B, C = (f"iceberg/lake.silver.{name}" for name in "abc")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as made:
        yield made


@contextmanager
def instance_in(server: PostgresServer, database: str, user: str = "postgres") -> Iterator[dg.DagsterInstance]:
    storage = {"postgres": {"postgres_url": server.url(database, user)}}
    with dg.instance_for_test({"storage": storage}) as instance:
        yield instance


@pytest.fixture(scope="module")
def in_postgresql(server: PostgresServer) -> Iterator[dg.DagsterInstance]:
    with instance_in(server, server.new_database()) as instance:
        yield instance


@pytest.fixture(scope="module")
def in_sqlite() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(params=["in_sqlite", "in_postgresql"])
def instance(request: pytest.FixtureRequest) -> dg.DagsterInstance:
    found: dg.DagsterInstance = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def owners() -> Iterator[ExitStack]:
    """Closes the locks that a test has made."""
    with ExitStack() as stack:
        yield stack


def new_run(instance: dg.DagsterInstance, job: str = "full_refresh") -> str:
    run: dg.DagsterRun = create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.STARTED)
    return run.run_id


@pytest.fixture
def step(instance: dg.DagsterInstance, owners: ExitStack) -> partial[TableLocks]:
    return partial(new_step, instance, owners)


def new_step(instance: dg.DagsterInstance, owners: ExitStack, name: str = "build", run_id: str = "") -> TableLocks:
    return owners.enter_context(TableLocks(instance, run_id or new_run(instance), name))


def is_free(instance: dg.DagsterInstance, table: str) -> bool:
    with TableLocks(instance, new_run(instance), "probe") as locks, suppress(TableBusyError), locks.locked(table):
        return True
    return False


def test_a_lock_is_named_after_its_table() -> None:
    assert lock_name(Relation("lake", "silver", "a")) == A


def test_a_table_has_one_writer_and_is_free_afterwards(instance: dg.DagsterInstance, step: partial[TableLocks]) -> None:
    one, two = step(), step()
    with one.locked(B), one.locked(A):
        with pytest.raises(TableBusyError) as caught, two.locked(A):
            pytest.fail("two writers")
        assert caught.value.owner == Owner(one.run_id, "build")
        assert str(caught.value) == f"lake.silver.a: in use by run {one.run_id[:8]} (full_refresh)"
        with two.locked(C) as lock:
            lock.check()
    assert is_free(instance, A)
    with two.locked(A):
        assert not is_free(instance, A)


def test_a_lock_is_released_when_the_work_fails(instance: dg.DagsterInstance, step: partial[TableLocks]) -> None:
    with pytest.raises(ZeroDivisionError), step().locked(A):
        raise ZeroDivisionError
    assert is_free(instance, A)


def test_leaving_releases_what_threads_still_have(instance: dg.DagsterInstance, step: partial[TableLocks]) -> None:
    locks = step()
    with locks.locked(A):
        locks.close()
        assert is_free(instance, A)
    with pytest.raises(RuntimeError, match="closed"), locks.locked(A):
        pytest.fail("closed")


def test_two_steps_of_one_run_and_two_threads_of_one_step_exclude_each_other(step: partial[TableLocks]) -> None:
    one = step()
    other = step("maintenance", one.run_id)
    for locks in (one, other):
        with one.locked(A), pytest.raises(TableBusyError), locks.locked(A):
            pytest.fail("two writers")


def test_a_run_that_waits_logs_for_whom_and_goes_on_when_the_table_is_free(step: partial[TableLocks]) -> None:
    one, two = step(), step()
    logged: list[str] = []
    waiting = threading.Event()

    def log(message: str) -> None:
        logged.append(message)
        waiting.set()

    def second() -> None:
        with two.locked(A, wait=60, log=log) as lock:
            lock.check()

    with ThreadPoolExecutor(1) as threads:
        with one.locked(A):
            result = threads.submit(second)
            assert waiting.wait(30)
        result.result(30)
    assert len(logged) == 1
    assert logged[0].startswith(
        f"lake.silver.a: in use by run {one.run_id[:8]} (full_refresh) (waiting up to 60 s more"
    )


def test_waiting_ends_after_a_time_or_when_it_is_stopped(step: partial[TableLocks]) -> None:
    one, two, stop = step(), step(), threading.Event()
    with one.locked(A):
        with pytest.raises(TableBusyError, match=r"waited 1 s"), two.locked(A, wait=1):
            pytest.fail("two writers")
        with pytest.raises(TableBusyError), two.locked(A, wait=600, stop=stop, log=lambda _: stop.set()):
            pytest.fail("two writers")


def test_a_caller_that_does_not_wait_leaves_a_table_to_those_who_do(
    instance: dg.DagsterInstance, step: partial[TableLocks]
) -> None:
    one, build, maintenance = step(), step(), step("maintenance")
    with one.locked(A), build.locked(B):
        assert isinstance(build._open().acquire(A, waits=True, has_ended=lambda _: False), Busy)
    with pytest.raises(TableBusyError) as caught, maintenance.locked(A):
        pytest.fail("the build waits for it")
    assert caught.value.owner == Owner(build.run_id, "build")
    build.close()
    with maintenance.locked(A):
        assert not is_free(instance, A)


def test_a_person_can_close_a_table(instance: dg.DagsterInstance, step: partial[TableLocks]) -> None:
    instance.event_log_storage.set_concurrency_slots(A, 0)
    with pytest.raises(TableBusyError, match=r"closed \(limit 0"), step().locked(A):
        pytest.fail("closed")
    instance.event_log_storage.delete_concurrency_limit(A)
    assert is_free(instance, A)


def test_long_and_strange_names(step: partial[TableLocks]) -> None:
    one, two = step(), step()
    for name in ("../../a b/ä'%s:x", "x" * 400):
        with one.locked(name), two.locked(name + "y"), pytest.raises(TableBusyError), two.locked(name):
            pytest.fail("two writers")


def test_an_instance_in_memory_has_locks() -> None:
    with dg.DagsterInstance.ephemeral() as instance, ExitStack() as owners:
        one, two = new_step(instance, owners), new_step(instance, owners)
        with one.locked(A), pytest.raises(TableBusyError), two.locked(A):
            pytest.fail("two writers")


def fail(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    assert run
    instance.report_run_failed(run)


def test_a_killed_runs_table_is_free_and_the_next_writer_ends_its_queries(
    instance: dg.DagsterInstance, step: partial[TableLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon says that it died: it is STARTED for ever."""
    monkeypatch.setattr(postgres, "GRACE", 1.0)
    dead, alive = new_run(instance), step()
    with run_process(instance.root_directory, dead) as process:
        process.lock(A)
        assert process.answer() == "won"
        process.kill()
    stale: list[str] = []
    with alive.locked(A, wait=60, on_stale_holder=stale.append) as lock:
        lock.check()
    with alive.locked(A, wait=60, on_stale_holder=stale.append):
        assert stale == [dead]


def test_the_next_writer_waits_once_for_all_tables_of_a_killed_run(
    in_postgresql: dg.DagsterInstance, owners: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "GRACE", 3.0)
    with run_process(in_postgresql.root_directory, new_run(in_postgresql)) as process:
        process.lock(A, B, C)
        assert process.answer() == "won"
        process.kill()
    alive = new_step(in_postgresql, owners)
    with alive.locked(A, wait=60), alive.locked(B), alive.locked(C) as last:
        last.check()


def test_a_stopped_run_keeps_its_table_until_it_is_killed(
    instance: dg.DagsterInstance, step: partial[TableLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "GRACE", 0.1)
    with run_process(instance.root_directory, new_run(instance)) as process:
        process.lock(A)
        assert process.answer() == "won"
        assert process.process.pid
        os.kill(process.process.pid, signal.SIGSTOP)
        with pytest.raises(TableBusyError, match="waited 2 s"), step().locked(A, wait=2):
            pytest.fail("it may go on")
        process.kill()
    with step().locked(A, wait=60) as lock:
        lock.check()


def test_a_killed_run_that_waited_is_not_waited_for(instance: dg.DagsterInstance, step: partial[TableLocks]) -> None:
    one, dead = step(), step()
    with one.locked(A):
        dead._open().acquire(A, waits=True, has_ended=lambda _: False)
        assert not is_free(instance, A)
    assert not is_free(instance, A)
    # What is left of a process that was killed: PostgreSQL ends its session, the system unlocks its files.
    backend = dead._open()
    if isinstance(backend, PostgresLocks):
        backend.session.close()
        backend.own.waiting.clear()
    else:
        backend.release(A)
        (backend.folder / "iceberg%2Flake.silver.a.waiting.dead").write_text("dead\nbuild\n")  # type: ignore[attr-defined]
    assert is_free(instance, A)


def test_of_processes_that_try_at_once_one_gets_the_table(instance: dg.DagsterInstance) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(run_process(instance.root_directory, new_run(instance))) for _ in range(3)]
        for number in range(5):
            for process in processes:
                process.lock(f"iceberg/lake.silver.t{number}")
            assert sorted(process.answer() for process in processes) == ["lost", "lost", "won"]
            for process in processes:
                process.release()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["lock", "wait", "release", "die"]), st.integers(0, 2), st.sampled_from([A, B]))
)


@settings(max_examples=20)
@given(actions=ACTIONS)
@pytest.mark.parametrize("kind", ["in_sqlite", "in_postgresql"])
def test_no_sequence_of_actions_gives_a_table_to_two(
    request: pytest.FixtureRequest, kind: str, actions: list[tuple[str, int, str]]
) -> None:
    """Against a model: whom a table belongs to, and who waits for it. A run that dies has ended for Dagster."""
    instance: dg.DagsterInstance = request.getfixturevalue(kind)
    with ExitStack() as owners:
        steps = [new_step(instance, owners) for _ in range(3)]
        belongs: dict[str, int] = {}
        waits: set[tuple[int, str]] = set()
        died: dict[str, str] = {}
        for action, number, table in actions:
            backend = steps[number]._open()
            if action in ("lock", "wait"):
                outcome = backend.acquire(table, waits=action == "wait", has_ended=lambda _: True)
                others = {one for one, of in waits if of == table} - {number}
                if table in belongs or (action == "lock" and others):
                    assert isinstance(outcome, Busy)
                    if table in belongs:
                        assert outcome.owner.run_id == steps[belongs[table]].run_id
                        if action == "wait" and belongs[table] != number:
                            waits.add((number, table))
                else:
                    assert isinstance(outcome, Granted)
                    assert (outcome.stale.run_id if outcome.stale else None) == died.pop(table, None)
                    belongs[table] = number
            elif action == "release":
                backend.release(table)
                waits.discard((number, table))
                if belongs.get(table) == number:
                    del belongs[table]
            else:
                die(steps[number])
                died |= {one: steps[number].run_id for one, owner in belongs.items() if owner == number}
                belongs = {one: owner for one, owner in belongs.items() if owner != number}
                waits = {(owner, one) for owner, one in waits if owner != number}
                steps[number] = new_step(instance, owners)
        # The instance is used for all examples.
        cleaner = new_step(instance, owners)._open()
        for one in steps:
            one.close()
        for table in (A, B):
            assert isinstance(cleaner.acquire(table, waits=False, has_ended=lambda _: True), Granted)


def die(locks: TableLocks) -> None:
    """What the system does when a process ends: it closes sockets and files, and nothing else."""
    backend = locks._open()
    if isinstance(backend, PostgresLocks):
        backend.stop_heart()
        backend.session.close()
        backend.own.tables.clear()
        backend.own.waiting.clear()
    else:
        for file in [*backend._tables.values(), *backend._lines.values()]:  # type: ignore[attr-defined]
            os.close(file)
        backend._tables.clear()  # type: ignore[attr-defined]
        backend._lines.clear()  # type: ignore[attr-defined]


# --- PostgreSQL alone


def sessions(server: PostgresServer, instance: dg.DagsterInstance, locks: TableLocks) -> list[int]:
    rows = server.ask("select pid from pg_stat_activity where application_name like %s", f"lakehouse {locks.run_id}%")
    return [pid for (pid,) in rows]


def database_of(instance: dg.DagsterInstance) -> str:
    return str(instance.event_log_storage.postgres_url).rpartition("/")[2]  # type: ignore[attr-defined]


def end_session(server: PostgresServer, instance: dg.DagsterInstance, locks: TableLocks) -> None:
    for pid in sessions(server, instance, locks):
        server.ask("select pg_terminate_backend(%s, 10000)", pid)


@pytest.fixture
def pg(in_postgresql: dg.DagsterInstance) -> dg.DagsterInstance:
    return in_postgresql


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute of waiting in a test."""
    monkeypatch.setattr(postgres, "BEAT", 0.2)


def test_many_tables_are_one_session_and_their_key_can_be_computed_in_sql(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    locks = new_step(pg, owners)
    with ExitStack() as stack:
        for number in range(50):
            stack.enter_context(locks.locked(f"iceberg/lake.silver.t{number}"))
        assert len(sessions(server, pg, locks)) == 1
        session = locks._open().session._connection  # type: ignore[attr-defined]
        with socket.socket(fileno=os.dup(session.connection.dbapi_connection.fileno())) as client:
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        ((run_id, step_key),) = server.ask(
            "select run_id, step_key from lakehouse_table_locks where table_name = 'iceberg/lake.silver.t7'",
            database=database_of(pg),
        )
        assert (run_id, step_key) == (locks.run_id, "build")
    ((key,),) = server.ask("select ('x' || left(encode(sha256('iceberg/lake.silver.a'), 'hex'), 16))::bit(64)::bigint")
    assert key == lock_key(A)


def test_a_table_that_is_locked_by_hand_says_so(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    person = psycopg2.connect(server.url(database_of(pg)))
    with person.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", [lock_key(A)])
        expected = rf"lake.silver.a: in use by a session of PostgreSQL \(pid {person.info.backend_pid}\)"
        with pytest.raises(TableBusyError, match=expected), new_step(pg, owners).locked(A):
            pytest.fail("two writers")
    person.close()


@pytest.mark.usefixtures("quick")
def test_a_run_whose_session_is_ended_takes_its_locks_again(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    """While others try to get the table: for them it stays in use."""
    lost: list[str] = []
    one, other = new_step(pg, owners), new_step(pg, owners)
    one.on_lost = lost.append
    with one.locked(A) as lock, one.locked(B):
        before = sessions(server, pg, one)
        end_session(server, pg, one)
        with pytest.raises(TableBusyError) as caught, other.locked(A, wait=4):
            pytest.fail("its owner is alive")
        assert caught.value.owner.run_id == one.run_id
        assert not {*before} & {*sessions(server, pg, one)}
        lock.check()
    assert lost == []
    with other.locked(A, on_stale_holder=lost.append), other.locked(B, on_stale_holder=lost.append):
        assert lost == []


@pytest.mark.usefixtures("quick")
def test_locks_outlive_a_restart_of_postgresql(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    stale: list[str] = []
    one, other = new_step(pg, owners), new_step(pg, owners)

    def wait(table: str) -> None:
        with other.locked(table, wait=60, on_stale_holder=stale.append) as lock:
            lock.check()

    waiting = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        with one.locked(A) as lock:
            with pytest.raises(TableBusyError), other.locked(A, wait=1, log=lambda _: waiting.set()):
                pytest.fail("two writers")
            result: Future[None] = threads.submit(wait, A)
            assert waiting.wait(10)
            server.stop()
            server.start()
            with pytest.raises(TableBusyError), new_step(pg, owners).locked(A, wait=2):
                pytest.fail("its owner is alive")
            lock.check()
        result.result(60)
    assert stale == []


def test_a_run_that_was_away_too_long_learns_that_another_has_the_table(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its network had been cut: the server has ended its session, and it has not noticed."""
    monkeypatch.setattr(postgres, "GRACE", 0.1)
    lost: list[str] = []
    stale: list[str] = []
    one, other = new_step(pg, owners), new_step(pg, owners)
    one.on_lost = lost.append
    backend = one._open()
    assert isinstance(backend, PostgresLocks)
    with one.locked(A) as lock, backend.mutex:  # its thread does not look meanwhile
        end_session(server, pg, one)
        with other.locked(A, wait=30, on_stale_holder=stale.append):
            assert stale == [one.run_id]
            backend.recovery.disconnected(ConnectionError("cut"))
            backend.recovery.restore()
            with pytest.raises(TableLockLostError, match=f"run {other.run_id[:8]} has locked the table since"):
                lock.check()
    assert len(lost) == 1
    assert is_free(pg, A)


def test_a_run_that_has_ended_for_dagster_is_not_waited_for(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    dead = new_step(pg, owners)
    dead._open().acquire(A, waits=False, has_ended=lambda _: False)
    die(dead)
    assert not is_free(pg, A)  # it may come back
    fail(pg, dead.run_id)
    stale: list[str] = []
    with new_step(pg, owners).locked(A, on_stale_holder=stale.append):
        assert stale == [dead.run_id]


def test_a_role_that_may_not_create_the_table_is_told_the_statement(
    server: PostgresServer, pg: dg.DagsterInstance, owners: ExitStack
) -> None:
    database = server.new_database()
    with instance_in(server, database):  # makes Dagster's tables
        pass
    role = f"r{database}"
    for statement in (
        f"create role {role} login",
        f"grant all on all tables in schema public to {role}",
        f"grant all on all sequences in schema public to {role}",
        "revoke create on schema public from public",
    ):
        server.ask(statement, database=database)
    with instance_in(server, database, role) as instance:
        with (
            pytest.raises(LockStorageError, match=f'"{role}" may not create') as caught,
            new_step(instance, owners).locked(A),
        ):
            pytest.fail("without its table")
        assert CREATE in str(caught.value)
        for statement in str(caught.value).partition(":\n")[2].split(";"):
            if statement.strip():
                server.ask(statement, database=database)
        assert is_free(instance, A)


def test_steps_that_start_at_once_make_the_table_once(server: PostgresServer) -> None:
    with instance_in(server, server.new_database()) as instance, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: is_free(instance, f"iceberg/t{number}"), range(4)))


def test_sessions_that_create_the_table_at_once_all_find_it(server: PostgresServer, owners: ExitStack) -> None:
    """PostgreSQL has two errors for it, and the moments in which each occurs are short: hence the repetitions."""
    database = server.new_database()
    with instance_in(server, database) as instance, ThreadPoolExecutor(4) as threads:
        sessions = [LockSession(instance.event_log_storage, Owner(f"run-{number}", "build")) for number in range(4)]
        for session in sessions:
            owners.callback(session.close)
            session.open()
        for _ in range(100):
            server.ask(f"drop table if exists {TABLE}", database=database)
            barrier = threading.Barrier(4)

            def create(session: LockSession, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(10)
                LockRegistry(session).create()

            assert list(threads.map(create, sessions)) == [None] * 4


def test_another_kind_of_storage_is_an_error(pg: dg.DagsterInstance, owners: ExitStack) -> None:
    class MySQLEventLogStorage:
        def get_pool_limits(self) -> list[object]:
            return []

    class Instance:
        event_log_storage = MySQLEventLogStorage()

    locks = TableLocks(Instance(), new_run(pg), "build")  # type: ignore[arg-type]
    with pytest.raises(LockStorageError, match=r"MySQLEventLogStorage.*use SQLite or PostgreSQL"), locks.locked(A):
        pytest.fail("not locked")


def test_nothing_of_ours_is_left(server: PostgresServer, pg: dg.DagsterInstance) -> None:
    assert server.ask("select * from lakehouse_table_locks", database=database_of(pg)) == []
