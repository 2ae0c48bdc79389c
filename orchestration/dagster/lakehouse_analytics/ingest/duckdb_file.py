"""The DuckDB file as a destination: one transaction for all rows and the state."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.duckdb.database import qualified
from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest import rows, state
from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.plan import Plan, StreamPlan
from lakehouse_analytics.ingest.protocol import StreamKey
from lakehouse_analytics.ingest.staging import Staging, private_folder, unwritable
from lakehouse_analytics.ingest.state import Row, StoredState, Table

if TYPE_CHECKING:
    import duckdb

_STATE = (
    "source VARCHAR NOT NULL, namespace VARCHAR, stream VARCHAR, generation_id BIGINT, sync_id BIGINT NOT NULL, "
    "settings VARCHAR, state VARCHAR, updated_at TIMESTAMP WITH TIME ZONE NOT NULL"
)


@dataclass(frozen=True)
class DuckDBFile:
    """A DuckDB file.

    It is opened twice, to read the state and to load, and waits up to `timeout` seconds for its lock.
    """

    path: Path
    timeout: float

    @contextmanager
    def stage(self, connection: Connection) -> Iterator[Path]:
        """See `Destination`. The folder is next to the file, so that it is on the disk with space for the data."""
        parent, where = self.path.parent, f"LAKEHOUSE_DUCKDB_PATH={self.path}"
        try:
            if not parent.exists():
                # Create one level only, so that a disk that is not mounted is not mistaken for an empty folder.
                parent.mkdir()
            self._must_be_a_file()
            if self.path.exists() and not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "the file is read-only")
        except OSError as error:
            raise unwritable(where, parent, error) from None
        with private_folder(parent, connection.name, where=where, into=str(self.path)) as folder:
            yield folder

    def _must_be_a_file(self) -> None:
        # The file may be missing: the sync creates it.
        if self.path.is_symlink() and not self.path.exists():
            raise FileNotFoundError(errno.ENOENT, f"it is a link to {self.path.readlink()}, which does not exist")
        if self.path.exists() and not self.path.is_file():
            raise OSError(errno.EINVAL, "it is a folder" if self.path.is_dir() else "it is not a regular file")

    def read(self, connection: Connection) -> StoredState:
        """Return the stored state; empty for a new file."""
        known = StoredState()
        if not self.path.is_file():
            return known
        schema = connection.schema_name
        with self._connect(read_only=True) as db:
            for table, column, kind, view in db.execute(
                "SELECT table_name, column_name, data_type, (database_name, schema_name, table_name) IN "
                "(SELECT (database_name, schema_name, view_name) FROM duckdb_views()) FROM duckdb_columns() "
                "WHERE lower(schema_name) = lower(?) AND database_name = current_database() ORDER BY column_index",
                [schema],
            ).fetchall():
                known.tables.setdefault(table.lower(), Table({}, view=view)).columns[column] = kind
            if state.TABLE not in known.tables:
                return known
            where = f"{schema}.{state.TABLE} in {self.path}"
            state.check_columns(where, known.tables[state.TABLE].columns)
            name = qualified(db, schema, state.TABLE)
            row = db.execute(f"SELECT max(sync_id) FROM {name}").fetchone()  # noqa: S608
            known.sync_id = (row[0] if row else None) or 0
            columns = "namespace, stream, generation_id, sync_id, settings, state"
            stored = db.execute(f"SELECT {columns} FROM {name} WHERE source = ?", [connection.name])  # noqa: S608
            state.add_rows(known, [Row(*row) for row in stored.fetchall()], where)
        return known

    def load(self, connection: Connection, plan: Plan, staging: Staging, known: StoredState) -> dict[StreamKey, int]:
        """Write the rows and the state in one transaction."""
        schema = connection.schema_name
        totals: dict[StreamKey, int] = {}
        with self._connect(read_only=False) as db:
            db.execute("BEGIN")
            try:
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified(db, schema)}")
                for key, stream in plan.streams.items():
                    totals[key] = _load_stream(db, schema, stream, staging.streams[key].parquet, known)
                _write_state(db, schema, connection.name, state.new_rows(plan, staging, known))
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        return totals

    @contextmanager
    def _connect(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb

        from lakehouse_analytics.engines.base import DatabaseError
        from lakehouse_analytics.engines.duckdb.database import connect

        try:
            with connect(self.path, read_only=read_only, timeout=self.timeout) as db:
                yield db
        except DatabaseError as error:
            raise IngestError(str(error)) from None
        except duckdb.Error as error:
            message = str(error).strip().splitlines()[0]
            raise IngestError(f"{self.path}: nothing was changed: {message}") from error


def _load_stream(
    db: duckdb.DuckDBPyConnection, schema: str, stream: StreamPlan, parquet: Path | None, known: StoredState
) -> int:
    table = qualified(db, schema, stream.table)
    if stream.replaces:
        db.execute(f"CREATE OR REPLACE TABLE {table} ({sql.table_definition(stream.columns)})")
    else:
        have = {name.lower() for name in known.tables[stream.table.lower()].columns}
        for column in stream.columns:
            if column.name.lower() not in have:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {identifier(column.name)} {column.type}")
    if parquet is not None:
        if stream.key_columns:
            same = rows.same_key(stream, "old", "new")
            db.execute(f"DELETE FROM {table} AS old USING {rows.staged(parquet)} AS new WHERE {same}")  # noqa: S608
        db.execute(f"INSERT INTO {table} BY NAME {rows.incoming(stream, parquet)}")
    row = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _write_state(db: duckdb.DuckDBPyConnection, schema: str, source: str, new_state: list[Row]) -> None:
    """Replace the state of these streams and of the source as a whole."""
    name = qualified(db, schema, state.TABLE)
    db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({_STATE})")
    db.execute(f"DELETE FROM {name} WHERE source = ? AND stream IS NULL", [source])  # noqa: S608
    for row in new_state:
        db.execute(
            f"DELETE FROM {name} WHERE source = ? AND namespace IS NOT DISTINCT FROM ? AND stream = ?",  # noqa: S608
            [source, row.namespace, row.stream],
        )
    values = [[source, *astuple(row)] for row in new_state]
    db.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?, ?, ?, now())", values)  # noqa: S608
