"""`airbyte_sync_sensor`: a sync that ends is followed within one tick by a run of the bronze models that read it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Key
from lakehouse_analytics.keys import build_tags
from lakehouse_analytics.triggers.airbyte.client import AirbyteError
from lakehouse_analytics.triggers.airbyte.cursor import Cursor, CursorError
from lakehouse_analytics.triggers.airbyte.events import (
    CLOCK_OF_AIRBYTE,
    CLOCKS,
    Event,
    RowsBefore,
    events_of,
    is_stored,
    latest_of,
    newest_event,
    not_stored,
)
from lakehouse_analytics.triggers.airbyte.identity import identity_of, server_of
from lakehouse_analytics.triggers.airbyte.inventory import Known
from lakehouse_analytics.triggers.airbyte.job_outcome import YOUNG, judge, judge_running
from lakehouse_analytics.triggers.airbyte.jobs import Job, instant
from lakehouse_analytics.triggers.airbyte.poller import Poll, poll
from lakehouse_analytics.triggers.airbyte.workspace import Listening

NAME = "airbyte_sync_sensor"
#: Seconds of a tick, and of one that has to list the connections anew; Dagster gives it up after 60.
BUDGET, LISTING = 10.0, 40.0
#: Jobs that one tick answers; the rest is the next tick's.
MOST_JOBS = 500
#: Seconds between two searches for jobs that run too long; each costs two requests, and one a job that is old.
STALLED_EVERY = 600.0


def airbyte_sync_sensor(listening: Listening) -> dg.SensorDefinition:
    """The sensor; it runs unless somebody stops it."""
    bronze = [table.key for table in listening.graph.tables.values() if table.layer == "bronze" and table.grain is None]
    target = dg.AssetSelection.assets(*bronze) if bronze else None

    @dg.sensor(
        name=NAME,
        target=target,
        minimum_interval_seconds=listening.interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Builds the bronze models of every Airbyte sync that ends, and records the sync on its sources.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return Tick(context, listening).result()

    return sensor


@dataclass
class Tick:
    """One evaluation of the sensor."""

    context: dg.SensorEvaluationContext
    listening: Listening
    began: float = field(default_factory=time.time)
    deadline: float = field(default_factory=lambda: time.monotonic() + BUDGET)
    notes: list[str] = field(default_factory=list)
    newest: int = 0

    def result(self) -> dg.SensorResult:
        """Whatever happens, in one line; the cursor moves only past what Dagster is given."""
        try:
            if replay := self._replay():
                return replay
            cursor = self._cursor()
            self.newest = newest_event(self.context.instance)
            found = self._poll(cursor)
            if found.error and not found.jobs:
                return self._skip(f"{found.error} The cursor stays where it is.", found.cursor)
            return self._answer(found)
        except CursorError as error:
            return self._skip(f"The cursor of {NAME} cannot be read: {error}. Set it, or reset it to begin now.")
        except AirbyteError as error:
            return self._skip(f"{error} The cursor stays where it is.")

    def _cursor(self) -> Cursor:
        text = (self.context.cursor or "").strip()
        server = server_of(self.listening.airbyte.server.url)
        if not text:
            now = self.listening.airbyte.now(deadline=self.deadline)
            return Cursor.starting(now - self.listening.lookback, server=server)
        cursor = Cursor.loads(text)
        if cursor.server in ("", server):
            return replace(cursor, server=server)
        # Jobs, places and clock are those of another server. What this one has had since then was never answered.
        self.notes.append("LAKEHOUSE_AIRBYTE_URL names another Airbyte than before; its jobs are followed now.")
        now = self.listening.airbyte.now(deadline=self.deadline)
        fresh = Cursor.starting(min(cursor.floor, now), server=server)
        return replace(fresh, ticked=cursor.ticked, stored=cursor.stored)

    def _replay(self) -> dg.SensorResult | None:
        """Begin again at a time that somebody set as the cursor."""
        since = instant((self.context.cursor or "").strip().strip('"'))
        if since is None:
            return None
        # Dagster never runs a key twice, so those of a replay differ. Which they are must stand in the cursor before
        # the first is used.
        server = server_of(self.listening.airbyte.server.url)
        cursor = Cursor.starting(since, epoch=f"replay-{datetime.now(UTC):%Y%m%dT%H%M%S}", server=server)
        return self._skip(f"The next tick begins again with what ended since {since:%Y-%m-%d %H:%M:%S} UTC.", cursor)

    def _poll(self, cursor: Cursor) -> Poll:
        found = poll(
            lambda since, offset: self.listening.airbyte.changed_jobs(since, offset, deadline=self.deadline),
            cursor,
            overlap=self.listening.overlap,
            most_jobs=MOST_JOBS,
            # Half of the time is for what follows.
            out_of_time=lambda: self.deadline - time.monotonic() < BUDGET / 2,
        )
        self.notes += found.problems
        if found.error and not isinstance(found.error, AirbyteError):
            raise found.error
        if found.error and found.jobs:
            self.notes.append(str(found.error))
        if found.now and found.cursor.floor > found.now:
            # What has ended since the last tick has earlier times than what was seen.
            elapsed = timedelta(seconds=max(0.0, self.began - cursor.ticked)) if cursor.ticked else timedelta(0)
            begin = found.now - elapsed - self.listening.overlap
            self.notes.append(
                f"Airbyte's clock was set back: it says {found.now:%Y-%m-%d %H:%M:%S} UTC, and jobs had ended at "
                f"{found.cursor.watermark:%Y-%m-%d %H:%M:%S} UTC. The next tick begins with what ended since "
                f"{begin:%Y-%m-%d %H:%M:%S} UTC."
            )
            found.cursor = found.cursor.set_back(begin)
        elif not found.error and not found.finished:
            self.notes.append("More jobs are waiting; the next tick goes on with them.")
        return found

    def _answer(self, found: Poll) -> dg.SensorResult:
        # What ends after a replay has the usual keys.
        epoch = "" if found.finished else found.cursor.epoch
        cursor = replace(found.cursor, ticked=self.began, epoch=epoch)
        if found.finished:
            # A tick that died may have stored events of jobs that an unfinished pass has not come to yet.
            cursor = replace(cursor, stored=self.newest)
        search = self.began - cursor.asked_for_stalled > STALLED_EVERY
        events: list[Event] = []
        requests: list[dg.RunRequest] = []
        if found.jobs:
            needed = {job.connection for job in found.jobs}
            known = self.listening.inventory.known(needed, deadline=self.deadline - BUDGET + LISTING)
            by_connection: dict[str, list[Job]] = defaultdict(list)
            for job in found.jobs:
                by_connection[job.connection].append(job)
            self._tell_of_others(by_connection, known)
            before = self._rows_before(by_connection, known)
            for connection, jobs in by_connection.items():
                if connection in known.fills.tables:
                    told, request = self._of_connection(connection, jobs, known, found.cursor.epoch, before)
                    events += told
                    requests += [request] if request else []
        if search:
            events += self._stalled({job.id for job in found.jobs})
            cursor = replace(cursor, asked_for_stalled=self.began)
        # What a tick that died has stored already, it stored after the tick of this cursor.
        since = found.cursor.ticked - CLOCKS if found.cursor.ticked else self._since(found.jobs)
        fresh = not_stored(self.context.instance, events, after=found.cursor.stored, since=since)
        for note in self.notes:
            self.context.log.warning(note)
        return dg.SensorResult(
            asset_events=fresh,
            run_requests=requests,
            cursor=cursor.dumps(),
            skip_reason=None if requests else self._nothing_to_run(found),
        )

    def _since(self, jobs: Sequence[Job]) -> float:
        """From when on the events of jobs may be stored, if no tick before this one is known."""
        ends = [job.ended.timestamp() for job in jobs if job.ended]
        return min(ends, default=0.0) - CLOCK_OF_AIRBYTE

    def _of_connection(
        self, connection: str, jobs: Sequence[Job], known: Known, epoch: str, before: RowsBefore
    ) -> tuple[list[Event], dg.RunRequest | None]:
        tables = [table.key for table in known.fills.tables[connection]]
        contracts = {key: self.listening.contract(key) for key in tables}
        events: list[Event] = []
        filling: list[Job] = []
        filled: set[Key] = set()
        for job in jobs:
            for key in tables:
                empty, asset = contracts[key].allow_empty, dg.AssetKey(key)
                verdict = judge(job, may_be_empty=empty)
                if not verdict.filled and job.status == "succeeded" and not job.empties and before.before(asset, job):
                    verdict = judge(job, may_be_empty=empty, rows_before=True)
                carried = before.answered(asset, job, verdict)
                events += events_of(job, verdict, [asset], self.listening.origin(job, known), rows_before=carried)
                if verdict.filled:
                    filled.add(key)
                    if job not in filling:
                        filling.append(job)
        bronze = self.listening.bronze_below([*filled])
        if not filling or not bronze:
            if filling:
                self.notes.append(f"No bronze model reads what connection {known.name(connection)!r} fills.")
            return events, None
        newest = filling[-1]
        return events, dg.RunRequest(
            run_key="_".join(["airbyte", self._identity(newest), *([epoch] if epoch else [])]),
            asset_selection=bronze,
            tags={
                **build_tags(self.listening.max_runtime),
                "source": "airbyte",
                "airbyte/sync_id": str(newest.id),
                "airbyte/connection": known.name(connection),
                **({"airbyte/sync_ids": ",".join(str(job.id) for job in filling)} if len(filling) > 1 else {}),
            },
        )

    def _rows_before(self, by_connection: Mapping[str, Sequence[Job]], known: Known) -> RowsBefore:
        asked = (
            dg.AssetKey(table.key)
            for connection, jobs in by_connection.items()
            if any(job.moved_nothing for job in jobs)
            for table in known.fills.tables.get(connection, ())
        )
        return RowsBefore(self.context.instance, asked, self.listening.airbyte.server.url)

    def _identity(self, job: Job) -> str:
        return identity_of(job, self.listening.airbyte.server.url)

    def _stalled(self, ended: set[int]) -> list[Event]:
        airbyte, events = self.listening.airbyte, list[Event]()
        try:
            known = self.listening.inventory.known(deadline=self.deadline)
            now = airbyte.now(deadline=self.deadline)
            for job in airbyte.running_jobs(deadline=self.deadline):
                if job.connection in known.fills.tables and job.id not in ended:
                    events += self._stalled_job(job, now, known)
        except AirbyteError as error:
            self.notes.append(f"Jobs that run too long were not looked for: {error}")
        return events

    def _stalled_job(self, job: Job, now: datetime, known: Known) -> list[Event]:
        tables = [table.key for table in known.fills.tables[job.connection]]
        limits = [limit for key in tables if (limit := self.listening.contract(key).stalled_after)]
        limit = min(limits, default=None)
        if job.started is None or now - job.started <= (limit or YOUNG):
            return []  # whatever its usual length
        past = self.listening.airbyte.jobs_of(job.connection, deadline=self.deadline)
        verdict = judge_running(job, now, past, limit)
        if verdict is None:
            return []
        told = latest_of(self.context.instance, map(dg.AssetKey, tables))
        return [event for event in self.listening.events(job, verdict, tables, known) if not is_stored(event, told)]

    def _tell_of_others(self, by_connection: Mapping[str, Sequence[Job]], known: Known) -> None:
        others = [c for c in by_connection if c not in known.fills.tables and c not in known.ignored]
        if others:
            names = some(sorted(repr(known.name(connection)) for connection in others))
            self.notes.append(
                f"No dbt source names {counted(len(others), 'connection')} whose jobs ended: {names}. "
                "Set meta.lakehouse.airbyte.connection on their sources, or LAKEHOUSE_AIRBYTE_EXCLUDE."
            )
        self.notes += known.fills.problems
        for connection in by_connection:
            if streams := known.fills.unused.get(connection):
                name, names = known.name(connection), some([*map(repr, streams)], FEW)
                self.notes.append(
                    f"{counted(len(streams), 'stream')} of connection {name!r} without a source table: {names}."
                )
        if tables := known.fills.left_out:
            names = some([".".join(table.key) for table in tables], FEW)
            self.notes.append(
                f"No connection is known to fill {counted(len(tables), 'source table')}: {names}. Set "
                "meta.lakehouse.airbyte on them if Airbyte does."
            )

    def _nothing_to_run(self, found: Poll) -> str:
        said = [
            f"{counted(len(found.jobs), 'job')} of Airbyte ended, and none asks for a run."
            if found.jobs
            else "No job of Airbyte has ended."
        ]
        return " ".join([*said, *self.notes])

    def _skip(self, reason: str, cursor: Cursor | None = None) -> dg.SensorResult:
        # A cursor that was begun is kept, so that the next tick begins at the same instant.
        text = cursor.dumps() if cursor else None
        return dg.SensorResult(skip_reason=" ".join([reason, *self.notes]), cursor=text)
