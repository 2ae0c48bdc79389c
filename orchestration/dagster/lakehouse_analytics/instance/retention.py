"""Old runs and events of a Dagster instance in PostgreSQL.

Dagster keeps them for ever, and `dagster run delete` takes the state of the assets along: the latest materialization,
the partitions that are there, the last result of a check are events of the run that made them. This takes the rest.
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

#: Of each asset or check, and of each of its partitions: as many as the checks of drift look back.
KEPT = MAX_HISTORY
#: Runs in a batch. A run of the largest projects has some thousand events.
BATCH = 50
#: What a run whose assets are remembered still tells of itself.
LIFE = [
    event.value
    for event in (
        DagsterEventType.RUN_START,
        DagsterEventType.RUN_SUCCESS,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
    )
]
CHECKED = [DagsterEventType.ASSET_CHECK_EVALUATION.value, DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value]

Events = SqlEventLogStorageTable.c
Executions = AssetCheckExecutionsTable.c


class RetentionError(RuntimeError):
    """The instance cannot be pruned."""


@dataclass(frozen=True)
class Pruned:
    """What went."""

    runs: int = 0
    events: int = 0
    check_executions: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        """Both together."""
        return Pruned(
            self.runs + other.runs,
            self.events + other.events,
            self.check_executions + other.check_executions,
        )


def prune(instance: DagsterInstance, before: datetime) -> Pruned:
    """Delete what ended before a moment and says nothing of the present.

    Kept, however old: of each asset, each of its partitions and each check the newest `KEPT` events of a kind, and the
    runs that these belong to; runs that have not ended; runs of backfills that have not ended.

    Each statement commits, as Dagster's own do, and deletes only what is replaced already: an interruption loses
    nothing, and the next call goes on.

    Args:
        instance: Its events are in PostgreSQL.
        before: Aware; runs that ended earlier, and events without a run that were stored earlier, are looked at.

    Raises:
        RetentionError: The events are elsewhere.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage) or _dialect(storage) != "postgresql":
        raise RetentionError(
            f"the events of this instance are in {type(storage).__name__}, and only those in PostgreSQL can be pruned; "
            "on one machine, delete DAGSTER_HOME."
        )
    went = Pruned()
    for records in _ended(instance, before):
        ids = [record.dagster_run.run_id for record in records]
        went += _trim(storage, Events.run_id.in_(ids), Executions.run_id.in_(ids))
        for run_id in _forgotten(storage, ids):
            if not _led_to_others(instance, run_id):
                # Its events first: without the run they could not be found again.
                storage.delete_events(run_id)
                instance.run_storage.delete_run(run_id)
                went = replace(went, runs=went.runs + 1)
        logger.info("so far: %s runs, %s events", went.runs, went.events)
    return went + _runless(storage, before)


def _dialect(storage: SqlEventLogStorage) -> str:
    with storage.index_connection() as connection:
        return str(connection.dialect.name)


def _ended(instance: DagsterInstance, before: datetime) -> Iterator[list[RunRecord]]:
    """Batches of runs that are over, oldest first."""
    statuses = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    going = {one.backfill_id for one in instance.get_backfills(filters=BulkActionsFilter(statuses=statuses))}
    over = RunsFilter(statuses=[*FINISHED_STATUSES], created_before=before)
    page = instance.get_run_records(over, limit=BATCH, ascending=True)
    while page:
        # The next one first: Dagster finds its beginning by a run of this one, which may be gone then.
        cursor = page[-1].dagster_run.run_id
        following = instance.get_run_records(over, limit=BATCH, cursor=cursor, ascending=True)
        yield [one for one in page if _end(one) < before and one.dagster_run.tags.get(BACKFILL_ID_TAG) not in going]
        page = following


def _end(record: RunRecord) -> datetime:
    if record.end_time:
        return datetime.fromtimestamp(record.end_time, UTC)
    return record.update_timestamp.replace(tzinfo=UTC)


def _trim(storage: SqlEventLogStorage, events: Any, executions: Any) -> Pruned:
    """Delete those of some events and check executions that newer ones have replaced."""
    newer_execution, newer_event = AssetCheckExecutionsTable.alias("newer"), SqlEventLogStorageTable.alias("newer")
    same_check = sa.and_(
        newer_execution.c.asset_key == Executions.asset_key,
        newer_execution.c.check_name == Executions.check_name,
        # What was planned and never evaluated tells nothing that could take the place of a result.
        newer_execution.c.execution_status != AssetCheckExecutionRecordStatus.PLANNED.value,
        # Counts that passed are the history of a check: any number of failed ones must not take their place.
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
            _replaced(connection, AssetCheckExecutionsTable, executions, newer_execution, same_check, there=there)
            for there in (True, False)
        )
        dead = [
            # Of steps, of logs, of dbt.
            sa.and_(Events.asset_key.is_(None), sa.or_(Events.dagster_event_type.is_(None), ~_kind(LIFE + CHECKED))),
            sa.and_(_kind(CHECKED), ~evaluated),
        ]
        gone = connection.execute(SqlEventLogStorageTable.delete().where(events, sa.or_(*dead))).rowcount
        of_assets = sa.and_(events, Events.asset_key.is_not(None), ~_kind(CHECKED))
        gone += sum(
            _replaced(connection, SqlEventLogStorageTable, of_assets, newer_event, same_asset, there=there)
            for there in (True, False)
        )
    return Pruned(events=gone, check_executions=checks)


def _kind(values: Sequence[str]) -> Any:
    return Events.dagster_event_type.in_(values)


def _replaced(connection: Any, table: Any, which: Any, newer: Any, same: Any, *, there: bool) -> int:
    """Delete rows that have as many newer ones of the same asset and partition as are kept."""
    # A comparison that is true of two NULLs would use no index.
    partition = newer.c.partition == table.c.partition if there else newer.c.partition.is_(None)
    has = table.c.partition.is_not(None) if there else table.c.partition.is_(None)
    oldest_kept = (
        sa.select(newer.c.id)
        .where(same, partition)
        .order_by(newer.c.id.desc())
        .offset(KEPT - 1)
        .limit(1)
        .scalar_subquery()
    )
    doomed = [row[0] for row in connection.execute(sa.select(table.c.id).where(which, has, table.c.id < oldest_kept))]
    if not doomed:
        return 0
    if table is SqlEventLogStorageTable:
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(doomed)))
    return int(connection.execute(table.delete().where(table.c.id.in_(doomed))).rowcount)


def _forgotten(storage: SqlEventLogStorage, ids: Sequence[str]) -> list[str]:
    """Those runs of which no asset and no check tells."""
    reported = sa.union(
        sa.select(Events.run_id).where(Events.run_id.in_(ids), sa.or_(Events.asset_key.is_not(None), _kind(CHECKED))),
        sa.select(Executions.run_id).where(Executions.run_id.in_(ids)),
    )
    with storage.index_connection() as connection:
        needed = {row[0] for row in connection.execute(reported)}
    return [run_id for run_id in ids if run_id not in needed]


def _led_to_others(instance: DagsterInstance, run_id: str) -> bool:
    """Dagster retries a run only where the runs that it retries are there."""
    return any(instance.get_runs_count(RunsFilter(tags={tag: run_id})) for tag in (ROOT_RUN_ID_TAG, PARENT_RUN_ID_TAG))


def _runless(storage: SqlEventLogStorage, before: datetime) -> Pruned:
    """Events that no run has stored: syncs of Airbyte, what somebody reports by hand."""
    moment = before.astimezone(UTC).replace(tzinfo=None)
    went, last = Pruned(), 0
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
            return went
        last = ids[-1]
        executions = sa.and_(
            Executions.run_id == RUNLESS_RUN_ID, Executions.evaluation_event_storage_id.between(ids[0], last)
        )
        went += _trim(storage, Events.id.in_(ids), executions)
