"""Table locks as advisory locks of PostgreSQL, for instances whose storage is PostgreSQL.

A `session` holds the `advisory` locks of one owner. The `registry` records the owner of each lock, and `recovery` opens
a new session after the database has ended one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lakehouse_analytics.locks import Busy, Granted, Owner
from lakehouse_analytics.locks.postgres.advisory import AdvisoryLocks
from lakehouse_analytics.locks.postgres.recovery import OwnLocks, Recovery, waiting_line
from lakehouse_analytics.locks.postgres.registry import LockRegistry
from lakehouse_analytics.locks.postgres.session import LockSession

#: Seconds between two checks of the session. A check opens a new session if the database has ended the last one.
BEAT = 5.0
#: Seconds in which an owner whose session has ended may reconnect, unless Dagster says that its run has ended.
GRACE = 30.0


class PostgresLocks:
    """The backend with one PostgreSQL session per owner, which holds the advisory locks of all its tables.

    PostgreSQL releases them when the session ends: with the process, or when keepalives show that its machine is
    unreachable. A session may also end while its owner is running, because the server restarts or an administrator ends
    it. The owner then has `GRACE` seconds to lock its tables again; its row in the registry shows whether another owner
    has locked a table in the meantime.
    """

    def __init__(self, storage: Any, owner: Owner, on_lost: Callable[[str], None]) -> None:
        self.owner, self.own = owner, OwnLocks()
        self.session = LockSession(storage, owner)
        self._locks, self._registry = AdvisoryLocks(self.session), LockRegistry(self.session)
        self.recovery = Recovery(self.session, owner, self.own, on_lost)
        self.mutex = threading.RLock()
        self._closed = threading.Event()
        self.recovery.connect()
        self._heart = threading.Thread(target=self._beat, name="table-locks", daemon=True)
        self._heart.start()

    def acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        """Try to lock a table without waiting. See `Backend`."""
        with self.mutex:
            if self._closed.is_set():
                raise RuntimeError("The locks of this step are closed.")
            if table in self.own.tables:
                return Busy(self.owner)
            return self._retry_after_disconnect(lambda: self._acquire(table, waits=waits, has_ended=has_ended))

    def release(self, table: str) -> None:
        """Release a table and leave the line for it. See `Backend`.

        If the database does not respond, the lock is released when it responds again.
        """
        with self.mutex:
            own = self.own
            locked, waited = table in own.tables and table not in own.lost, table in own.waiting
            own.tables.discard(table)
            own.lost.pop(table, None)
            own.waiting.discard(table)
            if not locked and not waited:
                return
            if locked:
                own.unreleased.add(table)
            try:
                if waited:
                    self._locks.unshare(waiting_line(table))
                self.recovery.release_rest()
            except Exception as error:
                self.recovery.disconnected(error)

    def why_lost(self, table: str) -> str | None:
        """Return the reason why the owner has lost the lock of a table. See `Backend`."""
        with self.mutex:
            return self.own.lost.get(table)

    def close(self) -> None:
        """Release all locks and close the session. See `Backend`."""
        self.stop_heart()
        with self.mutex:
            for table in [*self.own.tables, *self.own.waiting]:
                self.release(table)
            if self.own.unreleased:
                with suppress(Exception):
                    self.recovery.restore()
            self.session.close()

    def stop_heart(self) -> None:
        """Stop checking the session."""
        self._closed.set()
        self._heart.join()

    def _acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        if not self._locks.try_lock(table):
            if waits:
                self._wait_in_line(table)
            return Busy(self.recovery.owner_of(table))
        outcome: Granted | Busy | None = None
        try:
            outcome = self._claim(table, waits=waits, has_ended=has_ended)
            return outcome
        finally:
            if isinstance(outcome, Granted):
                self.own.tables.add(table)
                self.own.unreleased.discard(table)
            else:
                if outcome is None:  # we may have been recorded as the owner
                    self.own.unreleased.add(table)
                with suppress(Exception):  # the session has ended, and the lock with it
                    self._locks.unlock(table)

    def _claim(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        """Record this owner, unless others wait or the last owner may reconnect."""
        if not waits and (waiting := self._locks.other_holder(waiting_line(table))):
            return Busy(waiting)
        before = self._registry.owner_of(table)
        if before is not None and before != self.owner and not has_ended(before.run_id):
            absent = self._registry.seconds_unlocked(table)
            if absent is not None and absent < GRACE:
                if waits:
                    self._wait_in_line(table)
                return Busy(before)
            self._registry.mark_others_unlocked(table)
        self._registry.record(table, self.owner)
        return Granted(before if before != self.owner else None)

    def _wait_in_line(self, table: str) -> None:
        if table not in self.own.waiting:
            self._locks.try_share(waiting_line(table))
            self.own.waiting.add(table)

    def _retry_after_disconnect(self, attempt: Callable[[], Granted | Busy]) -> Granted | Busy:
        """Return the outcome of an attempt. If the session has ended, retry with a new one."""
        from sqlalchemy.exc import DBAPIError

        try:
            return attempt()
        except DBAPIError as error:
            if self.session.is_open and not error.connection_invalidated:
                raise
            self.recovery.disconnected(error)
        self.recovery.restore()
        return attempt()

    def _beat(self) -> None:
        """Open a new session with the same locks soon after the last one has ended."""
        while not self._closed.wait(BEAT):
            with self.mutex:
                try:
                    if self.session.is_open:
                        self.session.ask("select 1")
                    else:
                        self.recovery.restore()
                except Exception as error:
                    self.recovery.disconnected(error)
                    with suppress(Exception):  # the next attempt may succeed
                        self.recovery.restore()
