"""Locks that allow one writer per table. Builds and maintenance share them on engines with concurrent writers.

If Dagster's storage is PostgreSQL, a lock is an advisory lock of a session (`postgres`); if it is SQLite, a lock is a
file lock (`files`). Both are released when the process that holds them ends, however it ends. Dagster's pools are not
sufficient, because they belong to ops, and one op writes many tables.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

import dagster as dg

from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    from types import TracebackType

#: Prefix of the names of all locks, although only Trino's tables are Iceberg tables. It cannot change: a pool with the
#: name of a lock and the limit 0 closes a table, and during an upgrade, runs of both releases must exclude each other.
PREFIX = "iceberg/"
#: Seconds between two attempts to acquire a lock: the first wait and the maximum.
_SOON, _LATER = 0.5, 5.0
#: Seconds for which the limits of pools are cached.
_REMEMBERED = 10.0


@dataclass(frozen=True)
class Owner:
    """A step of a run, which owns locks.

    Attributes:
        run_id: Id of the run; empty if it is unknown.
        step_key: The step. Two steps of a run exclude each other like two runs.
    """

    run_id: str = ""
    step_key: str = ""


#: The owner of a table that a person has closed.
CLOSED = Owner("", "closed")


@dataclass(frozen=True)
class Busy:
    """Another owner holds the lock of the table, or waits for it."""

    owner: Owner


@dataclass(frozen=True)
class Granted:
    """The caller holds the lock of the table.

    Attributes:
        stale: The previous owner, if it died without releasing the lock.
    """

    stale: Owner | None = None


class TableBusyError(RuntimeError):
    """Another run holds the lock of the table.

    Attributes:
        owner: The step that holds the lock.
    """

    def __init__(self, message: str, owner: Owner) -> None:
        super().__init__(message)
        self.owner = owner


class LockStorageError(RuntimeError):
    """The storage of the Dagster instance does not support locking tables. The message says what to change."""


class TableLockLostError(RuntimeError):
    """The database ended our session, and another run has locked the table since."""


class Backend(Protocol):
    """Stores the locks of one owner. Several threads call its methods."""

    def acquire(self, table: str, *, waits: bool, has_ended: Callable[[str], bool]) -> Granted | Busy:
        """Try to lock a table without waiting.

        Args:
            table: Name of the lock; see `lock_name`.
            waits: Whether the caller waits in line and will retry. If not, a table for which others wait is busy.
            has_ended: Returns whether a run has ended, according to Dagster.
        """

    def release(self, table: str) -> None:
        """Release a table and leave the line for it. Do nothing if the owner neither holds it nor waits for it."""

    def why_lost(self, table: str) -> str | None:
        """Return the reason why the owner has lost the lock of a table; None as long as it holds the lock."""

    def close(self) -> None:
        """Release all locks."""


def lock_name(relation: Relation) -> str:
    """Return the name of a table's lock: `iceberg/<catalog>.<schema>.<table>`."""
    return f"{PREFIX}{relation.catalog}.{relation.schema}.{relation.name}"


def export_lock(connection: str, table: str) -> str:
    """Return the name of the lock of a table in another database."""
    return f"{PREFIX}export.{connection}.{table}"


@dataclass
class TableLock:
    """The lock of one table, which this step has.

    Attributes:
        table: Name of the lock; see `lock_name`.
    """

    table: str
    _backend: Backend

    def check(self) -> None:
        """Check that this step still holds the lock.

        Raises:
            TableLockLostError: Another run has locked the table in the meantime.
        """
        if reason := self._backend.why_lost(self.table):
            raise TableLockLostError(reason)


@dataclass
class TableLocks:
    """The locks of one step of one run. A context manager: leaving it releases all of them.

    Attributes:
        instance: The Dagster instance. Its storage determines where the locks are: in PostgreSQL, or with SQLite in
            files in DAGSTER_HOME.
        run_id: Id of the run.
        step_key: The step.
        on_lost: Called in another thread with a message, once per table that another run locked after the database
            had ended our session. The caller must stop writing the table.
    """

    instance: dg.DagsterInstance
    run_id: str
    step_key: str
    on_lost: Callable[[str], None] = lambda _: None
    _backend: Backend | None = None
    _closed: bool = False
    _opening: threading.Lock = field(default_factory=threading.Lock)
    _limits: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    def __enter__(self) -> Self:
        """Return the locks. Nothing is opened before the first lock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all locks."""
        self.close()

    def close(self) -> None:
        """Release all locks."""
        with self._opening:
            backend, self._backend, self._closed = self._backend, None, True
        if backend:
            backend.close()

    @contextmanager
    def locked(
        self,
        table: str,
        *,
        wait: float = 0.0,
        log: Callable[[str], None] = lambda _: None,
        on_stale_holder: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Iterator[TableLock]:
        """Lock a table for as long as the block runs.

        A caller that does not wait (maintenance) does not get a table for which others wait.

        Args:
            table: Name of the lock; see `lock_name`.
            wait: Seconds to wait while another run holds the lock.
            log: Called with a message that names the owner, and again when the owner changes.
            on_stale_holder: Called with the id of a dead run that had the lock: its last query may still be running.
            stop: Set by another thread to end the wait.

        Raises:
            TableBusyError: Another run still holds the lock after `wait` seconds, or a person has closed the table.
            LockStorageError: The instance's storage does not support locking tables.
        """
        backend = self._open()
        deadline, delay, logged = time.monotonic() + wait, _SOON, None
        try:
            while isinstance(outcome := self._attempt(backend, table, waits=wait > 0), Busy):
                left = deadline - time.monotonic()
                if left <= 0 or (stop and stop.is_set()):
                    raise TableBusyError(
                        self._explain(table, outcome.owner, f"waited {wait:g} s" if wait else ""), outcome.owner
                    )
                if outcome.owner != logged:
                    log(self._explain(table, outcome.owner, f"waiting up to {left:.0f} s more"))
                    logged = outcome.owner
                (stop or threading.Event()).wait(min(delay, left))
                delay = min(delay * 2, _LATER)
            # Queries of our own run may belong to other tables.
            if outcome.stale and outcome.stale.run_id != self.run_id:
                on_stale_holder(outcome.stale.run_id)
            yield TableLock(table, backend)
        finally:
            backend.release(table)

    def _open(self) -> Backend:
        with self._opening:
            if self._closed:
                raise RuntimeError("The locks of this step are closed.")
            if self._backend is None:
                self._backend = _backend_of(self.instance, Owner(self.run_id, self.step_key), self.on_lost)
            return self._backend

    def _attempt(self, backend: Backend, table: str, *, waits: bool) -> Granted | Busy:
        if table in self._closed_tables():
            return Busy(CLOSED)
        return backend.acquire(table, waits=waits, has_ended=self._has_ended)

    def _closed_tables(self) -> frozenset[str]:
        """Return the tables that a person has closed by setting the limit of their pool to 0."""
        with self._opening:
            read, closed = self._limits
            if time.monotonic() - read > _REMEMBERED:
                limits = self.instance.event_log_storage.get_pool_limits()
                closed = frozenset(pool.name for pool in limits if pool.limit == 0)
                self._limits = time.monotonic(), closed
            return closed

    def _has_ended(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is None or run.is_finished

    def _explain(self, table: str, owner: Owner, more: str) -> str:
        if owner == CLOSED:
            why = "closed (limit 0 under Deployment → Concurrency)"
        else:
            run = self.instance.get_run_by_id(owner.run_id) if owner.run_id else None
            who = f"run {owner.run_id[:8]}" if owner.run_id else owner.step_key or "another run"
            why = f"in use by {who}" + (f" ({run.job_name})" if run else "")
        return f"{table.removeprefix(PREFIX)}: {why}" + (f" ({more})" if more else "")


def _backend_of(instance: dg.DagsterInstance, owner: Owner, on_lost: Callable[[str], None]) -> Backend:
    storage = instance.event_log_storage
    names = {kind.__name__ for kind in type(storage).__mro__}
    if "PostgresEventLogStorage" in names:
        from lakehouse_analytics.locks.postgres import PostgresLocks

        return PostgresLocks(storage, owner, on_lost)
    # SQLite is for one machine, and the storage in memory is for one process.
    if names & {"SqliteEventLogStorage", "ConsolidatedSqliteEventLogStorage", "InMemoryEventLogStorage"}:
        from lakehouse_analytics.locks.files import FileLocks

        return FileLocks(instance.root_directory, owner)
    raise LockStorageError(
        f"Dagster's event log is a {type(storage).__name__}, which does not support table locks: "
        "use SQLite or PostgreSQL in dagster.yaml."
    )
