"""Exports to PostgreSQL, 14 or newer.

Rows are loaded into a staged table by COPY and verified there. If the copy exists with the same columns and key, one
transaction deletes its rows and inserts the staged ones: readers see the old rows until it commits, in any isolation
level, and grants, views, policies and publications stay. Otherwise, one transaction drops the old table and renames the
staged one, which gets the grants of the old table. PostgreSQL refuses that while views depend on the old table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from lakehouse_analytics.common.postgres_errors import is_transient
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.exports.base import MARKER, Checksum, ExportError, Target
from lakehouse_analytics.exports.checksum import DIGITS, NAN_BITS, NULL, parts
from lakehouse_analytics.exports.columns import Column, Kind, key_of
from lakehouse_analytics.exports.postgres_copy import CopyStream

if TYPE_CHECKING:
    import psycopg2
    import pyarrow as pa

    from lakehouse_analytics.arrivals.connections import Connection

CONNECT_TIMEOUT = 10
#: A table that is replaced waits this long for its readers, because new readers wait behind it.
LOCK_TIMEOUT, LOCK_ATTEMPTS = "3s", 10
_SESSION = "set datestyle = 'ISO, YMD'; set timezone = 'UTC'; set standard_conforming_strings = on"


class Postgres:
    """A table in PostgreSQL. See `base.Destination`."""

    def __init__(self, connection: Connection, target: Target) -> None:
        """
        Args:
            connection: The address, of the scheme postgresql.
            target: The table.
        """
        self._connection, self._target = connection, target
        self._schema = target.schema or "public"
        self._in_place = False

    def __enter__(self) -> Self:
        """Connect."""
        self._session = connect(self._connection)
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect. A transaction that has not ended is rolled back."""
        self._session.close()

    def prepare(self, columns: Sequence[Column]) -> list[str]:
        """Check that the table may be replaced, and drop staged tables. See `base.Destination`."""
        if not self._rows(f"select 1 from pg_namespace where nspname = {literal(self._schema)}"):  # noqa: S608
            self._run(f"create schema if not exists {identifier(self._schema)}")
        tables = {
            name: (kind, comment)
            for name, kind, comment in self._rows(
                "select relname, relkind, obj_description(c.oid, 'pg_class') from pg_class as c "  # noqa: S608
                f"join pg_namespace as n on n.oid = relnamespace where nspname = {literal(self._schema)} "
                "and relkind in ('r', 'p', 'v', 'm', 'f', 'S')"
            )
        }
        if self._target.table in tables:
            kind, comment = tables[self._target.table]
            self._refuse_foreign(kind, comment or "")
            self._in_place = self._has_shape(columns)
        left = [n for n, (_, text) in tables.items() if self._target.is_staged(n) and text == self._target.comment]
        for name in left:
            self._run(f"drop table if exists {self._quoted(name)}")
        return left

    def _refuse_foreign(self, kind: str, comment: str) -> None:
        if kind == "r" and comment == self._target.comment:
            return
        what = f", but one of {comment.removeprefix(MARKER)}" if comment.startswith(MARKER) else ""
        raise ExportError(
            f"{self._schema}.{self._target.table} in {self._connection.redacted} exists and is not an export of "
            f"{self._target.origin}{what}. Rename or drop it, or choose another name (meta.lakehouse.serve.table)."
        )

    def _has_shape(self, columns: Sequence[Column]) -> bool:
        """Return whether the copy has the same columns, and an index on the key."""
        oid = f"{literal(self._quoted(self._target.table))}::regclass"
        found = self._rows(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute "  # noqa: S608
            f"where attrelid = {oid} and attnum > 0 and not attisdropped order by attnum"
        )
        indexes = self._rows(
            "select array(select attname::text from unnest(indkey) with ordinality as k(number, place) "  # noqa: S608
            "join pg_attribute on attrelid = indrelid and attnum = number order by place) "
            f"from pg_index where indrelid = {oid} and indisvalid"
        )
        key = key_of(columns, self._target.key)
        same = [tuple(row) for row in found] == [(column.name, _type(column)) for column in columns]
        return same and (not key or any([*names] == key for (names,) in indexes))

    def stage(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        """Create and load the staged table. See `base.Destination`."""
        described = ", ".join(f"{identifier(column.name)} {_type(column)}" for column in columns)
        staged = self._quoted(self._target.staged)
        # Its rows are copied if the table stays, so they need not survive a crash of the server.
        unlogged = "unlogged " if self._in_place else ""
        with self._transaction() as cursor:
            cursor.execute(f"create {unlogged}table {staged} ({described})")
            cursor.execute(f"comment on table {staged} is {literal(self._target.comment)}")
        names = ", ".join(identifier(column.name) for column in columns)
        with CopyStream(columns, batches) as stream:
            try:
                with self._transaction() as cursor:
                    cursor.copy_expert(f"copy {staged} ({names}) from stdin", stream, size=1 << 20)
            except ExportError:
                if stream.error:
                    raise stream.error from None
                raise
        key = key_of(columns, self._target.key)
        if key and not self._in_place:
            self._run(f"create index on {staged} ({', '.join(map(identifier, key))})")

    def checksum(self, columns: Sequence[Column]) -> Checksum:
        """Return the checksum of the staged table."""
        texts = parts(
            columns,
            lambda _, column: f"coalesce({_text(column)} || ';', '{NULL}')",
            lambda _, column: (
                f"coalesce(octet_length({_as_text(column)})::text || ':' || {_as_text(column)}, '{NULL}')"
            ),
        )
        row = f"('x0' || substr(md5({' || '.join(texts)}), 1, {DIGITS}))::bit(64)::bigint"
        [(rows, total)] = self._rows(
            f"select count(*), coalesce(sum({row}), 0) from {self._quoted(self._target.staged)}"  # noqa: S608
        )
        return Checksum(int(rows), int(total))

    def publish(self, columns: Sequence[Column], expected: Checksum) -> None:
        """Replace the rows, or the whole table. See `base.Destination`."""
        if self._in_place:
            self._replace_rows(columns, expected)
        else:
            self._replace_table()

    def _replace_rows(self, columns: Sequence[Column], expected: Checksum) -> None:
        table, staged = self._quoted(self._target.table), self._quoted(self._target.staged)
        names = ", ".join(identifier(column.name) for column in columns)
        with self._transaction() as cursor:
            # Readers are not blocked; other writers are.
            cursor.execute(f"lock table {table} in share row exclusive mode")
            cursor.execute(f"delete from {table}")  # noqa: S608
            cursor.execute(f"insert into {table} ({names}) select {names} from {staged}")  # noqa: S608
            if cursor.rowcount != expected.rows:
                raise ExportError(
                    f"{cursor.rowcount} of {expected.rows} rows were inserted into {table}: a trigger or a rule of it "
                    "drops rows. Nothing was published."
                )
            cursor.execute(f"drop table {staged}")
        # Space of the old rows can be used again, and the planner knows the new ones.
        with suppress(ExportError):
            self._run(f"vacuum (analyze) {table}")

    def _replace_table(self) -> None:
        table, staged = self._quoted(self._target.table), self._quoted(self._target.staged)
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                with self._transaction() as cursor:
                    cursor.execute(f"set local lock_timeout = {literal(LOCK_TIMEOUT)}")
                    for grant in self._grants(cursor):
                        cursor.execute(grant)
                    cursor.execute(f"drop table if exists {table}")
                    cursor.execute(f"alter table {staged} rename to {identifier(self._target.table)}")
                break
            except ExportError as error:
                if "55P03" not in str(error) or attempt == LOCK_ATTEMPTS:
                    raise
                time.sleep(1)
        with suppress(ExportError):
            self._run(f"vacuum (analyze) {table}")

    def _grants(self, cursor: Any) -> list[str]:
        """Return the statements that grant the rights on the old table, if there is one, on the staged one."""
        cursor.execute(
            "select privilege_type, case when grantee = 0 then 'public' "
            "else quote_ident(pg_get_userbyid(grantee)) end, is_grantable "
            "from pg_class join pg_namespace as n on n.oid = relnamespace, aclexplode(relacl) "
            "where nspname = %s and relname = %s and grantee <> relowner",
            (self._schema, self._target.table),
        )
        staged = self._quoted(self._target.staged)
        return [
            f"grant {privilege} on {staged} to {grantee}{' with grant option' if grantable else ''}"
            for privilege, grantee, grantable in cursor.fetchall()
        ]

    def discard(self) -> None:
        """Drop the staged table if it exists."""
        self._run(f"drop table if exists {self._quoted(self._target.staged)}")

    def _quoted(self, table: str) -> str:
        return f"{identifier(self._schema)}.{identifier(table)}"

    def _run(self, sql: str) -> None:
        with self._errors(), self._session.cursor() as cursor:
            cursor.execute(sql)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._errors(), self._session.cursor() as cursor:
            cursor.execute(sql)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._errors(), self._session.cursor() as cursor:
            cursor.execute("begin")
            try:
                yield cursor
                cursor.execute("commit")
            except BaseException:
                with suppress(Exception):
                    cursor.execute("rollback")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import psycopg2

        try:
            yield
        except psycopg2.Error as error:
            raise export_error(self._connection, error) from None


def connect(connection: Connection) -> psycopg2.extensions.connection:
    """Return a session in which each statement commits. The caller closes it.

    Raises:
        ExportError: PostgreSQL cannot be reached, or refuses the credentials.
    """
    import psycopg2

    parameters: dict[str, Any] = {
        "host": connection.host or None,
        "port": connection.port,
        "user": connection.user,
        "password": connection.password,
        "dbname": connection.database,
        **connection.options,
    }
    found = {name: value for name, value in parameters.items() if value is not None}
    try:
        session = psycopg2.connect(**{"connect_timeout": CONNECT_TIMEOUT, "application_name": "lakehouse", **found})
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(_SESSION)
    except psycopg2.Error as error:
        raise export_error(connection, error) from None
    return session


def export_error(connection: Connection, error: psycopg2.Error) -> ExportError:
    """Return the error for one of the driver's, without secrets."""
    text = connection.redact(" ".join(str(error).split()))
    state = error.pgcode or ""
    return ExportError(
        f"{connection.redacted}: {text[:1000]}" + (f" ({state})" if state else ""),
        transient=is_transient(text, state),
    )


_INTEGERS = {8: "smallint", 16: "smallint", 32: "integer", 64: "bigint"}
_TYPES = {
    Kind.BOOLEAN: "boolean",
    Kind.DOUBLE: "double precision",
    Kind.DATE: "date",
    Kind.TIMESTAMP: "timestamp without time zone",
    Kind.INSTANT: "timestamp with time zone",
    Kind.TEXT: "text",
    Kind.JSON: "json",
    Kind.BINARY: "bytea",
}


def _type(column: Column) -> str:
    """Return the type as PostgreSQL's `format_type` writes it."""
    if column.kind is Kind.INTEGER:
        # PostgreSQL has no unsigned integers: the next larger type holds them.
        return _INTEGERS.get(column.bits if column.signed else column.bits * 2, "numeric(20,0)")
    if column.kind is Kind.DECIMAL:
        return f"numeric({column.precision},{column.scale})"
    return _TYPES[column.kind]


def _text(column: Column) -> str:
    name = identifier(column.name)
    match column.kind:
        case Kind.BOOLEAN:
            return f"case {name} when true then 't' when false then 'f' end"
        case Kind.DOUBLE:
            bits = f"('x' || encode(float8send({name}), 'hex'))::bit(64)::bigint"
            return f"(case when {name} = 'NaN' then {NAN_BITS} else {bits} end)::text"
        case Kind.DATE:
            return f"({name} - date '1970-01-01')::text"
        case Kind.TIMESTAMP | Kind.INSTANT:
            return f"(extract(epoch from {name}) * 1000000)::bigint::text"
        case Kind.BINARY:
            return f"encode({name}, 'hex')"
    return f"{name}::text"


def _as_text(column: Column) -> str:
    return f"{identifier(column.name)}::text"
