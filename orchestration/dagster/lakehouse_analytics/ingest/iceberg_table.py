"""Changes one Iceberg table: writes data files with bounded memory, then makes them part of the table in one commit.

So readers see the table either before or after the change, and never empty or incomplete. There are no locks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.data_files import Batches, Name, find, remove, write
from lakehouse_analytics.iceberg.types import duckdb_type
from lakehouse_analytics.ingest.iceberg_schema import schema

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.update.snapshot import _MergeAppendFiles, _OverwriteFiles


def columns(table: Table) -> dict[str, str]:
    """Return the columns of a table with their DuckDB types."""
    return {column.name: duckdb_type(column.field_type) for column in table.schema().fields}


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
        self._transaction = self._begin()
        if rows is not None:
            write(self._io, self._transaction.table_metadata, rows, self._paths)

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
            remove(self._io, self._paths)

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
