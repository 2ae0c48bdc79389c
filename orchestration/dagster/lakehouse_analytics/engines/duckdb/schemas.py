"""Creates and drops schemas of a DuckDB file, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.duckdb.database import connect
from lakehouse_analytics.engines.schema_session import InformationSchema

if TYPE_CHECKING:
    import duckdb


class DuckDBSchemas(InformationSchema):
    """A session on a DuckDB file. See `SchemaSession`.

    Args:
        connection: The open connection.
    """

    longest_name: int | None = None

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.database = str(self.fetch_all("select current_database()")[0][0])

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement, and return all its rows."""
        import duckdb

        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise DatabaseError(f"DuckDB: {next(iter(str(error).strip().splitlines()), '')}") from None

    def schemas(self) -> set[str]:
        """Return the names of all schemas of the file."""
        rows = self.fetch_all("select schema_name from duckdb_schemas() where database_name = current_database()")
        return {str(name) for (name,) in rows}


@contextmanager
def schema_session(path: Path, *, timeout: float, write: bool) -> Iterator[DuckDBSchemas]:
    """Open a DuckDB file while the block runs, which is one transaction.

    Args:
        path: The file.
        timeout: Seconds to wait while another process has locked the file.
        write: Whether the block changes something.

    Raises:
        DatabaseError: The file cannot be opened.
    """
    with connect(path, read_only=not write, timeout=timeout) as connection:
        connection.execute("begin")
        yield DuckDBSchemas(connection)
        connection.execute("commit")  # closing the connection after an error rolls back
