"""A job of Airbyte in Dagster's history: for each table that it fills a check evaluation, and what it filled.

Dagster stores a sensor's events one by one before it stores the cursor; a daemon that dies between them repeats the
tick. So what a dead tick may have stored is looked up before it is given to Dagster again. An event itself takes two
transactions: first the log, then what the asset or the check points at; a daemon that dies between those leaves an
event that the log has and no page of the UI shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from lakehouse_analytics._dagster_internals import RUNLESS_RUN_ID, AssetCheckExecutionRecordStatus
from lakehouse_analytics.triggers.airbyte.identity import identity_of
from lakehouse_analytics.triggers.airbyte.job_outcome import Verdict, may_have_written
from lakehouse_analytics.triggers.airbyte.jobs import ENDED as ENDED_STATUS
from lakehouse_analytics.triggers.airbyte.jobs import Job

CHECK = "airbyte_sync"
SYNC_ID, STATUS, IDENTITY = "airbyte/sync_id", "airbyte/status", "airbyte/identity"
#: When a sync began and ended, by the clock of Airbyte, or of the machine that `lakehouse ingest` ran on.
STARTED, ENDED = "started", "ended"
#: Of a job that empties the tables, such as a Clear: what syncs read before it is gone.
EMPTIED = "airbyte/emptied"
ROWS, BYTES = "connection_rows", "connection_bytes"
#: Of a job that wrote nothing: what `RowsBefore` knew when it was recorded.
ROWS_BEFORE = "airbyte/rows_before"
#: Evaluations of a check that are searched where the newest does not tell, see `RowsBefore`.
LOOK_BACK = 50
#: Seconds by which the clocks that write Dagster's events may differ from ours, and from Airbyte's.
CLOCKS, CLOCK_OF_AIRBYTE = 900.0, 86_400.0
#: Events of one query, and those that are searched at most: 0.25 ms each.
PAGE, MOST = 250, 20_000
_KINDS = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation
#: What distinguishes an event of one job from the events of other jobs.
Known = tuple[Any, ...]


@dataclass(frozen=True)
class Origin:
    """Where a job comes from.

    Attributes:
        connection: Name of the connection, or its id.
        server: URL of Airbyte's API.
        page: URL of the job in Airbyte's UI.
    """

    connection: str
    server: str
    page: str


def events_of(
    job: Job, verdict: Verdict, keys: Iterable[dg.AssetKey], origin: Origin, *, rows_before: bool | None = None
) -> Iterable[Event]:
    """The events that Dagster stores for the tables that a job fills.

    Args:
        job, verdict: What ended, and what is said of it.
        keys: Of the tables.
        origin: Where the job comes from.
        rows_before: Of a job that wrote nothing: whether jobs before it may have written rows, see `RowsBefore`.
    """
    metadata = metadata_of(job, verdict, origin) | ({} if rows_before is None else {ROWS_BEFORE: rows_before})
    for key in keys:
        if verdict.filled:
            yield dg.AssetMaterialization(
                key,
                description=verdict.reason,
                metadata=metadata,
                tags={"dagster/data_version": identity_of(job, origin.server)},
            )
        yield dg.AssetCheckEvaluation(**outcome(key, verdict, metadata))


def outcome(key: dg.AssetKey, verdict: Verdict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The check of one table, as the fields that an evaluation and a result share."""
    return {
        "asset_key": key,
        "check_name": CHECK,
        "passed": verdict.passed,
        "severity": dg.AssetCheckSeverity.WARN if verdict.warn else dg.AssetCheckSeverity.ERROR,
        "description": verdict.reason,
        "metadata": dict(metadata),
    }


def metadata_of(job: Job, verdict: Verdict, origin: Origin) -> dict[str, Any]:
    """Metadata of the events of a job."""
    found: dict[str, Any] = {
        SYNC_ID: job.id,
        STATUS: verdict.status,
        IDENTITY: identity_of(job, origin.server),
        "airbyte/connection": origin.connection,
        "airbyte/connection_id": job.connection,
        "airbyte/job": dg.MetadataValue.url(origin.page),
        # Of the whole connection: Airbyte does not report them by stream.
        ROWS: job.rows,
        BYTES: job.bytes,
        "runtime_seconds": job.seconds,
        STARTED: dg.MetadataValue.timestamp(job.started) if job.started else None,
        ENDED: dg.MetadataValue.timestamp(job.ended) if job.ended else None,
        # Also one that failed: it may have emptied some of them.
        EMPTIED: True if job.empties else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def newest_event(instance: dg.DagsterInstance) -> int:
    """Number of the newest event that a sensor or a command stored; 0 if there is none."""
    found = instance.get_records_for_run(RUNLESS_RUN_ID, of_type=_KINDS, limit=1, ascending=False).records
    return found[0].storage_id if found else 0


def not_stored(
    instance: dg.DagsterInstance, events: Sequence[Event], *, after: int | None, since: float
) -> list[Event]:
    """The events that Dagster has not stored yet.

    One query for each `PAGE` events that were stored in the meantime, the newest first, whatever the number of assets
    and however long their history is.

    Args:
        instance: Where they are stored.
        events: To be stored.
        after: Number of an event: those that may be stored already have a higher one. None if it is not known.
        since: Seconds since 1970 by our clock. Without a number, events older than this are not looked at. In neither
            case are more than `MOST`: what these do not decide is searched in the histories of its assets.
    """
    if not events:
        return []
    if after is not None and after > newest_event(instance):
        after = None  # these are the numbers of another database
    wanted = {known for event in events for known in (_stored_as(event), _without_identity(event))}
    stored: set[Known] = set()
    newest: Known | None = None
    incomplete: Known | None = None
    searched = 0
    for record, event in _recent(instance, after, since):
        searched += 1
        known = _stored_as(event)
        if known in wanted and newest is None:
            # Only the newest event can be stored by half, because every tick looks before it stores, and then stores
            # that one first. It may be stored by half more than once.
            newest = known
            incomplete = None if _complete(instance, record, event) else known
        if known != incomplete:
            stored.add(known)
    fresh = [event for event in events if not is_stored(event, stored)]
    if searched >= MOST and fresh:
        stored |= {_stored_as(event) for event in _histories(instance, fresh, since)}
        fresh = [event for event in fresh if not is_stored(event, stored)]
    return sorted(fresh, key=lambda event: _stored_as(event) != incomplete)


def _histories(instance: dg.DagsterInstance, events: Sequence[Event], since: float) -> Iterator[Event]:
    """What the assets and checks of some events have in their own histories, from the time on when these may be there:
    a job is recorded after it has ended."""
    ends = [float(_value(event, ENDED) or 0.0) for event in events]
    since = min(since, min(ends) - CLOCK_OF_AIRBYTE)
    for key in sorted({event.asset_key for event in events if isinstance(event, dg.AssetMaterialization)}):
        wanted, cursor = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since), None
        while True:
            page = instance.fetch_materializations(wanted, limit=PAGE, cursor=cursor)
            yield from filter(None, map(_event, page.records))
            if not page.has_more:
                break
            cursor = page.cursor
    for check in sorted({event.asset_check_key for event in events if isinstance(event, dg.AssetCheckEvaluation)}):
        before: int | None = None
        while True:
            rows = instance.event_log_storage.get_asset_check_execution_history(check, limit=PAGE, cursor=before)
            yield from filter(None, (row.evaluation for row in rows))
            if len(rows) < PAGE or rows[-1].create_timestamp < since:
                break
            before = rows[-1].id


def _complete(instance: dg.DagsterInstance, record: dg.EventLogRecord, event: Event) -> bool:
    """Whether a stored event has reached its asset or check; a materialization is completed here if possible.

    If not, the event has to be stored again.
    """
    from lakehouse_analytics._dagster_internals import SqlEventLogStorage

    storage = instance.event_log_storage
    if isinstance(event, dg.AssetCheckEvaluation):
        key = event.asset_check_key
        latest = storage.get_latest_asset_check_execution_by_key([key]).get(key)
        # The history of a check is a table of its own, which the first of two evaluations has not reached.
        return bool(latest and latest.event and latest.event.timestamp >= record.timestamp)
    found = instance.get_asset_records([event.asset_key])
    newest = found[0].asset_entry.last_materialization_record if found else None
    if newest and newest.timestamp >= record.timestamp:
        return True
    if storage.is_run_sharded or not isinstance(storage, SqlEventLogStorage):
        return False
    # A second one would stand in the history of the asset, which is read from the log.
    storage.store_asset_event_tags([record.event_log_entry], [record.storage_id])
    storage.store_asset_event(record.event_log_entry, record.storage_id)
    return True


def _recent(instance: dg.DagsterInstance, after: int | None, since: float) -> Iterator[tuple[dg.EventLogRecord, Event]]:
    cursor: str | None = None
    for _ in range(MOST // PAGE):
        page = instance.get_records_for_run(RUNLESS_RUN_ID, cursor, _KINDS, PAGE, ascending=False)
        for record in page.records:
            if record.storage_id <= after if after is not None else record.timestamp < since:
                return
            if event := _event(record):
                yield record, event
        if not page.has_more:
            return
        cursor = page.cursor


def _event(record: dg.EventLogRecord) -> Event | None:
    entry = record.event_log_entry
    return entry.asset_materialization or entry.asset_check_evaluation


def latest_of(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> set[Known]:
    """What the newest evaluation of each table's check is known as."""
    return {_stored_as(known) for known in _latest(instance, keys).values()}


def _latest(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, dg.AssetCheckEvaluation]:
    """The newest evaluation of each table's check; one query for each `PAGE` tables."""
    found: dict[dg.AssetKey, dg.AssetCheckEvaluation] = {}
    checks = [dg.AssetCheckKey(key, CHECK) for key in dict.fromkeys(keys)]
    for start in range(0, len(checks), PAGE):
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks[start : start + PAGE])
        found |= {check.asset_key: record.evaluation for check, record in latest.items() if record.evaluation}
    return found


class RowsBefore:
    """Whether jobs that did not succeed may have written rows to a table since its last success.

    The newest evaluation of a table tells: one of a job that wrote nothing carries what was known before it. So the
    tables of a tick cost one query for each `PAGE` of them, when the first is asked about, whatever the number of jobs.
    The history of a table is read, once, only where its newest evaluation does not tell: it is of the job itself or of
    a later one (a tick that is repeated, a replay), of a running job, of no job, or of an earlier version of this
    project.

    Args:
        instance: Where the evaluations are stored.
        keys: The tables that may be asked about.
        server: URL of Airbyte's API.
    """

    def __init__(self, instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey], server: str) -> None:
        self._instance, self._keys, self._server = instance, [*keys], server
        self._latest: dict[dg.AssetKey, dg.AssetCheckEvaluation] | None = None
        self._histories: dict[dg.AssetKey, list[dg.AssetCheckEvaluation]] = {}
        self._answered: dict[dg.AssetKey, bool] = {}

    def before(self, key: dg.AssetKey, job: Job) -> bool:
        """Of the jobs before one: those that were `answered` with this object, else those that Dagster has stored."""
        if key in self._answered:
            return self._answered[key]
        newest = self._newest(key)
        if newest is None:
            return False
        if (told := self._told(newest, job)) is not None:
            return told
        if key not in self._histories:
            rows = self._instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(key, CHECK), limit=LOOK_BACK, status=_EVALUATED
            )
            self._histories[key] = [row.evaluation for row in rows if row.evaluation]
        return next((told for known in self._histories[key] if (told := self._told(known, job)) is not None), False)

    def answered(self, key: dg.AssetKey, job: Job, verdict: Verdict) -> bool | None:
        """Take in that a job was judged; what its evaluation has to carry, None if it tells by itself."""
        if verdict.passed or job.empties:
            self._answered[key] = False
            return None
        if may_have_written(job):
            self._answered[key] = True
            return None
        before = self._answered[key] = self.before(key, job)
        # A job that became visible late is stored after a later one, and must not hide what that left.
        newest = self._newest(key)
        return before or bool(newest and _is_later(newest, job) and self._told(newest))

    def _newest(self, key: dg.AssetKey) -> dg.AssetCheckEvaluation | None:
        if self._latest is None:
            self._latest = _latest(self._instance, self._keys)
        return self._latest.get(key)

    def _told(self, known: dg.AssetCheckEvaluation, job: Job | None = None) -> bool | None:
        """What an evaluation tells of the time after it; None if it tells nothing, or is not from before a job."""
        if _value(known, STATUS) not in ENDED_STATUS:
            return None
        if job and (self._is_of(known, job) or _is_later(known, job)):
            return None
        if known.passed or EMPTIED in known.metadata:
            return False
        if _value(known, STATUS) != "succeeded" and (_value(known, ROWS) != 0 or _value(known, BYTES)):
            return True
        carried = _value(known, ROWS_BEFORE)
        return carried if isinstance(carried, bool) else None

    def _is_of(self, known: dg.AssetCheckEvaluation, job: Job) -> bool:
        identity = _value(known, IDENTITY)
        if identity is None:
            return bool(_value(known, SYNC_ID) == job.id)
        return bool(identity == identity_of(job, self._server))


def _is_later(known: dg.AssetCheckEvaluation, job: Job) -> bool:
    ended = _value(known, ENDED)
    return bool(job.ended and ended is not None and ended > job.ended.timestamp())


def is_stored(event: Event, stored: Collection[Known]) -> bool:
    """Whether an event is among those that are stored, by this version or by one that knew a job by its id alone."""
    return _stored_as(event) in stored or _without_identity(event) in stored


def _stored_as(event: Event) -> Known:
    identity = event.metadata.get(IDENTITY)
    if identity is None:
        return _without_identity(event)
    return (type(event), event.asset_key, _value(event, STATUS), identity.value)


def _without_identity(event: Event) -> Known:
    return (type(event), event.asset_key, _value(event, STATUS), _value(event, SYNC_ID), _value(event, ENDED))


def _value(event: Event, name: str) -> Any:
    found = event.metadata.get(name)
    return found.value if found else None
