"""A table of PostgreSQL, read by ADBC: `COPY` in binary format, as Arrow batches."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from lakehouse_analytics.arrivals.connections import Connection
from lakehouse_analytics.arrivals.databases.base import Nullified, SourceColumn
from lakehouse_analytics.arrivals.databases.pool import Sessions, pooled
from lakehouse_analytics.arrivals.databases.postgres_types import PostgresType, column
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.common.postgres_errors import is_transient
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.common.text import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_manager.dbapi import Connection as Driver

#: Tables, partitioned tables, views, materialized views, foreign tables.
_READABLE = "rpvmf"
_LOCKABLE = "rp"
_BATCH_BYTES = 8 << 20
#: `tcp_user_timeout` (milliseconds) ends the check of a connection whose server has become unreachable.
_DEFAULTS = {"connect_timeout": "30", "tcp_user_timeout": "60000", "application_name": "lakehouse-analytics"}
_SESSION = (
    "SET timezone = 'UTC'",
    "SET datestyle = 'ISO, YMD'",
    "SET intervalstyle = 'postgres'",
    "SET bytea_output = 'hex'",
    "SET xmloption = 'content'",
    "SET lock_timeout = '60s'",
    "SET idle_in_transaction_session_timeout = '1h'",
)
_COLUMNS = """
with recursive types as (
  select attnum, attname, atttypid as type, atttypmod as modifier, format_type(atttypid, atttypmod) as declared
  from pg_attribute where attrelid = {oid} and attnum > 0 and not attisdropped
  union all
  select attnum, attname, typbasetype, case when modifier = -1 then typtypmod else modifier end, declared
  from types join pg_type on pg_type.oid = type where typtype = 'd'
)
select attname::text, declared, typname::text, typnamespace = 'pg_catalog'::regnamespace, typtype::text,
  typcategory = 'A', modifier
from types join pg_type on pg_type.oid = type where typtype <> 'd' order by attnum"""
# A unique index on the parent of an inheritance does not concern its children. `indkey` also has included columns.
_UNIQUE = """
select json_agg(attname)::text, bool_and(attnotnull)
from pg_index, unnest(indkey::int2[]) with ordinality as part (number, place), pg_attribute, pg_class
where indrelid = {oid} and indisunique and indisvalid and indpred is null and indexprs is null
  and place <= indnkeyatts and pg_attribute.attrelid = indrelid and attnum = number
  and pg_class.oid = indrelid and (relkind = 'p' or not relhassubclass)
group by indexrelid"""


@dataclass(frozen=True)
class PostgresTable:
    """See `SourceTable`."""

    connection: Connection
    driver: Driver
    schema: str
    table: str
    columns: Mapping[str, SourceColumn]
    clock: datetime
    unique: Sequence[frozenset[str]]
    warnings: Sequence[str] = ()

    @property
    def name(self) -> str:
        """See `SourceTable`."""
        return f"{self.schema}.{self.table}"

    def is_unique(self, columns: Collection[str]) -> bool:
        """See `SourceTable`."""
        return any(index <= frozenset(columns) for index in self.unique)

    def batches(self, columns: Sequence[SourceColumn], where: str, nullified: Nullified) -> Iterator[pa.RecordBatch]:
        """See `SourceTable`."""
        import pyarrow as pa

        expressions = ", ".join(each.expression for each in columns)
        with _errors(self.connection), self.driver.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            cursor.execute(f"select {expressions} from {self._from} where {where}")  # noqa: S608
            for batch in cursor.fetch_record_batch():
                arrays = [nullified.convert(*pair) for pair in zip(columns, batch.columns, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, names=[each.name for each in columns])

    def exists(self, where: str) -> bool:
        """See `SourceTable`."""
        return bool(self._value(f"select exists (select from {self._from} where {where})"))  # noqa: S608

    def highest(self, column: SourceColumn) -> str | None:
        """See `SourceTable`."""
        name = identifier(column.name)
        where = ""
        if column.order == "time":
            where = f" where {name} <= {literal(self.clock.isoformat())}::timestamptz"
            if column.kind != "TIMESTAMP WITH TIME ZONE":
                where = f" where {name} <= {literal(self.clock.replace(tzinfo=None).isoformat())}::timestamp"
        elif column.declared.startswith("numeric"):
            where = f" where {name} < 'NaN' and {name}::text <> 'Infinity'"
        found = self._value(f"select max({name})::text from {self._from}{where}")  # noqa: S608
        return None if found in (None, "-infinity") else str(found)

    def at_least(self, column: SourceColumn, value: str) -> str:
        """See `SourceTable`."""
        return f"{identifier(column.name)} >= {literal(value)}"

    def unordered(self, column: SourceColumn) -> str:
        """See `SourceTable`."""
        name = identifier(column.name)
        return f"{name} is null" + (f" or {name} = '-infinity'" if column.order == "time" else "")

    @property
    def _from(self) -> str:
        return f"{identifier(self.schema)}.{identifier(self.table)}"

    def _value(self, sql: str) -> Any:
        with _errors(self.connection):
            return _rows(self.driver, sql)[0][0]


@contextmanager
def open_table(connection: Connection, table: str, timeout: timedelta) -> Iterator[PostgresTable]:
    """Open a table in a read-only transaction whose statements all see one snapshot.

    The table is locked against changes of its columns before the snapshot is taken: `alter table` may rewrite a table,
    and it is empty for snapshots that are older.

    Args:
        connection: The database.
        table: Name, with or without the schema. Case matters.
        timeout: Maximum duration of one statement.

    Raises:
        ArrivalError: The database is not reachable, or has no such table.
    """
    with pooled(connection, _SESSIONS, timeout) as driver:
        with _errors(connection):
            for setting in (*_SESSION, f"SET statement_timeout = {round(timeout.total_seconds() * 1000)}"):
                _run(driver, setting)
            oid, schema, name, relkind = _find(connection, driver, table)
            quoted = f"{identifier(schema)}.{identifier(name)}"
            _run(driver, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if relkind in _LOCKABLE:
                _run(driver, f"LOCK TABLE {quoted} IN ACCESS SHARE MODE")
            # This statement takes the snapshot. `now()` is the time before the lock, for which it may have waited.
            [(clock,)] = _rows(driver, "select clock_timestamp()::text")
            columns = {
                row[0]: column(row[0], PostgresType(*row[1:])) for row in _rows(driver, _COLUMNS.format(oid=oid))
            }
            unique = [frozenset(json.loads(names)) for names, ok in _rows(driver, _UNIQUE.format(oid=oid)) if ok]
        if not columns:
            raise ArrivalError(f"table {schema}.{name} of {connection.redacted} has no columns")
        at = datetime.fromisoformat(clock).astimezone(UTC)
        yield PostgresTable(connection, driver, schema, name, columns, at, unique)


def _find(connection: Connection, driver: Driver, table: str) -> tuple[int, str, str, str]:
    quoted = table if '"' in table else ".".join(map(identifier, table.split(".")))
    sql = "select c.oid::bigint, nspname::text, relname::text, relkind::text from pg_class c join pg_namespace n"
    sql += " on n.oid = relnamespace"
    found = _rows(driver, f"{sql} where c.oid = to_regclass({literal(quoted)})")
    if found and found[0][3] in _READABLE:
        oid, schema, name, relkind = found[0]
        return oid, schema, name, relkind
    others = "where relkind in ('r', 'p', 'v', 'm', 'f') and nspname not in ('pg_catalog', 'information_schema')"
    names = [(schema, name) for _, schema, name, _ in _rows(driver, f"{sql} {others} and nspname !~ '^pg_t'")]
    known = [f"{schema}.{name}" for schema, name in names] if "." in table else [name for _, name in names]
    raise ArrivalError(f"{connection.redacted} has no table {table}, or it is not visible{did_you_mean(table, known)}")


def _connect(connection: Connection) -> Driver:
    import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]

    defaults = {name: value for name, value in _DEFAULTS.items() if name not in connection.options}
    separator = "&" if connection.options else "?"
    url = connection.url + (separator + urlencode(defaults) if defaults else "")
    with _errors(connection):
        # Transactions are begun by statements, because the driver does not begin one that is read-only.
        driver: Driver = adbc_driver_postgresql.dbapi.connect(url, autocommit=True)
    return driver


def _reset(driver: Driver) -> None:
    _run(driver, "ROLLBACK")
    _run(driver, "DISCARD ALL")


_SESSIONS: Sessions[Driver] = Sessions(
    open=_connect,
    check=lambda driver: _rows(driver, "select 1"),
    reset=_reset,
    close=lambda driver: driver.close(),
)


@contextmanager
def _errors(connection: Connection) -> Iterator[None]:
    import pyarrow as pa
    from adbc_driver_manager import Error, OperationalError

    try:
        yield
    except (Error, pa.ArrowException, OSError) as error:  # the last two while rows are read
        message = str(error).partition("\n\nQuery was:")[0].replace("[libpq] ", "").strip()
        # Errors of the network are OSError while rows are read.
        passes = isinstance(error, OperationalError | OSError) and is_transient(message, getattr(error, "sqlstate", ""))
        raise ArrivalError(f"{connection.redacted}: {connection.redact(message)}", transient=passes) from None


def _run(driver: Driver, statement: str) -> None:
    with driver.cursor() as cursor:
        cursor.execute(statement)


def _rows(driver: Driver, sql: str) -> list[Any]:
    with driver.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
