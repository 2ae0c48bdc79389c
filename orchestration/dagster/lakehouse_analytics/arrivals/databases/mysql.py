"""A table of MySQL or MariaDB, read by PyMySQL as it arrives, in batches that become Arrow arrays."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.connections import Connection
from lakehouse_analytics.arrivals.databases.base import Nullified, SourceColumn
from lakehouse_analytics.arrivals.databases.mysql_types import MySQLType, column, quoted
from lakehouse_analytics.arrivals.databases.pool import Sessions, pooled
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.common.text import did_you_mean, suggestion

if TYPE_CHECKING:
    import pyarrow as pa
    from pymysql.connections import Connection as Driver
    from pymysql.cursors import SSCursor

_BATCH_BYTES, _BATCH_ROWS = 8 << 20, 20_000
_CONNECT_TIMEOUT, _NETWORK_TIMEOUT = 30, 3600
#: Options of an address that are parameters of the driver, and those that are numbers.
_OPTIONS = {
    "ssl_ca", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_disabled", "ssl_verify_cert", "ssl_verify_identity",
    "unix_socket", "connect_timeout", "read_timeout",
}  # fmt: skip
_SSL_MODES: dict[str, dict[str, Any]] = {
    "disabled": {"ssl_disabled": True},
    "preferred": {},
    "required": {"ssl": {"check_hostname": False, "verify_mode": "none"}},
    "verify_ca": {"ssl_verify_cert": True},
    "verify_identity": {"ssl_verify_cert": True, "ssl_verify_identity": True},
}
#: Codes of errors after which a retry may succeed: connection refused, lost or killed, too many connections, shutdown,
#: networks, locks, and a table that was altered after the snapshot.
_TRANSIENT = {
    (code,)
    for code in (1040, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1205, 1213, 1412, 1927, 2002, 2003, 2006, 2013)
}
_TRANSACTIONAL = ("InnoDB", None)  # a view has no engine


@dataclass(frozen=True)
class MySQLTable:
    """See `SourceTable`."""

    connection: Connection
    driver: Driver[Any]
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
        expressions = ", ".join(each.expression for each in columns)
        with _errors(self.connection):
            cursor = self.driver.cursor()
            cursor.execute(f"select {expressions} from {self._from} where {where}")  # noqa: S608
            try:
                yield from self._batches(cursor, columns, nullified)
            except BaseException:
                # Closing the cursor, or collecting it, would read the remaining rows.
                cursor._result.unbuffered_active = False
                _abort(self.driver)
                raise
            cursor.close()

    def exists(self, where: str) -> bool:
        """See `SourceTable`."""
        with _errors(self.connection):
            return bool(_rows(self.driver, f"select 1 from {self._from} where {where} limit 1"))  # noqa: S608

    def highest(self, column: SourceColumn) -> str | None:
        """See `SourceTable`."""
        where = ""
        if column.order == "time":
            where = f" where {quoted(column.name)} <= '{self.clock.replace(tzinfo=None).isoformat(' ')}'"
        with _errors(self.connection):
            [(found,)] = _rows(self.driver, f"select max({quoted(column.name)}) from {self._from}{where}")  # noqa: S608
        return None if found is None else str(found)

    def at_least(self, column: SourceColumn, value: str) -> str:
        """See `SourceTable`."""
        return f"{quoted(column.name)} >= {self.driver.escape(value)}"

    def unordered(self, column: SourceColumn) -> str:
        """See `SourceTable`."""
        name = quoted(column.name)
        return f"{name} is null" + (f" or {name} = '0000-00-00'" if column.order == "time" else "")

    def _batches(
        self, cursor: SSCursor, columns: Sequence[SourceColumn], nullified: Nullified
    ) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        size = 100
        while rows := cursor.fetchmany(size):
            arrays = [
                nullified.convert(each, pa.array(values, pa.binary() if each.kind == "BLOB" else pa.string()))
                for each, values in zip(columns, zip(*rows, strict=True), strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(arrays, names=[each.name for each in columns])
            size = max(1, min(_BATCH_ROWS, 4 * size, _BATCH_BYTES * len(rows) // max(batch.nbytes, 1)))
            yield batch

    @property
    def _from(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"


@contextmanager
def open_table(connection: Connection, table: str, timeout: timedelta) -> Iterator[MySQLTable]:
    """Open a table in a read-only transaction whose statements all see one snapshot.

    Args:
        connection: The database.
        table: Name, with or without the database.
        timeout: Maximum duration of one statement.

    Raises:
        ArrivalError: The database is not reachable, or has no such table.
    """
    with pooled(connection, _SESSIONS, timeout) as driver:
        with _errors(connection):
            _begin_session(driver, timeout)
            schema, name, engine = _find(connection, driver, table)
            [(clock,)] = _rows(driver, "select utc_timestamp(6)")
            _run(driver, "start transaction with consistent snapshot, read only")
            columns = _columns(driver, schema, name)
            unique = _unique(driver, schema, name)
        warnings = []
        if engine not in _TRANSACTIONAL:
            warnings.append(
                f"the engine of {schema}.{name} is {engine}, which has no snapshots: rows that change during a "
                "sync may be read before or after the change"
            )
        at = datetime.fromisoformat(clock).replace(tzinfo=UTC)
        yield MySQLTable(connection, driver, schema, name, columns, at, unique, warnings)


def _begin_session(driver: Driver[Any], timeout: timedelta) -> None:
    [(version,)] = _rows(driver, "select version()")
    seconds = timeout.total_seconds()
    limit = (
        f"max_statement_time = {seconds}" if "MariaDB" in version else f"max_execution_time = {round(seconds * 1000)}"
    )
    # Without NO_ZERO_DATE, zero dates can be compared. `net_write_timeout` ends a query whose rows are not read.
    settings = ["sql_mode = ''", "time_zone = '+00:00'", "lock_wait_timeout = 60", "net_write_timeout = 600", limit]
    _run(driver, "set session " + ", ".join(settings))
    _run(driver, "set session transaction isolation level repeatable read")


def _find(connection: Connection, driver: Driver[Any], table: str) -> tuple[str, str, str | None]:
    schema, _, name = table.rpartition(".")
    schema = schema or connection.database
    sql = "select table_schema, table_name, engine from information_schema.tables where table_schema = "
    found = _rows(driver, f"{sql}{driver.escape(schema)} and table_name = {driver.escape(name)}")
    # The comparison ignores case, in which names may differ on Linux.
    for exact_schema, exact_name, engine in sorted(found, key=lambda row: bool(row[1] != name))[:1]:
        return exact_schema, exact_name, engine
    known = [row[1] if "." not in table else f"{row[0]}.{row[1]}" for row in _rows(driver, sql + driver.escape(schema))]
    raise ArrivalError(f"{connection.redacted} has no table {table}, or it is not visible{did_you_mean(table, known)}")


def _columns(driver: Driver[Any], schema: str, table: str) -> dict[str, SourceColumn]:
    sql = (
        "select column_name, column_type, data_type, coalesce(numeric_precision, 0), coalesce(numeric_scale, 0) "
        "from information_schema.columns where "
    )
    rows = _rows(driver, f"{sql}{_named(driver, schema, table)} order by ordinal_position")
    return {
        name: column(name, MySQLType(declared, kind.lower(), int(precision), int(scale)))
        for name, declared, kind, precision, scale in rows
    }


def _unique(driver: Driver[Any], schema: str, table: str) -> list[frozenset[str]]:
    indexes: dict[str, list[tuple[str | None, str | None, str]]] = {}
    sql = "select index_name, column_name, sub_part, nullable from information_schema.statistics where non_unique = 0"
    for index, name, prefix, nullable in _rows(driver, f"{sql} and {_named(driver, schema, table)}"):
        indexes.setdefault(index, []).append((name, prefix, nullable))
    return [
        frozenset(str(name) for name, _, _ in parts)
        for parts in indexes.values()
        # Not of an expression, of the first characters, or of columns that may be NULL.
        if all(name and not prefix and nullable != "YES" for name, prefix, nullable in parts)
    ]


def _named(driver: Driver[Any], schema: str, table: str) -> str:
    return f"table_schema = {driver.escape(schema)} and table_name = {driver.escape(table)}"


def _connect(connection: Connection) -> Driver[Any]:
    import pymysql
    from pymysql.cursors import SSCursor

    options = _options(connection)
    encoders: Any = pymysql.converters.encoders
    with _errors(connection):
        return pymysql.connect(
            host=connection.host or "localhost",
            port=connection.port or 3306,
            user=connection.user,
            password=(connection.password or "").encode(),  # text would be encoded as Latin-1
            database=connection.database,
            charset="utf8mb4",
            cursorclass=SSCursor,
            conv=encoders,  # without decoders: values arrive as text, and Arrow converts them
            **({"connect_timeout": _CONNECT_TIMEOUT, "read_timeout": _NETWORK_TIMEOUT} | options),
        )


def _check(driver: Any) -> None:
    with _soon(driver):
        driver.ping(reconnect=False)


def _reset(driver: Any) -> None:
    with _soon(driver):
        driver.rollback()


@contextmanager
def _soon(driver: Any) -> Iterator[None]:
    """Wait only for a short time for answers of a server that may be gone. After an error, the driver is closed."""
    timeout, driver._read_timeout = driver._read_timeout, _CONNECT_TIMEOUT
    yield
    driver._read_timeout = timeout


def _abort(driver: Any) -> None:
    driver._force_close()  # close() waits for the server


#: The settings of the session are those of every sync, so they need no reset.
_SESSIONS: Sessions[Driver[Any]] = Sessions(open=_connect, check=_check, reset=_reset, close=_abort)


def _options(connection: Connection) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in connection.options.items():
        if name in ("sslmode", "ssl_mode", "ssl-mode"):
            mode = value.lower().replace("-", "_")
            if mode not in _SSL_MODES:
                raise ArrivalError(f"{connection.redacted}: {name} is {value}; {suggestion(mode, _SSL_MODES)}")
            found |= _SSL_MODES[mode]
        elif name not in _OPTIONS:
            near = suggestion(name, {*_OPTIONS, "sslmode"})
            raise ArrivalError(f"{connection.redacted} has the option {name}, which is not known; {near}")
        elif name.endswith("timeout"):
            found[name] = int(value) if value.isdecimal() else _CONNECT_TIMEOUT
        elif value.lower() in ("true", "false"):
            found[name] = value.lower() == "true"
        else:
            found[name] = value
    return found


@contextmanager
def _errors(connection: Connection) -> Iterator[None]:
    import pyarrow as pa
    import pymysql

    try:
        yield
    except (pymysql.MySQLError, pa.ArrowException, OSError, RuntimeError) as error:  # the last for authentication
        message = error.args[1] if len(error.args) > 1 else error
        text = f"{connection.redacted}: {connection.redact(message)}"
        raise ArrivalError(text, transient=_is_transient(error)) from None


def _is_transient(error: Exception) -> bool:
    import pymysql

    if isinstance(error, pymysql.MySQLError):
        # A wrong certificate has the code of a server that does not answer.
        cause = getattr(error, "original_exception", None)
        return error.args[:1] in _TRANSIENT and not isinstance(cause, ssl.SSLCertVerificationError)
    return isinstance(error, ConnectionError | TimeoutError)


def _run(driver: Driver[Any], statement: str) -> None:
    with driver.cursor() as cursor:
        cursor.execute(statement)


def _rows(driver: Driver[Any], sql: str) -> list[Any]:
    with driver.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())
