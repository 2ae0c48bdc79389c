"""Which windows a schedule owes, and what each still waits for.

Dagster's schedules do not catch up: after three days without a daemon `build_schedule_from_partitioned_job` runs the
last day and leaves two out without a word (1.13.27: a schedule has no partition set, see `_scheduler/scheduler.py`). So
a tick here owes every window that came due since the last finished tick. What is not ready at its tick is left to the
sensor `waiting_schedules`, which requests it when it is. A window is requested by exactly one of the two, because the
sensor looks only at what came due by the last finished tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import partition_loading_context

from lakehouse_analytics._dagster_internals import InstigatorType
from lakehouse_analytics.common.cron import next_tick
from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.partitions.definitions import (
    GrainPartitions,
    PartitionRange,
    Window,
    missing_above,
    overlapping,
    windows,
)
from lakehouse_analytics.triggers.event_log import SOURCE_CLOCK_TOLERANCE
from lakehouse_analytics.triggers.events import EMPTIED, ENDED, STARTED, SYNC_CHECK

#: Newest syncs of a source that are looked at: they may be recorded in another order than they began in.
SYNCS = 20
#: Evaluations of a source's check of one query, and such queries at most, among which jobs that empty it are searched.
PAGE, PAGES = 100, 10
#: Of every run that a schedule owed: its name and the window.
OWED = "lakehouse/owed"
#: Scheduled runs go before those of backfills and people, whose priority is 0.
PRIORITY = {"dagster/priority": "1"}


@dataclass(frozen=True)
class Plan:
    """A schedule of windows.

    Attributes:
        name, job: Of the schedule, and what it runs.
        cron, timezone: When.
        partitions_def: Its windows.
        catch_up: Windows that are owed at most, the newest ones.
        tables: What the job builds of this grain.
        after: Sources that must have synced since a window's end.
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

    @property
    def waits(self) -> bool:
        """Whether a window can have to wait for anything."""
        parents = {parent for table in self.tables for parent in table.parents}
        return bool(self.after) or any(parent in self.graph.tables and self._shorter(parent) for parent in parents)

    def _shorter(self, unique_id: str) -> bool:
        grain, own = self.graph.tables[unique_id].grain, self.tables[0].grain
        order = [*self.grain_partitions]
        return grain is not None and own is not None and order.index(grain) < order.index(own)

    def due(self, window: Window) -> datetime:
        """The tick at which a window is owed: the first one after its end."""
        return next_tick(self.cron, self.timezone, window.end)

    def owed(self, since: datetime | None, at: datetime, started: datetime | None) -> list[Window]:
        """Windows that came due after `since` and by `at`, and not before the schedule was started; the newest few.

        Without `since` and `started` the newest alone.
        """
        found: list[Window] = []
        most = self.catch_up if since or started else 1
        for window in self._ended(at):
            due = self.due(window)
            if due > at:
                continue  # its tick comes yet
            if len(found) == most or (since and due <= since) or (started and due < started):
                break
            found.append(window)
        return found[::-1]

    def _ended(self, at: datetime) -> Iterator[Window]:
        """Windows that ended by a moment, newest first."""
        with partition_loading_context(effective_dt=at):
            last = self.partitions_def.get_last_partition_window()
            if last is None:
                return
            # Those of `end_offset` have not ended.
            keys = overlapping(self.partitions_def, at - (last.end - last.start) * (self.catch_up + 40), at)
            yield from reversed([window for window in windows(self.partitions_def, keys) if window.end <= at])

    def running(self, at: datetime) -> Window | None:
        """The window that has begun and not ended, where `end_offset` lets it be built."""
        with partition_loading_context(effective_dt=at):
            last = self.partitions_def.get_last_partition_window()
            keys = overlapping(self.partitions_def, at, at + timedelta(seconds=1)) if last and last.end > at else []
            return next(iter(windows(self.partitions_def, keys)), None)

    def missing(self, window: Window, instance: dg.DagsterInstance) -> list[str]:
        """What a window waits for, each as a sentence; nothing where it is ready."""
        found = []
        for source in self.after:
            synced = synced_until(instance, dg.AssetKey(source.key))
            if synced is None or synced < window.end:
                said = f"its last sync began {synced:%Y-%m-%d %H:%M} UTC" if synced else "no sync is recorded"
                way_out = self._way_out(source, window) if _begin_is_missing(instance, dg.AssetKey(source.key)) else ""
                found.append(
                    f"{'.'.join(source.key)} has not synced since {window.end:%Y-%m-%d %H:%M %Z} ({said}){way_out}"
                )
        for table in self.tables:
            for above, keys in missing_above(
                self.graph, table, PartitionRange([window]), self.grain_partitions, instance
            ):
                found.append(f"{'/'.join(above.key)} does not have {some(keys, FEW)}")
        return [*dict.fromkeys(found)]

    def _way_out(self, source: Source, window: Window) -> str:
        return (
            f"; its newest materialization does not say when its sync began (metadata `{STARTED}`; from Airbyte that "
            f"is a job's `startTime`), so it does not count: report a materialization of {'/'.join(source.key)} with "
            f"`{STARTED}` (docs/time.md), or launch {self.job} for {window.key} yourself"
        )

    def request(self, window: Window, run_key: str, *, ended: bool = True) -> dg.RunRequest:
        """The run of a window. While it has not ended it is owed still, whatever was built of it."""
        tags = {**PRIORITY, **({OWED: self.owed_as(window)} if ended else {})}
        return dg.RunRequest(run_key=run_key, job_name=self.job, partition_key=window.key, tags=tags)

    def owed_as(self, window: Window) -> str:
        """Names a window of this schedule among all schedules' windows."""
        return f"{self.name}/{window.key}"


def synced_until(instance: dg.DagsterInstance, key: dg.AssetKey) -> datetime | None:
    """The latest begin among the newest `SYNCS` syncs of a source: what it read is whole until then.

    Only a begin that the sync recorded itself counts. It cannot be computed from its end: a duration may be missing, or
    may leave out attempts before the last. A sync, or a materialization of another origin, that records no begin is
    treated as if it had not happened. Nor does one count after which a job emptied the table, such as a Clear. None
    where no begin is recorded.
    """
    records = instance.fetch_materializations(key, limit=SYNCS).records
    begins = [begin for record in records if (begin := _begin(record))]
    emptied = _emptied(instance, key, max(begins)) if begins else None
    return max((begin for begin in begins if emptied is None or begin >= emptied), default=None)


def _begin(record: dg.EventLogRecord) -> datetime | None:
    """The begin that a materialization records: a timestamp or, as JSON has none, text in ISO 8601 with a zone."""
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


def _begin_is_missing(instance: dg.DagsterInstance, key: dg.AssetKey) -> bool:
    newest = instance.fetch_materializations(key, limit=1).records
    return bool(newest) and _begin(newest[0]) is None


def _emptied(instance: dg.DagsterInstance, key: dg.AssetKey, since: datetime) -> datetime | None:
    """When a job of Airbyte last emptied a source's table after a moment; None if none has."""
    check, cursor = dg.AssetCheckKey(key, SYNC_CHECK), None
    found: list[datetime] = []
    for _ in range(PAGES):
        page = instance.event_log_storage.get_asset_check_execution_history(check, limit=PAGE, cursor=cursor)
        for record in page:
            evaluation = record.evaluation
            if evaluation and EMPTIED in evaluation.metadata:
                at = evaluation.metadata.get(ENDED) or evaluation.metadata.get(STARTED)
                said = at.value if isinstance(at, dg.TimestampMetadataValue) else record.create_timestamp
                found.append(datetime.fromtimestamp(said, UTC))
        # A job is recorded after it has ended.
        if len(page) < PAGE or page[-1].create_timestamp < since.timestamp() - SOURCE_CLOCK_TOLERANCE:
            break
        cursor = page[-1].id
    return max((at for at in found if at > since), default=None)


@dataclass(frozen=True)
class Past:
    """What Dagster knows of a schedule: when it was turned on, and its last tick that was not a failure."""

    started: datetime
    ticked: datetime | None


def past_of(instance: dg.DagsterInstance, schedule: str) -> Past | None:
    """None where the schedule is not running, or nothing is known of it."""
    # Not needed to load, and it imports all that describes a code location.
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
    return Past(
        datetime.fromtimestamp(started or 0, UTC), datetime.fromtimestamp(ticks[0].timestamp, UTC) if ticks else None
    )
