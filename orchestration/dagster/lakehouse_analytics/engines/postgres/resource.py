"""The resource for PostgreSQL. Each statement has its own connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg

from lakehouse_analytics.common.postgres_errors import REFUSED
from lakehouse_analytics.dbt.profile import ProfileError
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError, FetchAll, TableReader
from lakehouse_analytics.engines.comparison import Comparison
from lakehouse_analytics.engines.postgres.comparison import comparison
from lakehouse_analytics.engines.postgres.errors import Failure, classify
from lakehouse_analytics.engines.postgres.reading import read_table
from lakehouse_analytics.engines.postgres.schemas import schema_session
from lakehouse_analytics.engines.postgres.versions import table_versions
from lakehouse_analytics.engines.schema_session import SchemaSession
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
    """Return the resource that the settings describe."""
    return PostgresResource(start_timeout=settings.postgres_start_timeout)


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The server of dbt's profile. Its address and password are read from the profile when a connection is opened.

    Attributes:
        start_timeout: Seconds to wait for a server that is down or starting.
    """

    #: Seconds to retry when the server refuses connections because it has too many.
    queue_timeout: ClassVar[float] = 1800.0

    start_timeout: float = 120.0

    def wait_until_free(self, log: Callable[[str], None] = _LOGGER.warning) -> None:
        """Wait until the server accepts a connection.

        Args:
            log: Called with a message that says what it waits for.

        Raises:
            DatabaseError: The server does not accept a connection within `start_timeout` seconds. Raised at once if
                waiting cannot help.
        """
        deadline, delay, waits = time.monotonic() + self.start_timeout, 0.2, False
        while True:
            try:
                with connect():
                    return
            except ProfileError:
                return  # dbt reports what is wrong with the profile
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
        """Return all rows of one statement, which is its own transaction.

        Raises:
            DatabaseError: The server cannot be reached, or the statement failed.
        """
        import psycopg2

        with connect() as connection, connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                raise DatabaseError(f"PostgreSQL: {' '.join(str(error).split())}") from None

    @contextmanager
    def read_table(self, relation: Relation, name: str) -> Iterator[TableReader]:  # noqa: ARG002
        """Read a whole table in one snapshot with bounded memory, while the block runs."""
        with connect() as connection, read_table(connection, name) as reader:
            yield reader

    def table_versions(self, relations: Collection[Relation], fetch_all: FetchAll | None) -> Mapping[Relation, str]:  # noqa: ARG002
        """Return hashes of the contents of tables, from a connection of its own."""
        with self.comparison() as session:
            return table_versions(session, relations)

    @contextmanager
    def comparison(self) -> Iterator[Comparison]:
        """Open a session for comparisons of tables, in one snapshot."""
        with connect() as connection, comparison(connection) as session:
            yield session

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:
        """Open a session for schemas, in one transaction."""
        role = Settings.load().profile.fields.get("role")
        with connect() as connection, schema_session(connection, role=role, write=write) as session:
            yield session

    def classify_error(self, message: str) -> Failure:
        """Return the classification of dbt's message about a failed node."""
        return classify(message)

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: PostgreSQL has no queue."""
        return nullcontext()

    def query_url(self, query_id: str) -> str | None:  # noqa: ARG002
        """Return None: PostgreSQL has no pages of queries."""
        return None

    def kill_queries(self, run_id: str) -> None:
        """Terminate the sessions that a run's dead dbt process has left; their transactions are rolled back.

        The server itself would notice only when it next sends them a response. Failures are logged.
        """
        try:
            with connect() as connection, connection.cursor() as cursor:
                cursor.execute(
                    "select pid, pg_terminate_backend(pid) from pg_stat_activity "
                    "where pid <> pg_backend_pid() and datname = current_database() and position(%s in query) > 0",
                    (run_id,),
                )
                for pid, _ in cursor.fetchall():
                    _LOGGER.warning("Terminated PostgreSQL session %s of run %s: its dbt process is dead", pid, run_id)
        except Exception as error:
            _LOGGER.warning("PostgreSQL sessions of run %s may still be running: %s", run_id, error)


@contextmanager
def connect() -> Iterator[psycopg2.extensions.connection]:
    """Connect to the server of dbt's profile, and close the connection after the block.

    Raises:
        DatabaseError: The connection cannot be opened. The message names the server, never the password.
    """
    import psycopg2

    profile = Settings.load().profile
    parameters = parameters_of(profile.fields)
    try:
        connection = psycopg2.connect(connect_timeout=_CONNECT_TIMEOUT, application_name="lakehouse", **parameters)
    except psycopg2.Error as error:
        reason = " ".join(str(error).split())
        raise DatabaseError(f"PostgreSQL cannot be reached with {profile.where}: {reason.rstrip('.')}.") from None
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def parameters_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters, from the rendered fields of a profile."""
    found = {
        name: next((fields[field] for field in same if fields.get(field)), None) for name, same in _PARAMETERS.items()
    }
    return {name: value for name, value in found.items() if value is not None}
