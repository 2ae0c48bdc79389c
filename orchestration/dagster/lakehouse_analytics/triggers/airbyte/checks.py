"""The check `airbyte_sync` of source tables: the outcome of the last job of the connection that fills them.

The sensor evaluates it when a job ends. Executing the check in the UI requests the last job from Airbyte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import dagster as dg

from lakehouse_analytics.triggers.airbyte.connections import UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.errors import AirbyteError
from lakehouse_analytics.triggers.airbyte.events import check_fields, job_metadata
from lakehouse_analytics.triggers.airbyte.job_outcome import job_outcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionSnapshot
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace
from lakehouse_analytics.triggers.base import source_checks
from lakehouse_analytics.triggers.events import SYNC_CHECK

DESCRIPTION = "Outcome of the last Airbyte job of this table's connection: rows written, failed, cancelled, stalled."


def sync_checks(workspace: AirbyteWorkspace) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the source tables whose contracts name an Airbyte connection."""

    def evaluate(selected: Collection[dg.AssetKey]) -> Iterator[dg.AssetCheckResult]:
        try:
            yield from _results(workspace, selected)
        except AirbyteError as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    keys = [source.key for source in workspace.graph.sources.values() if source.contract.airbyte]
    return source_checks(SYNC_CHECK, keys, DESCRIPTION, evaluate)


def _results(workspace: AirbyteWorkspace, selected: Collection[dg.AssetKey]) -> Iterator[dg.AssetCheckResult]:
    snapshot = workspace.connections.snapshot()
    mapped: set[dg.AssetKey] = set()
    for connection, tables in snapshot.mapping.tables_by_connection.items():
        keys = [table.key for table in tables if dg.AssetKey(table.key) in selected]
        job = _last_ended(workspace, connection) if keys else None
        for key in keys:
            mapped.add(dg.AssetKey(key))
            if job is None:
                reason = f"No job of connection {snapshot.name(connection)!r} has ended yet."
                yield _not_evaluated(dg.AssetKey(key), reason)
                continue
            outcome = job_outcome(job, may_be_empty=workspace.contract(key).allow_empty)
            metadata = job_metadata(job, outcome, workspace.origin(job, snapshot))
            yield dg.AssetCheckResult(**check_fields(dg.AssetKey(key), outcome, metadata))
    for unmapped in sorted({*selected} - mapped):
        yield _not_evaluated(unmapped, _why_unmapped(workspace, snapshot, unmapped))


def _last_ended(workspace: AirbyteWorkspace, connection: str) -> Job | None:
    return next((job for job in workspace.airbyte.jobs_of(connection) if job.has_ended), None)


def _why_unmapped(workspace: AirbyteWorkspace, snapshot: ConnectionSnapshot, key: dg.AssetKey) -> str:
    named = workspace.contract(tuple(key.path)).connection
    try:
        snapshot.find(named)
    except UnknownConnectionError as error:
        return f"{error}. Correct meta.lakehouse.airbyte.connection of the source."
    return f"LAKEHOUSE_AIRBYTE_INCLUDE or LAKEHOUSE_AIRBYTE_EXCLUDE leaves out connection {named!r}."


def _not_evaluated(key: dg.AssetKey, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key, check_name=SYNC_CHECK, passed=False, severity=dg.AssetCheckSeverity.WARN, description=reason
    )
