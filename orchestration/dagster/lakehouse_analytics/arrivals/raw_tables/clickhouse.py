"""A raw table in ClickHouse, for sources that are copied straight to it. It is replaced as a whole, in one step.

A change is made to a clone of the table, which shares the data files of the original. Rows, columns and state of the
clone change, and EXCHANGE TABLES swaps the two names: that is the commit. The state is in the comment of a table, so it
is swapped with the rows. The clone of a change that was killed is dropped by the next change.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.connections import Connection
from lakehouse_analytics.arrivals.raw_tables.base import COUNT, ArrivalError, Change, Outcome, TableState
from lakehouse_analytics.arrivals.raw_tables.clickhouse_change import ClickHouseChange
from lakehouse_analytics.arrivals.raw_tables.clickhouse_kinds import (
    kind_of,
    stored_type,
    type_in_clickhouse,
    without_nullable,
)
from lakehouse_analytics.arrivals.raw_tables.new_rows import NewRows, check, scratch
from lakehouse_analytics.common.scratch import ARRIVALS, scratch_folder
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.common.sql import literal as sql_literal
from lakehouse_analytics.exports.base import MARKER as EXPORT
from lakehouse_analytics.exports.base import ExportError, Target
from lakehouse_analytics.exports.clickhouse_client import ClickHouseClient, literal, quoted

if TYPE_CHECKING:
    import duckdb

#: Start of the comment on every table that a sync has created. Tables without it are only replaced with `reload`.
MARKER = "lakehouse-analytics sync of "
_VIEWS = ("View", "MaterializedView", "LiveView", "WindowView", "Dictionary")


@dataclass(frozen=True)
class _Found:
    """What is there now.

    Attributes:
        state: See `TableState`.
        uuid: Of the table.
        rows: Their number.
        is_ours: Whether a sync of this source has created it.
    """

    state: TableState
    uuid: str = ""
    rows: int = 0
    is_ours: bool = True


@dataclass(frozen=True)
class ClickHouseTable:
    """A table of a ClickHouse server, or of one that is embedded.

    Attributes:
        connection: The address, of the scheme clickhouse, clickhouses or chdb.
        database: The database; None for the default of the connection.
        table: The name.
        origin: The source that is copied, for the comment.
        key: Columns by which the rows are sorted. They cannot be null.
    """

    connection: Connection
    database: str | None
    table: str
    origin: str
    key: Sequence[str] = ()

    def __str__(self) -> str:
        """Return the name of the table and the address, for messages."""
        return f"{f'{self.database}.' if self.database else ''}{self.table} in {self.connection.redacted}"

    def read(self) -> TableState:
        """See `RawTable`."""
        with self._session() as session:
            return self._find(session).state

    def apply(self, change: Change, before: TableState) -> Outcome:
        """See `RawTable`."""
        with self._session("nothing was changed: ") as session, scratch() as db:
            now = self._find(session)
            if now.state.version != before.version:
                raise self._conflict()
            rows = self._checked(db, change, now)
            session.create_database()
            self._drop_left(session)
            pending = ClickHouseChange(
                session, self._target, self._comment(rows), rows, db, self.key, now.rows if now.state.exists else None
            )
            try:
                outcome = pending.write()
                self._commit(session, pending, now)
            except BaseException as error:
                # What is in doubt may be the old table. The next change drops it.
                if not pending.is_in_doubt:
                    with suppress(ExportError):
                        pending.discard()
                elif isinstance(error, ExportError):
                    outcome_unknown = "the result is not known; the next sync finds out"
                    message = f"{self}: {outcome_unknown}: {self._message(error)}"
                    raise ArrivalError(message, transient=True) from None
                raise
            # The new rows are published. If this fails, the next change does it.
            with suppress(ExportError):
                pending.discard()
            return outcome

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """See `RawTable`.

        Only the columns whose names the query contains are read, or all if it selects `*`.
        """
        with self._session() as session:
            found = self._find(session)
            if not found.state.exists:
                return []
            if sql == COUNT:
                return [(found.rows,)]
            text = sql.lower().replace("count(*)", "")
            names = [n for n in found.state.columns if n.lower().replace('"', '""') in text or "*" in text]
            with scratch() as db, scratch_folder(ARRIVALS) as folder:
                path = Path(folder) / "rows.parquet"
                self._copy(session, db, {n: found.state.columns[n] for n in names or found.state.columns}, path)
                db.execute(f"CREATE TEMP VIEW raw_table AS FROM read_parquet({sql_literal(str(path))})")
                return db.execute(sql.replace("{table}", "raw_table")).fetchall()

    def keys_to(self, columns: Sequence[str], path: Path) -> None:
        """See `RawTable`."""
        with self._session() as session, scratch() as db:
            found = self._find(session).state
            if not found.exists:
                raise ArrivalError(f"{self} does not exist")
            names = {name.lower(): name for name in found.columns}
            chosen = {names[name.lower()]: found.columns[names[name.lower()]] for name in columns}
            self._copy(session, db, chosen, path, distinct=True)

    @property
    def _target(self) -> Target:
        return Target(self.database, self.table, self.key, self.origin, uuid.uuid4().hex)

    @property
    def _ours(self) -> str:
        return f"{MARKER}{self.origin}. Do not change this comment. "

    def _comment(self, rows: NewRows) -> str:
        return self._ours + json.dumps({"columns": dict(rows.columns), "state": dict(rows.change.state)})

    @contextmanager
    def _session(self, outcome: str = "") -> Iterator[ClickHouseClient]:
        import duckdb

        try:
            with ClickHouseClient(self.connection, self.database) as session:
                yield session
        except ExportError as error:
            raise ArrivalError(f"{self}: {outcome}{self._message(error)}", transient=error.transient) from None
        except (duckdb.Error, OSError) as error:
            message = str(error).strip().partition("\n")[0]
            raise ArrivalError(f"{self}: {outcome}{message}") from error

    def _message(self, error: ExportError) -> str:
        return str(error).removeprefix(f"{self.connection.redacted}: ")

    def _find(self, session: ClickHouseClient) -> _Found:
        where = f"database = {literal(session.database)} and {{}} = {literal(self.table)}"
        tables = session.rows(
            f"select toString(uuid), engine, comment from system.tables where {where.format('name')}"  # noqa: S608
        )
        if not tables:
            return _Found(TableState({}, {}, None))
        [(table_id, engine, comment)] = tables
        if engine in _VIEWS:
            raise ArrivalError(f"{self} is a view or dictionary. Drop it, or choose another name (arrives.to_table)")
        if comment.startswith((MARKER, EXPORT)) and not comment.startswith(self._ours):
            raise ArrivalError(
                f"{self} exists and is not filled by {self.origin}, but is the {_origin(comment)}. Rename or drop it, "
                "or choose another name (arrives.to_table)"
            )
        columns = session.rows(
            f"select name, type from system.columns where {where.format('table')} order by position"  # noqa: S608
        )
        is_ours = comment.startswith(self._ours)
        stored = json.loads(comment.removeprefix(self._ours)) if is_ours else {"columns": {}, "state": {}}
        kinds = {str(name): _kind(str(name), str(kind), stored["columns"]) for name, kind in columns}
        rows = int(session.rows(f"select count() from {session.name(self.table)}")[0][0])  # noqa: S608
        # Each change makes another table. The rest shows most changes by other programs.
        version = f"{table_id}/{rows}/{zlib.crc32(repr([*map(tuple, columns)]).encode())}"
        return _Found(TableState(kinds, stored["state"], version), str(table_id), rows, is_ours)

    def _checked(self, db: duckdb.DuckDBPyConnection, change: Change, now: _Found) -> NewRows:
        if not (change.replaces or now.is_ours):
            raise ExportError("another program has created it. Rename or drop it, or replace all of its rows")
        if change.delete_where:
            raise ExportError("conditions in DuckDB's dialect cannot be evaluated by ClickHouse")
        try:
            return check(db, change, now.state.columns, stored_type, finite=True)
        except ArrivalError as error:
            raise ArrivalError(f"{self}: nothing was changed: {error}") from None

    def _drop_left(self, session: ClickHouseClient) -> None:
        """Drop what killed changes have left. Its name and comment are those of this source's own tables."""
        for name, comment in session.comments().items():
            if self._target.is_staged(name) and comment.startswith(self._ours):
                session.drop(name)

    def _commit(self, session: ClickHouseClient, pending: ClickHouseChange, now: _Found) -> None:
        if self._find(session).state.version != now.state.version:
            raise self._conflict()
        pending.is_in_doubt = True
        try:
            if now.state.exists:
                session.exchange(self.table, pending.table)
            else:
                session.run(f"rename table {session.name(pending.table)} to {session.name(self.table)}")
        except ExportError as error:
            # A server that does not answer may have done it.
            pending.is_in_doubt = error.transient
            raise
        if now.state.exists and self._is_changed(session, pending, now):
            session.exchange(self.table, pending.table)
            pending.is_in_doubt = False
            raise self._conflict()
        pending.is_in_doubt = False

    def _is_changed(self, session: ClickHouseClient, pending: ClickHouseChange, now: _Found) -> bool:
        """Return whether another program changed the old table, which now has the staged name, before the exchange."""
        [(rows, table_id)] = session.rows(
            f"select (select count() from {session.name(pending.table)}), toString(uuid) from system.tables "  # noqa: S608
            f"where database = {literal(session.database)} and name = {literal(pending.table)}"
        )
        return (str(table_id), int(rows)) != (now.uuid, now.rows)

    def _copy(
        self,
        session: ClickHouseClient,
        db: duckdb.DuckDBPyConnection,
        columns: Mapping[str, str],
        path: Path,
        *,
        distinct: bool = False,
    ) -> None:
        """Write columns of the table to a Parquet file, in DuckDB's types."""
        import pyarrow as pa

        # Bytes would arrive as text, which they may not be.
        sent = [f"hex({quoted(name)})" if kind == "BLOB" else quoted(name) for name, kind in columns.items()]
        values = ", ".join(f"{value} as c{number}" for number, value in enumerate(sent))
        select = f"select {'distinct ' * distinct}{values} from {session.name(self.table)}"  # noqa: S608
        stored = ", ".join(
            f"CAST({f'unhex(c{number})' if kind == 'BLOB' else f'c{number}'} AS {kind}) AS {identifier(name)}"
            for number, (name, kind) in enumerate(columns.items())
        )
        with session.errors(), session.client.query_arrow_stream(select, use_strings=True) as batches:
            first = next(iter(batches), None)
            if first is None:  # a stream without rows has no schema
                empty = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in columns.items())
                db.execute(f"COPY (SELECT {empty} LIMIT 0) TO {sql_literal(str(path))} (FORMAT parquet)")
                return
            reader = pa.RecordBatchReader.from_batches(first.schema, _chained(first, batches))
            db.register("stored_rows", reader)
            query = f"SELECT {stored} FROM stored_rows"  # noqa: S608  # names are quoted
            db.execute(f"COPY ({query}) TO {sql_literal(str(path))} (FORMAT parquet)")

    def _conflict(self) -> ArrivalError:
        return ArrivalError(
            f"{self} was changed by another program while new rows were read; nothing was changed. Run it again",
            transient=True,
        )


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _origin(comment: str) -> str:
    """Return what a table is, by its comment."""
    return comment.removeprefix("lakehouse-analytics ").partition(". Do not change")[0]


def _kind(name: str, kind: str, stored: Mapping[str, str]) -> str:
    """Return the DuckDB type of a column: the stored one, unless another program has changed the column."""
    if name in stored and without_nullable(kind) == type_in_clickhouse(stored[name]):
        return stored[name]
    return kind_of(kind)
