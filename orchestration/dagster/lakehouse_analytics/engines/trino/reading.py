"""Reads whole tables of Trino in Arrow batches: the files of an Iceberg table by pyiceberg, or a query's result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError, TableReader
from lakehouse_analytics.engines.row_batches import batches_of
from lakehouse_analytics.engines.trino.client import connect
from lakehouse_analytics.engines.trino.session import TrinoServer
from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog, reason
from lakehouse_analytics.iceberg.data_files import batches

if TYPE_CHECKING:
    import pyarrow as pa

_PARAMETERS = re.compile(
    r"^(?P<name>[a-z ]+?)(?:\((?P<first>\d+)(?:,\s*(?P<second>\d+))?\))?(?P<zone> with time zone)?$"
)


@contextmanager
def read_files(catalog: str, relation: Relation) -> Iterator[TableReader | None]:
    """Read the files of an Iceberg table in one snapshot while the block runs; None if it is not an Iceberg table.

    Args:
        catalog: The catalog's name in pyiceberg's configuration.
        relation: The table.

    Raises:
        DatabaseError: The table cannot be read.
    """
    from pyiceberg.exceptions import NoSuchTableError

    try:
        table = open_catalog(catalog).load_table((relation.schema, relation.name))
        # Not `to_arrow_batch_reader`, which reads files ahead of the consumer, so that all may be in memory.
        reader, rows = batches(table), table.scan().count()
    except NoSuchTableError:
        yield None
        return
    except CatalogError as error:
        raise DatabaseError(str(error)) from None
    except Exception as error:
        raise DatabaseError(f"{relation} cannot be read: {reason(catalog, error)}.") from None
    yield TableReader(reader.schema, rows, _guarded(catalog, relation, reader))


def _guarded(catalog: str, relation: Relation, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except Exception as error:
        raise DatabaseError(f"{relation} cannot be read: {reason(catalog, error)}.") from None


@contextmanager
def read_query(server: TrinoServer, name: str, client_tags: tuple[str, ...]) -> Iterator[TableReader]:
    """Read a table or view by a query while the block runs.

    Args:
        server: The coordinator.
        name: The quoted name of the table.
        client_tags: Tags of the queries.

    Raises:
        DatabaseError: Trino cannot run the query.
    """
    import pyarrow as pa
    from trino.exceptions import Error

    try:
        with closing(connect(server, client_tags)) as connection:
            cursor = connection.cursor()
            cursor.execute(f"select * from {name} limit 0")  # noqa: S608
            cursor.fetchall()
            columns = [_column(description[0], str(description[1])) for description in cursor.description]
            cursor.execute(f"select count(*) from {name}")  # noqa: S608
            [[rows]] = cursor.fetchall()
            cursor.execute(f"select {', '.join(expression for _, expression, _ in columns)} from {name}")  # noqa: S608
            schema = pa.schema([(column, kind) for column, _, kind in columns])
            yield TableReader(schema, int(rows), batches_of(schema, cursor.fetchmany))
    except Error as error:
        raise DatabaseError(f"{name} cannot be read: {error}") from None


def _column(column: str, kind: str) -> tuple[str, str, pa.DataType]:
    """Return the name, the expression and the Arrow type of a column. Types that Arrow has not become text or JSON."""
    import pyarrow as pa

    quoted = identifier(column)
    plain: dict[str, Any] = {
        "boolean": pa.bool_(),
        "tinyint": pa.int8(),
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double": pa.float64(),
        "date": pa.date32(),
        "varchar": pa.string(),
        "char": pa.string(),
        "varbinary": pa.binary(),
    }
    found = _PARAMETERS.match(kind)
    name = found["name"] if found else ""
    zoned = bool(found and found["zone"])
    if found and name in plain and not zoned:
        expression, of_arrow = quoted, plain[name]
    elif found and name == "decimal":
        expression, of_arrow = quoted, pa.decimal128(int(found["first"]), int(found["second"] or 0))
    elif name == "timestamp":
        utc = f"{quoted} at time zone 'UTC' as timestamp(6) with time zone"
        expression = f"cast({utc})" if zoned else f"cast({quoted} as timestamp(6))"
        of_arrow = pa.timestamp("us", "UTC" if zoned else None)
    elif kind.startswith(("array", "map", "row", "json")):
        expression, of_arrow = f"json_format(cast({quoted} as json))", pa.string()
    else:
        expression, of_arrow = f"cast({quoted} as varchar)", pa.string()
    return column, expression, of_arrow
