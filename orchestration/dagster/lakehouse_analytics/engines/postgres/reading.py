"""Reads whole tables of PostgreSQL in Arrow batches, by a server-side cursor in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.base import BATCH_ROWS, DatabaseError, TableReader
from lakehouse_analytics.engines.row_batches import batches_of

if TYPE_CHECKING:
    import psycopg2
    import pyarrow as pa

#: Types of `format_type` whose values are read as they are. Arrays and JSON are read as JSON, all others as text.
_PLAIN = ("boolean", "smallint", "integer", "bigint", "real", "double precision", "date", "text", "bytea")


@contextmanager
def read_table(connection: psycopg2.extensions.connection, name: str) -> Iterator[TableReader]:
    """Read a table while the block runs.

    Args:
        connection: An open connection, which is not used otherwise.
        name: The quoted name of the table.

    Raises:
        DatabaseError: The table cannot be read.
    """
    import psycopg2
    import pyarrow as pa

    connection.autocommit = False
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    try:
        with connection.cursor() as cursor:
            cursor.execute("set local timezone = 'UTC'")
            cursor.execute(f"select count(*) from {name}")  # noqa: S608
            [(rows,)] = cursor.fetchall()
            columns = _columns(cursor, name)
        with connection.cursor("lakehouse_export") as reader:
            reader.itersize = BATCH_ROWS
            selected = ", ".join(expression for _, expression, _ in columns)
            reader.execute(f"select {selected} from {name}")  # noqa: S608
            schema = pa.schema([(column, kind) for column, _, kind in columns])
            yield TableReader(schema, int(rows), _batches(reader, schema, name))
    except psycopg2.Error as error:
        raise DatabaseError(f"{name} cannot be read: {' '.join(str(error).split())}") from None


def _batches(reader: Any, schema: pa.Schema, name: str) -> Iterator[pa.RecordBatch]:
    import psycopg2

    try:
        yield from batches_of(schema, reader.fetchmany)
    except psycopg2.Error as error:
        raise DatabaseError(f"{name} cannot be read: {' '.join(str(error).split())}") from None


def _columns(cursor: Any, name: str) -> list[tuple[str, str, pa.DataType]]:
    """Return the name, the expression and the Arrow type of each column."""
    import pyarrow as pa

    cursor.execute(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
        (name,),
    )
    types = {
        "boolean": pa.bool_(),
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "date": pa.date32(),
        "text": pa.string(),
        "bytea": pa.binary(),
    }
    found: list[tuple[str, str, pa.DataType]] = []
    described: Sequence[tuple[str, str]] = cursor.fetchall()
    for column, kind in described:
        quoted = identifier(column)
        if kind in _PLAIN:
            found.append((column, quoted, types[kind]))
        elif kind.startswith("timestamp"):
            zone = "UTC" if kind.endswith("with time zone") else None
            found.append((column, quoted, pa.timestamp("us", zone)))
        elif kind.startswith("numeric"):
            found.append((column, quoted, _decimal(cursor, name, quoted, kind)))
        elif kind.endswith("[]"):
            found.append((column, f"to_json({quoted})::text", pa.string()))
        else:
            found.append((column, f"{quoted}::text", pa.string()))
    return found


def _decimal(cursor: Any, name: str, quoted: str, kind: str) -> pa.DataType:
    """Return the type of a `numeric`. If it has no scale, that of its values decides."""
    import pyarrow as pa

    precision, _, scale = kind.removeprefix("numeric").strip("()").partition(",")
    if scale:
        return pa.decimal128(int(precision), int(scale))
    cursor.execute(
        f"select coalesce(max(scale({quoted})), 0), "  # noqa: S608
        f"coalesce(max(length(trunc(abs({quoted}))::text)), 1), bool_or({quoted} = 'NaN') from {name}"
    )
    [(digits, whole, nan)] = cursor.fetchall()
    if nan or digits + whole > 38:
        what = "has NaN" if nan else f"has values of {digits + whole} digits"
        raise DatabaseError(
            f"{name}: column {quoted} {what}, which cannot be read as decimal(38). Cast it in the model."
        )
    return pa.decimal128(38, int(digits))
