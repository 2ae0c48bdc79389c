"""A raw table in an Iceberg catalog: one commit for rows, columns and state, which is a property of the table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, Outcome, TableState
from lakehouse_analytics.arrivals.raw_tables.iceberg_pruning import named_columns
from lakehouse_analytics.arrivals.raw_tables.new_rows import NewRows, check, scratch
from lakehouse_analytics.common.scratch import ARRIVALS, scratch_folder
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.iceberg.data_files import batches, find
from lakehouse_analytics.iceberg.errors import is_transient
from lakehouse_analytics.iceberg.types import duckdb_type, stored_type

if TYPE_CHECKING:
    import duckdb
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from lakehouse_analytics.arrivals.raw_tables.iceberg_change import IcebergChange

#: The property with the state.
STATE = "lakehouse.arrival-state"
#: Packages whose errors come from the catalog, its storage or the files with new rows.
_LIBRARIES = {"pyiceberg", "sqlalchemy", "psycopg2", "pyarrow", "requests", "urllib3", "botocore", "_duckdb"}


@dataclass(frozen=True)
class IcebergTable:
    """A table of a pyiceberg catalog (PYICEBERG_CATALOG__<NAME>__*, or pyiceberg's own file)."""

    catalog_name: str
    namespace: str
    table: str

    def __str__(self) -> str:
        """Return the name of the table and the catalog, for messages."""
        return f"{self.namespace}.{self.table} in Iceberg catalog {self.catalog_name}"

    def read(self) -> TableState:
        """See `RawTable`."""
        with self._errors():
            return _state_of(self._find())

    def apply(self, change: Change, before: TableState) -> Outcome:
        """See `RawTable`."""
        with self._errors("nothing was changed: "), scratch() as db:
            db.execute("SET threads = 1")  # each has batches of its own, and Python reads and writes them in one
            table = self._find()
            now = _state_of(table)
            if now.version != before.version:
                raise self._conflict()
            rows = self._checked(db, change, now)
            self._catalog.create_namespace_if_not_exists(self.namespace)
            old = table.scan().count() if table else 0
            pending = self._pending(db, table, rows)
            try:
                pending.write()
            except BaseException:
                pending.discard()
                raise
            self._commit(pending)
            return Outcome(old - pending.deleted + pending.inserted, pending.inserted, pending.deleted)

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """See `RawTable`.

        Only the columns whose names the query contains are read, or all if it selects `*`.
        """
        with self._errors():
            table = self._find()
            if table is None:
                return []
            names = named_columns(table, sql) or [table.schema().fields[0].name]
            with scratch() as db, scratch_folder(ARRIVALS) as folder:
                # A query may read the table several times, but its rows can only be read once.
                path = folder / "rows.parquet"
                _copy(db, table, names, "SELECT * FROM stored_rows", path)
                db.execute(f"CREATE TEMP VIEW raw_table AS FROM read_parquet({literal(str(path))})")
                return db.execute(sql.replace("{table}", "raw_table")).fetchall()

    def keys_to(self, columns: Sequence[str], path: Path) -> None:
        """See `RawTable`."""
        with self._errors():
            table = self._find()
            if table is None:
                raise ArrivalError(f"{self} does not exist")
            names = [table.schema().find_field(name, case_sensitive=False).name for name in columns]
            with scratch() as db:
                distinct = f"SELECT DISTINCT {', '.join(map(identifier, columns))} FROM stored_rows"  # noqa: S608
                _copy(db, table, names, distinct, path)

    @cached_property
    def _catalog(self) -> Catalog:
        from lakehouse_analytics.iceberg.catalog import open_catalog

        return open_catalog(self.catalog_name)

    def _find(self) -> Table | None:
        table = find(self._catalog, (self.namespace, self.table))
        if table is not None and not table.spec().is_unpartitioned():
            raise ArrivalError(
                f"{self} is partitioned; raw tables that files and databases are loaded into are not. Drop it, or "
                "choose another name"
            )
        return table

    def _checked(self, db: duckdb.DuckDBPyConnection, change: Change, now: TableState) -> NewRows:
        try:
            return check(db, change, now.columns, stored_type, finite=True)
        except (ArrivalError, ValueError) as error:
            raise ArrivalError(f"{self}: nothing was changed: {error}") from None

    def _pending(self, db: duckdb.DuckDBPyConnection, table: Table | None, rows: NewRows) -> IcebergChange:
        from lakehouse_analytics.arrivals.raw_tables.iceberg_change import IcebergChange

        properties = {STATE: json.dumps(dict(rows.change.state))}
        return IcebergChange(self._catalog, (self.namespace, self.table), table, rows, db, properties)

    def _commit(self, pending: IcebergChange) -> None:
        from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError

        try:
            pending.commit()
        except (CommitFailedException, TableAlreadyExistsError):
            pending.discard()
            raise self._conflict() from None
        except Exception as error:
            # The answer may have been lost after the commit, or the commit may still be running: files stay.
            try:
                if pending.is_committed():
                    return
            except Exception:
                raise ArrivalError(
                    f"{self}: {self._reason(error)}. It is not known whether the change was committed. Run it again: "
                    "it continues from the state that is stored with the table",
                    transient=True,
                ) from None
            raise

    def _conflict(self) -> ArrivalError:
        return ArrivalError(
            f"{self} was changed by another program while new rows were read; nothing was changed. Run it again",
            transient=True,
        )

    @contextmanager
    def _errors(self, outcome: str = "") -> Iterator[None]:
        """Convert the libraries' errors to one line. Their messages may contain an address with its password."""
        from lakehouse_analytics.iceberg.catalog import CatalogError

        try:
            yield
        except ArrivalError:
            raise
        except CatalogError as error:
            raise ArrivalError(str(error), transient=error.transient) from None
        except Exception as error:
            # pyarrow reports errors of the storage as OSError, and pyiceberg unknown names as ValueError.
            known = type(error).__module__.partition(".")[0] in _LIBRARIES or isinstance(error, OSError | ValueError)
            if not known:
                raise
            message = f"{self}: {outcome}{self._reason(error)}"
            raise ArrivalError(message, transient=is_transient(error)) from error

    def _reason(self, error: Exception) -> str:
        from lakehouse_analytics.iceberg.catalog import reason

        return reason(self.catalog_name, error)[:500]


def _state_of(table: Table | None) -> TableState:
    if table is None:
        return TableState({}, {}, None)
    columns = {column.name: duckdb_type(column.field_type) for column in table.schema().fields}
    state = json.loads(table.properties.get(STATE, "{}"))
    snapshot = table.current_snapshot()
    return TableState(columns, state, f"{table.metadata.table_uuid}/{snapshot.snapshot_id if snapshot else 0}")


def _copy(db: duckdb.DuckDBPyConnection, table: Table, columns: Sequence[str], query: str, path: Path) -> None:
    db.register("stored_rows", batches(table, columns=columns))
    db.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet)")
