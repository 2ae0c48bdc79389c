"""Advisory locks of PostgreSQL with names instead of numbers."""

from __future__ import annotations

import hashlib

from lakehouse_analytics.locks import Owner
from lakehouse_analytics.locks.postgres.session import LockSession, changing_sessions, owner_of


def lock_key(name: str) -> int:
    """Return the key of a name's advisory lock: the first 8 bytes of its SHA-256, as PostgreSQL reads a bigint."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


class AdvisoryLocks:
    """The advisory locks of a session. PostgreSQL releases them when the session ends."""

    def __init__(self, session: LockSession) -> None:
        self._ask, self._session = session.ask, session

    def try_lock(self, name: str) -> bool:
        """Lock a name and return True, or return False if another session has locked it.

        Raises:
            LockStorageError: A connection pooler has changed the session.
        """
        ((granted, pid),) = self._ask("select pg_try_advisory_lock(:key), pg_backend_pid()", key=lock_key(name))
        if pid != self._session.pid:
            raise changing_sessions()
        return bool(granted)

    def unlock(self, name: str) -> None:
        """Release a name that `try_lock` has locked."""
        self._ask("select pg_advisory_unlock(:key)", key=lock_key(name))

    def try_share(self, name: str) -> None:
        """Lock a name in shared mode, so that several sessions can hold it."""
        self._ask("select pg_try_advisory_lock_shared(:key)", key=lock_key(name))

    def unshare(self, name: str) -> None:
        """Release a name that `try_share` has locked."""
        self._ask("select pg_advisory_unlock_shared(:key)", key=lock_key(name))

    def other_holder(self, name: str) -> Owner | None:
        """Return the owner of another session that has locked a name; None if there is no such session."""
        unsigned = lock_key(name) % 2**64
        rows = self._ask(
            "select application_name, pid from pg_locks join pg_stat_activity using (pid)"
            " where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()"
            " and pg_locks.database = (select oid from pg_database where datname = current_database())"
            " and classid::bigint = :high and objid::bigint = :low order by pid",
            high=unsigned >> 32,
            low=unsigned % 2**32,
        )
        return owner_of(str(rows[0][0]), rows[0][1]) if rows else None
