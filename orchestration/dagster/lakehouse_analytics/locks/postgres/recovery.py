"""Reconnects an owner that is still running after the database has ended its session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from lakehouse_analytics.locks import Owner
from lakehouse_analytics.locks.postgres.advisory import AdvisoryLocks
from lakehouse_analytics.locks.postgres.registry import LockRegistry
from lakehouse_analytics.locks.postgres.session import LockSession

#: Maximum attempts, a quarter of a second apart, while the server ends our own last session.
_ATTEMPTS = 20
_LOGGER = logging.getLogger(__name__)


@dataclass
class OwnLocks:
    """The locks of one owner, which it keeps when its session ends.

    Attributes:
        tables: Tables that the owner has locked.
        waiting: Tables for which the owner waits.
        unreleased: Tables that the owner no longer needs and could not release yet.
        lost: The reason for each of `tables` that another run has locked since.
    """

    tables: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    unreleased: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)


class Recovery:
    """Opens the session of an owner, and a new one with the same locks after it has ended."""

    def __init__(self, session: LockSession, owner: Owner, own: OwnLocks, on_lost: Callable[[str], None]) -> None:
        self._session, self._owner, self._own, self._on_lost = session, owner, own, on_lost
        self._locks, self._registry = AdvisoryLocks(session), LockRegistry(session)

    def connect(self) -> None:
        """Open the session.

        Raises:
            LockStorageError: A connection pooler changes the session, or the registry cannot be created.
        """
        self._session.open()
        try:
            self._registry.create()
        except BaseException:
            self._session.close()
            raise

    def restore(self) -> None:
        """Open a new session with the locks of the last one, except those that another run has acquired since."""
        last = self._session.pid
        self.connect()
        try:
            self._session.end_earlier(last)
            self._lock_again()
        except BaseException:
            self._session.close()
            raise

    def disconnected(self, error: Exception) -> None:
        """Close the session after a failure."""
        if self._session.is_open:
            first = str(error).strip().splitlines()[:1]
            _LOGGER.warning("The session of the table locks of run %s has ended: %s", self._owner.run_id, *first)
        self._session.close()

    def release_rest(self) -> None:
        """Remove the rows of tables that are no longer needed, and then their locks."""
        for table in sorted(self._own.unreleased):
            self._registry.remove(table, self._owner)
            with suppress(Exception):
                self._locks.unlock(table)
            self._own.unreleased.discard(table)

    def owner_of(self, table: str) -> Owner:
        """Return the owner of a table's lock. Without a row, it may be a run that is trying to lock the table now."""
        return self._registry.owner_of(table) or self._locks.other_holder(table) or Owner()

    def _lock_again(self) -> None:
        own = self._own
        for table in own.waiting:
            self._locks.try_share(waiting_line(table))
        for table in sorted(own.tables - own.lost.keys()):
            if self._locked_again(table):
                continue
            owner = self.owner_of(table)
            own.lost[table] = (
                f"{table.partition('/')[2]}: run {owner.run_id[:8]} has locked the table since the database ended the "
                f"session of run {self._owner.run_id[:8]}. Both may have written it: build it again."
            )
            _LOGGER.error(own.lost[table])
            self._on_lost(own.lost[table])
        self.release_rest()

    def _locked_again(self, table: str) -> bool:
        for _ in range(_ATTEMPTS):
            if self._locks.try_lock(table):
                if self._registry.owner_of(table) == self._owner:
                    self._registry.mark_locked(table)
                    return True
                self._locks.unlock(table)
                return False
            if self._registry.owner_of(table) != self._owner:
                return False
            time.sleep(0.25)
        return False


def waiting_line(table: str) -> str:
    """Return the name of the lock that all owners waiting for a table share."""
    return f"waiting for {table}"
