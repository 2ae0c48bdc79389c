"""Reports jobs that have been running for too long as failed checks of their tables, once per job."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.events import job_event_ids
from lakehouse_analytics.triggers.airbyte.job_outcome import MIN_STALLED_AGE, running_outcome
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.partial_rows import latest_evaluations
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionSnapshot
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace
from lakehouse_analytics.triggers.event_log import Event, is_stored


@dataclass(frozen=True)
class StalledJobs:
    """Searches for stalled jobs.

    Attributes:
        instance: Dagster's instance, which stores the events of earlier ticks.
        workspace: The Airbyte server, and the source tables.
        notes: Messages of the tick. Methods append to it.
        deadline: Reading of the clock at which requests give up.
    """

    instance: dg.DagsterInstance
    workspace: AirbyteWorkspace
    notes: list[str]
    deadline: float

    def events(self, *, exclude: Collection[int]) -> list[Event]:
        """Return the events of stalled jobs that are not stored yet.

        Args:
            exclude: Ids of jobs that have ended meanwhile.
        """
        airbyte, events = self.workspace.airbyte, list[Event]()
        try:
            snapshot = self.workspace.connections.snapshot(deadline=self.deadline)
            now = airbyte.now(deadline=self.deadline)
            for job in airbyte.running_jobs(deadline=self.deadline):
                if job.connection in snapshot.mapping.tables_by_connection and job.id not in exclude:
                    events += self._of_job(job, now, snapshot)
        except AirbyteError as error:
            self.notes.append(f"Stalled jobs could not be searched for: {error}")
        return events

    def _of_job(self, job: Job, now: datetime, snapshot: ConnectionSnapshot) -> list[Event]:
        tables = [table.key for table in snapshot.mapping.tables_by_connection[job.connection]]
        limits = [limit for key in tables if (limit := self.workspace.contract(key).stalled_after)]
        limit = min(limits, default=None)
        if job.started is None or now - job.started <= (limit or MIN_STALLED_AGE):
            return []  # not stalled, whatever its usual duration is
        past = self.workspace.airbyte.jobs_of(job.connection, deadline=self.deadline)
        outcome = running_outcome(job, now, past, limit)
        if outcome is None:
            return []
        latest = latest_evaluations(self.instance, map(dg.AssetKey, tables))
        stored = {job_event_ids(evaluation)[0] for evaluation in latest.values()}
        events = self.workspace.events(job, outcome, tables, snapshot)
        return [event for event in events if not is_stored(job_event_ids(event), stored)]
