"""The sensor `airbyte_sync_sensor` requests a run of the bronze models that read a sync, within one tick of its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.cursor import Cursor, CursorError
from lakehouse_analytics.triggers.airbyte.ended_jobs import EndedJobs
from lakehouse_analytics.triggers.airbyte.events import job_event_ids
from lakehouse_analytics.triggers.airbyte.job_identity import server_digest
from lakehouse_analytics.triggers.airbyte.jobs import Job, parse_time
from lakehouse_analytics.triggers.airbyte.poller import PollResult, poll
from lakehouse_analytics.triggers.airbyte.stalled_jobs import StalledJobs
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace
from lakehouse_analytics.triggers.event_log import SOURCE_CLOCK_TOLERANCE, Event, latest_event_id, unstored_events

NAME = "airbyte_sync_sensor"
#: Time limit of a tick, and of one that has to list the connections again, in seconds. Dagster ends a tick after 60 s.
BUDGET, BUDGET_WITH_LISTING = 10.0, 40.0
#: Maximum number of jobs per tick. The next tick continues.
MAX_JOBS = 500
#: Seconds between two searches for stalled jobs. Each takes two requests, and one more per job that runs for long.
STALLED_INTERVAL = 600.0
#: Tolerated difference, in seconds, between our clock and those that write Dagster's events.
DAGSTER_CLOCK_TOLERANCE = 900.0


def airbyte_sync_sensor(workspace: AirbyteWorkspace) -> dg.SensorDefinition:
    """Return the sensor. It runs by default."""

    @dg.sensor(
        name=NAME,
        target=workspace.tables.target,
        minimum_interval_seconds=workspace.interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records each Airbyte sync that ends on its source tables, and builds the bronze models that read "
        "them.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return Tick(context, workspace).result()

    return sensor


@dataclass
class Tick:
    """One tick of the sensor."""

    context: dg.SensorEvaluationContext
    workspace: AirbyteWorkspace
    began: float = field(default_factory=time.time)
    deadline: float = field(default_factory=lambda: time.monotonic() + BUDGET)
    notes: list[str] = field(default_factory=list)
    newest_event: int = 0

    def result(self) -> dg.SensorResult:
        """Evaluate the tick. An error becomes a skip reason of one line, and leaves the cursor as it is."""
        try:
            if replay := self._replay():
                return replay
            cursor = self._cursor()
            self.newest_event = latest_event_id(self.context.instance)
            found = self._poll(cursor)
            if found.error and not found.jobs:
                return self._skip(f"{found.error} The cursor is unchanged.", found.cursor)
            return self._process(found)
        except CursorError as error:
            return self._skip(
                f"The cursor of {NAME} cannot be read: {error}. Set it, or reset it to start with the jobs that end "
                "from now on."
            )
        except AirbyteError as error:
            return self._skip(f"{error} The cursor is unchanged.")

    def _cursor(self) -> Cursor:
        text = (self.context.cursor or "").strip()
        server = server_digest(self.workspace.airbyte.server.url)
        if not text:
            now = self.workspace.airbyte.now(deadline=self.deadline)
            return Cursor.starting(now - self.workspace.lookback, server=server)
        cursor = Cursor.loads(text)
        if cursor.server in ("", server):
            return replace(cursor, server=server)
        # Jobs, position and clock are those of another server. The jobs that ended here since then are not processed.
        self.notes.append("LAKEHOUSE_AIRBYTE_URL has changed; the sensor now follows the jobs of the new server.")
        now = self.workspace.airbyte.now(deadline=self.deadline)
        fresh = Cursor.starting(min(cursor.floor, now), server=server)
        return replace(fresh, ticked=cursor.ticked, stored=cursor.stored)

    def _replay(self) -> dg.SensorResult | None:
        """Start a replay if a time was set as the cursor."""
        since = parse_time((self.context.cursor or "").strip().strip('"'))
        if since is None:
            return None
        # Dagster launches one run per key, so a replay needs other keys. The cursor must store the epoch before the
        # first key is used.
        server = server_digest(self.workspace.airbyte.server.url)
        cursor = Cursor.starting(since, epoch=f"replay-{datetime.now(UTC):%Y%m%dT%H%M%S}", server=server)
        return self._skip(f"The next tick replays the jobs that ended since {since:%Y-%m-%d %H:%M:%S} UTC.", cursor)

    def _poll(self, cursor: Cursor) -> PollResult:
        found = poll(
            lambda since, offset: self.workspace.airbyte.changed_jobs(since, offset, deadline=self.deadline),
            cursor,
            overlap=self.workspace.overlap,
            max_jobs=MAX_JOBS,
            # Half of the time is reserved for processing.
            out_of_time=lambda: self.deadline - time.monotonic() < BUDGET / 2,
        )
        self.notes += found.problems
        if found.error and not isinstance(found.error, AirbyteError):
            raise found.error
        if found.error and found.jobs:
            self.notes.append(str(found.error))
        if found.now and found.cursor.floor > found.now:
            found.cursor = self._rewound(found.cursor, found.now)
        elif not found.error and not found.finished:
            self.notes.append("More jobs are waiting; the next tick continues with them.")
        return found

    def _rewound(self, cursor: Cursor, now: datetime) -> Cursor:
        """Return the cursor for a server whose clock was set back, so that jobs end at earlier times than before."""
        elapsed = timedelta(seconds=max(0.0, self.began - cursor.ticked)) if cursor.ticked else timedelta(0)
        begin = now - elapsed - self.workspace.overlap
        self.notes.append(
            f"Airbyte's clock was set back: it shows {now:%Y-%m-%d %H:%M:%S} UTC, but jobs have ended at "
            f"{cursor.watermark:%Y-%m-%d %H:%M:%S} UTC. The next tick starts with the jobs that ended since "
            f"{begin:%Y-%m-%d %H:%M:%S} UTC."
        )
        return cursor.rewound(begin)

    def _process(self, found: PollResult) -> dg.SensorResult:
        # Jobs that end after a replay have run keys without an epoch.
        epoch = "" if found.finished else found.cursor.epoch
        cursor = replace(found.cursor, ticked=self.began, epoch=epoch)
        if found.finished:
            # A tick that died may have stored events of jobs that this unfinished pass has not reached yet.
            cursor = replace(cursor, stored=self.newest_event)
        events, requests = self._of_jobs(found) if found.jobs else ([], [])
        if self.began - cursor.stalled_checked > STALLED_INTERVAL:
            ended = {job.id for job in found.jobs}
            stalled = StalledJobs(self.context.instance, self.workspace, self.notes, self.deadline)
            events += stalled.events(exclude=ended)
            cursor = replace(cursor, stalled_checked=self.began)
        # A tick that died stored its events after the tick that wrote this cursor.
        ticked = found.cursor.ticked
        since = ticked - DAGSTER_CLOCK_TOLERANCE if ticked else self._earliest_event(found.jobs)
        fresh = unstored_events(self.context.instance, events, job_event_ids, after=found.cursor.stored, since=since)
        for note in self.notes:
            self.context.log.warning(note)
        return dg.SensorResult(
            asset_events=fresh,
            run_requests=requests,
            cursor=cursor.dumps(),
            skip_reason=None if requests else self._skip_reason(found),
        )

    def _earliest_event(self, jobs: Sequence[Job]) -> float:
        """Return the earliest time at which the events of jobs may be stored, if no earlier tick is known."""
        ends = [job.ended.timestamp() for job in jobs if job.ended]
        return min(ends, default=0.0) - SOURCE_CLOCK_TOLERANCE

    def _of_jobs(self, found: PollResult) -> tuple[list[Event], list[dg.RunRequest]]:
        deadline = self.deadline - BUDGET + BUDGET_WITH_LISTING
        snapshot = self.workspace.connections.snapshot({job.connection for job in found.jobs}, deadline=deadline)
        ended = EndedJobs(self.context.instance, self.workspace, snapshot, self.notes)
        return ended.process(found.jobs, found.cursor.epoch)

    def _skip_reason(self, found: PollResult) -> str:
        ended = f"{counted(len(found.jobs), 'Airbyte job')} ended, but no run is needed."
        return " ".join([ended if found.jobs else "No Airbyte job has ended.", *self.notes])

    def _skip(self, reason: str, cursor: Cursor | None = None) -> dg.SensorResult:
        # Store a first cursor even after an error, so that the next tick starts at the same time.
        text = cursor.dumps() if cursor else None
        return dg.SensorResult(skip_reason=" ".join([reason, *self.notes]), cursor=text)
