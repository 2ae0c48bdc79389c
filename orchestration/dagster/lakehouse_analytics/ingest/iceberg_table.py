"""One Iceberg table's change: data files written aside, bounded in memory, then one commit that makes them the table.

So a reader sees the table as it was or as it is to be, never empty, never half. Nothing is locked.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse_analytics.ingest.iceberg_schema import duckdb_type, schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.update.snapshot import _MergeAppendFiles, _OverwriteFiles

#: (namespace, table).
Name = tuple[str, str]
Batches = Iterable["pa.RecordBatch"]
#: Rows of a Parquet row group, and kept in memory at a time.
BATCH = 122_880
_FILE = 128 << 20  # bytes of a data file before the next is begun


def find(catalog: Catalog, name: Name) -> Table | None:
    """The table, where there is one."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        return None


def columns(table: Table) -> dict[str, str]:
    """Its columns with their types, as DuckDB names types."""
    return {column.name: duckdb_type(column.field_type) for column in table.schema().fields}


def batches(table: Table) -> pa.RecordBatchReader:
    """Its rows, one data file in memory at a time."""
    import pyarrow as pa
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow

    # Not `to_arrow_batch_reader`: that reads all files ahead of who takes the rows.
    read = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    arrow = schema_to_pyarrow(table.schema(), include_field_ids=False)
    rows = (batch for task in table.scan().plan_files() for batch in read.to_record_batches([task]))
    return pa.RecordBatchReader.from_batches(arrow, _aligned(rows, arrow))


_PROPERTIES = {
    "format-version": "2",
    # Else pyiceberg lands an append after somebody else's commit, and two syncs that met would double their rows.
    "commit.retry.num-retries": "0",
}


def replace(catalog: Catalog, name: Name, columns: dict[str, str], rows: Batches) -> int:
    """Make a table exactly these rows, in one commit, whatever it was before.

    Args:
        catalog: has the namespace.
        columns: name to DuckDB type, as `duckdb_columns()` gives them.
        rows: by name; what is no column is left out.

    Returns:
        Rows in the table.
    """
    change = Change(catalog, name, find(catalog, name), columns, {}, replaces=True)
    try:
        change.write(rows)
    except BaseException:
        change.discard()
        raise
    return change.commit()


@dataclass
class Change:
    """What is to become of one table: `write` aside, then `commit`; or `discard` what was written.

    Args:
        catalog: holds the table, or is to hold it.
        name: of the table.
        table: as it is; None where there is none.
        columns: those it has afterwards, name to DuckDB type; others it has stay, unless `replaces`.
        properties: noted on the table and on the snapshot.
        replaces: all rows go, and columns that are not wanted.
        rewrites: all rows go. Else what is written is added.
    """

    catalog: Catalog
    name: Name
    table: Table | None
    columns: dict[str, str]
    properties: dict[str, str]
    replaces: bool = False
    rewrites: bool = False
    _transaction: Transaction | None = field(default=None, init=False)
    _paths: list[str] = field(default_factory=list, init=False)

    def write(self, rows: Batches | None) -> None:
        """Write the rows, if any, as data files that belong to no snapshot yet, so that no reader sees them."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        self._transaction = self._begin()
        if rows is not None:
            self._write(rows, schema_to_pyarrow(self._transaction.table_metadata.schema()))

    def commit(self) -> int:
        """Make the data files the table's, in one commit.

        Returns:
            Rows now in the table.

        Raises:
            CommitFailedException, ValidationException: somebody else changed the table since `write`.
        """
        assert self._transaction is not None  # noqa: S101  # `write` comes first
        transaction = self._transaction
        if self._paths or self._removes:
            self._snapshot(transaction)
        if self.table and (self._paths or self.replaces or self.rewrites):
            transaction.set_properties(self.properties)
        transaction.commit_transaction()
        return self.catalog.load_table(self.name).scan().count()

    def discard(self) -> None:
        """Remove what was written. Not after `commit` began: it may have succeeded."""
        if self._transaction is not None:
            # When pyarrow deletes the last file of a folder it leaves an object `data/`. The stack's S3 server takes
            # that for a file, and nothing can be written there any more. So one of a table's first files stays.
            empty = self.table is None or self.table.current_snapshot() is None
            for path in self._paths[1:] if empty else self._paths:
                with suppress(Exception):  # maintenance removes what stays
                    self._io.delete(path)

    @property
    def _removes(self) -> bool:
        return bool((self.replaces or self.rewrites) and self.table and self.table.current_snapshot())

    @property
    def _io(self) -> FileIO:
        assert self._transaction is not None  # noqa: S101
        return self._transaction._table.io  # the only way to that of a table that is not yet there

    def _begin(self) -> Transaction:
        wanted = schema(self.columns)
        if self.table is None:
            # The table is created by the commit that gives it its rows.
            return self.catalog.create_table_transaction(
                self.name, wanted, properties={**_PROPERTIES, **self.properties}
            )
        transaction = self.table.transaction()
        have = {column.name.lower() for column in self.table.schema().fields}
        if self.replaces and _shape(self.table.schema()) != _shape(wanted):
            # Removed and added in one change: new columns, whatever their names were before.
            with transaction.update_schema(allow_incompatible_changes=True) as change:
                for column in self.table.schema().fields:
                    change.delete_column((column.name,))
                for column in wanted.fields:
                    change.add_column((column.name,), column.field_type, required=column.required)
        elif added := [column for column in wanted.fields if column.name.lower() not in have]:
            with transaction.update_schema() as change:
                for column in added:
                    change.add_column((column.name,), column.field_type)
        return transaction

    def _write(self, rows: Batches, arrow: pa.Schema) -> None:
        """Parquet files of about `_FILE` bytes, a row group at a time."""
        import pyarrow.parquet as pq
        from pyiceberg.table.locations import load_location_provider

        assert self._transaction is not None  # noqa: S101
        metadata = self._transaction.table_metadata
        places = load_location_provider(metadata.location, metadata.properties)
        remaining = iter(_aligned(rows, arrow))
        batch = next(remaining, None)
        while batch is not None:
            path = places.new_data_location(f"{uuid.uuid4()}.parquet")
            self._paths.append(path)
            with (
                self._io.new_output(path).create() as stream,
                pq.ParquetWriter(stream, arrow, compression="zstd") as file,
            ):
                while batch is not None and stream.tell() < _FILE:
                    file.write_batch(batch)
                    batch = next(remaining, None)

    def _snapshot(self, transaction: Transaction) -> None:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import parquet_files_to_data_files

        update = transaction.update_snapshot(snapshot_properties=self.properties)
        snapshot: _OverwriteFiles | _MergeAppendFiles = update.overwrite() if self._removes else update.merge_append()
        if self.table and self._removes:
            # Rows that somebody adds meanwhile would be lost: then the commit is refused.
            snapshot.delete_by_predicate(AlwaysTrue())
            for task in self.table.scan().plan_files():
                snapshot.delete_data_file(task.file)
        for data_file in parquet_files_to_data_files(self._io, transaction.table_metadata, iter(self._paths)):
            snapshot.append_data_file(data_file)
        snapshot.commit()


def _shape(made: Schema) -> list[tuple[str, str, bool]]:
    # Without the numbers of nested fields, which every table gives its own.
    return [(column.name, re.sub(r"\d+: ", "", str(column.field_type)), column.required) for column in made.fields]


def _aligned(rows: Batches, arrow: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches with exactly these columns: found whatever their case, null where there is none."""
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
