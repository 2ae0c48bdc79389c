"""An Airbyte for one machine: the endpoints of the public API that this project uses, over jobs kept in memory.

Faithful where a client could stumble: jobs come in the order of their creation unless asked otherwise, 20 of them,
bounds are inclusive, `next` forgets every filter, `lastUpdatedAt` is there only of jobs that have ended, seconds are
left out where they are zero, tokens expire. Tests hold every request and answer against the official OpenAPI document.

`lakehouse airbyte-sim` serves it to those who have no Airbyte; tests switch faults on.
"""

from __future__ import annotations

import base64
import email.utils
import json
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

from lakehouse_analytics.airbyte.jobs import ENDED

BASE_PATH = "/api/public/v1"
STATUSES = ("pending", "queued", "running", "incomplete", "failed", "succeeded", "cancelled")
TYPES = ("sync", "reset", "refresh", "clear")

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SimulatedJob:
    """A row of Airbyte's table of jobs. `visible`: when others see its last change; until then they see `before`."""

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
        """What others see of it."""
        return self if self.before is None or self.visible <= now else self.before


@dataclass(frozen=True)
class Answer:
    """What goes back over the wire. `hang_up`: nothing does."""

    status: int
    body: object = None
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes


#: Something that answers in place of the simulator, or lets it answer with None.
Fault = Callable[[Request], Answer | None]


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = Answer(status, {"status": status, "title": detail, "detail": detail})


class Store:
    """The tables. `clock` is the server's."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.jobs: dict[int, SimulatedJob] = {}
        self.connections: dict[str, dict[str, Any]] = {}
        self.workspace = str(uuid.uuid4())
        self._next_job = 1

    def add_connection(self, name: str, *, id: str | None = None, streams: Iterable[str] = (), **more: Any) -> str:
        """Add a connection; `more` are further fields of the API's `ConnectionResponse`."""
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
        """A job begins."""
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
        """A job ends: stamped with a time so `early`, and seen so `late`."""
        with self.lock:
            now = self.clock()
            before = self.jobs[job].seen(now)
            ended = replace(before, status=status, updated=now - early, rows=rows, bytes=bytes)
            self.jobs[job] = replace(ended, visible=now + late, before=before)

    def listed(self, query: Mapping[str, Sequence[str]]) -> tuple[list[SimulatedJob], int, int]:
        """The jobs that a query asks for, with its limit and offset.

        Raises:
            RefusedError: a value that the API does not take.
        """
        limit, offset = _number(query, "limit", 20, 1, 100), _number(query, "offset", 0, 0, 2**31 - 1)
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


class Simulator(ThreadingHTTPServer):
    """Serves a store on loopback.

    Args:
        store: What it tells.
        port: 0: any that is free.
        base_path: Where the API begins.
        client: Client id and secret; with them only a token of theirs lets in.
        bearer, basic: A token, or a user's name and password, that let in.
        token_life: Seconds.
        run_sync: Called in a thread of its own with a connection and the job that was started for it.
    """

    daemon_threads = True

    def __init__(
        self,
        store: Store,
        *,
        port: int = 0,
        base_path: str = BASE_PATH,
        client: tuple[str, str] | None = None,
        bearer: str | None = None,
        basic: tuple[str, str] | None = None,
        token_life: int = 180,
        run_sync: Callable[[str, int], None] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.store, self.base_path, self.client, self.bearer, self.basic = store, base_path, client, bearer, basic
        self.token_life, self.run_sync = token_life, run_sync
        self.tokens: dict[str, float] = {}
        self.requests: MutableSequence[Request] = []
        self.faults: list[Fault] = []

    @property
    def url(self) -> str:
        """The base of its API."""
        return f"http://127.0.0.1:{self.server_port}{self.base_path}"

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        self.requests.append(request)
        for fault in self.faults:
            if (answer := fault(request)) is not None:
                return answer
        try:
            return self._route(request)
        except RefusedError as refused:
            return refused.answer

    def _route(self, request: Request) -> Answer:  # noqa: PLR0911  # one a path
        if not request.path.startswith(self.base_path + "/"):
            raise RefusedError(404, "no such page")
        path = request.path.removeprefix(self.base_path).strip("/").split("/")
        match request.method, path:
            case "POST", ["applications", "token"]:
                return self._token(request)
            case "GET", ["health"]:
                return Answer(200, None, kind="text/plain")
        self._let_in(request)
        match request.method, path:
            case "GET", ["jobs"]:
                return self._list_jobs(request)
            case "POST", ["jobs"]:
                return self._create(request)
            case "GET", ["jobs", number]:
                return Answer(200, _told(self._job(number)))
            case "DELETE", ["jobs", number]:
                with self.store.lock:
                    job = self._job(number)
                    if job.status not in ENDED:
                        self.store.end(job.id, "cancelled", rows=job.rows, bytes=job.bytes)
                return Answer(200, _told(self._job(number)))
            case "GET", ["connections"]:
                return self._list_connections(request)
        raise RefusedError(404, "no such page")

    def _let_in(self, request: Request) -> None:
        said = request.headers.get("authorization", "")
        wanted = [f"Bearer {token}" for token, until in [*self.tokens.items()] if time.monotonic() < until]
        if self.bearer:
            wanted.append(f"Bearer {self.bearer}")
        if self.basic:
            wanted.append("Basic " + base64.b64encode(":".join(self.basic).encode()).decode())
        if (self.client or self.bearer or self.basic) and said not in wanted:
            raise RefusedError(401, "Unauthorized")

    def _token(self, request: Request) -> Answer:
        asked = _fields(request)
        if not self.client or (asked.get("client_id"), asked.get("client_secret")) != self.client:
            raise RefusedError(401, "Unauthorized")
        token = secrets.token_urlsafe(24)
        self.tokens[token] = time.monotonic() + self.token_life
        return Answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.token_life})

    def _list_jobs(self, request: Request) -> Answer:
        jobs, limit, offset = self.store.listed(request.query)
        # As Airbyte's own: the links know neither filters nor order, nor under which name the server was asked.
        base = f"http://localhost:8001{self.base_path}/jobs?limit={limit}"
        links = {"next": f"{base}&offset={offset + limit}"} if len(jobs) == limit else {"next": ""}
        links["previous"] = f"{base}&offset={max(0, offset - limit)}" if offset else ""
        return Answer(200, {**links, "data": [_told(job) for job in jobs]})

    def _create(self, request: Request) -> Answer:
        asked = _fields(request)
        connection, kind = asked.get("connectionId"), asked.get("jobType")
        if not isinstance(connection, str) or connection not in self.store.connections or kind not in TYPES:
            raise RefusedError(400, "no such connection or job type")
        with self.store.lock:
            if any(job.connection == connection and job.status not in ENDED for job in self.store.jobs.values()):
                raise RefusedError(409, "A sync is already running for this connection")
            number = self.store.start(connection, kind)
        if self.run_sync:
            threading.Thread(target=self.run_sync, args=(connection, number), daemon=True).start()
        return Answer(200, _told(self.store.jobs[number]))

    def _job(self, number: str) -> SimulatedJob:
        found = self.store.jobs.get(int(number)) if number.isdigit() else None
        if found is None:
            raise RefusedError(404, "no such job")
        return found.seen(self.store.clock())

    def _list_connections(self, request: Request) -> Answer:
        limit, offset = _number(request.query, "limit", 20, 1, 100), _number(request.query, "offset", 0, 0, 2**31 - 1)
        workspaces = request.query.get("workspaceIds")
        with self.store.lock:
            rows = [c for c in self.store.connections.values() if not workspaces or c["workspaceId"] in workspaces]
        page = rows[offset : offset + limit]
        more = f"http://localhost:8001{self.base_path}/connections?limit={limit}&offset={offset + limit}"
        return Answer(200, {"previous": "", "next": more if len(page) == limit else "", "data": page})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none of ours; whatever else goes wrong is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        request = Request(self.command, parts.path, query, headers, body)
        answer = cast("Simulator", self.server).answer(request)
        time.sleep(answer.delay)
        if answer.hang_up:
            self.close_connection = True
            return
        text = answer.body if isinstance(answer.body, str) else "" if answer.body is None else json.dumps(answer.body)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = (
            cast("Simulator", self.server).store.clock()
            if timestamp is None
            else datetime.fromtimestamp(timestamp, UTC)
        )
        return email.utils.format_datetime(now, usegmt=True)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _told(job: SimulatedJob) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "jobId": job.id,
        "status": job.status,
        "jobType": job.kind,
        "startTime": _written(job.created),
        "connectionId": job.connection,
    }
    if job.status in ENDED:
        fields["lastUpdatedAt"] = _written(job.updated)
        fields["duration"] = _duration(job.updated - job.created)
    if job.bytes is not None:
        fields["bytesSynced"] = job.bytes
    if job.rows is not None:
        fields["rowsSynced"] = job.rows
    return fields


def _written(moment: datetime) -> str:
    text = moment.astimezone(UTC).replace(microsecond=0)
    return text.strftime("%Y-%m-%dT%H:%MZ" if text.second == 0 else "%Y-%m-%dT%H:%M:%SZ")


def _duration(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    parts = [(seconds // 3600, "H"), (seconds // 60 % 60, "M"), (seconds % 60, "S")]
    return "PT" + ("".join(f"{number}{unit}" for number, unit in parts if number) or "0S")


def _fields(request: Request) -> Mapping[str, Any]:
    """Of a body: JSON, or the form that the official SDK sends for its token."""
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(request.body.decode()))
        found = json.loads(request.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(400, "not a JSON object")
    return found


def _one(query: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    return query[name][0] if query.get(name) else default


def _number(query: Mapping[str, Sequence[str]], name: str, default: int, least: int, most: int) -> int:
    text = _one(query, name, str(default))
    if not text.isdigit() or not least <= int(text) <= most:
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
