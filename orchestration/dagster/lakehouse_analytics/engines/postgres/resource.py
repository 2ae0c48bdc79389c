"""PostgreSQL, over a connection of its own for as long as a question takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from lakehouse_analytics.dbt.profile import ProfileError
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.postgres.errors import REFUSED, Failure, classify
from lakehouse_analytics.settings import Settings

if TYPE_CHECKING:
    import psycopg2

_LOGGER = logging.getLogger(__name__)
#: Fields of dbt's profile by the parameter of libpq that has the same meaning.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "host": ("host",),
    "port": ("port",),
    "user": ("user",),
    "password": ("password", "pass"),
    "dbname": ("dbname", "database"),
    "sslmode": ("sslmode",),
    "sslcert": ("sslcert",),
    "sslkey": ("sslkey",),
    "sslrootcert": ("sslrootcert",),
}
_CONNECT_TIMEOUT = 10


def of(settings: Settings) -> PostgresResource:
    """The resource of an environment."""
    return PostgresResource(start_timeout=settings.postgres_start_timeout)


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The server of dbt's profile. Its address and password are read from the profile when a connection is opened.

    Attributes:
        start_timeout: Seconds to wait for a server that is down or starting.
    """

    #: A refused connection is retried for as long, in seconds.
    queue_timeout: ClassVar[float] = 1800.0

    start_timeout: float = 120.0

    def wait_until_free(self, log: Callable[[str], None] = _LOGGER.warning) -> None:
        """Return once the server accepts a connection; `log` gets what it waits for.

        Raises:
            DatabaseError: not within `start_timeout` seconds, or at once where waiting cannot help.
        """
        deadline, delay, waits = time.monotonic() + self.start_timeout, 0.2, False
        while True:
            try:
                with connect():
                    return
            except ProfileError:
                return  # dbt says what is wrong with it
            except DatabaseError as error:
                message = str(error)
                if REFUSED.search(message) or not classify(message).transient or time.monotonic() >= deadline:
                    raise
            if not waits:
                log(f"{message} Waiting for up to {self.start_timeout:g} s.")
                waits = True
            time.sleep(delay)
            delay = min(delay * 2, 5.0)

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of one statement, in a transaction of its own.

        Raises:
            DatabaseError: the server cannot be reached, or the statement failed.
        """
        import psycopg2

        with connect() as connection, connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                raise DatabaseError(f"PostgreSQL: {' '.join(str(error).split())}") from None

    def classify_error(self, message: str) -> Failure:
        """What dbt's message of a failed node means."""
        return classify(message)

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:  # noqa: ARG002
        """PostgreSQL has no queue."""
        return nullcontext()

    def query_url(self, query_id: str) -> str | None:  # noqa: ARG002
        """PostgreSQL has no page of a query."""
        return None

    def kill_queries(self, run_id: str) -> None:
        """End the sessions that a dead dbt of a run has left: the server notices only when it next answers them.

        They roll back. What cannot be ended is logged.
        """
        try:
            with connect() as connection, connection.cursor() as cursor:
                cursor.execute(
                    "select pid, pg_terminate_backend(pid) from pg_stat_activity "
                    "where pid <> pg_backend_pid() and datname = current_database() and position(%s in query) > 0",
                    (run_id,),
                )
                for pid, _ in cursor.fetchall():
                    _LOGGER.warning("PostgreSQL session %s of run %s is terminated: its dbt is dead", pid, run_id)
        except Exception as error:
            _LOGGER.warning("Sessions of run %s in PostgreSQL may run on: %s", run_id, error)


@contextmanager
def connect() -> Iterator[psycopg2.extensions.connection]:
    """A connection to the server of dbt's profile, for as long as the block runs.

    Raises:
        DatabaseError: it cannot be opened. The message names the server, never the password.
    """
    import psycopg2

    profile = Settings.load().profile
    parameters = parameters_of(profile.fields)
    try:
        connection = psycopg2.connect(connect_timeout=_CONNECT_TIMEOUT, application_name="lakehouse", **parameters)
    except psycopg2.Error as error:
        reason = " ".join(str(error).split())
        raise DatabaseError(f"PostgreSQL cannot be reached, as {profile.where} says: {reason.rstrip('.')}.") from None
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def parameters_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """libpq's parameters, from the rendered fields of a profile."""
    found = {
        name: next((fields[field] for field in same if fields.get(field)), None) for name, same in _PARAMETERS.items()
    }
    return {name: value for name, value in found.items() if value is not None}
