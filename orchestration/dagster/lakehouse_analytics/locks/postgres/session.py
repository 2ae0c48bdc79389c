"""The PostgreSQL session that holds the locks of one owner."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.locks import LockStorageError, Owner

if TYPE_CHECKING:
    from dagster_postgres import PostgresEventLogStorage
    from sqlalchemy.engine import Connection, Row

#: Seconds after which a connection without a response is closed.
_UNANSWERED = 20
_PREFIX = "lakehouse"


class LockSession:
    """A session in the database of Dagster's event log, outside the connection pool.

    PostgreSQL shows the owner as the session's `application_name`. `open` opens the session, and may be called again
    after it has ended.

    Attributes:
        name: The `application_name`.
        pid: Process id of the session in PostgreSQL. It is kept after the session has ended.
    """

    def __init__(self, storage: Any, owner: Owner) -> None:
        self._storage: PostgresEventLogStorage = storage
        # PostgreSQL truncates names after 63 bytes.
        self.name = f"{_PREFIX} {owner.run_id} {owner.step_key}"[:63]
        self.pid = 0
        self._connection: Connection | None = None
        self._ending = ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether the session was opened and has not been closed. The server may have ended it."""
        return self._connection is not None

    def open(self) -> None:
        """Open the session.

        Raises:
            LockStorageError: A connection pooler changes the session.
        """
        try:
            connection = self._connection = self._ending.enter_context(self._storage.index_connection())
            connection.detach()  # a run of several partitions has a connection pool
            _give_up_when_unanswered(connection)
            self.ask("select set_config('application_name', :name, false)", name=self.name)
            # With these values, the server notices an unreachable client after half a minute. The system's default is
            # two hours.
            for setting, value in (("idle", 10), ("interval", 5), ("count", 4)):
                self.ask("select set_config(:name, :value, false)", name=f"tcp_keepalives_{setting}", value=str(value))
            self.pid = self.ask("select pg_backend_pid()")[0][0]
            self._refuse_changing_sessions(connection)
        except BaseException:
            self.close()
            raise

    def ask(self, statement: str, **parameters: object) -> Sequence[Row[Any]]:
        """Run a statement and return its rows.

        Raises:
            sqlalchemy.exc.DBAPIError: The statement failed, or the session has ended.
        """
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        if self._connection is None:
            raise OperationalError(statement, parameters, ConnectionError("The session of the table locks has ended."))
        result = self._connection.execute(text(statement), parameters)
        return result.fetchall() if result.returns_rows else []

    def close(self) -> None:
        """Close the session. Do nothing if it has ended."""
        self._connection = None
        with suppress(Exception):
            self._ending.close()

    def end_earlier(self, pid: int) -> None:
        """End an earlier session of this owner. The server may not have noticed that its client has disconnected."""
        self.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid = :pid and pid <> pg_backend_pid() and application_name = :name",
            pid=pid,
            name=self.name,
        )

    def _refuse_changing_sessions(self, connection: Connection) -> None:
        """Raise an error if a connection pooler changes the session.

        A pooler reports its own process ids. In transaction mode, it gives our idle session to the next client.
        """
        driver: Any = connection.connection.dbapi_connection
        if driver.info.backend_pid == self.pid:
            return
        from sqlalchemy import text

        with self._storage.index_connection() as second:
            if second.execute(text("select pg_backend_pid()")).scalar() == self.pid:
                raise changing_sessions()


def owner_of(name: str, pid: int) -> Owner:
    """Return the owner of a session from its `application_name`; for other applications, a description with the pid."""
    words = name.split(" ", 2)
    if len(words) == 3 and words[0] == _PREFIX:
        return Owner(words[1], words[2])
    return Owner("", f"a session of PostgreSQL (pid {pid})")


def changing_sessions() -> LockStorageError:
    """Return the error for a connection pooler that gives each transaction another session."""
    return LockStorageError(
        "Dagster's PostgreSQL is behind a connection pooler that gives each transaction another session. Table locks "
        "belong to a session: connect Dagster's storage directly to PostgreSQL, or use the pooler's session mode."
    )


def _give_up_when_unanswered(connection: Connection) -> None:
    """Set a timeout, without which a statement would wait a quarter of an hour for an unreachable server."""
    driver: Any = connection.connection.dbapi_connection
    with socket.socket(fileno=os.dup(driver.fileno())) as client:
        if client.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED * 1000)
