"""The backlog of a schedule: the partitions that are due, and what each of them still waits for.

Dagster's schedules do not catch up. After three days without a daemon, `build_schedule_from_partitioned_job` runs the
last day and silently skips the other two (1.13.27: a schedule has no partition set, see `_scheduler/scheduler.py`).
Here, a tick requests every partition that has become due since the last successful or skipped tick. Partitions that are
not ready at their tick are left to the sensor `waiting_schedules`, which requests each one when it is ready. The sensor
only looks at partitions that were due by the last such tick, so exactly one of the two requests a partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import partition_loading_context

from lakehouse_analytics._dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    InstigatorType,
)
from lakehouse_analytics.common.cron import next_tick
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.partitions.by_column import ColumnPartitions, known_values, needed_values, value_ranges
from lakehouse_analytics.partitions.definitions import (
    GrainPartitions,
    PartitionRange,
    Window,
    describe_missing,
    missing_upstream_partitions,
    overlapping_keys,
    waits_for,
    windows,
)
from lakehouse_analytics.partitions.keys import joined_key
from lakehouse_analytics.triggers.event_log import SOURCE_CLOCK_TOLERANCE
from lakehouse_analytics.triggers.events import EMPTIED, ENDED, STARTED, SYNC_CHECK

#: Number of a source's newest syncs that are read. Syncs may be recorded in another order than they started in.
MAX_SYNCS = 20
#: Page size and maximum number of pages when the evaluations of a source's check are searched for jobs that emptied it.
PAGE_SIZE, MAX_PAGES = 100, 10
#: Tag of every run that is requested from the backlog. Its value is the schedule's name and the partition key.
BACKLOG_TAG = "lakehouse/owed"
#: Scheduled runs start before backfills and manual runs, which have priority 0.
PRIORITY = {"dagster/priority": "1"}


@dataclass(frozen=True)
class SchedulePlan:
    """A schedule of partitioned tables.

    Attributes:
        name: The schedule's name.
        job: The name of the job that it runs.
        cron: The cron expression of its ticks.
        timezone: The IANA time zone of the cron expression.
        partitions_def: The partitions that it requests.
        catch_up: The maximum number of partitions in the backlog. The newest ones are kept.
        graph: The graph of the manifest.
        grain_partitions: The partitions of each grain.
        tables: The tables of this grain that the job builds.
        after: The sources that must have been synced since the end of a partition before it is requested.
        by_column: The partitions definition of each column.
        column: The column that the tables are partitioned by, too; None if there is none.
        most: Maximum number of partitions of a run; None for no limit.
    """

    name: str
    job: str
    cron: str
    timezone: str
    partitions_def: GrainPartitions
    catch_up: int
    graph: Graph
    grain_partitions: Mapping[Grain, GrainPartitions]
    tables: Sequence[Table]
    after: Sequence[Source]
    by_column: Mapping[str, ColumnPartitions] = field(default_factory=dict)
    column: str | None = None
    most: int | None = None

    @property
    def may_wait(self) -> bool:
        """Whether a partition may have to wait for a source, for partitions of another job, or for values."""
        tables = self.graph.tables
        may_be_empty = self.column and isinstance(self.by_column[self.column], dg.DynamicPartitionsDefinition)
        return bool(self.after or may_be_empty) or any(
            parent in tables and waits_for(table, tables[parent]) for table in self.tables for parent in table.parents
        )

    def due_at(self, window: Window) -> datetime:
        """Return the tick at which a partition becomes due: the first one after its end."""
        return next_tick(self.cron, self.timezone, window.end)

    def backlog(self, since: datetime | None, at: datetime, started: datetime | None) -> list[Window]:
        """Return the backlog at a point in time, oldest partition first.

        A partition is in the backlog if it became due after `since`, by `at`, and not before the schedule was turned
        on. Only the newest `catch_up` partitions are returned.

        Args:
            since: The last successful or skipped tick, if there is one.
            at: The time of the current tick.
            started: When the schedule was turned on. If neither this nor `since` is known, only the newest partition is
                returned.
        """
        found: list[Window] = []
        most = self.catch_up if since or started else 1
        for window in self._ended(at):
            due = self.due_at(window)
            if due > at:
                continue  # its tick is still to come
            if len(found) == most or (since and due <= since) or (started and due < started):
                break
            found.append(window)
        return found[::-1]

    def _ended(self, at: datetime) -> Iterator[Window]:
        """Yield the partitions that have ended by a point in time, newest first."""
        with partition_loading_context(effective_dt=at):
            last = self.partitions_def.get_last_partition_window()
            if last is None:
                return
            # With `end_offset`, the newest partitions have not ended yet.
            keys = overlapping_keys(self.partitions_def, at - (last.end - last.start) * (self.catch_up + 40), at)
            yield from reversed([window for window in windows(self.partitions_def, keys) if window.end <= at])

    def current(self, at: datetime) -> Window | None:
        """Return the partition that has started and not ended, if `end_offset` allows it to be built."""
        with partition_loading_context(effective_dt=at):
            last = self.partitions_def.get_last_partition_window()
            keys = (
                overlapping_keys(self.partitions_def, at, at + timedelta(seconds=1)) if last and last.end > at else []
            )
            return next(iter(windows(self.partitions_def, keys)), None)

    def unmet_conditions(self, window: Window, instance: dg.DagsterInstance) -> list[str]:
        """Return what a partition waits for, one clause per item. The list is empty if the partition is ready."""
        found = []
        for source in self.after:
            synced = synced_until(instance, dg.AssetKey(source.key))
            if synced is None or synced < window.end:
                last = f"its last sync began {synced:%Y-%m-%d %H:%M} UTC" if synced else "no sync is recorded"
                hint = self._hint(source, window) if _start_is_missing(instance, dg.AssetKey(source.key)) else ""
                found.append(
                    f"{'.'.join(source.key)} has not synced since {window.end:%Y-%m-%d %H:%M %Z} ({last}){hint}"
                )
        values_of = needed_values(self.by_column, instance)
        for table in self.tables:
            for above, keys in missing_upstream_partitions(
                self.graph, table, PartitionRange([window]), self.grain_partitions, instance, values_of=values_of
            ):
                found.append(describe_missing(above, keys))
        if self.column and not known_values(self.by_column[self.column], instance):
            found.append(f"{self.column} has no values yet")
        return [*dict.fromkeys(found)]

    def _hint(self, source: Source, window: Window) -> str:
        return (
            f"; its newest materialization does not say when its sync began (metadata `{STARTED}`, which is a job's "
            f"`startTime` in Airbyte), so it does not count: report a materialization of {'/'.join(source.key)} with "
            f"`{STARTED}` (docs/time.md), or launch {self.job} for {window.key} yourself"
        )

    def requests(
        self, window: Window, run_key: str, instance: dg.DagsterInstance, *, ended: bool = True
    ) -> list[dg.RunRequest]:
        """Return the run requests of a partition, or of a window of all values.

        There are none if the tables are partitioned by a column that has no values yet.

        Args:
            window: The partition.
            run_key: Dagster's key for deduplicating run requests.
            instance: The instance, which knows the values of dynamic partitions.
            ended: Whether the partition has ended. If not, the run is not tagged, so the partition stays in the backlog
                and is built again after its end.
        """
        tags = {**PRIORITY, **({BACKLOG_TAG: self.backlog_id(window)} if ended else {})}
        if self.column is None:
            return [dg.RunRequest(run_key=run_key, job_name=self.job, partition_key=window.key, tags=tags)]
        known = known_values(self.by_column[self.column], instance)
        return [
            range_request(
                self.job,
                f"{run_key} {first}",
                joined_key(self.column, window.key, first),
                joined_key(self.column, window.key, last),
                tags,
            )
            for first, last in value_ranges(known, known, self.most)
        ]

    def backlog_id(self, window: Window) -> str:
        """Return the value of the tag `BACKLOG_TAG`: an identifier of a partition, unique across all schedules."""
        return f"{self.name}/{window.key}"


def range_request(job: str, run_key: str, first: str, last: str, tags: Mapping[str, str]) -> dg.RunRequest:
    """Return the run request of a range of partitions.

    Args:
        job: The name of the job.
        run_key: Dagster's key for deduplicating run requests.
        first, last: The first and the last partition.
        tags: More tags of the run.
    """
    of_range = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    return dg.RunRequest(run_key=run_key, job_name=job, tags={**tags, **of_range})


def synced_until(instance: dg.DagsterInstance, key: dg.AssetKey) -> datetime | None:
    """Return the latest start among the newest syncs of a source. The source's data is complete up to that time.

    Only a start that the sync itself recorded counts. It cannot be derived from the end of the sync: the duration may
    be missing, or may exclude all attempts but the last. A sync, or any other materialization, without a recorded start
    is ignored. A sync is also ignored if a job, such as a Clear, has emptied the table since.

    Args:
        instance: The Dagster instance.
        key: The source's asset key.

    Returns:
        The start in UTC, or None if no start is recorded.
    """
    records = instance.fetch_materializations(key, limit=MAX_SYNCS).records
    begins = [begin for record in records if (begin := _start_of(record))]
    emptied = _last_emptied(instance, key, max(begins)) if begins else None
    return max((begin for begin in begins if emptied is None or begin >= emptied), default=None)


def _start_of(record: dg.EventLogRecord) -> datetime | None:
    """Return the start of the sync that a materialization records, if any.

    It is a timestamp or, because JSON has none, text in ISO 8601 with a time zone.
    """
    value = record.asset_materialization.metadata.get(STARTED) if record.asset_materialization else None
    if isinstance(value, dg.TimestampMetadataValue):
        return datetime.fromtimestamp(value.value, UTC)
    if not isinstance(value, dg.TextMetadataValue):
        return None
    try:
        found = datetime.fromisoformat(value.text or "")
        return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _start_is_missing(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    newest = instance.fetch_materializations(key, limit=1).records
    return bool(newest) and _start_of(newest[0]) is None


def _last_emptied(instance: dg.DagsterInstance, key: dg.AssetKey, since: datetime) -> datetime | None:
    """Return when an Airbyte job last emptied a source's table after a point in time, or None if none has."""
    check, cursor = dg.AssetCheckKey(key, SYNC_CHECK), None
    found: list[datetime] = []
    for _ in range(MAX_PAGES):
        page = instance.event_log_storage.get_asset_check_execution_history(check, limit=PAGE_SIZE, cursor=cursor)
        for record in page:
            evaluation = record.evaluation
            if evaluation and EMPTIED in evaluation.metadata:
                at = evaluation.metadata.get(ENDED) or evaluation.metadata.get(STARTED)
                timestamp = at.value if isinstance(at, dg.TimestampMetadataValue) else record.create_timestamp
                found.append(datetime.fromtimestamp(timestamp, UTC))
        # A job is recorded after its end, so records before `since` cannot be about later jobs.
        if len(page) < PAGE_SIZE or page[-1].create_timestamp < since.timestamp() - SOURCE_CLOCK_TOLERANCE:
            break
        cursor = page[-1].id
    return max((at for at in found if at > since), default=None)


@dataclass(frozen=True)
class ScheduleState:
    """The state of a running schedule in Dagster.

    Attributes:
        started: When the schedule was turned on.
        ticked: The time of its last successful or skipped tick, if there is one.
    """

    started: datetime
    ticked: datetime | None


def schedule_state(instance: dg.DagsterInstance, schedule: str) -> ScheduleState | None:
    """Return the state of a schedule, or None if it is not running or Dagster has no record of it."""
    # Imported here because it is slow, and loading the code location does not need it.
    from lakehouse_analytics._dagster_internals import ScheduleInstigatorData, TickStatus

    states = [
        state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.name == schedule and state.is_running
    ]
    if not states:
        return None
    state = states[-1]
    data = state.instigator_data
    started = data.start_timestamp if isinstance(data, ScheduleInstigatorData) else None
    ticks = instance.get_ticks(
        state.instigator_origin_id, state.selector_id, limit=1, statuses=[TickStatus.SUCCESS, TickStatus.SKIPPED]
    )
    return ScheduleState(
        datetime.fromtimestamp(started or 0, UTC), datetime.fromtimestamp(ticks[0].timestamp, UTC) if ticks else None
    )
