"""The events of an Airbyte job: a check evaluation for each of its tables, and a materialization if it was filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from lakehouse_analytics.triggers.airbyte.job_identity import identity_of
from lakehouse_analytics.triggers.airbyte.job_outcome import JobOutcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.event_log import Event, EventId
from lakehouse_analytics.triggers.events import (
    EMPTIED,
    ENDED,
    SYNC_CHECK,
    metadata_value,
    source_evaluation,
    source_materialization,
    timestamps,
)

SYNC_ID, STATUS, IDENTITY = "airbyte/sync_id", "airbyte/status", "airbyte/identity"
ROWS, BYTES = "connection_rows", "connection_bytes"
#: Metadata of a job that wrote nothing: whether earlier jobs may have left rows, see `PartialRows`.
ROWS_BEFORE = "airbyte/rows_before"


@dataclass(frozen=True)
class JobOrigin:
    """The origin of a job.

    Attributes:
        connection: Name of the connection, or its id if it has no name.
        server: URL of Airbyte's API.
        page: URL of the job in Airbyte's UI.
    """

    connection: str
    server: str
    page: str


def job_events(
    job: Job, outcome: JobOutcome, keys: Iterable[dg.AssetKey], origin: JobOrigin, *, rows_before: bool | None = None
) -> Iterable[Event]:
    """Yield the events for the tables that a job fills.

    Args:
        job: The job.
        outcome: Its outcome for these tables.
        keys: The tables.
        origin: The origin of the job.
        rows_before: For a job that wrote nothing, whether earlier jobs may have left rows; see `PartialRows`.
    """
    metadata = job_metadata(job, outcome, origin) | ({} if rows_before is None else {ROWS_BEFORE: rows_before})
    for key in keys:
        if outcome.filled:
            yield source_materialization(
                key, description=outcome.reason, metadata=metadata, version=identity_of(job, origin.server)
            )
        yield source_evaluation(check_fields(key, outcome, metadata))


def check_fields(key: dg.AssetKey, outcome: JobOutcome, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that an evaluation and a result of the check `airbyte_sync` have in common."""
    return {
        "asset_key": key,
        "check_name": SYNC_CHECK,
        "passed": outcome.passed,
        "severity": dg.AssetCheckSeverity.WARN if outcome.warn else dg.AssetCheckSeverity.ERROR,
        "description": outcome.reason,
        "metadata": dict(metadata),
    }


def job_metadata(job: Job, outcome: JobOutcome, origin: JobOrigin) -> dict[str, Any]:
    """Return the metadata of the events of a job."""
    found: dict[str, Any] = {
        SYNC_ID: job.id,
        STATUS: outcome.status,
        IDENTITY: identity_of(job, origin.server),
        "airbyte/connection": origin.connection,
        "airbyte/connection_id": job.connection,
        "airbyte/job": dg.MetadataValue.url(origin.page),
        # These count the whole connection, because Airbyte does not report them by stream.
        ROWS: job.rows,
        BYTES: job.bytes,
        "runtime_seconds": job.seconds,
        **timestamps(job.started, job.ended),
        # Set for failed jobs, too: they may have emptied some of the tables.
        EMPTIED: True if job.empties else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def job_event_ids(event: Event) -> Sequence[EventId]:
    """Return the ids of a job's event. Older versions of this project identified a job only by its id and end."""
    identity = event.metadata.get(IDENTITY)
    kind, status = type(event), metadata_value(event, STATUS)
    old = (kind, event.asset_key, status, metadata_value(event, SYNC_ID), metadata_value(event, ENDED))
    return [old] if identity is None else [(kind, event.asset_key, status, identity.value), old]
