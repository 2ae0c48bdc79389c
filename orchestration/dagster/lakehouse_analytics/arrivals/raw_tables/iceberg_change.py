"""One change of an Iceberg table: new rows, and copies of the data files that have rows to remove, in one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.raw_tables.iceberg_pruning import candidates, named_columns
from lakehouse_analytics.arrivals.raw_tables.new_rows import NewRows
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.iceberg.data_files import Name, batch_rows, batches, remove, write
from lakehouse_analytics.iceberg.types import schema_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, Table, Transaction

_RETRIES = "commit.retry.num-retries"
_NEW_TABLE = {
    "format-version": "2",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}
# Otherwise, pyiceberg would repeat an append after a concurrent commit, although the state was made for another one.
_NO_RETRIES = {_RETRIES: "0"}
_BATCH = 8192
_GONE = "__lakehouse_gone"


@dataclass
class IcebergChange:
    """A pending change. Call `write`, then `commit`, or `discard` to remove what was written.

    Args:
        catalog: The catalog.
        name: The table.
        table: Its current state; None if it does not exist.
        rows: The checked rows of the change.
        db: DuckDB, as a tool that reads and joins the rows.
        properties: Set on the table.
    """

    catalog: Catalog
    name: Name
    table: Table | None
    rows: NewRows
    db: duckdb.DuckDBPyConnection
    properties: Mapping[str, str]
    inserted: int = field(default=0, init=False)
    deleted: int = field(default=0, init=False)
    _transaction: Transaction | None = field(default=None, init=False)
    _paths: list[str] = field(default_factory=list, init=False)
    _removed: list[FileScanTask] = field(default_factory=list, init=False)
    _snapshot_id: int | None = field(default=None, init=False)

    def write(self) -> None:
        """Write the data files and a snapshot with them, which is not part of the table yet."""
        import pyarrow.parquet as pq

        transaction = self._transaction = self._begin()
        if self.table and self.rows.change.replaces:
            self._removed = list(self.table.scan().plan_files())
            self.deleted = self.table.scan().count()
        elif self.table:
            self._rewrite(self.table, transaction)
        if self.rows.select:
            size = min(batch_rows(pq.read_metadata(path)) for path in self.rows.change.rows)
            new = self.db.sql(self.rows.select).to_arrow_reader(size)
            self.inserted = write(transaction._table.io, transaction.table_metadata, new, self._paths)
        self._stage(transaction)

    def commit(self) -> None:
        """Make the change part of the table.

        Raises:
            CommitFailedException, TableAlreadyExistsError: Another process has changed the table.
        """
        assert self._transaction is not None  # noqa: S101  # `write` was called before
        self._transaction.commit_transaction()

    def is_committed(self) -> bool:
        """Return whether the change is part of the table."""
        return self.catalog.load_table(self.name).metadata.snapshot_by_id(self._snapshot_id or 0) is not None

    def discard(self) -> None:
        """Remove the written files. Only call it if they cannot have become part of the table."""
        if self._transaction is not None:
            remove(self._transaction._table.io, self._paths)

    def _stage(self, transaction: Transaction) -> None:
        from pyiceberg.io.pyarrow import parquet_files_to_data_files

        update = transaction.update_snapshot()
        snapshot = (
            update.overwrite() if self._removed else update.merge_append() if self._paths else update.fast_append()
        )
        for task in self._removed:
            snapshot.delete_data_file(task.file)
        io = transaction._table.io
        for data_file in parquet_files_to_data_files(io, transaction.table_metadata, iter(self._paths)):
            snapshot.append_data_file(data_file)
        # A change without rows has a snapshot, too: its id is the version of the table.
        self._snapshot_id = snapshot.snapshot_id
        snapshot.commit()
        transaction.set_properties({**self.properties, **_NO_RETRIES})

    def _begin(self) -> Transaction:
        if self.table is None:
            # The commit that adds the rows also creates the table.
            properties = {**_NEW_TABLE, **_NO_RETRIES, **self.properties}
            return self.catalog.create_table_transaction(self.name, schema_of(self.rows.columns), properties=properties)
        # pyiceberg reads this property before it commits.
        self.table.metadata.properties.update(_NO_RETRIES)
        transaction = self.table.transaction()
        if self.rows.change.replaces:
            wanted = schema_of(self.rows.columns)
            if shape(self.table.schema()) != shape(wanted):
                # Columns are removed and added in one change, so they are new ones even if their names are the same.
                with transaction.update_schema(allow_incompatible_changes=True) as change:
                    for column in self.table.schema().fields:
                        change.delete_column((column.name,))
                    for column in wanted.fields:
                        change.add_column((column.name,), column.field_type)
        elif self.rows.added:
            with transaction.update_schema() as change:
                for column in schema_of(self.rows.added).fields:
                    change.add_column((column.name,), column.field_type)
        return transaction

    def _rewrite(self, table: Table, transaction: Transaction) -> None:
        """Write the remaining rows of all files that have rows to remove."""
        where = self.rows.change.delete_where
        keys = self.rows.keys
        if not (where or keys):
            return
        if keys:
            self.db.execute(f"CREATE TABLE removed_keys AS {keys}")
        first = self.rows.key[0] if keys else None
        existing = {column.name.lower() for column in table.schema().fields}
        if first and first.lower() not in existing:
            first = None
        for task in candidates(self.db, table, keys="removed_keys" if keys else None, key=first, where=where):
            if count := self._matches(table, task):
                self._removed.append(task)
                self.deleted += count
        if self._removed:
            write(transaction._table.io, transaction.table_metadata, self._remaining(table), self._paths)

    def _matches(self, table: Table, task: FileScanTask) -> int:
        needed = self._needed(table)
        self._register(batches(table, [task], needed))
        [(count,)] = self.db.execute(f"SELECT count(*) FROM ({self._marked()}) WHERE {_GONE}").fetchall()  # noqa: S608
        return int(count)

    def _remaining(self, table: Table) -> Iterator[pa.RecordBatch]:
        for task in self._removed:
            self._register(batches(table, [task]))
            query = f"SELECT * EXCLUDE ({_GONE}) FROM ({self._marked()}) WHERE NOT {_GONE}"  # noqa: S608
            yield from self.db.sql(query).to_arrow_reader(_BATCH)

    def _needed(self, table: Table) -> list[str]:
        """Return the columns by which rows are removed."""
        keys = {name.lower() for name in self.rows.key} if self.rows.keys else set()
        names = [column.name for column in table.schema().fields]
        used = named_columns(table, self.rows.change.delete_where or "")
        return [name for name in names if name.lower() in keys or name in used] or names[:1]

    def _register(self, rows: pa.RecordBatchReader) -> None:
        """Make rows of the table readable as `old`, with the columns that it gets by this change."""
        self.db.register("stored_rows", rows)
        added = "".join(f", CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in self.rows.added.items())
        self.db.execute(f"CREATE OR REPLACE TEMP VIEW old AS SELECT *{added} FROM stored_rows")  # noqa: S608

    def _marked(self) -> str:
        """Return a query for the rows of `old`, each with whether it is removed."""
        where = self.rows.change.delete_where
        condition = f"coalesce(({where}), false)" if where else "false"
        marked = f"SELECT *, {condition} AS {_GONE} FROM old"  # noqa: S608
        if not self.rows.keys:
            return marked
        same = " AND ".join(f"o.{key} IS NOT DISTINCT FROM k.{key}" for key in map(identifier, self.rows.key))
        return (
            f"SELECT o.* REPLACE (o.{_GONE} OR k.matches IS NOT NULL AS {_GONE}) FROM ({marked}) AS o "  # noqa: S608
            f"LEFT JOIN (SELECT *, true AS matches FROM removed_keys) AS k ON {same}"
        )


def shape(table_schema: Schema) -> list[tuple[str, str, bool]]:
    """Return names and types of columns, without the ids of nested fields, which differ between tables."""
    return [
        (column.name, re.sub(r"\d+: ", "", str(column.field_type)), column.required) for column in table_schema.fields
    ]
