"""Exports to ClickHouse: a server by its HTTP interface, or embedded (chdb) by the same client.

Rows are loaded into a table of the engine MergeTree beside the old one, and EXCHANGE TABLES swaps the two names in one
step. Grants, row policies and views refer to names in ClickHouse, so they apply to the new table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lakehouse_analytics.common.text import brief
from lakehouse_analytics.exports.base import MARKER, Checksum, ExportError, Target
from lakehouse_analytics.exports.checksum import DIGITS, NAN_BITS, NULL, parts
from lakehouse_analytics.exports.columns import Column, Kind, key_of

if TYPE_CHECKING:
    import pyarrow as pa
    from clickhouse_connect.driver.client import Client

    from lakehouse_analytics.arrivals.connections import Connection

#: Seconds to wait for a connection, and for the response to a statement.
CONNECT_TIMEOUT, RESPONSE_TIMEOUT = 10, 3600
#: Codes of ClickHouse's errors after which a retry may succeed: timeouts, limits of queries, memory and parts.
_TRANSIENT = ("159", "202", "203", "209", "210", "241", "242", "252", "279", "319", "425", "439", "999")
#: What chdb reports if it cannot open a folder. It prints the reason to stderr only, usually that the folder is locked.
_UNOPENED = "Unable to open the chdb engine"
#: ClickHouse has no dates outside these years, and no times either.
_YEARS = (1900, 2299)
_SETTINGS = {
    "async_insert": 0,
    # On replicated engines, a batch that equals an earlier one would be dropped as a repeated insert.
    "insert_deduplicate": 0,
}
#: How the options of an address are converted for the client.
_OPTIONS: dict[str, Any] = {
    "verify": lambda text: text.lower() not in ("false", "0"),
    "ca_cert": str,
    "client_cert": str,
}


class ClickHouse:
    """A table in ClickHouse. See `base.Destination`."""

    def __init__(self, connection: Connection, target: Target) -> None:
        """
        Args:
            connection: The address, of the scheme clickhouse, clickhouses or chdb.
            target: The table.
        """
        self._connection, self._target = connection, target
        embedded = connection.scheme == "chdb"
        self._database = target.schema or ("default" if embedded else connection.database)
        self._exists = False

    def __enter__(self) -> Self:
        """Connect."""
        self._client = connect(self._connection)
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._client.close()

    def prepare(self, columns: Sequence[Column]) -> list[str]:
        """Check that the table may be replaced, and drop staged tables. See `base.Destination`."""
        key_of(columns, self._target.key)
        here = _literal(self._database)
        if not self._rows(f"select 1 from system.databases where name = {here}"):  # noqa: S608
            self._run(f"create database if not exists {_name(self._database)}")
        found = self._rows(f"select name, comment from system.tables where database = {here}")  # noqa: S608
        tables = {str(name): str(comment) for name, comment in found}
        comment = tables.get(self._target.table)
        self._exists = comment is not None
        if comment is not None and comment != self._target.comment:
            what = "" if not comment.startswith(MARKER) else f", but one of {comment.removeprefix(MARKER)}"
            raise ExportError(
                f"{self._here(self._target.table)} exists and is not an export of {self._target.origin}{what}. "
                "Rename or drop it, or choose another name (meta.lakehouse.serve.table)."
            )
        left = [n for n, text in tables.items() if self._target.is_staged(n) and text == self._target.comment]
        for name in left:
            self._run(f"drop table {self._quoted(name)} sync")
        return left

    def stage(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        """Create and load the staged table. See `base.Destination`."""
        key = key_of(columns, self._target.key)
        described = ", ".join(f"{_name(column.name)} {_type(column)}" for column in columns)
        order = ", ".join(map(_name, key))
        self._run(
            f"create table {self._quoted(self._target.staged)} ({described}) engine = MergeTree order by ({order}) "
            f"comment {_literal(self._target.comment)}"
        )
        names = [column.name for column in columns]
        for batch in batches:
            _refuse_old_dates(columns, batch)
            with self._errors():
                self._client.insert_arrow(
                    self._target.staged, _table(batch, columns, names), database=self._database, settings=_SETTINGS
                )

    def checksum(self, columns: Sequence[Column]) -> Checksum:
        """Return the checksum of the staged table."""
        texts = parts(
            columns,
            lambda _, column: f"ifNull(concat({_text(column)}, ';'), '{NULL}')",
            lambda _, column: (
                f"ifNull(concat(toString(length({_name(column.name)})), ':', {_name(column.name)}), '{NULL}')"
            ),
        )
        digest = f"reinterpretAsUInt64(reverse(substring(MD5(concat('', {', '.join(texts)})), 1, 8)))"
        row = f"toUInt128(bitShiftRight({digest}, {64 - 4 * DIGITS}))"
        [(rows, total)] = self._rows(
            f"select count(), toString(sum({row})) from {self._quoted(self._target.staged)}"  # noqa: S608
        )
        return Checksum(int(rows), int(total))

    def publish(self, columns: Sequence[Column], expected: Checksum) -> None:  # noqa: ARG002
        """Swap the names of the two tables, and drop the old one. See `base.Destination`."""
        table, staged = self._quoted(self._target.table), self._quoted(self._target.staged)
        if not self._exists:
            self._run(f"rename table {staged} to {table}")
            return
        try:
            self._run(f"exchange tables {staged} and {table}")
        except ExportError as error:
            if "Code: 48" not in str(error) and "NOT_IMPLEMENTED" not in str(error):
                raise
            raise ExportError(
                f"The database {self._database} cannot exchange two tables in one step: use one of the engine Atomic, "
                f"ClickHouse's default. {error}"
            ) from None
        # The new rows are published. If dropping the old ones fails, the next export does it.
        with suppress(ExportError):
            self._run(f"drop table {staged} sync")

    def discard(self) -> None:
        """Drop the staged table if it exists."""
        self._run(f"drop table if exists {self._quoted(self._target.staged)} sync")

    def _here(self, table: str) -> str:
        return f"Table {self._database}.{table} in {self._connection.redacted}"

    def _quoted(self, table: str) -> str:
        return f"{_name(self._database)}.{_name(table)}"

    def _run(self, sql: str) -> None:
        with self._errors():
            self._client.command(sql)

    def _rows(self, sql: str) -> Sequence[Sequence[Any]]:
        with self._errors():
            return self._client.query(sql).result_rows

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from clickhouse_connect.driver.exceptions import Error

        try:
            yield
        except Error as error:
            raise _export_error(self._connection, error) from None


def connect(connection: Connection) -> Client:
    """Return a client. The caller closes it.

    Raises:
        ExportError: ClickHouse cannot be reached, or refuses the credentials.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import Error

    try:
        if connection.scheme == "chdb":
            if connection.database:
                Path(connection.database).mkdir(parents=True, exist_ok=True)
            return clickhouse_connect.get_client(interface="chdb", path=connection.database or None)
        unknown = connection.options.keys() - _OPTIONS.keys()
        if unknown:
            raise ExportError(
                f"{connection.redacted}: unknown option {brief(sorted(unknown)[0])}; known are {', '.join(_OPTIONS)}."
            )
        secure = connection.scheme == "clickhouses"
        return clickhouse_connect.get_client(
            interface="https" if secure else "http",
            host=connection.host,
            port=connection.port or (8443 if secure else 8123),
            username=connection.user or "default",
            password=connection.password or "",
            database=connection.database,
            connect_timeout=CONNECT_TIMEOUT,
            send_receive_timeout=RESPONSE_TIMEOUT,
            **{name: _OPTIONS[name](text) for name, text in connection.options.items()},
        )
    except Error as error:
        raise _export_error(connection, error) from None
    except ImportError:
        raise ExportError(f"{connection.redacted}: the Python package chdb is not installed.") from None
    except OSError as error:
        raise ExportError(f"{connection.redacted}: {error.strerror or error}.") from None


def _export_error(connection: Connection, error: Exception) -> ExportError:
    from clickhouse_connect.driver.exceptions import OperationalError

    text = connection.redact(" ".join(str(error).split()))
    if _UNOPENED in text:
        return ExportError(
            f"{connection.redacted} cannot be opened: check whether another process has the folder open, and whether "
            "it can be written. chdb prints its reason to stderr.",
            transient=True,
        )
    code = text.partition("Code: ")[2].partition(".")[0]
    transient = code in _TRANSIENT or (isinstance(error, OperationalError) and not code)
    return ExportError(f"{connection.redacted}: {text[:1000]}", transient=transient)


def _name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _type(column: Column) -> str:
    match column.kind:
        case Kind.BOOLEAN:
            name = "Bool"
        case Kind.INTEGER:
            name = f"{'' if column.signed else 'U'}Int{column.bits}"
        case Kind.DECIMAL:
            name = f"Decimal({column.precision}, {column.scale})"
        case Kind.DOUBLE:
            name = "Float64"
        case Kind.DATE:
            name = "Date32"
        case Kind.TIMESTAMP | Kind.INSTANT:
            name = "DateTime64(6, 'UTC')"
        case Kind.TEXT | Kind.JSON | Kind.BINARY:
            name = "String"
    return name if column.in_key else f"Nullable({name})"


#: Expressions of a value's text for the checksum, by kind.
_TEXTS = {
    Kind.INTEGER: "toString({})",
    Kind.DATE: "toString(toInt32({}))",
    Kind.TIMESTAMP: "toString(toUnixTimestamp64Micro({}))",
    Kind.INSTANT: "toString(toUnixTimestamp64Micro({}))",
    Kind.BINARY: "lower(hex({}))",
    # A comparison with null has no branch of its own in `if`.
    Kind.BOOLEAN: "multiIf(isNull({0}), null, {0}, 't', 'f')",
    Kind.DOUBLE: f"toString(if(isNaN({{0}}), toInt64({NAN_BITS}), reinterpretAsInt64({{0}})))",
}


def _text(column: Column) -> str:
    name = _name(column.name)
    if column.kind is Kind.DECIMAL:
        return f"toDecimalString({name}, {column.scale})"
    return _TEXTS[column.kind].format(name)


def _table(batch: pa.RecordBatch, columns: Sequence[Column], names: Sequence[str]) -> pa.Table:
    """Return the rows with the names of the table, and times in UTC."""
    import pyarrow as pa

    arrays = []
    for column, values in zip(columns, batch.columns, strict=True):
        utc = column.kind in (Kind.TIMESTAMP, Kind.INSTANT)
        arrays.append(values.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")) if utc else values)
    return pa.Table.from_arrays(arrays, names=[*names])


def _refuse_old_dates(columns: Sequence[Column], batch: pa.RecordBatch) -> None:
    """Refuse dates and times that ClickHouse would change to the nearest that it has."""
    import pyarrow.compute as pc

    first, last = _YEARS
    for column, values in zip(columns, batch.columns, strict=True):
        if column.kind not in (Kind.DATE, Kind.TIMESTAMP, Kind.INSTANT):
            continue
        years = pc.min_max(pc.year(values)).as_py()
        for year in years.values():
            if year is not None and not first <= year <= last:
                raise ExportError(
                    f"Column {column.name} has a date in the year {year}. ClickHouse has only those from {first} to "
                    f"{last}: set it to null in the model, or export the column as text."
                )
