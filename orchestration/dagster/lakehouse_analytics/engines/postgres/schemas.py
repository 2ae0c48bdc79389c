"""Creates and drops schemas of a PostgreSQL database, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.base import DatabaseError

if TYPE_CHECKING:
    import psycopg2

#: Waits for the other sessions that create or drop branches.
_ONE_WRITER = "select pg_advisory_xact_lock(hashtext('lakehouse.schema_branches'))"
#: Views, materialized ones included, that read a relation of some schemas and are not in these schemas.
_READERS = """
select distinct rn.nspname || '.' || reader.relname
from pg_depend as d
join pg_rewrite as rule on d.classid = 'pg_rewrite'::regclass and d.objid = rule.oid
join pg_class as reader on reader.oid = rule.ev_class
join pg_namespace as rn on rn.oid = reader.relnamespace
join pg_class as source on d.refclassid = 'pg_class'::regclass and d.refobjid = source.oid
join pg_namespace as sn on sn.oid = source.relnamespace
where sn.nspname in ({schemas}) and rn.nspname not in ({schemas})
order by 1
"""


class PostgresSchemas:
    """A session on a PostgreSQL database. See `SchemaSession`.

    Args:
        connection: A connection in a transaction.
    """

    longest_name: int | None = 63

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection
        self.database = str(self.fetch_all("select current_database()")[0][0])

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement, and return all its rows."""
        import psycopg2

        with self._connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
            except psycopg2.Error as error:
                raise DatabaseError(f"PostgreSQL: {' '.join(str(error).split())}") from None

    def schemas(self) -> set[str]:
        """Return the names of all schemas, also of those that the user may not read."""
        return {str(name) for (name,) in self.fetch_all("select nspname from pg_namespace")}

    def relations(self, schemas: Collection[str]) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view in some schemas, materialized views included."""
        if not schemas:
            return set()
        rows = self.fetch_all(
            "select nspname, relname from pg_class join pg_namespace as n on n.oid = relnamespace "  # noqa: S608
            f"where relkind in ('r', 'p', 'v', 'm', 'f') and nspname in ({_listed(schemas)})"
        )
        return {(str(schema), str(name)) for schema, name in rows}

    def create_schema(self, schema: str, *, if_missing: bool = False) -> None:
        """Create a schema."""
        words = "if not exists " if if_missing else ""
        self.fetch_all(f"create schema {words}{identifier(schema)}")

    def drop_schemas(self, schemas: Collection[str]) -> None:
        """Drop schemas with all their tables and views.

        Raises:
            DatabaseError: A view outside of these schemas reads one of their tables, or a statement failed.
        """
        if not schemas:
            return
        if readers := [str(name) for (name,) in self.fetch_all(_READERS.format(schemas=_listed(schemas)))]:
            raise DatabaseError(
                f"PostgreSQL would drop views outside of the schemas {', '.join(sorted(schemas))}, which read their "
                f"tables: {some(readers, FEW)}. Drop these views first."
            )
        names = ", ".join(map(identifier, sorted(schemas)))
        self.fetch_all(f"drop schema if exists {names} cascade")


def _listed(schemas: Collection[str]) -> str:
    return ", ".join(map(literal, sorted(schemas)))


@contextmanager
def schema_session(
    connection: psycopg2.extensions.connection, *, role: str | None, write: bool
) -> Iterator[PostgresSchemas]:
    """Use a connection while the block runs, which is one transaction.

    Args:
        connection: An open connection, which is not used otherwise.
        role: The role that dbt sets, which must own the schemas; None for the user.
        write: Whether the block changes something.

    Raises:
        DatabaseError: A statement failed.
    """
    connection.autocommit = False
    connection.set_session(readonly=not write)
    session = PostgresSchemas(connection)
    if role:
        session.fetch_all(f"set role {identifier(role)}")
    if write:
        session.fetch_all(_ONE_WRITER)
    yield session
    connection.commit()  # closing the connection after an error rolls back
