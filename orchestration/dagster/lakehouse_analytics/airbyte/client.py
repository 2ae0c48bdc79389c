"""Airbyte's public API over HTTP: log-in, retries, and one line for whatever goes wrong. No secret is in any of them.

Not the official SDK: one unknown value of an enumeration makes it refuse a whole page of jobs, it has no time limit of
its own, and it asks for a token at an address that drops the server's base path. The requests and answers here are
held against the official OpenAPI document by tests, and the SDK reads the same test server.
"""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from lakehouse_analytics.airbyte.connections import Connection, connection_of
from lakehouse_analytics.airbyte.feed import PAGE, Page
from lakehouse_analytics.airbyte.jobs import Job, NotAJobError, job_of

if TYPE_CHECKING:
    import requests

#: Tries of one request that may be repeated; seconds before the second one, doubled each time.
TRIES = 4
FIRST_WAIT = 0.5
#: A token is renewed when so many seconds, or a tenth of its life if that is less, are left of it.
TOKEN_MARGIN = 30.0
TOKEN_PATH = "/applications/token"  # noqa: S105

AuthMethod = Literal["none", "client_credentials", "bearer", "basic"]
_LONGEST = 200
_PIECE = 1 << 16
_DAY = 86_400


class AirbyteError(RuntimeError):
    """Airbyte did not answer as it should. One line that says what to do; it holds no secret.

    `status` is that of the answer; None where there was none, or none of use.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class AirbyteServer:
    """Where Airbyte's public API is, and who asks.

    Attributes:
        url: Its base, such as `https://api.airbyte.com/v1` or `https://airbyte.example.com/api/public/v1`.
        user: The client id or the user's name, as `auth` has it.
        secret: The client secret, the token or the password.
        workspaces: Only these; empty: all that the log-in may see.
        timeout: Seconds to wait for one answer.
    """

    url: str
    auth: AuthMethod = "none"
    user: str = ""
    secret: SecretStr | None = field(default=None, repr=False)
    workspaces: tuple[str, ...] = ()
    timeout: float = 10.0


class Airbyte:
    """Asks one server. Keeps its token and nothing else; may be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._clock = clock
        self._lock = Lock()
        self._token: tuple[str, float] | None = None
        #: HTTP requests that were sent, tokens included.
        self.requests = 0

    def changed_jobs(self, since: datetime, offset: int, *, deadline: float | None = None) -> Page:
        """Jobs that were changed at an instant or later, in that order; a page of them from a place on.

        Args:
            since: With a zone.
            offset: Place in the order.
            deadline: No try begins, and no answer is waited for, after this reading of the clock.

        Raises:
            AirbyteError: there is no such answer.
        """
        return self._jobs(
            {"updatedAtStart": _written(since), "orderBy": "updatedAt|ASC", "offset": offset}, deadline=deadline
        )

    def jobs_of(self, connection: str, limit: int = 20, *, deadline: float | None = None) -> Sequence[Job]:
        """The newest jobs of a connection, the newest first."""
        query = {"connectionId": connection, "orderBy": "createdAt|DESC", "limit": limit}
        return self._jobs(query, deadline=deadline).jobs

    def running_jobs(self, *, deadline: float | None = None) -> Sequence[Job]:
        """Running jobs, the oldest first: at most a page of them."""
        return self._jobs({"status": "running", "orderBy": "createdAt|ASC"}, deadline=deadline).jobs

    def job(self, job_id: int) -> Job:
        """One job."""
        return self._job(self._request("GET", f"/jobs/{job_id}"))

    def start_sync(self, connection: str) -> Job:
        """Start a sync. Not repeated when its outcome is unknown.

        Raises:
            AirbyteError: with status 409 where one is running already.
        """
        return self._job(self._request("POST", "/jobs", body={"connectionId": connection, "jobType": "sync"}))

    def cancel(self, job_id: int) -> Job:
        """Cancel a job."""
        return self._job(self._request("DELETE", f"/jobs/{job_id}"))

    def connections(self, *, deadline: float | None = None) -> list[Connection]:
        """Every connection of the workspaces.

        Raises:
            AirbyteError: there is no such answer.
        """
        found: dict[str, Connection] = {}
        before: list[Any] = []
        offset = 0
        while True:
            query = self._workspaces({"limit": PAGE, "offset": offset})
            body, _ = self._request("GET", "/connections", query, deadline=deadline)
            rows = self._data(body, "/connections")
            for connection in filter(None, map(connection_of, rows)):
                found.setdefault(connection.id, connection)
            # What answers the same whatever the offset would be asked for ever.
            if (len(rows) < PAGE and not body.get("next")) or not rows or rows == before:
                return [*found.values()]
            # One row twice, so that rows that move away while this reads take none with them.
            offset, before = offset + max(1, len(rows) - 1), rows

    def now(self, *, deadline: float | None = None) -> datetime:
        """What Airbyte's clock says; ours where it does not."""
        _, headers = self._request("GET", "/jobs", self._workspaces({"limit": 1}), deadline=deadline)
        return _date(headers.get("Date")) or datetime.now(UTC)

    def _jobs(self, query: Mapping[str, Any], *, deadline: float | None) -> Page:
        body, _ = self._request("GET", "/jobs", self._workspaces({"limit": PAGE, **query}), deadline=deadline)
        rows = self._data(body, "/jobs")
        jobs: list[Job | None] = []
        problems = []
        for row in rows:
            try:
                jobs.append(job_of(row))
            except NotAJobError as error:
                jobs.append(None)
                problems.append(f"Airbyte listed {error}; it is left out.")
        ids = [job.id if job else None for job in jobs]
        return Page(
            jobs=[job for job in jobs if job],
            size=len(rows),
            first=ids[0] if ids else None,
            last=ids[-1] if ids else None,
            more=bool(body.get("next")),
            problems=problems,
        )

    def _job(self, answer: tuple[dict[str, Any], Mapping[str, str]]) -> Job:
        try:
            return job_of(answer[0])
        except NotAJobError as error:
            message = f"Airbyte at {self.server.url} answered with {error}{self._said(answer[0])}."
            raise AirbyteError(message) from None

    def _workspaces(self, query: dict[str, Any]) -> dict[str, Any]:
        return {**query, "workspaceIds": list(self.server.workspaces)} if self.server.workspaces else query

    # --- HTTP

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        wait = FIRST_WAIT
        for number in range(1, TRIES + 1):
            try:
                return self._once(method, path, query, body, deadline=deadline)
            except _FailedError as failed:
                may_repeat = failed.passing and (method == "GET" or failed.not_begun)
                pause = wait if failed.retry_after is None else failed.retry_after
                if not may_repeat or number == TRIES or not self._time_for(pause, deadline):
                    raise AirbyteError(str(failed), failed.status) from None
                time.sleep(pause)
                wait *= 2
        raise AssertionError("unreachable")

    def _time_for(self, pause: float, deadline: float | None) -> bool:
        longest = self.server.timeout if deadline is None else deadline - self._clock()
        return pause < longest

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        *,
        deadline: float | None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        log_in = self._log_in(deadline=deadline)
        try:
            return self._send(method, path, log_in, query, body, deadline=deadline)
        except _FailedError as failed:
            if failed.status != 401 or self.server.auth != "client_credentials":
                raise
        # It may have been withdrawn before its time: once more with another.
        with self._lock:
            if self._token and self._token[0] == log_in:
                self._token = None  # unless another thread has replaced it
        return self._send(method, path, self._log_in(deadline=deadline), query, body, deadline=deadline)

    def _log_in(self, *, deadline: float | None) -> str:
        """The value of the header; empty where none is wanted."""
        if self.server.auth == "bearer":
            return f"Bearer {self._secret}"
        if self.server.auth == "basic":
            return "Basic " + base64.b64encode(f"{self.server.user}:{self._secret}".encode()).decode()
        if self.server.auth == "none":
            return ""
        with self._lock:
            if self._token is None or self._clock() >= self._token[1]:
                try:
                    self._token = self._new_token(deadline=deadline)
                except _FailedError as failed:
                    failed.not_begun = True
                    raise
            return self._token[0]

    @property
    def _secret(self) -> str:
        return self.server.secret.get_secret_value() if self.server.secret else ""

    def _new_token(self, *, deadline: float | None) -> tuple[str, float]:
        asked = self._clock()
        # The API's own document writes the third field both ways.
        wanted = {"client_id": self.server.user, "client_secret": self._secret}
        wanted |= {"grant_type": "client_credentials", "grant-type": "client_credentials"}
        answer, _ = self._send("POST", TOKEN_PATH, "", None, wanted, deadline=deadline)
        token, life = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token:
            said = self._said(answer)
            raise _FailedError(f"{self._address(TOKEN_PATH)} gave no access_token{said}: {_ADDRESS_ADVICE}")
        seconds = float(min(life, _DAY)) if isinstance(life, int | float) and life > 0 else 180.0
        return f"Bearer {token}", asked + seconds - min(TOKEN_MARGIN, seconds / 10)

    def _send(
        self,
        method: str,
        path: str,
        log_in: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        *,
        deadline: float | None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        import requests
        import urllib3

        timeout = self.server.timeout
        if deadline is not None:
            timeout = min(timeout, deadline - self._clock())
            if timeout <= 0:
                raise _FailedError(f"{self._address(path)} was not asked: the time for it is over.")
        until = self._clock() + timeout
        headers = {"Accept": "application/json", "User-Agent": "lakehouse-analytics"}
        if log_in:
            headers["Authorization"] = log_in
        self.requests += 1
        try:
            with requests.Session() as session:
                # Names of this machine in ~/.netrc must not take the place of the log-in.
                session.auth = _leave_alone
                with session.request(
                    method,
                    self._address(path),
                    params=dict(query or {}),
                    json=body,
                    headers=headers,
                    timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type]
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    content = self._content(answer, until)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise _FailedError(
                f"{self._address(path)} did not answer within {timeout:.3g} s (LAKEHOUSE_AIRBYTE_TIMEOUT).",
                passing=True,
                not_begun=isinstance(error, requests.ConnectTimeout),
            ) from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise _FailedError(
                f"{self._address(path)} cannot be reached ({_reason(error)}): see that Airbyte runs, and check "
                "LAKEHOUSE_AIRBYTE_URL.",
                passing=True,
                not_begun=_never_connected(error),
            ) from None
        except (requests.exceptions.InvalidHeader, UnicodeError):
            variables = _variables(self.server.auth)
            message = f"{self._address(path)} was not asked: the log-in cannot be sent as it is; check {variables}."
            raise _FailedError(message) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _FailedError(
                f"{self._address(path)} cannot be asked ({type(error).__name__}); check LAKEHOUSE_AIRBYTE_URL.",
                passing=not isinstance(error, ValueError),  # such as an address that is none
            ) from None
        return self._read(answer, content, path, log_in), answer.headers

    def _content(self, answer: requests.Response, until: float) -> bytes:
        """All of an answer's body: a limit of its own, as that of `requests` begins anew with each byte."""
        import requests

        pieces: list[bytes] = []
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            if self._clock() > until:
                raise requests.Timeout
        return b"".join(pieces)

    def _read(self, answer: requests.Response, content: bytes, path: str, log_in: str) -> dict[str, Any]:
        where, status = self._address(path), answer.status_code
        kind = answer.headers.get("Content-Type", "").split(";")[0]
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        said = self._said(body, log_in)
        if status in (401, 403):
            what = "the log-in" if status == 401 else "this to the log-in"
            raise _FailedError(
                f"{where} refuses {what} ({status}{said}): check {_variables(self.server.auth)}.", status
            )
        if status == 429 or status >= 500:
            reason = self._clean(answer.reason or "no reason", log_in)
            raise _FailedError(
                f"{where} answered {status} ({reason}{said}); it may pass by itself.",
                status,
                passing=True,
                not_begun=status == 429,
                retry_after=_seconds(answer.headers.get("Retry-After")),
            )
        if status >= 300:
            # What is refused in words was asked in the right place.
            advice = f": {_ADDRESS_ADVICE}" if status < 400 or status in (404, 405) or not said else "."
            raise _FailedError(f"{where} answered {status}{said}{advice}", status)
        if not isinstance(body, dict):
            what = self._clean(kind, log_in) or "nothing"
            raise _FailedError(f"{where} answered with {what} where JSON was expected: {_ADDRESS_ADVICE}")
        return body

    def _data(self, body: Mapping[str, Any], path: str) -> list[Any]:
        rows = body.get("data")
        if not isinstance(rows, list):
            raise AirbyteError(f"{self._address(path)} answered without a list of {path[1:]}{self._said(body)}.")
        return rows

    def _said(self, body: object, log_in: str = "") -> str:
        """The words of an answer, to follow ours."""
        if not isinstance(body, dict):
            return ""
        words = next((body[key] for key in ("detail", "message", "title", "error") if body.get(key)), "")
        # Cut afterwards: half a secret is not found.
        short = " ".join(self._clean(str(words), log_in).split())[:_LONGEST].rstrip(". ")
        return f": {short}" if short else ""

    def _address(self, path: str) -> str:
        return f"{self.server.url.rstrip('/')}{path}"

    def _clean(self, text: str, log_in: str) -> str:
        token = self._token
        held = (token[0] if token else "") if self.server.auth == "client_credentials" else self._log_in(deadline=None)
        for secret in (self._secret, *(sent.partition(" ")[2] for sent in (log_in, held))):
            if secret:
                text = text.replace(secret, "***")
        return text


class _FailedError(Exception):
    """One try. `passing`: another may do; `not_begun`: what was asked for was certainly not done."""

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        passing: bool = False,
        not_begun: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.passing, self.not_begun, self.retry_after = status, passing, not_begun, retry_after


_ADDRESS_ADVICE = (
    "LAKEHOUSE_AIRBYTE_URL should be the base of the public API, such as https://api.airbyte.com/v1 (Cloud) or "
    "https://airbyte.example.com/api/public/v1."
)


def _variables(auth: AuthMethod) -> str:
    return {
        "client_credentials": "LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET",
        "bearer": "LAKEHOUSE_AIRBYTE_TOKEN",
        "basic": "LAKEHOUSE_AIRBYTE_USER and LAKEHOUSE_AIRBYTE_PASSWORD",
        "none": "whether it wants one: set LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET",
    }[auth]


def _reason(error: BaseException) -> str:
    text = str(error)
    for words, reason in (
        ("NameResolution", "its name is not known"),
        ("Name or service not known", "its name is not known"),
        ("refused", "connection refused"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
        ("reset", "connection reset"),
        ("RemoteDisconnected", "it hung up"),
        ("IncompleteRead", "it hung up"),
    ):
        if words in text:
            return reason
    return type(error).__name__


def _never_connected(error: BaseException) -> bool:
    from urllib3.exceptions import NewConnectionError

    return bool(error.args) and isinstance(getattr(error.args[0], "reason", None), NewConnectionError)


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`: a number of seconds, or a date."""
    if text and text.strip().isascii() and text.strip().isdigit():
        return float(text)
    moment = _date(text)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else None


def _date(text: str | None) -> datetime | None:
    """A date as HTTP writes it; None of anything else."""
    try:
        found = email.utils.parsedate_to_datetime(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _written(moment: datetime) -> str:
    # The server takes one without an offset for its own zone.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _leave_alone(request: Any) -> Any:
    return request
