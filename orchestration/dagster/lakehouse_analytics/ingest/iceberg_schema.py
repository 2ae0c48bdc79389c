"""Maps columns to Iceberg types as Airbyte's Iceberg destinations do.

Sources: the type table of Airbyte's docs ("S3 Data Lake", "Iceberg schema generation") and, for what it does not cover,
the behavior of destination-s3-data-lake 0.3 and its CDK: order and nullability of the `_airbyte_` columns, no
partitions, format version 2, and the source's column names.

There are intentional differences, so that a model works on both engines: `_airbyte_extracted_at` is a timestamptz as in
Airbyte's other destinations (theirs: a long, epoch milliseconds), arrays are always JSON text (newer versions: a list
if all items have one type), a time with a zone is text (theirs: a time in UTC), and a key is neither required nor an
identifier field (theirs: both), because a null key is treated like any other value here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.types import iceberg_type
from lakehouse_analytics.ingest import columns as sql

if TYPE_CHECKING:
    from pyiceberg.schema import Schema

#: In Airbyte's order.
META = ("_airbyte_raw_id", "_airbyte_extracted_at", "_airbyte_meta", "_airbyte_generation_id")


def schema(columns: dict[str, str]) -> Schema:
    """Return the schema of a table: the `_airbyte_` columns that it has, then the others in their order.

    Args:
        columns: DuckDB types by name.
    """
    from pyiceberg.schema import Schema
    from pyiceberg.types import ListType, LongType, NestedField, StringType, StructType

    # Iceberg assigns new ids when it creates a table, so these only have to be distinct.
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
