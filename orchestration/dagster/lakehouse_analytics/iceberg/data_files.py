"""Reads and writes data files of Iceberg tables with bounded memory, independent of who commits them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.deletion import delete_file

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.table.metadata import TableMetadata

#: Namespace and name of a table.
Name = tuple[str, str]
Batches = Iterable["pa.RecordBatch"]
#: Maximum number of rows per Parquet row group.
BATCH = 122_880
_GROUP_BYTES = 16 << 20  # maximum size of a row group in memory
_BATCH_BYTES = 4 << 20  # of what is read at once. Both sides of DuckDB have several batches
_FILE = 128 << 20  # maximum bytes of a data file
_FIELD_ID = b"PARQUET:field_id"


def find(catalog: Catalog, name: Name) -> Table | None:
    """Return the table, or None if it does not exist."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        return None


def batches(
    table: Table, tasks: Iterable[FileScanTask] | None = None, columns: Sequence[str] | None = None
) -> pa.RecordBatchReader:
    """Return the rows of a table. Its files are read one after the other, and in parts.

    Args:
        table: The table.
        tasks: Files to read. Default: all.
        columns: Names of columns to read. Default: all.
    """
    import pyarrow as pa
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    schema = table.schema() if columns is None else table.schema().select(*columns)
    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    files = table.scan().plan_files() if tasks is None else tasks
    rows = (batch for task in files for batch in _rows_of(table, task, schema))
    return pa.RecordBatchReader.from_batches(arrow, aligned(rows, arrow))


def _rows_of(table: Table, task: FileScanTask, schema: Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, with the columns of `schema` that it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan

    with table.io.new_input(task.file.file_path).open() as stream:
        if not task.delete_files and str(task.file.file_format).upper().endswith("PARQUET"):
            # Without `pre_buffer`, which reads the whole file into memory.
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=2 << 20)
            if (names := _names_in(file.schema_arrow, schema)) is not None:
                fields = [field for field in schema.fields if field.field_id in names]
                in_file = [names[field.field_id] for field in fields]
                # Threads would keep memory of their own.
                for batch in file.iter_batches(batch_rows(file.metadata), columns=in_file, use_threads=False):
                    if fields:
                        yield pa.RecordBatch.from_arrays(
                            [batch.column(name) for name in in_file], names=[field.name for field in fields]
                        )
                    else:  # the table got all of these columns later
                        yield pa.RecordBatch.from_pydict({"": pa.nulls(len(batch))})
                return
    # pyiceberg applies deletes and changes of nested types. It has the whole file in memory.
    yield from ArrowScan(table.metadata, table.io, schema, AlwaysTrue()).to_record_batches([task])


def batch_rows(metadata: FileMetaData) -> int:
    """Return the number of rows of a Parquet file that fit into a batch of about 4 MiB."""
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    rows: int = _BATCH_BYTES * metadata.num_rows // max(size, 1)
    return max(1024, min(BATCH // 2, rows))


def _names_in(arrow: pa.Schema, schema: Schema) -> dict[int, str] | None:
    """Return the columns of a file: its name by the id of the column. None if pyiceberg has to map them."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    names: dict[int, str] = {}
    for field in arrow:
        if not field.metadata or _FIELD_ID not in field.metadata:
            return None
        names[int(field.metadata[_FIELD_ID])] = field.name
    nested = [field for field in schema.fields if not field.field_type.is_primitive and field.field_id in names]
    expected = schema_to_pyarrow(schema, include_field_ids=True)
    for field in nested:
        if _nested_ids(arrow.field(names[field.field_id])) != _nested_ids(expected.field(field.name)):
            return None
    return names


def _nested_ids(field: pa.Field) -> list[object]:
    children = [field.type.field(index) for index in range(field.type.num_fields)]
    return [field.metadata and field.metadata.get(_FIELD_ID), *map(_nested_ids, children)]


def aligned(rows: Batches, arrow: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield batches with exactly these columns, matched regardless of case, and null if missing."""
    import pyarrow as pa

    for batch in rows:
        have = {name.lower(): index for index, name in enumerate(batch.schema.names)}
        yield pa.RecordBatch.from_arrays(
            [
                batch.column(have[column.name.lower()]).cast(column.type)
                if column.name.lower() in have
                else pa.nulls(len(batch), column.type)
                for column in arrow
            ],
            schema=arrow,
        )


def write(io: FileIO, metadata: TableMetadata, rows: Batches, paths: list[str]) -> int:
    """Write rows as Parquet files of about 128 MiB, one row group at a time. They are not part of a snapshot yet.

    Args:
        io: The storage of the table.
        metadata: The table, with the columns that the rows have.
        rows: The rows. Columns are matched by name, and additional ones ignored.
        paths: Each file is added before it is written, so that the caller can remove it after an error.

    Returns:
        Number of rows.
    """
    import pyarrow.parquet as pq
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.table.locations import load_location_provider

    arrow = schema_to_pyarrow(metadata.schema())
    places = load_location_provider(metadata.location, metadata.properties)
    groups = _row_groups(aligned(rows, arrow))
    group = next(groups, None)
    written = 0
    while group is not None:
        path = places.new_data_location(f"{uuid.uuid4()}.parquet")
        paths.append(path)
        with (
            io.new_output(path).create() as stream,
            pq.ParquetWriter(stream, arrow, compression="zstd") as file,
        ):
            while group is not None and stream.tell() < _FILE:
                file.write_table(group)
                written += len(group)
                group = None  # not in memory while the next one is read
                group = next(groups, None)
    return written


def _row_groups(rows: Batches) -> Iterator[pa.Table]:
    """Yield batches together, up to the size of a row group."""
    import pyarrow as pa

    group: list[pa.RecordBatch] = []
    size = count = 0
    for batch in rows:
        if group and (size + batch.nbytes > _GROUP_BYTES or count + len(batch) > BATCH):
            table, group, size, count = pa.Table.from_batches(group), [], 0, 0
            yield table
            del table
            _release_memory()
        group.append(batch)
        size, count = size + batch.nbytes, count + len(batch)
    if group:
        yield pa.Table.from_batches(group)


def _release_memory() -> None:
    """Return freed memory to the system. Allocators keep it in sizes that the next batch may not need."""
    import pyarrow as pa

    for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
        pool.release_unused()


def remove(io: FileIO, paths: Sequence[str]) -> None:
    """Remove files that did not become part of a table."""
    for path in paths:
        with suppress(Exception):  # maintenance removes remaining files
            delete_file(io, path)
