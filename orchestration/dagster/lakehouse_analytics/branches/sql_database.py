"""The database of a SQL catalog, and access to the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.branches.catalog import BranchBusyError, BranchError
from lakehouse_analytics.branches.sql_session import CatalogSession
from lakehouse_analytics.branches.sql_tables import OURS
from lakehouse_analytics.iceberg.catalog import open_catalog, reason

if TYPE_CHECKING:
    from pyiceberg.io import FileIO


class CatalogDatabase:
    """A catalog of pyiceberg's type `sql`, as far as branches and publications use it."""

    def __init__(self, catalog: str) -> None:
        """
        Args:
            catalog: The name of the catalog in pyiceberg's configuration, which is also the name in its rows.

        Raises:
            BranchError: The catalog cannot have branches.
            CatalogError: The catalog cannot be opened.
        """
        opened: Any = open_catalog(catalog)
        if type(opened).__name__ != "SqlCatalog":
            raise BranchError(
                f"LAKEHOUSE_ICEBERG_CATALOG is {catalog}, a catalog of type {type(opened).__name__}: branches need a "
                "SQL catalog in PostgreSQL, which Trino calls a JDBC catalog."
            )
        self._name, self._engine, self._properties = catalog, opened.engine, opened.properties

    def io(self, location: str) -> FileIO:
        """Return the access to the file system of a location."""
        from pyiceberg.io import load_file_io

        return load_file_io(self._properties, location)

    @contextmanager
    def in_use(self, branch: str, *, shared: bool = False) -> Iterator[None]:
        """Mark a branch as being used for as long as the block runs, or this process lives.

        Several blocks may share a branch. Dropping and publishing it, and the branch of a run, are exclusive.

        Raises:
            BranchBusyError: Another process is using the branch.
        """
        from sqlalchemy.exc import SQLAlchemyError

        lock = f"select pg_try_advisory_lock{'_shared' * shared}(hashtext('lakehouse.branch'), hashtext(%s))"
        try:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except SQLAlchemyError as error:
            raise BranchError(f"The branch {branch} cannot be locked: {reason(self._name, error)}.") from None
        try:
            if not connection.exec_driver_sql(lock, (f"{self._name}.{branch}",)).scalar():
                raise BranchBusyError(f"The branch {branch} is in use by a run or another command. Try again later.")
            yield
        finally:
            # If the process dies, the session ends and with it the lock, but some milliseconds later.
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql("select pg_advisory_unlock_all()")
            connection.invalidate()
            connection.close()

    @contextmanager
    def transaction(self, what: str) -> Iterator[CatalogSession]:
        """Run statements in one transaction.

        Raises:
            BranchError: The database refused a statement. The message begins with `what`.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql(OURS)
                yield CatalogSession(connection, self._name)
        except SQLAlchemyError as error:
            raise BranchError(f"{what}: {reason(self._name, error)}.") from None
