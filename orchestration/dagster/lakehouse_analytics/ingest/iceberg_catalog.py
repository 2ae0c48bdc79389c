"""An Iceberg catalog as destination: the tables that Trino reads, written without Trino.

Several tables cannot change in one commit. So each is written aside first, then each changes in one commit of its own,
and the state comes last. Every table notes which sync wrote it. A sync that dies in between leaves the old state; the
next one sees from the tables how far it came, reads the same records again and removes the first copy as it adds the
second.
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

from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest import iceberg_state, rows, state
from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.iceberg_table import BATCH, Change, Name, batches, columns, find
from lakehouse_analytics.ingest.plan import Plan, StreamPlan
from lakehouse_analytics.ingest.protocol import StreamKey
from lakehouse_analytics.ingest.staging import Staging, private_folder, refuse, scratch
from lakehouse_analytics.ingest.state import StoredState

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

#: What a load notes on the tables it writes and on their snapshots.
SOURCE, SYNC_ID, GENERATION_ID = "lakehouse.source", "lakehouse.sync-id", "lakehouse.generation-id"
_CONNECTOR = "lakehouse.connector"
#: Whose errors are those of the catalog or its storage.
_LIBRARIES = {"pyiceberg", "sqlalchemy", "psycopg2", "pyarrow", "requests", "urllib3", "botocore", "duckdb"}


@dataclass(frozen=True)
class IcebergCatalog:
    """The pyiceberg catalog of this name (PYICEBERG_CATALOG__<NAME>__*, or pyiceberg's own file)."""

    name: str

    @cached_property
    def _catalog(self) -> Catalog:
        from lakehouse_analytics.iceberg.catalog import open_catalog

        return open_catalog(self.name)

    @contextmanager
    def stage(self, connection: Connection) -> Iterator[Path]:
        """In the folder for temporary files (TMPDIR): the lock holds on this machine only."""
        temporary = Path(tempfile.gettempdir())
        where = f"TMPDIR={temporary}"
        with self._told("Nothing was written"):
            place = str(self._catalog.properties.get("warehouse"))
        # Two catalogs of one name, in two checkouts, are two destinations.
        warehouse = hashlib.sha256(place.encode()).hexdigest()[:8]
        mine = temporary / f"lakehouse-ingest-{os.getuid()}"
        parent = mine / f"{self.name}-{warehouse}" / connection.schema_name.lower()
        try:
            mine.mkdir(mode=0o700, exist_ok=True)
            found = mine.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise PermissionError(1, f"{mine} is not a private folder of this user")
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise refuse(where, temporary, error) from None
        with private_folder(parent, connection.name, where=where, into=str(self)) as folder:
            yield folder

    def __str__(self) -> str:  # noqa: D105
        return f"Iceberg catalog {self.name}"

    def read(self, connection: Connection) -> StoredState:
        """The stored state, and the tables of the connection's streams."""
        namespace = connection.schema_name.lower()
        known = StoredState()
        with self._told("Nothing was written"):
            if not self._catalog.namespace_exists(namespace):
                return known
            known.sync_id, stored = iceberg_state.read(self._catalog, namespace, connection.name)
            state.take(known, stored, f"{connection.schema_name}.{state.TABLE}")
            for stream in connection.streams:
                if table := find(self._catalog, _name(connection, stream.table_name)):
                    known.tables[stream.table_name.lower()] = _known(table)
        return known

    def load(self, connection: Connection, plan: Plan, staging: Staging, known: StoredState) -> dict[StreamKey, int]:
        """All tables, then the state."""
        namespace = connection.schema_name.lower()
        changes: dict[StreamKey, Change] = {}
        with self._told("Nothing was changed"):
            self._catalog.create_namespace_if_not_exists(namespace)
            _, stored = iceberg_state.read(self._catalog, namespace, connection.name)
            state.take(now := StoredState(), stored, f"{connection.schema_name}.{state.TABLE}")
            if (now.streams, now.shared) != (known.streams, known.shared):
                raise self._meanwhile(f"another sync of {connection.name} ended, on another machine?")
            try:
                for key, stream in plan.streams.items():
                    changes[key] = self._change(connection, stream, plan, known)
                    _write(changes[key], stream, staging.streams[key].parquet, staging.directory)
            except BaseException:
                for change in changes.values():
                    change.discard()
                raise
        with self._told("The stored state is as before: run again, the next sync takes back what this one began"):
            totals = {key: change.commit() for key, change in changes.items()}
            rows = state.following(plan, staging, known)
            iceberg_state.write(self._catalog, namespace, connection.name, stored, rows)
        return totals

    @contextmanager
    def _told(self, outcome: str) -> Iterator[None]:
        """Turns the libraries' errors into one line; what they say may hold an address with its password."""
        from lakehouse_analytics.iceberg.catalog import CatalogError, reason

        try:
            yield
        except CatalogError as error:
            raise IngestError(str(error)) from None
        except Exception as error:
            # Storage speaks in OSError (pyarrow).
            if type(error).__module__.partition(".")[0] not in _LIBRARIES and not isinstance(error, OSError):
                raise
            raise IngestError(f"{self}: {reason(self.name, error)[:500]}. {outcome}") from None

    def _change(self, connection: Connection, stream: StreamPlan, plan: Plan, known: StoredState) -> Change:
        name = _name(connection, stream.table)
        table = find(self._catalog, name)
        if (table is None) != (stream.table.lower() not in known.tables):
            raise self._meanwhile(f"{'.'.join(name)} was {'made' if table else 'dropped'}")
        noted = {
            SOURCE: connection.name,
            SYNC_ID: str(plan.sync_id),
            GENERATION_ID: str(stream.generation_id),
            _CONNECTOR: f"{connection.connector.package} {connection.connector.version}",
        }
        return Change(self._catalog, name, table, sql.column_types(stream.columns), noted, replaces=stream.replaces)

    def _meanwhile(self, what: str) -> IngestError:
        return IngestError(f"{self}: {what} while this sync read its source; nothing was written: run again")


def _name(connection: Connection, table: str) -> Name:
    # Trino asks for names in lower case, whatever is written in a query.
    return connection.schema_name.lower(), table.lower()


def _known(table: Table) -> state.Table:
    noted = table.properties
    return state.Table(columns(table), noted.get(SOURCE), int(noted.get(SYNC_ID, 0)), int(noted.get(GENERATION_ID, 0)))


def _write(change: Change, stream: StreamPlan, parquet: Path | None, directory: Path) -> None:
    """Writes the table's new rows aside: all rows where it is rewritten, else what came."""
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
