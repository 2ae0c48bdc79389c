"""A job of Airbyte in Dagster's history: for each table that it fills a check evaluation, and what it filled.

Dagster stores a sensor's events one by one before it stores the cursor; a daemon that dies between them repeats the
tick. So what a dead tick may have stored is looked up before it is given to Dagster again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from lakehouse_analytics.airbyte.evidence import Verdict
from lakehouse_analytics.airbyte.jobs import Job

CHECK = "airbyte_sync"
SYNC_ID, STATUS = "airbyte/sync_id", "airbyte/status"
#: Events that others may store of a check or an asset after a tick that died: a person who asks the check again.
OTHERS = 100
#: Seconds by which the clocks of whoever writes Dagster's events may differ.
CLOCKS = 900.0

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def events_of(job: Job, verdict: Verdict, keys: Iterable[dg.AssetKey], *, connection: str, url: str) -> Iterable[Event]:
    """What Dagster is to store of a job for the tables that it fills."""
    metadata = metadata_of(job, verdict, connection=connection, url=url)
    for key in keys:
        if verdict.filled:
            yield dg.AssetMaterialization(
                key,
                description=verdict.reason,
                metadata=metadata,
                tags={"dagster/data_version": str(job.id)},
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


def metadata_of(job: Job, verdict: Verdict, *, connection: str, url: str) -> dict[str, Any]:
    """What Dagster is told of a job."""
    found: dict[str, Any] = {
        SYNC_ID: job.id,
        STATUS: verdict.status,
        "airbyte/connection": connection,
        "airbyte/job": dg.MetadataValue.url(url),
        # Of the whole connection: Airbyte does not tell them by stream.
        "connection_rows": job.rows,
        "connection_bytes": job.bytes,
        "runtime_seconds": job.seconds,
        "ended": dg.MetadataValue.timestamp(job.ended) if job.ended else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def not_stored(instance: dg.DagsterInstance, events: Sequence[Event], since: float) -> list[Event]:
    """Those that Dagster has not stored at an instant, in seconds since 1970, or later."""
    since -= CLOCKS
    keys = {event.asset_key for event in events}
    depth = len(events) + OTHERS
    stored = _stored_syncs(instance, keys, since, depth) | _stored_checks(instance, keys, since, depth)
    return [event for event in events if _identity(event) not in stored]


def latest_of(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> set[tuple[dg.AssetKey, int, str]]:
    """Key, job and status of the newest evaluation of each table's check."""
    checks = [dg.AssetCheckKey(key, CHECK) for key in keys]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    found = (record.evaluation for record in latest.values())
    return {_job_of(known) for known in found if known}


def _identity(event: Event) -> tuple[Any, ...]:
    if isinstance(event, dg.AssetMaterialization):
        return (event.asset_key, (event.tags or {}).get("dagster/data_version"))
    return _job_of(event)


def _job_of(event: dg.AssetCheckEvaluation) -> tuple[dg.AssetKey, int, str]:
    job, status = event.metadata.get(SYNC_ID), event.metadata.get(STATUS)
    return (event.asset_key, int(job.value) if job else 0, str(status.value) if status else "")  # type: ignore[arg-type]


def _stored_syncs(
    instance: dg.DagsterInstance, keys: set[dg.AssetKey], since: float, depth: int
) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = set()
    for record in instance.get_asset_records([*keys]):
        newest = record.asset_entry.last_materialization_record
        if not newest or newest.timestamp < since:
            continue
        rows = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=record.asset_entry.asset_key, after_timestamp=since), limit=depth
        )
        stored = (row.asset_materialization for row in rows.records)
        found |= {_identity(one) for one in stored if one}
    return found


def _stored_checks(
    instance: dg.DagsterInstance, keys: set[dg.AssetKey], since: float, depth: int
) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = set()
    storage = instance.event_log_storage
    checks = [dg.AssetCheckKey(key, CHECK) for key in keys]
    for key, latest in storage.get_latest_asset_check_execution_by_key(checks).items():
        if latest.create_timestamp < since:
            continue
        history = storage.get_asset_check_execution_history(key, limit=depth)
        found |= {_job_of(record.evaluation) for record in history if record.evaluation}
    return found
