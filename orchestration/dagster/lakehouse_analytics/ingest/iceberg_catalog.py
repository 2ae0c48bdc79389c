"""An Iceberg catalog as a destination: writes the tables that Trino reads, without using Trino.

Several tables cannot change in one commit. So the new data of all tables is written first, then each table changes in
one commit, and the state is stored last. Each table records which sync wrote it. If a sync dies in between, the old
state is still stored. The next sync then finds out from the tables how far it came, reads the same records again, and
removes the first copy while it adds the second.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.data_files import BATCH, Name, batches, find
from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest import iceberg_state, rows, state
from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.iceberg_table import Change, columns
from lakehouse_analytics.ingest.plan import Plan, StreamPlan
from lakehouse_analytics.ingest.protocol import StreamKey
from lakehouse_analytics.ingest.staging import Staging, private_folder, scratch, unwritable
from lakehouse_analytics.ingest.state import StoredState

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

#: Properties that a load sets on the tables and on their snapshots.
SOURCE, SYNC_ID, GENERATION_ID = "lakehouse.source", "lakehouse.sync-id", "lakehouse.generation-id"
_CONNECTOR = "lakehouse.connector"
#: Packages whose errors come from the catalog or its storage.
_LIBRARIES = {"pyiceberg", "sqlalchemy", "psycopg2", "pyarrow", "requests", "urllib3", "botocore", "duckdb"}


@dataclass(frozen=True)
class IcebergCatalog:
    """A pyiceberg catalog with a name (PYICEBERG_CATALOG__<NAME>__*, or pyiceberg's own file)."""

    name: str

    @cached_property
    def _catalog(self) -> Catalog:
        from lakehouse_analytics.iceberg.catalog import open_catalog

        return open_catalog(self.name)

    @contextmanager
    def stage(self, connection: Connection) -> Iterator[Path]:
        """See `Destination`.

        The folder is in that for temporary files (TMPDIR), and the lock only covers this machine.
        """
        temporary = Path(tempfile.gettempdir())
        where = f"TMPDIR={temporary}"
        with self._as_ingest_errors("Nothing was written"):
            warehouse_location = str(self._catalog.properties.get("warehouse"))
        # Two catalogs with the same name, in two checkouts, are two destinations.
        warehouse = hashlib.sha256(warehouse_location.encode()).hexdigest()[:8]
        user_folder = temporary / f"lakehouse-ingest-{os.getuid()}"
        parent = user_folder / f"{self.name}-{warehouse}" / connection.schema_name.lower()
        try:
            user_folder.mkdir(mode=0o700, exist_ok=True)
            found = user_folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise PermissionError(1, f"{user_folder} is not a private folder of this user")
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(where, temporary, error) from None
        with private_folder(parent, connection.name, where=where, into=str(self)) as folder:
            yield folder

    def __str__(self) -> str:  # noqa: D105
        return f"Iceberg catalog {self.name}"

    def read(self, connection: Connection) -> StoredState:
        """Return the stored state, and the tables of the connection's streams."""
        namespace = connection.schema_name.lower()
        known = StoredState()
        with self._as_ingest_errors("Nothing was written"):
            if not self._catalog.namespace_exists(namespace):
                return known
            known.sync_id, stored = iceberg_state.read(self._catalog, namespace, connection.name)
            state.add_rows(known, stored, f"{connection.schema_name}.{state.TABLE}")
            for stream in connection.streams:
                if table := find(self._catalog, _name(connection, stream.table_name)):
                    known.tables[stream.table_name.lower()] = _existing_table(table)
        return known

    def load(self, connection: Connection, plan: Plan, staging: Staging, known: StoredState) -> dict[StreamKey, int]:
        """Write all tables, then the state."""
        namespace = connection.schema_name.lower()
        changes: dict[StreamKey, Change] = {}
        with self._as_ingest_errors("Nothing was changed"):
            self._catalog.create_namespace_if_not_exists(namespace)
            _, stored = iceberg_state.read(self._catalog, namespace, connection.name)
            state.add_rows(now := StoredState(), stored, f"{connection.schema_name}.{state.TABLE}")
            if (now.streams, now.shared) != (known.streams, known.shared):
                raise self._conflict(f"another sync of {connection.name} ended, perhaps on another machine,")
            try:
                for key, stream in plan.streams.items():
                    changes[key] = self._change(connection, stream, plan, known)
                    _write(changes[key], stream, staging.streams[key].parquet, staging.directory)
            except BaseException:
                for change in changes.values():
                    change.discard()
                raise
        with self._as_ingest_errors(
            "The stored state is unchanged. Run the sync again: it reverts what this one has written"
        ):
            totals = {key: change.commit() for key, change in changes.items()}
            rows = state.new_rows(plan, staging, known)
            iceberg_state.write(self._catalog, namespace, connection.name, stored, rows)
        return totals

    @contextmanager
    def _as_ingest_errors(self, outcome: str) -> Iterator[None]:
        """Convert the libraries' errors to one line. Their messages may contain an address with its password."""
        from lakehouse_analytics.iceberg.catalog import CatalogError, reason

        try:
            yield
        except CatalogError as error:
            raise IngestError(str(error)) from None
        except Exception as error:
            # pyarrow reports errors of the storage as OSError.
            if type(error).__module__.partition(".")[0] not in _LIBRARIES and not isinstance(error, OSError):
                raise
            raise IngestError(f"{self}: {reason(self.name, error)[:500]}. {outcome}") from None

    def _change(self, connection: Connection, stream: StreamPlan, plan: Plan, known: StoredState) -> Change:
        name = _name(connection, stream.table)
        table = find(self._catalog, name)
        if (table is None) != (stream.table.lower() not in known.tables):
            raise self._conflict(f"{'.'.join(name)} was {'created' if table else 'dropped'}")
        properties = {
            SOURCE: connection.name,
            SYNC_ID: str(plan.sync_id),
            GENERATION_ID: str(stream.generation_id),
            _CONNECTOR: f"{connection.connector.package} {connection.connector.version}",
        }
        return Change(
            self._catalog, name, table, sql.column_types(stream.columns), properties, replaces=stream.replaces
        )

    def _conflict(self, what: str) -> IngestError:
        return IngestError(f"{self}: {what} while this sync read its source; nothing was written. Run it again")


def _name(connection: Connection, table: str) -> Name:
    # Trino uses names in lower case, regardless of their case in a query.
    return connection.schema_name.lower(), table.lower()


def _existing_table(table: Table) -> state.Table:
    properties = table.properties
    return state.Table(
        columns(table), properties.get(SOURCE), int(properties.get(SYNC_ID, 0)), int(properties.get(GENERATION_ID, 0))
    )


def _write(change: Change, stream: StreamPlan, parquet: Path | None, directory: Path) -> None:
    """Write the data files of a table: all of its rows if it is rewritten, else the new ones."""
    new = rows.incoming(stream, parquet) if parquet else None
    old = None
    if stream.unfinished_after is not None:
        old = f"SELECT * FROM old WHERE _airbyte_meta.sync_id <= {stream.unfinished_after}"  # noqa: S608
    elif stream.key_columns and parquet and not stream.replaces:
        same = rows.same_key(stream, "old", "new")
        old = f"SELECT old.* FROM old ANTI JOIN {rows.staged(parquet)} AS new ON {same}"  # noqa: S608
    change.rewrites = old is not None
    query = " UNION ALL BY NAME ".join(f"({part})" for part in (old, new) if part)
    if not query:
        change.write(None)
        return
    with scratch(directory) as tool:
        if old and change.table:
            tool.register("old", batches(change.table))
        change.write(tool.sql(query).to_arrow_reader(BATCH))
