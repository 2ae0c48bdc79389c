"""A raw table in a DuckDB file: one transaction for rows, columns and state."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, Outcome, TableState
from lakehouse_analytics.arrivals.raw_tables.kinds import normalized
from lakehouse_analytics.arrivals.raw_tables.new_rows import SETTINGS, NewRows, check
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.duckdb.database import qualified

if TYPE_CHECKING:
    import duckdb

#: The table with the state of all raw tables of a schema.
STATE_TABLE = "_lakehouse_arrivals"
_STATE_COLUMNS = (
    "table_name VARCHAR NOT NULL, state VARCHAR NOT NULL, version VARCHAR NOT NULL, "
    "updated_at TIMESTAMP WITH TIME ZONE NOT NULL"
)
# The comment is dropped with the table, so it shows that a table is the one whose state is stored.
_COMMENT = "Written by lakehouse-analytics (table {}). Do not change this comment."
_ID = re.compile(r"\(table (?P<id>[0-9a-f]{32})\)")


@dataclass(frozen=True)
class DuckDBTable:
    """A table of a DuckDB file. Each call opens the file, and waits up to `timeout` seconds for its lock."""

    path: Path
    timeout: float
    schema: str
    table: str

    def __str__(self) -> str:
        """Return the name of the table and the file, for messages."""
        return f"{self.schema}.{self.table} in {self.path}"

    def read(self) -> TableState:
        """See `RawTable`."""
        if not self.path.is_file():
            return TableState({}, {}, None)
        with self._connect(read_only=True) as db:
            return self._read(db)[0]

    def apply(self, change: Change, before: TableState) -> Outcome:
        """See `RawTable`."""
        state = json.dumps(dict(change.state))
        with self._connect(read_only=False) as db, _transaction(db):
            now, table_id = self._read(db)
            if now.version != before.version:
                raise ArrivalError(
                    f"{self} was changed by another program while new rows were read; nothing was changed. Run it "
                    "again",
                    transient=True,
                )
            try:
                rows = check(db, change, now.columns, normalized)
            except ArrivalError as error:
                raise ArrivalError(f"{self}: nothing was changed: {error}") from None
            old = self._count(db) if now.exists else 0
            if change.replaces or not now.exists:
                table_id, deleted = uuid.uuid4().hex, old
                self._create(db, rows, table_id)
            else:
                table_id = table_id or self._mark(db)
                self._add_columns(db, rows)
                deleted = self._delete(db, rows)
            inserted = 0
            if rows.select:
                inserted = _number(db.execute(f"INSERT INTO {self._name(db)} BY NAME {rows.select}"))
            self._store(db, state, table_id)
            return Outcome(old - deleted + inserted, inserted, deleted)

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """See `RawTable`."""
        if not self.path.is_file():
            return []
        with self._connect(read_only=True) as db:
            if not self._read(db)[0].exists:
                return []
            return db.execute(sql.replace("{table}", self._name(db))).fetchall()

    def keys_to(self, columns: Sequence[str], path: Path) -> None:
        """See `RawTable`."""
        names = ", ".join(map(identifier, columns))
        if not self.path.is_file():
            raise ArrivalError(f"{self} does not exist")
        with self._connect(read_only=True) as db:
            if not self._read(db)[0].exists:
                raise ArrivalError(f"{self} does not exist")
            distinct = f"SELECT DISTINCT {names} FROM {self._name(db)}"  # noqa: S608  # names are quoted
            db.execute(f"COPY ({distinct}) TO {literal(str(path))} (FORMAT parquet)")

    def _name(self, db: duckdb.DuckDBPyConnection) -> str:
        return qualified(db, self.schema, self.table)

    def _state_name(self, db: duckdb.DuckDBPyConnection) -> str:
        return qualified(db, self.schema, STATE_TABLE)

    @contextmanager
    def _connect(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb

        from lakehouse_analytics.engines.base import DatabaseError
        from lakehouse_analytics.engines.duckdb.database import connect

        try:
            if not read_only and not self.path.parent.exists():
                # Create one level only, so that a disk that is not mounted is not mistaken for an empty folder.
                self.path.parent.mkdir()
            with connect(self.path, read_only=read_only, timeout=self.timeout) as db:
                for setting in SETTINGS:
                    db.execute(f"SET {setting}")
                yield db
        except DatabaseError as error:
            raise ArrivalError(str(error)) from None
        except OSError as error:
            raise ArrivalError(f"{self}: nothing was changed: {error.strerror}: {error.filename}") from None
        except duckdb.Error as error:
            message = str(error).strip().splitlines()[0]
            raise ArrivalError(f"{self}: nothing was changed: {message}") from error

    def _read(self, db: duckdb.DuckDBPyConnection) -> tuple[TableState, str | None]:
        """Return the state, and the table's id; None if it was created by another program."""
        names = [self.schema, self.table]
        where = "WHERE database_name = current_database() AND lower(schema_name) = lower(?) AND lower({}) = lower(?)"
        if db.execute(f"SELECT 1 FROM duckdb_views() {where.format('view_name')}", names).fetchone():  # noqa: S608
            raise ArrivalError(f"{self} is a view; expected a table. Drop it, or choose another name")
        found = db.execute(f"SELECT comment FROM duckdb_tables() {where.format('table_name')}", names).fetchone()  # noqa: S608
        if not found:
            return TableState({}, {}, None), None
        columns = dict(
            db.execute(
                f"SELECT column_name, data_type FROM duckdb_columns() {where.format('table_name')} "  # noqa: S608
                "ORDER BY column_index",
                names,
            ).fetchall()
        )
        match = _ID.search(found[0] or "")
        stored = self._stored(db, match["id"]) if match else None
        state, version = stored or ("{}", "unknown")
        # The number of rows shows most changes by other programs.
        return TableState(columns, json.loads(state), f"{version}/{self._count(db)}"), match["id"] if match else None

    def _stored(self, db: duckdb.DuckDBPyConnection, table_id: str) -> tuple[str, str] | None:
        exists = db.execute(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?) AND table_name = ?",
            [self.schema, STATE_TABLE],
        ).fetchone()
        if not exists:
            return None
        row = db.execute(
            f"SELECT state, version FROM {self._state_name(db)} WHERE table_name = ?",  # noqa: S608
            [self.table.lower()],
        ).fetchone()
        return row if row and row[1].startswith(f"{table_id}/") else None

    def _count(self, db: duckdb.DuckDBPyConnection) -> int:
        return _number(db.execute(f"SELECT count(*) FROM {self._name(db)}"))  # noqa: S608

    def _create(self, db: duckdb.DuckDBPyConnection, rows: NewRows, table_id: str) -> None:
        columns = ", ".join(f"{identifier(name)} {kind}" for name, kind in rows.columns.items())
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified(db, self.schema)}")
        db.execute(f"CREATE OR REPLACE TABLE {self._name(db)} ({columns})")
        db.execute(f"COMMENT ON TABLE {self._name(db)} IS {literal(_COMMENT.format(table_id))}")

    def _mark(self, db: duckdb.DuckDBPyConnection) -> str:
        """Give an id to a table that another program created."""
        table_id = uuid.uuid4().hex
        [(comment,)] = db.execute(
            "SELECT comment FROM duckdb_tables() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)",
            [self.schema, self.table],
        ).fetchall()
        text = f"{comment} {_COMMENT.format(table_id)}" if comment else _COMMENT.format(table_id)
        db.execute(f"COMMENT ON TABLE {self._name(db)} IS {literal(text)}")
        return table_id

    def _add_columns(self, db: duckdb.DuckDBPyConnection, rows: NewRows) -> None:
        for name, kind in rows.added.items():
            db.execute(f"ALTER TABLE {self._name(db)} ADD COLUMN {identifier(name)} {kind}")

    def _delete(self, db: duckdb.DuckDBPyConnection, rows: NewRows) -> int:
        deleted = 0
        if rows.change.delete_where:
            deleted += _number(db.execute(f"DELETE FROM {self._name(db)} WHERE ({rows.change.delete_where})"))  # noqa: S608
        if rows.keys:
            same = " AND ".join(f"old.{key} IS NOT DISTINCT FROM gone.{key}" for key in map(identifier, rows.key))
            deleted += _number(
                db.execute(f"DELETE FROM {self._name(db)} AS old USING ({rows.keys}) AS gone WHERE {same}")  # noqa: S608
            )
        return deleted

    def _store(self, db: duckdb.DuckDBPyConnection, state: str, table_id: str) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {self._state_name(db)} ({_STATE_COLUMNS})")
        db.execute(f"DELETE FROM {self._state_name(db)} WHERE table_name = ?", [self.table.lower()])  # noqa: S608
        db.execute(
            f"INSERT INTO {self._state_name(db)} VALUES (?, ?, ?, now())",  # noqa: S608
            [self.table.lower(), state, f"{table_id}/{uuid.uuid4().hex}"],
        )


@contextmanager
def _transaction(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    import duckdb

    db.execute("BEGIN")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # an error that ended the transaction
            db.execute("ROLLBACK")
        raise


def _number(result: duckdb.DuckDBPyConnection) -> int:
    row = result.fetchone()
    return int(row[0]) if row else 0
