"""Writes equality deletes into an Iceberg table, as streaming writers do (Flink, Airbyte's destination).

pyiceberg has no such writer. It has everything else: this gives its append a manifest of deletes instead of data,
after the Iceberg table specification ("Equality Delete Files", "Manifests"). Trino reads what comes of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

LONG_IDS = '"element-id":136,"element":"long"'
INT_IDS = LONG_IDS.replace("long", "int")

if TYPE_CHECKING:
    from pyiceberg.table import Table


def delete_equal(
    table: Table, column: str, values: list[Any], *, summary: Mapping[str, str | None] | None = None
) -> None:
    """Delete every row whose column has one of some values, by one equality delete file.

    Args:
        table: Unpartitioned, of format version 2.
        column: The equality field.
        values: Of the column's type; one that is nowhere in the table deletes nothing.
        summary: Written into the snapshot's summary instead of what is true; None takes a key away.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
    from pyiceberg.schema import Schema
    from pyiceberg.table.snapshots import Operation, Summary
    from pyiceberg.table.update.snapshot import _FastAppendFiles
    from pyiceberg.typedef import Record

    class Deletes(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

        def _with_partition(self, format_version: Any) -> Schema:
            # pyiceberg has the field ids as long, the specification and Java as int.
            text = super()._with_partition(format_version).model_dump_json()
            return Schema.model_validate_json(text.replace(LONG_IDS, INT_IDS))

    class AppendDeletes(_FastAppendFiles):
        def new_manifest_writer(self, spec: Any) -> Deletes:
            return Deletes(spec, self.schema(), self.new_manifest_output(), self.snapshot_id, self._compression)

        def _summary(self, snapshot_properties: Any = None) -> Summary:
            found = super()._summary()
            properties = {**found.additional_properties, **(summary or {})}
            return Summary(found.operation, **{key: value for key, value in properties.items() if value is not None})

    field = table.schema().find_field(column)
    # The Parquet file carries the field's id: readers match by it.
    schema = schema_to_pyarrow(table.schema().select(column))
    output = table.io.new_output(f"{table.location()}/data/{uuid.uuid4()}-deletes.parquet")
    with output.create() as stream:
        pq.write_table(pa.table({column: values}).cast(schema), stream)
    file = DataFile.from_args(
        content=DataFileContent.EQUALITY_DELETES,
        file_path=output.location,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(values),
        file_size_in_bytes=len(output.to_input_file()),
        column_sizes=None,
        value_counts=None,
        null_value_counts=None,
        nan_value_counts=None,
        lower_bounds=None,
        upper_bounds=None,
        key_metadata=None,
        split_offsets=None,
        equality_ids=[field.field_id],
        sort_order_id=None,
    )
    file.spec_id = table.spec().spec_id
    with table.transaction() as transaction:
        AppendDeletes(Operation.DELETE, transaction, table.io).append_data_file(file).commit()
