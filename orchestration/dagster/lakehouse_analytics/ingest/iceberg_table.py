"""Changes one Iceberg table: writes data files with bounded memory, then makes them part of the table in one commit.

So readers see the table either before or after the change, and never empty or incomplete. There are no locks.
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

#: Namespace and name of a table.
Name = tuple[str, str]
Batches = Iterable["pa.RecordBatch"]
#: Rows per Parquet row group, which is also the number of rows in memory.
BATCH = 122_880
_FILE = 128 << 20  # maximum bytes of a data file


def find(catalog: Catalog, name: Name) -> Table | None:
    """Return the table, or None if it does not exist."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        return None


def columns(table: Table) -> dict[str, str]:
    """Return the columns of a table with their DuckDB types."""
    return {column.name: duckdb_type(column.field_type) for column in table.schema().fields}


def batches(table: Table) -> pa.RecordBatchReader:
    """Return the rows of a table, with one data file in memory at a time."""
    import pyarrow as pa
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow

    # `to_arrow_batch_reader` reads files ahead of the consumer, so that all may be in memory.
    read = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    arrow = schema_to_pyarrow(table.schema(), include_field_ids=False)
    rows = (batch for task in table.scan().plan_files() for batch in read.to_record_batches([task]))
    return pa.RecordBatchReader.from_batches(arrow, _aligned(rows, arrow))


_PROPERTIES = {
    "format-version": "2",
    # Otherwise, pyiceberg would repeat an append after a concurrent commit, and two syncs would write the same rows
    # twice.
    "commit.retry.num-retries": "0",
}


def replace(catalog: Catalog, name: Name, columns: dict[str, str], rows: Batches) -> int:
    """Replace the rows and columns of a table in one commit, and create it if it does not exist.

    Args:
        catalog: The catalog, which has the namespace.
        name: The table.
        columns: DuckDB types by name, as in `duckdb_columns()`.
        rows: The rows. Columns are matched by name, and additional ones ignored.

    Returns:
        Number of rows in the table.
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
    """A pending change of a table. Call `write`, then `commit`, or `discard` to remove what was written.

    Args:
        catalog: The catalog.
        name: The table.
        table: Its current state; None if it does not exist.
        columns: DuckDB types, by name, of the columns that the table has afterwards. Other existing columns are kept
            unless `replaces` is set.
        properties: Set on the table and on the snapshot.
        replaces: Remove all existing rows, and columns that are not in `columns`.
        rewrites: Remove all existing rows. Otherwise, the written rows are added.
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
        """Write the rows, if any, as data files that are not part of a snapshot yet, so readers do not see them."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        self._transaction = self._begin()
        if rows is not None:
            self._write(rows, schema_to_pyarrow(self._transaction.table_metadata.schema()))

    def commit(self) -> int:
        """Make the data files part of the table, in one commit.

        Returns:
            Number of rows in the table.

        Raises:
            CommitFailedException, ValidationException: The table was changed by another process since `write`.
        """
        assert self._transaction is not None  # noqa: S101  # `write` was called before
        transaction = self._transaction
        if self._paths or self._removes:
            self._snapshot(transaction)
        if self.table and (self._paths or self.replaces or self.rewrites):
            transaction.set_properties(self.properties)
        transaction.commit_transaction()
        return self.catalog.load_table(self.name).scan().count()

    def discard(self) -> None:
        """Remove the written files. Do not call it once `commit` has begun, because the commit may have succeeded."""
        if self._transaction is not None:
            # When pyarrow deletes the last file of a folder, it creates an object `data/`. The stack's S3 server treats
            # it as a file, and nothing can be written there any more. So one file of a new table is kept.
            empty = self.table is None or self.table.current_snapshot() is None
            for path in self._paths[1:] if empty else self._paths:
                with suppress(Exception):  # maintenance removes remaining files
                    self._io.delete(path)

    @property
    def _removes(self) -> bool:
        return bool((self.replaces or self.rewrites) and self.table and self.table.current_snapshot())

    @property
    def _io(self) -> FileIO:
        assert self._transaction is not None  # noqa: S101
        return self._transaction._table.io  # the only access to the IO of a table that does not exist yet

    def _begin(self) -> Transaction:
        wanted = schema(self.columns)
        if self.table is None:
            # The commit that adds the rows also creates the table.
            return self.catalog.create_table_transaction(
                self.name, wanted, properties={**_PROPERTIES, **self.properties}
            )
        transaction = self.table.transaction()
        have = {column.name.lower() for column in self.table.schema().fields}
        if self.replaces and _shape(self.table.schema()) != _shape(wanted):
            # Columns are removed and added in one change, so they are new ones even if their names are the same.
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
        """Write Parquet files of about `_FILE` bytes, one row group at a time."""
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
            # If another process adds rows in the meantime, this makes the commit fail instead of deleting them.
            snapshot.delete_by_predicate(AlwaysTrue())
            for task in self.table.scan().plan_files():
                snapshot.delete_data_file(task.file)
        for data_file in parquet_files_to_data_files(self._io, transaction.table_metadata, iter(self._paths)):
            snapshot.append_data_file(data_file)
        snapshot.commit()


def _shape(table_schema: Schema) -> list[tuple[str, str, bool]]:
    # Without the ids of nested fields, which differ between tables.
    return [
        (column.name, re.sub(r"\d+: ", "", str(column.field_type)), column.required) for column in table_schema.fields
    ]


def _aligned(rows: Batches, arrow: pa.Schema) -> Iterator[pa.RecordBatch]:
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
