"""A job of Airbyte in Dagster's history: for each table that it fills a check evaluation, and what it filled.

Dagster stores a sensor's events one by one before it stores the cursor; a daemon that dies between them repeats the
tick. So what a dead tick may have stored is looked up before it is given to Dagster again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.instance.utils import RUNLESS_RUN_ID

from lakehouse_analytics.airbyte.evidence import Verdict
from lakehouse_analytics.airbyte.identity import identity_of
from lakehouse_analytics.airbyte.jobs import Job

CHECK = "airbyte_sync"
SYNC_ID, STATUS, IDENTITY = "airbyte/sync_id", "airbyte/status", "airbyte/identity"
#: When a sync began and ended, by the clock of Airbyte, or of the machine that `lakehouse ingest` ran on.
STARTED, ENDED = "started", "ended"
#: Seconds by which the clocks that write Dagster's events may differ from ours, and from Airbyte's.
CLOCKS, CLOCK_OF_AIRBYTE = 900.0, 86_400.0
#: Events of one query, and those that are searched at most: 0.25 ms each.
PAGE, MOST = 250, 20_000
_KINDS = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}

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


def events_of(job: Job, verdict: Verdict, keys: Iterable[dg.AssetKey], origin: Origin) -> Iterable[Event]:
    """The events that Dagster stores for the tables that a job fills."""
    metadata = metadata_of(job, verdict, origin)
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
        "connection_rows": job.rows,
        "connection_bytes": job.bytes,
        "runtime_seconds": job.seconds,
        STARTED: dg.MetadataValue.timestamp(job.started) if job.started else None,
        ENDED: dg.MetadataValue.timestamp(job.ended) if job.ended else None,
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
            case are more than `MOST`.
    """
    if not events:
        return []
    if after is not None and after > newest_event(instance):
        after = None  # these are the numbers of another database
    stored = {_stored_as(known) for known in _recent(instance, after, since)}
    return [event for event in events if not is_stored(event, stored)]


def _recent(instance: dg.DagsterInstance, after: int | None, since: float) -> Iterator[Event]:
    cursor: str | None = None
    for _ in range(MOST // PAGE):
        page = instance.get_records_for_run(RUNLESS_RUN_ID, cursor, _KINDS, PAGE, ascending=False)
        for record in page.records:
            if record.storage_id <= after if after is not None else record.timestamp < since:
                return
            if event := _event(record):
                yield event
        if not page.has_more:
            return
        cursor = page.cursor


def _event(record: dg.EventLogRecord) -> Event | None:
    entry = record.event_log_entry
    return entry.asset_materialization or entry.asset_check_evaluation


def latest_of(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> set[Known]:
    """What the newest evaluation of each table's check is known as."""
    checks = [dg.AssetCheckKey(key, CHECK) for key in keys]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    found = (record.evaluation for record in latest.values())
    return {_stored_as(known) for known in found if known}


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
