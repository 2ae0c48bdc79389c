"""Maps DuckDB types to Iceberg types that Trino reads, and back.

Types without a counterpart in Iceberg are stored in the next one without a loss: unsigned integers in wider ones, and
UBIGINT in DECIMAL(20,0); JSON, UUID, intervals and times with a zone as text. Timestamps are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

_CLASSES = {
    "varchar": "StringType",
    "enum": "StringType",
    "uuid": "StringType",
    "interval": "StringType",
    "time with time zone": "StringType",
    "bit": "StringType",
    "tinyint": "IntegerType",
    "smallint": "IntegerType",
    "integer": "IntegerType",
    "utinyint": "IntegerType",
    "usmallint": "IntegerType",
    "uinteger": "LongType",
    "bigint": "LongType",
    "float": "FloatType",
    "double": "DoubleType",
    "boolean": "BooleanType",
    "date": "DateType",
    "time": "TimeType",
    "timestamp": "TimestampType",
    "timestamp_s": "TimestampType",
    "timestamp_ms": "TimestampType",
    "timestamp_ns": "TimestampType",
    "timestamp with time zone": "TimestamptzType",
    "blob": "BinaryType",
}
#: Integers that only fit into a decimal.
_DECIMALS = {"ubigint": 20, "hugeint": 38, "uhugeint": 38}
_KINDS = {
    "StringType": "VARCHAR",
    "IntegerType": "INTEGER",
    "LongType": "BIGINT",
    "FloatType": "FLOAT",
    "DoubleType": "DOUBLE",
    "BooleanType": "BOOLEAN",
    "DateType": "DATE",
    "TimeType": "TIME",
    "TimestampType": "TIMESTAMP",
    "TimestamptzType": "TIMESTAMP WITH TIME ZONE",
    "TimestampNanoType": "TIMESTAMP_NS",
    "BinaryType": "BLOB",
    "FixedType": "BLOB",
    "UUIDType": "UUID",
}


def iceberg_type(kind: str, ids: Iterator[int] | None = None) -> IcebergType:
    """Return the Iceberg type of a DuckDB type.

    Args:
        kind: The DuckDB type, as in `duckdb_columns()`.
        ids: Ids of nested fields. Iceberg assigns new ones when it creates a table, so they only have to be distinct.

    Raises:
        ValueError: There is no such type.
    """
    import duckdb

    try:
        parsed = duckdb.sqltype(kind)
    except duckdb.Error:
        raise ValueError(f"no Iceberg type for {kind}") from None
    return _iceberg_type(parsed, ids or count(1))


def _iceberg_type(kind: DuckDBPyType, ids: Iterator[int]) -> IcebergType:
    from pyiceberg import types

    if kind.id == "decimal":
        sizes = dict(kind.children)
        return types.DecimalType(int(str(sizes["precision"])), int(str(sizes["scale"])))
    if kind.id in _DECIMALS:
        return types.DecimalType(_DECIMALS[kind.id], 0)
    if kind.id in ("list", "array", "struct", "map"):
        nested = [(name, next(ids), _iceberg_type(child, ids)) for name, child in _children(kind)]
        if kind.id == "struct":
            return types.StructType(*(types.NestedField(number, name, child) for name, number, child in nested))
        if kind.id == "map":
            (_, key_id, key), (_, value_id, value) = nested
            return types.MapType(key_id, key, value_id, value, value_required=False)
        [(_, element_id, element)] = nested
        return types.ListType(element_id, element, element_required=False)
    if kind.id not in _CLASSES:
        raise ValueError(f"no Iceberg type for {kind}")
    instance: IcebergType = getattr(types, _CLASSES[kind.id])()
    return instance


def _children(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    from duckdb.sqltypes import DuckDBPyType

    # The children of an array include its size.
    return [(name, child) for name, child in kind.children if isinstance(child, DuckDBPyType)]


def duckdb_type(kind: IcebergType) -> str:
    """Return the DuckDB type of an Iceberg type; for those that DuckDB does not have, Iceberg's own name."""
    import duckdb

    name = _sql(kind)
    try:
        return str(duckdb.sqltype(name))
    except duckdb.Error:
        return name


def _sql(kind: IcebergType) -> str:
    from pyiceberg import types

    from lakehouse_analytics.common.sql import identifier

    if isinstance(kind, types.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if isinstance(kind, types.ListType):
        return f"{_sql(kind.element_type)}[]"
    if isinstance(kind, types.StructType):
        return f"STRUCT({', '.join(f'{identifier(field.name)} {_sql(field.field_type)}' for field in kind.fields)})"
    if isinstance(kind, types.MapType):
        return f"MAP({_sql(kind.key_type)}, {_sql(kind.value_type)})"
    return _KINDS.get(type(kind).__name__, str(kind))


def stored_type(kind: str) -> str:
    """Return the DuckDB type in which Iceberg stores a DuckDB type.

    Raises:
        ValueError: There is no such type.
    """
    return duckdb_type(iceberg_type(kind))


def schema_of(columns: Mapping[str, str]) -> Schema:
    """Return the schema of a table, without required columns.

    Args:
        columns: DuckDB types by name.

    Raises:
        ValueError: Iceberg has no type for a column.
    """
    from pyiceberg.schema import Schema
    from pyiceberg.types import NestedField

    ids = count(len(columns) + 1)
    return Schema(
        *(NestedField(number, name, iceberg_type(kind, ids)) for number, (name, kind) in enumerate(columns.items(), 1))
    )
