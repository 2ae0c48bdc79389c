"""Columns as Iceberg types, as Airbyte's Iceberg destinations write them.

Sources: the type table of Airbyte's docs ("S3 Data Lake", "Iceberg schema generation") and, where that is silent, what
destination-s3-data-lake 0.3 and its CDK do: the order and the nullability of the `_airbyte_` columns, no partitions,
format version 2, column names as the source has them.

Kept apart from it on purpose, so that one model reads both engines: `_airbyte_extracted_at` is a timestamptz as in
Airbyte's other destinations (theirs: a long, epoch milliseconds), arrays are always JSON text (newer ones: a list where
the items have one type), a time with a zone stays text (theirs: a time in UTC), and a key is neither required nor an
identifier field (theirs: both), because a null key is a value like any other here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lakehouse_analytics.ingest import columns as sql

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

#: As Airbyte orders them.
META = ("_airbyte_raw_id", "_airbyte_extracted_at", "_airbyte_meta", "_airbyte_generation_id")
_CLASSES = {
    "VARCHAR": "StringType",
    "BIGINT": "LongType",
    "DOUBLE": "DoubleType",
    "BOOLEAN": "BooleanType",
    "DATE": "DateType",
    "TIME": "TimeType",
    "TIMESTAMP": "TimestampType",
    "TIMESTAMP WITH TIME ZONE": "TimestamptzType",
    # No stream has these; a table that is copied may.
    "INTEGER": "IntegerType",
    "FLOAT": "FloatType",
}
_KINDS = {made: kind for kind, made in _CLASSES.items()}


def iceberg_type(kind: str) -> IcebergType:
    """The Iceberg type of a DuckDB type. Raises ValueError where there is none."""
    from pyiceberg import types

    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        return types.DecimalType(int(decimal[1]), int(decimal[2]))
    if kind not in _CLASSES:
        raise ValueError(f"no Iceberg type for {kind}")
    made: IcebergType = getattr(types, _CLASSES[kind])()
    return made


def duckdb_type(kind: IcebergType) -> str:
    """The DuckDB type of an Iceberg type; its own name where a stream has no such column."""
    return _KINDS.get(type(kind).__name__, str(kind))


def schema(columns: dict[str, str]) -> Schema:
    """A table's schema: the `_airbyte_` columns it has, then the others in their order.

    Args:
        columns: name to DuckDB type.
    """
    from pyiceberg.schema import Schema
    from pyiceberg.types import ListType, LongType, NestedField, StringType, StructType

    # Iceberg numbers the fields again when it creates a table; these only need to differ.
    first = len(columns) + 1
    change = StructType(
        *(NestedField(first + number, name, StringType()) for number, name in enumerate(("field", "change", "reason")))
    )
    changes = ListType(first + 3, change, element_required=False)
    meta = StructType(
        NestedField(first + 4, "sync_id", LongType(), required=True),
        NestedField(first + 5, "changes", changes, required=True),
    )
    names = [*(name for name in META if name in columns), *(name for name in columns if name not in META)]
    return Schema(
        *(
            NestedField(
                number,
                name,
                meta if columns[name] == sql.META["_airbyte_meta"] else iceberg_type(columns[name]),
                required=name in META,
            )
            for number, name in enumerate(names, 1)
        )
    )
