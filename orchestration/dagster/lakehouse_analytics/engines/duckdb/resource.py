"""The resource for DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import dagster as dg

from lakehouse_analytics.dbt.profile import ProfileError
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import PERMANENT, DatabaseError, FetchAll, Reason, TableReader
from lakehouse_analytics.engines.comparison import Comparison
from lakehouse_analytics.engines.duckdb.comparison import comparison
from lakehouse_analytics.engines.duckdb.database import connect
from lakehouse_analytics.engines.duckdb.reading import read_table
from lakehouse_analytics.engines.duckdb.schemas import schema_session
from lakehouse_analytics.engines.duckdb.versions import table_versions
from lakehouse_analytics.engines.schema_session import SchemaSession
from lakehouse_analytics.settings import Settings

if TYPE_CHECKING:
    import duckdb


def of(settings: Settings) -> DuckDBResource:
    """Return the resource that the settings describe."""
    try:
        is_file = settings.profile.database_file is not None
    except ProfileError:
        is_file = True
    return DuckDBResource(
        path=str(settings.duckdb_path) if is_file else None, lock_timeout=settings.duckdb_lock_timeout
    )


class DuckDBResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The database that dbt builds in with dbt-duckdb.

    Attributes:
        path: The DuckDB file; None if the database is in memory or on a server, such as MotherDuck's.
        lock_timeout: Seconds to wait for another process that has locked the file.
    """

    #: DuckDB has no queue.
    queue_timeout: ClassVar[float] = 0.0

    path: str | None
    lock_timeout: float = 60.0

    def wait_until_free(self, log: Callable[[str], None]) -> None:
        """Wait until a writer can open the file, so that dbt does not fail because of a lock.

        Args:
            log: Called with a message that names the holder of the lock.

        Raises:
            DatabaseError: The file is still locked after `lock_timeout`, or is not writable.
        """
        if self.path is None:
            return
        with connect(Path(self.path), read_only=False, timeout=self.lock_timeout, log=log):
            pass

    @contextmanager
    def get_connection(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the database for the user's own assets. The method has the same name in dagster-duckdb.

        Close the connection soon, because other processes cannot open the file in the meantime.

        Args:
            read_only: Whether other readers can open the file as well.

        Raises:
            DatabaseError: The file is still locked after `lock_timeout`, or the database is not a file.
        """
        if self.path is None:
            raise DatabaseError("The target's database is not a file: connect with `duckdb.connect` and its address.")
        with connect(Path(self.path), read_only=read_only, timeout=self.lock_timeout) as connection:
            yield connection

    def classify_error(self, message: str) -> Reason:  # noqa: ARG002
        """Return `PERMANENT`: an embedded database has no transient failures."""
        return PERMANENT

    def queue_reported(self, run_id: str, log: Callable[[str], None]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: DuckDB has no queue."""
        return nullcontext()

    def query_url(self, query_id: str) -> str | None:  # noqa: ARG002
        """Return None: DuckDB has no pages of queries."""
        return None

    def read_table(self, relation: Relation, name: str) -> AbstractContextManager[TableReader]:  # noqa: ARG002
        """Read a whole table with bounded memory, while the block runs. No other process can write in the meantime."""
        if self.path is None:
            raise DatabaseError("Tables can be exported from a DuckDB file only, and the target's database is not one.")
        return read_table(Path(self.path), name, timeout=self.lock_timeout)

    @contextmanager
    def comparison(self) -> Iterator[Comparison]:
        """Open a session for comparisons of tables. No other process can write in the meantime."""
        if self.path is None:
            raise DatabaseError("Tables of a DuckDB file can be compared, and the target's database is not one.")
        profile = Settings.load().profile
        attached = {name: str(item["path"]) for name, item in profile.attached.items()}
        with comparison(Path(self.path), timeout=self.lock_timeout, attached=attached) as session:
            yield session

    @contextmanager
    def schema_session(self, *, write: bool) -> Iterator[SchemaSession]:
        """Open a session for schemas, in one transaction. No other process can use the file in the meantime."""
        if self.path is None:
            raise DatabaseError("Branches need a DuckDB file, and the target's database is not one.")
        with schema_session(Path(self.path), timeout=self.lock_timeout, write=write) as session:
            yield session

    def table_versions(self, relations: Collection[Relation], fetch_all: FetchAll | None) -> Mapping[Relation, str]:
        """Return hashes of the contents of tables. While dbt runs, only its connection can read the file."""
        if fetch_all is not None:
            return table_versions(fetch_all, relations)
        if self.path is None or not Path(self.path).is_file():
            return {}
        with self.comparison() as session:
            return table_versions(session.fetch_all, relations)

    def kill_queries(self, run_id: str) -> None:
        """Do nothing: the queries of a process end with it."""
