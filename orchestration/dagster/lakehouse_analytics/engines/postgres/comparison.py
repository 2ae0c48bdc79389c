"""Compares tables of PostgreSQL, in one read-only transaction that sees one state of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.comparison import Comparison, Family, family

if TYPE_CHECKING:
    import psycopg2


class PostgresComparison(Comparison):
    """A session on a PostgreSQL database.

    Args:
        connection: An open connection, which is not used otherwise.
    """

    title = "PostgreSQL"
    ignores_case = False

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        connection.autocommit = False
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        self.fetch_all("set local timezone = 'UTC'")

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return all rows of one statement."""
        import psycopg2

        with self._connection.cursor() as cursor:
            try:
                cursor.execute("savepoint comparison")
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                if not self._connection.closed:
                    cursor.execute("rollback to savepoint comparison")
                raise DatabaseError(f"PostgreSQL: {' '.join(str(error).split())}") from None

    def columns(self, source: str) -> dict[str, str]:
        """Return the types of the columns by name."""
        rows = self.fetch_all(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute "  # noqa: S608
            f"where attrelid = {literal(source)}::regclass and attnum > 0 and not attisdropped order by attnum"
        )
        return {str(name): str(data_type) for name, data_type in rows}

    def tables(self, catalog: str) -> set[tuple[str, str]]:  # noqa: ARG002  # a connection has one database
        """Return the schema and the name of each table and view."""
        rows = self.fetch_all(
            "select nspname, relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
            "where relkind in ('r', 'p', 'v', 'm', 'f')"
        )
        return {(str(schema), str(name)) for schema, name in rows}

    def text(self, expression: str, data_type: str) -> str:
        """Return a value's text. JSON is normalized."""
        if data_type == "json":
            return f"cast(cast({expression} as jsonb) as text)"
        return f"encode({expression}, 'hex')" if family(data_type) is Family.BINARY else f"cast({expression} as text)"

    def row_hash(self, text: str) -> str:
        """Return the first 60 bits of a text's MD5."""
        return f"cast(cast('x' || substr(md5({text}), 1, 15) as bit(60)) as bigint)"


@contextmanager
def comparison(connection: psycopg2.extensions.connection) -> Iterator[PostgresComparison]:
    """Compare tables while the block runs.

    Args:
        connection: An open connection, which is not used otherwise.
    """
    try:
        yield PostgresComparison(connection)
    finally:
        connection.rollback()
