"""Simulates Airbyte on one machine: the endpoints of the public API that this project uses, with jobs in memory.

It reproduces behavior that a client must handle: jobs are sorted by their creation and limited to 20 by default, bounds
are inclusive, `next` omits all filters, only ended jobs have `lastUpdatedAt`, seconds are omitted if they are zero, and
tokens expire. Tests validate all requests and responses against the official OpenAPI document.

`lakehouse airbyte-sim` provides it to users without Airbyte. Tests inject faults.
"""

from __future__ import annotations

import base64
import email.utils
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, urlsplit

from lakehouse_analytics.devtools.simulated_airbyte import TYPES, RefusedError, SimulatedJob, Store, as_json, page_of
from lakehouse_analytics.triggers.airbyte.jobs import FINAL_STATUSES

BASE_PATH = "/api/public/v1"


@dataclass(frozen=True)
class Response:
    """A response. If `hang_up` is set, the connection is closed without one."""

    status: int
    body: object = None
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    body: bytes


#: A fault that tests inject: returns the response, or None for the simulator's own.
Fault = Callable[[Request], Response | None]


def refusal(refused: RefusedError) -> Response:
    """Return the response for a rejected request."""
    body = {"status": refused.status, "title": refused.detail, "detail": refused.detail}
    return Response(refused.status, body)


class Simulator(ThreadingHTTPServer):
    """Serves a store on loopback.

    Args:
        store: The connections and jobs.
        port: The port; if 0, any free one.
        base_path: Path of the API.
        client: Client id and secret. If set, requests need a token that was issued for them.
        bearer, basic: An accepted token, or name and password of an accepted user.
        token_life: Lifetime of tokens in seconds.
        run_sync: Called in a new thread with the connection and the id of a job that was started.
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

    @contextmanager
    def serving(self) -> Iterator[Simulator]:
        """Serve in a thread during the `with` block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        with self:
            thread.start()
            try:
                yield self
            finally:
                self.shutdown()
                thread.join()

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.server_port}{self.base_path}"

    def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        self.requests.append(request)
        for fault in self.faults:
            if (answer := fault(request)) is not None:
                return answer
        try:
            return self._route(request)
        except RefusedError as refused:
            return refusal(refused)

    def _route(self, request: Request) -> Response:  # noqa: PLR0911  # one per path
        if not request.path.startswith(self.base_path + "/"):
            raise RefusedError(404, "no such page")
        path = request.path.removeprefix(self.base_path).strip("/").split("/")
        match request.method, path:
            case "POST", ["applications", "token"]:
                return self._token(request)
            case "GET", ["health"]:
                return Response(200, None, kind="text/plain")
        self._authenticate(request)
        match request.method, path:
            case "GET", ["jobs"]:
                return self._list_jobs(request)
            case "POST", ["jobs"]:
                return self._create(request)
            case "GET", ["jobs", number]:
                return Response(200, as_json(self._job(number)))
            case "DELETE", ["jobs", number]:
                with self.store.lock:
                    job = self._job(number)
                    if job.status not in FINAL_STATUSES:
                        self.store.end(job.id, "cancelled", rows=job.rows, bytes=job.bytes)
                return Response(200, as_json(self._job(number)))
            case "GET", ["connections"]:
                return self._list_connections(request)
        raise RefusedError(404, "no such page")

    def _authenticate(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "")
        wanted = [f"Bearer {token}" for token, until in [*self.tokens.items()] if time.monotonic() < until]
        if self.bearer:
            wanted.append(f"Bearer {self.bearer}")
        if self.basic:
            wanted.append("Basic " + base64.b64encode(":".join(self.basic).encode()).decode())
        if (self.client or self.bearer or self.basic) and authorization not in wanted:
            raise RefusedError(401, "Unauthorized")

    def _token(self, request: Request) -> Response:
        body_fields = _fields(request)
        if not self.client or (body_fields.get("client_id"), body_fields.get("client_secret")) != self.client:
            raise RefusedError(401, "Unauthorized")
        token = secrets.token_urlsafe(24)
        self.tokens[token] = time.monotonic() + self.token_life
        return Response(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.token_life})

    def _list_jobs(self, request: Request) -> Response:
        jobs, limit, offset = self.store.listed(request.query)
        # Like those of Airbyte, the links have neither filters nor order, nor the server's public name.
        base = f"http://localhost:8001{self.base_path}/jobs?limit={limit}"
        links = {"next": f"{base}&offset={offset + limit}"} if len(jobs) == limit else {"next": ""}
        links["previous"] = f"{base}&offset={max(0, offset - limit)}" if offset else ""
        return Response(200, {**links, "data": [as_json(job) for job in jobs]})

    def _create(self, request: Request) -> Response:
        body_fields = _fields(request)
        connection, kind = body_fields.get("connectionId"), body_fields.get("jobType")
        if not isinstance(connection, str) or connection not in self.store.connections or kind not in TYPES:
            raise RefusedError(400, "no such connection or job type")
        with self.store.lock:
            if any(
                job.connection == connection and job.status not in FINAL_STATUSES for job in self.store.jobs.values()
            ):
                raise RefusedError(409, "A sync is already running for this connection")
            number = self.store.start(connection, kind)
        if self.run_sync:
            threading.Thread(target=self.run_sync, args=(connection, number), daemon=True).start()
        return Response(200, as_json(self.store.jobs[number]))

    def _job(self, number: str) -> SimulatedJob:
        found = self.store.jobs.get(int(number)) if number.isdigit() else None
        if found is None:
            raise RefusedError(404, "no such job")
        return found.seen(self.store.clock())

    def _list_connections(self, request: Request) -> Response:
        limit, offset = page_of(request.query)
        workspaces = request.query.get("workspaceIds")
        with self.store.lock:
            rows = [c for c in self.store.connections.values() if not workspaces or c["workspaceId"] in workspaces]
        page = rows[offset : offset + limit]
        more = f"http://localhost:8001{self.base_path}/connections?limit={limit}&offset={offset + limit}"
        return Response(200, {"previous": "", "next": more if len(page) == limit else "", "data": page})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a client has closed its connection. Print other errors."""
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


def _fields(request: Request) -> Mapping[str, Any]:
    """Return the fields of a body: JSON, or the form that the official SDK sends to request a token."""
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(request.body.decode()))
        found = json.loads(request.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(400, "not a JSON object")
    return found
