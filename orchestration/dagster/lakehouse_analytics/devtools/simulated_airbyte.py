"""The connections and jobs of a simulated Airbyte, in memory. `airbyte_simulator.py` serves them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse_analytics.triggers.airbyte.jobs import FINAL_STATUSES

STATUSES = ("pending", "queued", "running", "incomplete", "failed", "succeeded", "cancelled")
TYPES = ("sync", "reset", "refresh", "clear")

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SimulatedJob:
    """A row in Airbyte's table of jobs. Until `visible`, requests see the state `before` the last change."""

    id: int
    connection: str
    kind: str
    status: str
    created: datetime
    updated: datetime
    rows: int | None = None
    bytes: int | None = None
    visible: datetime = _ALWAYS
    before: SimulatedJob | None = None

    def seen(self, now: datetime) -> SimulatedJob:
        """Return the state that requests see at a time."""
        return self if self.before is None or self.visible <= now else self.before


class RefusedError(Exception):
    """The API rejects a request."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Store:
    """The tables of a simulated Airbyte. `clock` is the server's clock."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.jobs: dict[int, SimulatedJob] = {}
        self.connections: dict[str, dict[str, Any]] = {}
        self.workspace = str(uuid.uuid4())
        self._next_job = 1

    def add_connection(self, name: str, *, id: str | None = None, streams: Iterable[str] = (), **more: Any) -> str:
        """Add a connection. `more` are further fields of the API's `ConnectionResponse`."""
        with self.lock:
            connection = id or str(uuid.uuid4())
            self.connections[connection] = {
                "connectionId": connection,
                "name": name,
                "sourceId": str(uuid.uuid4()),
                "destinationId": str(uuid.uuid4()),
                "workspaceId": self.workspace,
                "status": "active",
                "schedule": {"scheduleType": "manual"},
                "configurations": {"streams": [{"name": stream} for stream in streams]},
                "createdAt": int(self.clock().timestamp()),
                "tags": [],
                **more,
            }
            return connection

    def start(self, connection: str, kind: str = "sync", status: str = "running") -> int:
        """Start a job, and return its id."""
        with self.lock:
            now, number = self.clock(), self._next_job
            self._next_job += 1
            self.jobs[number] = SimulatedJob(number, connection, kind, status, now, now)
            return number

    def end(
        self,
        job: int,
        status: str = "succeeded",
        *,
        rows: int | None = 1,
        bytes: int | None = 100,
        early: timedelta = timedelta(0),
        late: timedelta = timedelta(0),
    ) -> None:
        """End a job.

        Args:
            job: Id of the job.
            status: Its status.
            rows, bytes: What it has moved; None if Airbyte does not report it.
            early: How far its timestamp is in the past.
            late: Time until requests see that it has ended.
        """
        with self.lock:
            now = self.clock()
            before = self.jobs[job].seen(now)
            ended = replace(before, status=status, updated=now - early, rows=rows, bytes=bytes)
            self.jobs[job] = replace(ended, visible=now + late, before=before)

    def listed(self, query: Mapping[str, Sequence[str]]) -> tuple[list[SimulatedJob], int, int]:
        """Return the jobs that a query requests, with its limit and offset.

        Raises:
            RefusedError: The API does not accept a value.
        """
        limit, offset = page_of(query)
        column, _, direction = _one(query, "orderBy", "createdAt|ASC").partition("|")
        if column not in ("createdAt", "updatedAt") or direction not in ("ASC", "DESC"):
            raise RefusedError(400, f"orderBy: {column}|{direction}")
        if _one(query, "status", STATUSES[0]) not in STATUSES or _one(query, "jobType", TYPES[0]) not in TYPES:
            raise RefusedError(400, "no such status or job type")
        now = self.clock()
        workspaces = query.get("workspaceIds")
        with self.lock:
            rows = [
                job
                for job in (job.seen(now) for job in self.jobs.values())
                if _is(query, "connectionId", job.connection)
                and _is(query, "status", job.status)
                and _is(query, "jobType", job.kind)
                and (not workspaces or self.workspace in workspaces)
                and _within(query, "createdAt", job.created)
                and _within(query, "updatedAt", job.updated)
            ]
        rows.sort(key=lambda job: (job.created if column == "createdAt" else job.updated, job.id))
        if direction == "DESC":
            rows.reverse()
        return rows[offset : offset + limit], limit, offset


def as_json(job: SimulatedJob) -> dict[str, Any]:
    """Return a job as the API describes it."""
    fields: dict[str, Any] = {
        "jobId": job.id,
        "status": job.status,
        "jobType": job.kind,
        "startTime": _format_time(job.created),
        "connectionId": job.connection,
    }
    if job.status in FINAL_STATUSES:
        fields["lastUpdatedAt"] = _format_time(job.updated)
        fields["duration"] = _duration(job.updated - job.created)
    if job.bytes is not None:
        fields["bytesSynced"] = job.bytes
    if job.rows is not None:
        fields["rowsSynced"] = job.rows
    return fields


def _format_time(moment: datetime) -> str:
    text = moment.astimezone(UTC).replace(microsecond=0)
    return text.strftime("%Y-%m-%dT%H:%MZ" if text.second == 0 else "%Y-%m-%dT%H:%M:%SZ")


def _duration(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    parts = [(seconds // 3600, "H"), (seconds // 60 % 60, "M"), (seconds % 60, "S")]
    return "PT" + ("".join(f"{number}{unit}" for number, unit in parts if number) or "0S")


def _one(query: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    return query[name][0] if query.get(name) else default


def page_of(query: Mapping[str, Sequence[str]]) -> tuple[int, int]:
    """Return the limit and offset of a query.

    Raises:
        RefusedError: The API does not accept one of them.
    """
    return _number(query, "limit", 20, 1, 100), _number(query, "offset", 0, 0, 2**31 - 1)


def _number(query: Mapping[str, Sequence[str]], name: str, default: int, minimum: int, maximum: int) -> int:
    text = _one(query, name, str(default))
    if not text.isdigit() or not minimum <= int(text) <= maximum:
        raise RefusedError(400, f"{name}: {text}")
    return int(text)


def _is(query: Mapping[str, Sequence[str]], name: str, value: str) -> bool:
    return _one(query, name, value).lower() == value.lower()


def _within(query: Mapping[str, Sequence[str]], name: str, moment: datetime) -> bool:
    try:
        start, end = (
            datetime.fromisoformat(text) if (text := _one(query, f"{name}{side}", "")) else None
            for side in ("Start", "End")
        )
    except ValueError:
        raise RefusedError(400, f"{name}: not a date-time") from None
    for bound in (start, end):
        if bound and not bound.tzinfo:
            raise RefusedError(400, f"{name}: a date-time without an offset")
    return (start is None or moment >= start) and (end is None or moment <= end)
