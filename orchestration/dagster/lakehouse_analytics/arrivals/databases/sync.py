"""Copies one table of a database into a raw table.

What a sync reads
-----------------
The rows are read in one transaction that sees one snapshot of the database, into Parquet files, and written to the raw
table in one commit together with the state from which the next sync starts. A sync that is killed leaves the raw table
as it was, and the next one reads the same rows again.

`full` reads all rows and replaces the table. `incremental` reads the rows whose `update_key` is not lower than a start,
and merges them by `primary_key`. Rows that were read before are read again and replaced by themselves, so reading too
many is never wrong; reading too few is. The start must therefore be low enough:

- A transaction sets `updated_at` to the time t and commits later, at most at t + `lag`. A sync with its snapshot at s
  before the commit does not see the row, so t + lag > s, and t > s - lag. The highest key H that the sync stored is not
  after s (see below). Hence t > H - lag: the next sync, which starts at H - lag, finds the row. So `lag` must be
  longer than the longest transaction that writes to the table, and on a replica, longer than that plus its delay.
- A key in the future (a wrong clock) would violate this: H would be after s. So the highest key is searched among those
  that are not after the database's own clock at the snapshot. Later keys are above every start, and read each time.
- Keys that are not times, such as numbers, cannot be reduced by a duration. For them, each sync stores its time and its
  highest key, and the start is the highest key of the last sync that was at least `lag` before the latest one. The
  argument is the same: a key assigned at t > s - lag is not lower than one that was visible at or before s - lag.
- The rows since the start are read in each sync, also if nothing has changed. If they are those of the last sync, then
  nothing is written.
- Equal keys are read again (`>=`), because several rows may share a time, and rows without a key (NULL) each time.
- A time without a zone must not be set back, as local time in autumn is: store UTC, or let `lag` exceed the hour.

Full again
----------
An incremental sync reads all rows if the settings have changed, if the source has new columns (rows that exist need
their values), if it changed types, if its rows end before the start (the source was restored), or with `full_refresh`.
It replaces the table, except with `deletes: ignore`: then the rows are merged, because the table may have rows that the
source has deleted. Another source table or primary key, and `full_refresh`, replace it in any case; another type is an
error then.

Deletes
-------
`reconcile` reads the primary keys of all rows in the same snapshot. Keys of the raw table that are not among them are
removed. If keys of the source are in neither the raw table nor the rows just read, then rows were committed later than
`lag`, or with an old key, and all rows are read. `soft(column)` reads the keys of changed rows that are marked, and
removes them; marking a row must set its `update_key`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lakehouse_analytics.arrivals.connections import Connection
from lakehouse_analytics.arrivals.databases.base import Nullified, Open, SourceColumn, SourceTable
from lakehouse_analytics.arrivals.databases.plan import SYNCED_AT, Plan, Planner, Stored
from lakehouse_analytics.arrivals.databases.positions import positions_after
from lakehouse_analytics.arrivals.databases.report import SyncReport
from lakehouse_analytics.arrivals.databases.staging import Staged, digest, first_duplicate, stage, subtract
from lakehouse_analytics.arrivals.raw_tables.base import COUNT, ArrivalError, Change, Outcome, RawTable, TableState
from lakehouse_analytics.contract.arrivals import TableArrival

__all__ = ["SCHEMES", "SyncReport", "sync_table"]

#: The schemes of addresses whose tables can be synced.
SCHEMES = ("postgresql", "mysql", "mariadb")
_TIMESTAMP = "TIMESTAMP WITH TIME ZONE"


@dataclass
class _Read:
    """What was read in one snapshot."""

    plan: Plan
    rows: Staged
    gone: Staged | None
    highest: str | None
    nullified: Nullified


def sync_table(
    arrival: TableArrival,
    raw: RawTable,
    connection: Connection,
    folder: Path,
    *,
    table: str,
    full_refresh: bool = False,
    timeout: timedelta = timedelta(hours=6),
) -> SyncReport:
    """Copy a table of a database into a raw table.

    Args:
        arrival: The contract.
        raw: The raw table. No other program may write to it.
        connection: The database, with one of `SCHEMES`.
        folder: A folder of this sync's own, for the rows that are read. It is created, and removed at the end.
        table: The table at the source, if the contract does not name it.
        full_refresh: Read all rows and replace the table, whatever it contains.
        timeout: Maximum duration of one statement of the database.

    Raises:
        ArrivalError: The database or the raw table failed, or the contract does not fit the table. The raw table is
            unchanged.
    """
    began = time.monotonic()
    before = raw.read()
    try:
        with _local_errors(folder), opener(connection)(connection, arrival.table or table, timeout) as source:
            planner = Planner(arrival, source, connection.name, full_refresh)
            plan = planner.plan(before)
            read = _read(planner, plan, raw, folder)
        with _local_errors(folder):
            _check_key(arrival, source, read)
            stored, earlier = _stored(planner, before, read), Stored.parse(before.state)
        if earlier and earlier.is_same(stored):
            outcome = Outcome(raw.query(COUNT)[0][0], 0, 0)
        else:
            outcome = raw.apply(_change(planner, read, stored), before)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return SyncReport(
        table=source.name,
        mode=read.plan.mode,
        reason=read.plan.reason,
        start=read.plan.start,
        highest=read.highest,
        rows_read=read.rows.rows + (read.gone.rows if read.gone and arrival.deleted_column else 0),
        rows=outcome.rows,
        inserted=outcome.inserted,
        deleted=outcome.deleted,
        bytes=read.rows.bytes,
        seconds=time.monotonic() - began,
        new_columns=tuple(read.plan.new_columns),
        nullified=dict(read.nullified.counts),
        warnings=(*source.warnings, *read.plan.warnings, *_warnings(source, read.nullified)),
    )


@contextmanager
def _local_errors(folder: Path) -> Iterator[None]:
    """Convert errors of this machine's disk and of DuckDB."""
    import duckdb

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, duckdb.Error) as error:
        message = str(error).strip().partition("\n")[0]
        raise ArrivalError(f"the rows could not be stored in {folder}: {message}") from error


def opener(connection: Connection) -> Open:
    """Return the function that opens a table of a database."""
    if connection.scheme == "postgresql":
        from lakehouse_analytics.arrivals.databases.postgres import open_table as open_postgres

        return open_postgres
    from lakehouse_analytics.arrivals.databases.mysql import open_table as open_mysql

    return open_mysql


def _read(planner: Planner, plan: Plan, raw: RawTable, folder: Path) -> _Read:
    arrival, source = planner.arrival, planner.table
    nullified = Nullified()
    conditions = [_changed(planner, plan)]
    marked = source.columns[arrival.deleted_column].marked if arrival.deleted_column else None
    if marked:
        conditions.append(f"not {marked}")
    rows = stage(
        source, plan.columns, _and(conditions), folder / "rows.parquet", nullified, synced_at=datetime.now(UTC)
    )
    highest = source.highest(planner.update_key) if planner.update_key else None
    gone = None
    if not plan.replaces and marked:
        where = _and([_changed(planner, plan), marked])
        gone = stage(source, _key(planner), where, folder / "gone.parquet", Nullified())
    elif not plan.replaces and arrival.deletes == "reconcile":
        gone, missing = _reconcile(planner, raw, rows, folder)
        if missing:
            warning = (
                f"{missing} rows of {source.name} were in the source, but neither in the raw table nor among the rows "
                f"since {plan.start}: their transactions took longer than lag, or set an older update_key. All rows "
                "were read again. Increase lag if this repeats"
            )
            again = plan.full("rows of the source were missing in the raw table", keeps=False)
            return _read(planner, replace(again, warnings=(*plan.warnings, warning)), raw, folder)
    return _Read(plan, rows, gone, highest, nullified)


def _reconcile(planner: Planner, raw: RawTable, rows: Staged, folder: Path) -> tuple[Staged, int]:
    """Return the keys that are no longer in the source, and the number of those that are only there."""
    key = _key(planner)
    stored = folder / "stored.parquet"
    raw.keys_to([each.name for each in key], stored)
    current = stage(planner.table, key, "true", folder / "current.parquet", Nullified())
    gone = subtract(stored, current.files, key, folder / "gone.parquet")
    missing = subtract(current.path, [stored, *rows.files], key, folder / "missing.parquet") if current.rows else None
    return gone, missing.rows if missing else 0


def _changed(planner: Planner, plan: Plan) -> str:
    if plan.start is None or planner.update_key is None:
        return "true"
    at_least = planner.table.at_least(planner.update_key, plan.start)
    return f"({at_least} or {planner.table.unordered(planner.update_key)})"


def _and(conditions: Sequence[str]) -> str:
    return " and ".join(conditions)


def _key(planner: Planner) -> list[SourceColumn]:
    return [planner.table.columns[name] for name in planner.arrival.primary_key]


def _check_key(arrival: TableArrival, source: SourceTable, read: _Read) -> None:
    if not arrival.primary_key:
        return
    key = ", ".join(arrival.primary_key)
    if lost := [name for name in arrival.primary_key if read.nullified.counts[name]]:
        raise ArrivalError(
            f"primary_key: {read.nullified.counts[lost[0]]} values of {lost[0]} in {source.name} cannot be stored "
            f"({source.columns[lost[0]].declared} as {source.columns[lost[0]].kind}), so they cannot identify rows"
        )
    if not source.is_unique(arrival.primary_key) and (found := first_duplicate(read.rows, arrival.primary_key)):
        values = ", ".join(f"{name} = {value}" for name, value in found.items())
        raise ArrivalError(
            f"primary_key: several rows of {source.name} have the same {key} ({values}). Choose columns that identify "
            "a row, or remove the duplicates in the source"
        )


def _stored(planner: Planner, before: TableState, read: _Read) -> Stored:
    earlier = Stored.parse(before.state)
    positions = earlier.positions if earlier and read.plan.continues else ()
    column = planner.update_key
    if column:
        is_time = column.order == "time"
        at, lag = planner.table.clock, planner.arrival.lag
        positions = positions_after(positions, at, read.highest, lag, is_time=is_time)
    columns = {each.name: each.kind for each in read.plan.columns}
    seen = None
    if read.plan.mode == "incremental":
        seen = f"{read.plan.start} {digest([read.rows, *([read.gone] if read.gone else [])])}"
    return Stored(planner.settings, columns, positions, seen)


def _change(planner: Planner, read: _Read, stored: Stored) -> Change:
    merges = not read.plan.replaces
    return Change(
        columns={**stored.columns, SYNCED_AT: _TIMESTAMP},
        rows=read.rows.files,
        state=stored.json(),
        replaces=read.plan.replaces,
        key=planner.arrival.primary_key if merges else (),
        delete_keys=read.gone.path if read.gone and read.gone.rows else None,
    )


def _warnings(source: SourceTable, nullified: Nullified) -> list[str]:
    return [
        f"{count} values of {name} ({source.columns[name].declared}) became NULL, because {source.columns[name].kind} "
        "does not have them, such as infinity, zero dates or NaN"
        for name, count in nullified.counts.items()
    ]
