"""The state table `<schema>._airbyte_state` in Iceberg, with the state from which each source continues."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.data_files import find
from lakehouse_analytics.ingest.state import TABLE, Row, check_columns

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_OLD_METADATA = {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "20"}


def read(catalog: Catalog, namespace: str, source: str) -> tuple[int, list[Row]]:
    """Return the last sync_id of all sources, 0 before the first sync, and the rows of one source."""
    table = find(catalog, (namespace, TABLE))
    if table is None:
        return 0, []
    check_columns(f"{namespace}.{TABLE}", (field.name for field in table.schema().fields))
    stored = table.scan().to_arrow().to_pylist()  # one row per stream, so it is small
    rows = [
        Row(*(row[name] for name in ("namespace", "stream", "generation_id", "sync_id", "settings", "state")))
        for row in stored
        if row["source"] == source
    ]
    return max((row["sync_id"] for row in stored), default=0), rows


def write(catalog: Catalog, namespace: str, source: str, before: list[Row], new_rows: list[Row]) -> None:
    """Replace the state of these streams and of the source as a whole, in one commit.

    Args:
        catalog: The catalog.
        namespace: Namespace of the state table.
        source: Name of the source.
        before: The rows that `read` returned. Streams that were not synced now keep theirs.
        new_rows: The new rows.
    """
    import pyarrow as pa
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    synced = {(row.namespace, row.stream) for row in new_rows}
    unchanged = [row for row in before if row.stream is not None and (row.namespace, row.stream) not in synced]
    table = find(catalog, (namespace, TABLE)) or _create(catalog, namespace)
    now = datetime.now(UTC)
    values = [{"source": source, **asdict(row), "updated_at": now} for row in [*unchanged, *new_rows]]
    content = pa.Table.from_pylist(values, schema=schema_to_pyarrow(table.schema(), include_field_ids=False))
    if before:
        table.overwrite(content, f"source = '{source}'")
    else:
        table.append(content)


def _create(catalog: Catalog, namespace: str) -> Table:
    from pyiceberg.partitioning import PartitionField, PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.types import LongType, NestedField, StringType, TimestamptzType

    schema = Schema(
        NestedField(1, "source", StringType(), required=True),
        NestedField(2, "namespace", StringType()),
        NestedField(3, "stream", StringType()),
        NestedField(4, "generation_id", LongType()),
        NestedField(5, "sync_id", LongType(), required=True),
        NestedField(6, "settings", StringType()),
        NestedField(7, "state", StringType()),
        NestedField(8, "updated_at", TimestamptzType(), required=True),
    )
    # One partition per source: two syncs that end at the same time replace different files, so their commits do not
    # conflict.
    partitions = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "source"))
    properties = {"format-version": "2", **_OLD_METADATA}
    return catalog.create_table_if_not_exists(
        (namespace, TABLE), schema, partition_spec=partitions, properties=properties
    )
