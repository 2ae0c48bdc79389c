"""Advisory locks of PostgreSQL, where Dagster keeps its storage there."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.locks import Busy, Granted, LockStorageError, Owner

if TYPE_CHECKING:
    from dagster_postgres import PostgresEventLogStorage
    from sqlalchemy.engine import Connection, Row

#: Who has which table. A row outlives its owner, so that the next one knows that the last one died.
TABLE = "lakehouse_table_locks"
CREATE = f"""create table if not exists {TABLE} (
  table_name text primary key,
  run_id text not null,
  step_key text not null,
  locked_at timestamptz not null default now(),
  unlocked_since timestamptz
)"""
#: Seconds between two looks at the session, which is opened again when the database has ended it.
BEAT = 5.0
#: Seconds in which an owner whose session ended may come back, unless Dagster says that its run has ended.
GRACE = 30.0
#: Seconds after which a server or a client that does not answer is given up.
_UNANSWERED = 20
#: Attempts, a quarter of a second apart, while the server ends our own last session.
_ATTEMPTS = 20
_LOGGER = logging.getLogger(__name__)


def lock_key(name: str) -> int:
    """The advisory lock of a name: the first 8 bytes of its SHA-256, as PostgreSQL reads a bigint."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


class PostgresLocks:
    """One session, which has the advisory locks of all tables of its owner.

    PostgreSQL releases them when the session ends: with the process, or when keepalives show that its machine is
    gone. A session may also end while its owner lives: the server restarts, or an administrator ends it. So an owner
    has `GRACE` seconds to take its locks again, and its row in `TABLE` says whether another one was faster.
    """

    def __init__(self, storage: Any, owner: Owner, on_lost: Callable[[str], None]) -> None:
        self._storage: PostgresEventLogStorage = storage
        self.owner, self._on_lost = owner, on_lost
        # At most 63 bytes: the longest that PostgreSQL keeps.
        self._name = f"lakehouse {owner.run_id} {owner.step_key}"[:63]
        self._mutex = threading.RLock()
        self._tables: set[str] = set()
        self._lines: set[str] = set()
        self._unreleased: set[str] = set()
        self._lost: dict[str, str] = {}
        self._closed = threading.Event()
        self._session: Connection | None = None
        self._ending = ExitStack()
        self._backend_pid = 0
        self._connect()
        self._thread = threading.Thread(target=self._watch, name="table-locks", daemon=True)
        self._thread.start()

    def acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        """See `Backend`."""
        with self._mutex:
            if self._closed.is_set():
                raise RuntimeError("The locks of this step are closed.")
            if table in self._tables:
                return Busy(self.owner)
            return self._again_after_disconnect(lambda: self._acquire(table, waits=waits, has_ended=has_ended))

    def release(self, table: str) -> None:
        """See `Backend`. What the database cannot be asked now is released once it answers."""
        with self._mutex:
            ours = table in self._tables and table not in self._lost
            self._tables.discard(table)
            self._lost.pop(table, None)
            waited = table in self._lines
            self._lines.discard(table)
            if not ours and not waited:
                return
            if ours:
                self._unreleased.add(table)
            try:
                if waited:
                    self._ask("select pg_advisory_unlock_shared(:key)", key=lock_key(_line(table)))
                self._release_rest()
            except Exception as error:
                self._disconnected(error)

    def why_lost(self, table: str) -> str | None:
        """See `Backend`."""
        with self._mutex:
            return self._lost.get(table)

    def close(self) -> None:
        """See `Backend`."""
        self._closed.set()
        self._thread.join()
        with self._mutex:
            for table in [*self._tables, *self._lines]:
                self.release(table)
            if self._unreleased:
                with suppress(Exception):
                    self._restore()
            self._hang_up()

    # --- One attempt

    def _acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        if not self._try_lock(table):
            if waits:
                self._wait_in_line(table)
            return Busy(self._owner_of(table))
        outcome: Granted | Busy | None = None
        try:
            outcome = self._claim(table, waits=waits, has_ended=has_ended)
            return outcome
        finally:
            if isinstance(outcome, Granted):
                self._tables.add(table)
                self._unreleased.discard(table)
            else:
                if outcome is None:  # our name may have been written
                    self._unreleased.add(table)
                with suppress(Exception):  # the session has ended, and the lock with it
                    self._unlock(table)

    def _claim(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        """Write our name, unless others wait, or the last owner may come back."""
        if not waits and (waiting := self._session_with(_line(table))):
            return Busy(waiting)
        before = self._row(table)
        if before is not None and before != self.owner and not has_ended(before.run_id):
            absent = self._ask(
                "update lakehouse_table_locks set unlocked_since = coalesce(unlocked_since, clock_timestamp())"
                " where table_name = :table returning extract(epoch from clock_timestamp() - unlocked_since)",
                table=table,
            )
            if absent and absent[0][0] < GRACE:
                if waits:
                    self._wait_in_line(table)
                return Busy(before)
        self._ask(
            "insert into lakehouse_table_locks (table_name, run_id, step_key) values (:table, :run_id, :step_key)"
            " on conflict (table_name) do update set run_id = excluded.run_id, step_key = excluded.step_key,"
            " locked_at = now(), unlocked_since = null",
            table=table,
            run_id=self.owner.run_id,
            step_key=self.owner.step_key,
        )
        return Granted(before if before != self.owner else None)

    def _try_lock(self, table: str) -> bool:
        ((granted, pid),) = self._ask("select pg_try_advisory_lock(:key), pg_backend_pid()", key=lock_key(table))
        if pid != self._backend_pid:
            raise _pooled()
        return bool(granted)

    def _unlock(self, table: str) -> None:
        self._ask("select pg_advisory_unlock(:key)", key=lock_key(table))

    def _wait_in_line(self, table: str) -> None:
        if table not in self._lines:
            self._share(_line(table))
            self._lines.add(table)

    def _share(self, name: str) -> None:
        self._ask("select pg_try_advisory_lock_shared(:key)", key=lock_key(name))

    def _row(self, table: str) -> Owner | None:
        rows = self._ask("select run_id, step_key from lakehouse_table_locks where table_name = :table", table=table)
        return Owner(*rows[0]) if rows else None

    def _owner_of(self, table: str) -> Owner:
        """Who has it. The session may be of another run that looks whether it may have the table."""
        return self._row(table) or self._session_with(table) or Owner()

    def _session_with(self, name: str) -> Owner | None:
        """The owner of another session that has a lock."""
        unsigned = lock_key(name) % 2**64
        rows = self._ask(
            "select application_name, pid from pg_locks join pg_stat_activity using (pid)"
            " where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()"
            " and pg_locks.database = (select oid from pg_database where datname = current_database())"
            " and classid::bigint = :high and objid::bigint = :low order by pid",
            high=unsigned >> 32,
            low=unsigned % 2**32,
        )
        if not rows:
            return None
        words = str(rows[0][0]).split(" ", 2)
        if len(words) == 3 and words[0] == "lakehouse":
            return Owner(words[1], words[2])
        return Owner("", f"a session of PostgreSQL (pid {rows[0][1]})")

    # --- The session

    def _ask(self, statement: str, **parameters: object) -> Sequence[Row[Any]]:
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        if self._session is None:
            raise OperationalError(statement, parameters, ConnectionError("The session of the table locks has ended."))
        result = self._session.execute(text(statement), parameters)
        return result.fetchall() if result.returns_rows else []

    def _again_after_disconnect(self, attempt: Callable[[], Granted | Busy]) -> Granted | Busy:
        """Once more on a new session, if the last one ended."""
        from sqlalchemy.exc import DBAPIError

        try:
            return attempt()
        except DBAPIError as error:
            if self._session is not None and not error.connection_invalidated:
                raise
            self._disconnected(error)
        self._restore()
        return attempt()

    def _connect(self) -> None:
        """Open the session.

        Raises:
            LockStorageError: behind a pooler that changes sessions, or the table cannot be made.
        """
        try:
            session = self._session = self._ending.enter_context(self._storage.index_connection())
            session.detach()  # from the pool that a run of several partitions has
            _give_up_when_unanswered(session)
            self._ask("select set_config('application_name', :name, false)", name=self._name)
            # A client whose machine is gone is noticed after half a minute, not after the system's two hours.
            for setting, value in (("idle", 10), ("interval", 5), ("count", 4)):
                self._ask("select set_config(:name, :value, false)", name=f"tcp_keepalives_{setting}", value=str(value))
            self._backend_pid = self._ask("select pg_backend_pid()")[0][0]
            self._refuse_changing_sessions(session)
            self._make_table()
        except BaseException:
            self._hang_up()
            raise

    def _refuse_changing_sessions(self, session: Connection) -> None:
        """A pooler invents process ids. In transaction mode, it gives our idle session to the next who asks."""
        driver: Any = session.connection.dbapi_connection
        if driver.info.backend_pid == self._backend_pid:
            return
        from sqlalchemy import text

        with self._storage.index_connection() as second:
            if second.execute(text("select pg_backend_pid()")).scalar() == self._backend_pid:
                raise _pooled()

    def _make_table(self) -> None:
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        if self._ask("select to_regclass(:table)", table=TABLE)[0][0]:
            return
        try:
            with suppress(IntegrityError):  # two runs make it at once
                self._ask(CREATE)
        except ProgrammingError as error:
            user = self._ask("select current_user")[0][0]
            raise LockStorageError(
                f'The role "{user}" may not create the table {TABLE} in Dagster\'s database, which records who writes '
                f"which table. Let its owner run:\n{CREATE};\n"
                f'grant select, insert, update, delete on {TABLE} to "{user}";'
            ) from error

    def _hang_up(self) -> None:
        self._session = None
        with suppress(Exception):
            self._ending.close()

    def _watch(self) -> None:
        """Take the locks again soon after the session has ended."""
        while not self._closed.wait(BEAT):
            with self._mutex:
                try:
                    if self._session is None:
                        self._restore()
                    else:
                        self._ask("select 1")
                except Exception as error:
                    self._disconnected(error)
                    with suppress(Exception):  # the next time may succeed
                        self._restore()

    def _disconnected(self, error: Exception) -> None:
        if self._session is not None:
            first = str(error).strip().splitlines()[:1]
            _LOGGER.warning("The session of the table locks of run %s has ended: %s", self.owner.run_id, *first)
        self._hang_up()

    def _restore(self) -> None:
        """A new session with the locks of the last one, unless another run has taken one meanwhile."""
        last = self._backend_pid
        self._connect()
        try:
            self._take_over_from(last)
        except BaseException:
            self._hang_up()
            raise

    def _take_over_from(self, last: int) -> None:
        # The server may not have noticed that the last session's client is gone.
        self._ask(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid = :pid and pid <> pg_backend_pid() and application_name = :name",
            pid=last,
            name=self._name,
        )
        for table in self._lines:
            self._share(_line(table))
        for table in sorted(self._tables - self._lost.keys()):
            if self._locked_again(table):
                continue
            owner = self._owner_of(table)
            self._lost[table] = (
                f"{table.partition('/')[2]}: run {owner.run_id[:8]} has locked the table since the database ended the "
                f"session of run {self.owner.run_id[:8]}. Both may have written it: build it again."
            )
            _LOGGER.error(self._lost[table])
            self._on_lost(self._lost[table])
        self._release_rest()

    def _locked_again(self, table: str) -> bool:
        for _ in range(_ATTEMPTS):
            if self._try_lock(table):
                if self._row(table) == self.owner:
                    self._ask(
                        "update lakehouse_table_locks set unlocked_since = null where table_name = :table", table=table
                    )
                    return True
                self._unlock(table)
                return False
            if self._row(table) != self.owner:
                return False
            time.sleep(0.25)
        return False

    def _release_rest(self) -> None:
        """Remove the rows of tables that are no longer ours, and then their locks."""
        for table in sorted(self._unreleased):
            self._ask(
                "delete from lakehouse_table_locks"
                " where table_name = :table and run_id = :run_id and step_key = :step_key",
                table=table,
                run_id=self.owner.run_id,
                step_key=self.owner.step_key,
            )
            with suppress(Exception):
                self._unlock(table)
            self._unreleased.discard(table)


def _line(table: str) -> str:
    """The lock that those share who wait for a table."""
    return f"waiting for {table}"


def _pooled() -> LockStorageError:
    return LockStorageError(
        "Dagster's PostgreSQL is behind a connection pooler that gives each transaction another session. Table locks "
        "belong to a session: connect Dagster's storage to PostgreSQL itself, or use the pooler's session mode."
    )


def _give_up_when_unanswered(session: Connection) -> None:
    """Without it, a statement to a server whose machine is gone would wait for a quarter of an hour."""
    driver: Any = session.connection.dbapi_connection
    with socket.socket(fileno=os.dup(driver.fileno())) as client:
        if client.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED * 1000)
