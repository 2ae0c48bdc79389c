"""Connections that stay open between the syncs of a process: how many, for how long, and in which state."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from lakehouse_analytics.arrivals.connections import Connection, connection
from lakehouse_analytics.arrivals.databases import pool
from lakehouse_analytics.arrivals.databases.base import Nullified, SourceTable
from lakehouse_analytics.arrivals.databases.sync import SCHEMES, opener
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from source_databases import SourceDatabase, Sync

MINUTE = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def without_idle_connections() -> Iterator[None]:
    """Close the connections that other tests have left open, and those of this one."""
    pool.close_idle()
    yield
    pool.close_idle()


@pytest.fixture(autouse=True)
def tables(source: SourceDatabase) -> None:
    """Views whose only row is the number of the session that reads it, and a table with more than a batch of rows."""
    number = "pg_backend_pid()" if source.is_postgres else "connection_id()"
    for name in "abc":
        source.ask(f"create view {name} as select {number} as session")
    source.ask("create table numbers (id int, content text)")
    series = "generate_series(1, 200000) as s(seq)" if source.is_postgres else "seq_1_to_200000"
    source.ask(f"insert into numbers select seq, concat('some text that makes the row wider: ', seq) from {series}")


def session(sync: Sync, table: str) -> int:
    """The session of the server in which a sync of a view read."""
    sync(table=table)
    [(found,)] = sync.rows()
    return int(found)


def open_sessions(source: SourceDatabase) -> set[int]:
    """The sessions of the database, except for the one that asks. A closed one may be among them for a moment."""
    if source.is_postgres:
        sql = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    else:
        sql = "select id from information_schema.processlist where db = database() and id <> connection_id()"
    return {int(number) for (number,) in source.ask(sql)}


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or the server does."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError


def opened(source: SourceDatabase, table: str = "a", *, at: Connection | None = None) -> Any:
    """A table that is opened, as by a sync."""
    return opener(at or source.connection)(at or source.connection, table, MINUTE)


def read_session(table: SourceTable) -> int:
    """The session in which an open view is read."""
    [batch] = table.batches([*table.columns.values()], "true", Nullified())
    return int(batch.column(0)[0].as_py())


def test_the_tables_of_a_run_are_read_by_one_connection(sync: Sync, source: SourceDatabase) -> None:
    [number] = {session(sync, table) for table in "abc"}
    wait_until(lambda: open_sessions(source) == {number})


def test_an_idle_connection_is_in_no_transaction(sync: Sync, source: SourceDatabase) -> None:
    sync(table="numbers")
    wait_until(lambda: len(open_sessions(source)) == 1)
    [number] = open_sessions(source)
    if source.is_postgres:
        found = source.ask("select state, xact_start, query from pg_stat_activity where pid = %s", number)
        assert found == [("idle", None, "DISCARD ALL")]
        # Waits for transactions that have read the table.
        source.ask("set lock_timeout = '10s'; alter table numbers add column added int")
    else:
        assert not source.ask(f"select trx_id from information_schema.innodb_trx where trx_mysql_thread_id = {number}")
        source.ask("alter table numbers wait 10 add column added int")
    assert sync(table="numbers").rows == 200_000
    assert "added" in sync.types


def test_each_sync_sees_its_own_snapshot_and_settings(source: SourceDatabase) -> None:
    for timeout in (MINUTE, 2 * MINUTE):
        with opener(source.connection)(source.connection, "numbers", timeout) as table:
            assert table.exists("id = 1") is (timeout == MINUTE)
            source.ask("delete from numbers where id <= 2")
            assert table.exists("id = 2") is (timeout == MINUTE)
            name = "statement_timeout" if source.is_postgres else "max_statement_time"
            sql = f"current_setting('{name}')" if source.is_postgres else f"@@{name}"
            expected = f"{timeout.seconds // 60}min" if source.is_postgres else f"{timeout.seconds}"
            assert table.exists(f"{sql} = '{expected}'")


def test_a_session_that_the_server_has_ended_is_replaced(sync: Sync, source: SourceDatabase) -> None:
    number = session(sync, "a")
    source.ask(f"select pg_terminate_backend({number})" if source.is_postgres else f"kill {number}")
    wait_until(lambda: not open_sessions(source))
    assert session(sync, "b") != number
    wait_until(lambda: len(open_sessions(source)) == 1)


def test_a_server_may_restart_between_two_syncs(sync: Sync, source: SourceDatabase) -> None:
    session(sync, "a")
    source.server.stop()
    source.server.start()
    number = session(sync, "b")
    wait_until(lambda: open_sessions(source) == {number})
    source.server.stop()
    with pytest.raises(ArrivalError, match=r"(?i)connect"):
        sync(table="b")
    source.server.start()
    found = {session(sync, table) for table in "ab"}
    assert len(found) == 1
    wait_until(lambda: open_sessions(source) == found)


def test_a_connection_is_closed_after_an_error_while_rows_are_read(sync: Sync, source: SourceDatabase) -> None:
    number = session(sync, "a")
    # The column that fails is evaluated row by row, after the first batches were sent.
    if source.is_postgres:
        source.ask("create view broken as select id, content, 1 / (id - 150000) as x from numbers")
    else:
        source.ask(
            "create function f(id int) returns int no sql begin if id = 150000 then "
            "signal sqlstate '45000' set message_text = 'division by zero'; end if; return id; end"
        )
        source.ask("create view broken as select id, content, f(id) as x from numbers")
    with pytest.raises(ArrivalError, match="division by zero"):
        sync(table="broken")
    wait_until(lambda: not open_sessions(source))
    assert session(sync, "b") != number
    assert sync(table="numbers").rows == 200_000


def test_a_connection_is_closed_if_its_rows_were_not_all_read(source: SourceDatabase) -> None:
    with suppress(KeyboardInterrupt), opened(source, "numbers") as table:
        batches = table.batches([*table.columns.values()], "true", Nullified())
        first = next(batches)
        raise KeyboardInterrupt
    assert 0 < first.num_rows < 200_000
    del batches
    wait_until(lambda: not open_sessions(source))
    with opened(source, "numbers") as table:
        rows = [batch.num_rows for batch in table.batches([*table.columns.values()], "true", Nullified())]
    assert sum(rows) == 200_000


def test_a_wrong_contract_closes_the_connection_too(sync: Sync, source: SourceDatabase) -> None:
    session(sync, "a")
    with pytest.raises(ArrivalError, match="has no table aa"):
        sync(table="aa")
    wait_until(lambda: not open_sessions(source))


def test_another_password_uses_another_connection(source: SourceDatabase) -> None:
    user = source.name[:20]
    if source.is_postgres:
        source.ask(f"create role {user} login; grant select on a to {user}")
    else:
        source.ask(f"create user {user}@'%'")
        source.ask(f"grant select on {source.name}.* to {user}@'%'")
    found = []
    for password in ("first", "second"):
        change = f"password '{password}'" if source.is_postgres else f"@'%' identified by '{password}'"
        source.ask(f"alter {'role' if source.is_postgres else 'user'} {user} {change}")
        scheme = "postgresql" if source.is_postgres else "mysql"
        url = f"{scheme}://{user}:{password}@127.0.0.1:{source.server.port}/{source.name}"
        rotated = connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": url})
        with opened(source, at=rotated) as table:
            found.append(read_session(table))
    first, second = found
    assert first != second
    wait_until(lambda: open_sessions(source) == {second})


def test_a_connection_in_use_is_closed_after_use_if_the_address_has_changed(source: SourceDatabase) -> None:
    other = connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": f"{source.url}?connect_timeout=9"})
    with opened(source) as before:
        with opened(source, at=other) as after:
            first, second = read_session(before), read_session(after)
        wait_until(lambda: open_sessions(source) == {first, second})
    wait_until(lambda: open_sessions(source) == {second})


def test_the_number_of_connections_is_bounded(source: SourceDatabase) -> None:
    going, inside, used, failed = threading.Event(), threading.Semaphore(0), set(), []

    def read() -> None:
        try:
            with opened(source) as table:
                inside.release()
                assert going.wait(60)
                used.add(read_session(table))
        except BaseException as error:  # of a thread
            failed.append(error)
            inside.release()

    threads = [threading.Thread(target=read) for _ in range(3 * pool.SIZE)]
    for thread in threads:
        thread.start()
    for _ in range(pool.SIZE):
        assert inside.acquire(timeout=60)
    wait_until(lambda: len(open_sessions(source)) == pool.SIZE)
    impatient = partial(opener(source.connection), source.connection, "a", timedelta(seconds=0.1))
    with pytest.raises(ArrivalError, match="all 4 connections of this process were in use"), impatient():
        pass
    wait_until(lambda: len(open_sessions(source)) == pool.SIZE)
    going.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert len(used) == pool.SIZE
    wait_until(lambda: open_sessions(source) == used)


def test_a_connection_that_could_not_be_opened_frees_its_place(source: SourceDatabase) -> None:
    address = connection("shop", SCHEMES, {"LAKEHOUSE_CONNECTION_SHOP": f"{source.url}_missing"})
    for _ in range(2 * pool.SIZE):
        with pytest.raises(ArrivalError, match="_missing"), opened(source, at=address):
            pass
    with ExitStack() as stack:
        found = {read_session(stack.enter_context(opened(source))) for _ in range(pool.SIZE)}
    assert len(found) == pool.SIZE


def test_idle_connections_are_closed_after_a_while(
    sync: Sync, source: SourceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.2)
    with opened(source) as table:
        first = read_session(table)
        session(sync, "b")
        wait_until(lambda: open_sessions(source) == {first})  # the one in use stays
    wait_until(lambda: not open_sessions(source))
    assert session(sync, "a") != first  # the timer starts again
    wait_until(lambda: not open_sessions(source))


def test_a_fork_has_no_idle_connections(sync: Sync, source: SourceDatabase) -> None:
    number = session(sync, "a")
    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            code = 0 if session(Sync(source, sync.folder, file="child.duckdb"), "a") not in (number, None) else 2
            pool.close_idle()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session(sync, "b") != number
    wait_until(lambda: len(open_sessions(source)) == 1)


def test_a_fork_while_a_connection_is_in_use_leaves_it_to_the_parent(source: SourceDatabase) -> None:
    with opened(source) as table:
        child = os.fork()
        if not child:
            code = 1
            with suppress(BaseException), opened(source) as own:
                code = 0 if read_session(own) else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        number = read_session(table)
    wait_until(lambda: open_sessions(source) == {number})
