"""Deletes old runs and events of a Dagster instance in PostgreSQL.

Dagster keeps them forever, and `dagster run delete` also deletes the state of the assets: the latest materialization,
the materialized partitions and the last result of a check are events of the run that created them. This module deletes
the other events.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dagster import DagsterEventType, RunsFilter

from lakehouse_analytics._dagster_internals import (
    BACKFILL_ID_TAG,
    BULK_ACTION_TERMINAL_STATUSES,
    FINISHED_STATUSES,
    PARENT_RUN_ID_TAG,
    ROOT_RUN_ID_TAG,
    RUNLESS_RUN_ID,
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    BulkActionsFilter,
    BulkActionStatus,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
)
from lakehouse_analytics.checks.history import MAX_HISTORY

if TYPE_CHECKING:
    from dagster import DagsterInstance, RunRecord

logger = logging.getLogger(__name__)

#: Number of events to keep for each asset and check, and for each of their partitions: as many as the drift checks use.
KEEP_NEWEST = MAX_HISTORY
#: Runs per batch. A run of the largest projects has a few thousand events.
BATCH = 50
#: Events to keep of a run whose assets are kept.
RUN_EVENTS = [
    event.value
    for event in (
        DagsterEventType.RUN_START,
        DagsterEventType.RUN_SUCCESS,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
    )
]
CHECK_EVENTS = [DagsterEventType.ASSET_CHECK_EVALUATION.value, DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value]

Events = SqlEventLogStorageTable.c
Executions = AssetCheckExecutionsTable.c


class RetentionError(RuntimeError):
    """The instance cannot be pruned."""


@dataclass(frozen=True)
class PruneResult:
    """Numbers of deleted rows."""

    runs: int = 0
    events: int = 0
    check_executions: int = 0

    def __add__(self, other: PruneResult) -> PruneResult:
        """Return the sums."""
        return PruneResult(
            self.runs + other.runs,
            self.events + other.events,
            self.check_executions + other.check_executions,
        )


def prune(instance: DagsterInstance, before: datetime) -> PruneResult:
    """Delete runs and events that ended before a point in time and do not affect the current state.

    Kept in any case: the newest `KEEP_NEWEST` events of each type for each asset, each of its partitions and each
    check, and the runs of these events; runs that have not ended; runs of backfills that have not ended.

    Each statement commits, as Dagster's own do, and deletes only rows that newer ones have replaced. An interruption
    loses nothing, and the next call continues.

    Args:
        instance: An instance with its events in PostgreSQL.
        before: The point in time, with a time zone. It applies to the end of a run, and to the time at which an event
            without a run was stored.

    Raises:
        RetentionError: The events are not in PostgreSQL.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage) or _dialect(storage) != "postgresql":
        raise RetentionError(
            f"The events of this instance are in {type(storage).__name__}, but only PostgreSQL can be pruned. "
            "On a single machine, delete DAGSTER_HOME."
        )
    deleted = PruneResult()
    for records in _ended_runs(instance, before):
        ids = [record.dagster_run.run_id for record in records]
        deleted += _trim(storage, Events.run_id.in_(ids), Executions.run_id.in_(ids))
        for run_id in _unreferenced_runs(storage, ids):
            if not _has_retries(instance, run_id):
                # Delete the events first: without the run, they could not be found again.
                storage.delete_events(run_id)
                instance.run_storage.delete_run(run_id)
                deleted = replace(deleted, runs=deleted.runs + 1)
        logger.info("so far: %s runs, %s events", deleted.runs, deleted.events)
    return deleted + _trim_runless(storage, before)


def _dialect(storage: SqlEventLogStorage) -> str:
    with storage.index_connection() as connection:
        return str(connection.dialect.name)


def _ended_runs(instance: DagsterInstance, before: datetime) -> Iterator[list[RunRecord]]:
    """Yield batches of runs that have ended, oldest first."""
    statuses = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    running = {one.backfill_id for one in instance.get_backfills(filters=BulkActionsFilter(statuses=statuses))}
    finished = RunsFilter(statuses=[*FINISHED_STATUSES], created_before=before)
    page = instance.get_run_records(finished, limit=BATCH, ascending=True)
    while page:
        # Read the next page first. Dagster finds its start by a run of this page, which may be deleted by then.
        cursor = page[-1].dagster_run.run_id
        next_page = instance.get_run_records(finished, limit=BATCH, cursor=cursor, ascending=True)
        yield [
            one for one in page if _end_time(one) < before and one.dagster_run.tags.get(BACKFILL_ID_TAG) not in running
        ]
        page = next_page


def _end_time(record: RunRecord) -> datetime:
    if record.end_time:
        return datetime.fromtimestamp(record.end_time, UTC)
    return record.update_timestamp.replace(tzinfo=UTC)


def _trim(storage: SqlEventLogStorage, events: Any, executions: Any) -> PruneResult:
    """Delete those of some events and check executions that have been replaced by newer ones."""
    newer_execution, newer_event = AssetCheckExecutionsTable.alias("newer"), SqlEventLogStorageTable.alias("newer")
    same_check = sa.and_(
        newer_execution.c.asset_key == Executions.asset_key,
        newer_execution.c.check_name == Executions.check_name,
        # An execution that was planned but not evaluated does not replace a result.
        newer_execution.c.execution_status != AssetCheckExecutionRecordStatus.PLANNED.value,
        # Passed row counts are the history of a check, so failed ones do not replace them.
        sa.or_(
            newer_execution.c.execution_status == Executions.execution_status,
            Executions.execution_status == AssetCheckExecutionRecordStatus.PLANNED.value,
        ),
    )
    same_asset = sa.and_(
        newer_event.c.asset_key == Events.asset_key, newer_event.c.dagster_event_type == Events.dagster_event_type
    )
    evaluated = sa.exists().where(
        Executions.evaluation_event_storage_id == Events.id, Executions.run_id == Events.run_id
    )
    with storage.index_connection() as connection:
        checks = sum(
            _delete_replaced(
                connection, AssetCheckExecutionsTable, executions, newer_execution, same_check, partitioned=partitioned
            )
            for partitioned in (True, False)
        )
        unneeded = [
            # Events of steps, log messages, and events of dbt.
            sa.and_(
                Events.asset_key.is_(None),
                sa.or_(Events.dagster_event_type.is_(None), ~_kind(RUN_EVENTS + CHECK_EVENTS)),
            ),
            sa.and_(_kind(CHECK_EVENTS), ~evaluated),
        ]
        count = connection.execute(SqlEventLogStorageTable.delete().where(events, sa.or_(*unneeded))).rowcount
        of_assets = sa.and_(events, Events.asset_key.is_not(None), ~_kind(CHECK_EVENTS))
        count += sum(
            _delete_replaced(
                connection, SqlEventLogStorageTable, of_assets, newer_event, same_asset, partitioned=partitioned
            )
            for partitioned in (True, False)
        )
    return PruneResult(events=count, check_executions=checks)


def _kind(values: Sequence[str]) -> Any:
    return Events.dagster_event_type.in_(values)


def _delete_replaced(connection: Any, table: Any, which: Any, newer: Any, same: Any, *, partitioned: bool) -> int:
    """Delete rows with at least `KEEP_NEWEST` newer rows of the same asset and partition."""
    # A comparison that treats two NULLs as equal would not use an index.
    partition = newer.c.partition == table.c.partition if partitioned else newer.c.partition.is_(None)
    has = table.c.partition.is_not(None) if partitioned else table.c.partition.is_(None)
    oldest_kept = (
        sa.select(newer.c.id)
        .where(same, partition)
        .order_by(newer.c.id.desc())
        .offset(KEEP_NEWEST - 1)
        .limit(1)
        .scalar_subquery()
    )
    ids = [row[0] for row in connection.execute(sa.select(table.c.id).where(which, has, table.c.id < oldest_kept))]
    if not ids:
        return 0
    if table is SqlEventLogStorageTable:
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(ids)))
    return int(connection.execute(table.delete().where(table.c.id.in_(ids))).rowcount)


def _unreferenced_runs(storage: SqlEventLogStorage, ids: Sequence[str]) -> list[str]:
    """Return the runs without events of assets and checks."""
    reported = sa.union(
        sa.select(Events.run_id).where(
            Events.run_id.in_(ids), sa.or_(Events.asset_key.is_not(None), _kind(CHECK_EVENTS))
        ),
        sa.select(Executions.run_id).where(Executions.run_id.in_(ids)),
    )
    with storage.index_connection() as connection:
        needed = {row[0] for row in connection.execute(reported)}
    return [run_id for run_id in ids if run_id not in needed]


def _has_retries(instance: DagsterInstance, run_id: str) -> bool:
    """Return whether a run was retried. Dagster retries a run only if the runs that it retries exist."""
    return any(instance.get_runs_count(RunsFilter(tags={tag: run_id})) for tag in (ROOT_RUN_ID_TAG, PARENT_RUN_ID_TAG))


def _trim_runless(storage: SqlEventLogStorage, before: datetime) -> PruneResult:
    """Trim events stored outside a run, such as syncs of Airbyte and events reported manually."""
    moment = before.astimezone(UTC).replace(tzinfo=None)
    deleted, last = PruneResult(), 0
    size = BATCH * 100
    while True:
        page = (
            sa.select(Events.id)
            .where(Events.run_id == RUNLESS_RUN_ID, Events.timestamp < moment, Events.id > last)
            .order_by(Events.id)
            .limit(size)
        )
        with storage.index_connection() as connection:
            ids = [row[0] for row in connection.execute(page)]
        if not ids:
            return deleted
        last = ids[-1]
        executions = sa.and_(
            Executions.run_id == RUNLESS_RUN_ID, Executions.evaluation_event_storage_id.between(ids[0], last)
        )
        deleted += _trim(storage, Events.id.in_(ids), executions)
