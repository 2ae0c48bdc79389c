"""Airbyte's public API over HTTP: log-in, retries, and one line for whatever goes wrong. No secret is in any of them.

Not the official SDK: one unknown value of an enumeration makes it refuse a whole page of jobs, it has no time limit of
its own, and it asks for a token at an address that drops the server's base path. The requests and answers here are
held against the official OpenAPI document by tests, and the SDK reads the same test server.
"""

from __future__ import annotations

import email.utils
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
        found: list[Connection] = []
        rows: list[Any] = []
        offset = 0
        while True:
            query = self._workspaces({"limit": PAGE, "offset": offset})
            body, _ = self._request("GET", "/connections", query, deadline=deadline)
            rows = _data(body, "connections")
            known = {connection.id for connection in found}
            found += [c for row in rows if (c := connection_of(row)) and c.id not in known]
            # One row twice, so that rows that move away while this reads take none with them.
            if len(rows) < PAGE and not body.get("next"):
                return found
            if not rows:
                return found
            offset += max(1, len(rows) - 1)

    def now(self, *, deadline: float | None = None) -> datetime:
        """What Airbyte's clock says; ours where it does not."""
        _, headers = self._request("GET", "/jobs", self._workspaces({"limit": 1}), deadline=deadline)
        try:
            said = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        except (ValueError, TypeError):
            return datetime.now(UTC)
        return said.astimezone(UTC) if said.tzinfo else said.replace(tzinfo=UTC)

    def _jobs(self, query: Mapping[str, Any], *, deadline: float | None) -> Page:
        body, _ = self._request("GET", "/jobs", self._workspaces({"limit": PAGE, **query}), deadline=deadline)
        rows = _data(body, "jobs")
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
            raise AirbyteError(f"Airbyte at {self.server.url} answered with {error}.") from None

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
        repeatable = method == "GET"
        fresh = False
        wait = FIRST_WAIT
        for number in range(1, TRIES + 1):
            try:
                return self._once(method, path, query, body, deadline=deadline, fresh_token=fresh)
            except _FailedError as failed:
                if failed.status == 401 and self.server.auth == "client_credentials" and not fresh:
                    fresh = True  # it may have been withdrawn before its time
                    continue
                # Nothing was done where there were too many requests, or where the token could not be had.
                may_repeat = failed.passing and (repeatable or failed.status == 429)
                pause = wait if failed.retry_after is None else failed.retry_after
                if not may_repeat or number == TRIES or not self._time_for(pause, deadline):
                    raise AirbyteError(self._clean(str(failed)), failed.status) from None
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
        fresh_token: bool,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        headers = self._log_in(deadline=deadline, fresh=fresh_token)
        return self._send(method, path, headers, query, body, deadline=deadline)

    def _log_in(self, *, deadline: float | None, fresh: bool) -> dict[str, str]:
        secret = self.server.secret.get_secret_value() if self.server.secret else ""
        if self.server.auth == "bearer":
            return {"Authorization": f"Bearer {secret}"}
        if self.server.auth == "basic":
            import base64

            pair = base64.b64encode(f"{self.server.user}:{secret}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        if self.server.auth == "none":
            return {}
        with self._lock:
            if fresh or self._token is None or self._clock() >= self._token[1]:
                self._token = None
                self._token = self._new_token(secret, deadline=deadline)
            return {"Authorization": f"Bearer {self._token[0]}"}

    def _new_token(self, secret: str, *, deadline: float | None) -> tuple[str, float]:
        asked = self._clock()
        # The API's own document writes the third field both ways.
        wanted = {"client_id": self.server.user, "client_secret": secret}
        wanted |= {"grant_type": "client_credentials", "grant-type": "client_credentials"}
        answer, _ = self._send("POST", TOKEN_PATH, {}, None, wanted, deadline=deadline)
        token, life = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token:
            raise _FailedError(f"{self._address(TOKEN_PATH)} gave no access_token: {_ADDRESS_ADVICE}")
        seconds = float(life) if isinstance(life, int | float) and life > 0 else 180.0
        return token, asked + seconds - min(TOKEN_MARGIN, seconds / 10)

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        *,
        deadline: float | None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        import requests

        timeout = self.server.timeout
        if deadline is not None:
            timeout = min(timeout, deadline - self._clock())
            if timeout <= 0:
                raise _FailedError(f"{self._address(path)} was not asked: the time for it is over.")
        self.requests += 1
        try:
            with requests.Session() as session:
                # Names of this machine in ~/.netrc must not take the place of the log-in.
                session.auth = _leave_alone
                answer = session.request(
                    method,
                    self._address(path),
                    params=dict(query or {}),
                    json=body,
                    headers={"Accept": "application/json", "User-Agent": "lakehouse-analytics", **headers},
                    timeout=timeout,
                    allow_redirects=False,
                )
        except requests.Timeout:
            message = f"{self._address(path)} did not answer within {timeout:.0f} s (LAKEHOUSE_AIRBYTE_TIMEOUT)."
            raise _FailedError(message, passing=True) from None
        except requests.ConnectionError as error:
            raise _FailedError(
                f"{self._address(path)} cannot be reached ({_reason(error)}): see that Airbyte runs, and check "
                "LAKEHOUSE_AIRBYTE_URL.",
                passing=True,
            ) from None
        except requests.RequestException as error:
            raise _FailedError(
                f"{self._address(path)} cannot be asked ({type(error).__name__}).", passing=True
            ) from None
        return self._read(answer, path), answer.headers

    def _read(self, answer: requests.Response, path: str) -> dict[str, Any]:
        where, status = self._address(path), answer.status_code
        kind = answer.headers.get("Content-Type", "").split(";")[0]
        try:
            body = answer.json()
        except ValueError:
            body = None
        if status in (401, 403):
            what = "the log-in" if status == 401 else "this to the log-in"
            raise _FailedError(
                f"{where} refuses {what} ({status}{_said(body)}): check {_variables(self.server.auth)}.", status
            )
        if status == 429 or status >= 500:
            raise _FailedError(
                f"{where} answered {status} ({answer.reason or 'no reason'}{_said(body)}); it may pass by itself.",
                status,
                passing=True,
                retry_after=_seconds(answer.headers.get("Retry-After")),
            )
        if status >= 300:
            raise _FailedError(f"{where} answered {status}{_said(body)}: {_ADDRESS_ADVICE}", status)
        if not isinstance(body, dict):
            raise _FailedError(f"{where} answered with {kind or 'nothing'} where JSON was expected: {_ADDRESS_ADVICE}")
        return body

    def _address(self, path: str) -> str:
        return f"{self.server.url.rstrip('/')}{path}"

    def _clean(self, text: str) -> str:
        secrets = [self.server.secret.get_secret_value() if self.server.secret else "", *(self._token or ())[:1]]
        for secret in secrets:
            if secret:
                text = text.replace(str(secret), "***")
        return text


class _FailedError(Exception):
    def __init__(
        self, message: str, status: int | None = None, *, passing: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.passing, self.retry_after = status, passing, retry_after


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


def _data(body: Mapping[str, Any], what: str) -> list[Any]:
    rows = body.get("data")
    if not isinstance(rows, list):
        raise AirbyteError(f"Airbyte answered without a list of {what}{_said(body)}.")
    return rows


def _said(body: object) -> str:
    if not isinstance(body, dict):
        return ""
    words = next((body[key] for key in ("detail", "message", "title", "error") if body.get(key)), "")
    short = " ".join(str(words).split())
    return f": {short[:_LONGEST].rstrip('.')}" if short else ""


def _reason(error: BaseException) -> str:
    text = str(error)
    for words, reason in (
        ("NameResolution", "its name is not known"),
        ("Name or service not known", "its name is not known"),
        ("refused", "connection refused"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
        ("reset", "connection reset"),
        ("RemoteDisconnected", "it hung up"),
    ):
        if words in text:
            return reason
    return type(error).__name__


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`: a number of seconds, or a date."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _written(moment: datetime) -> str:
    # The server takes one without an offset for its own zone.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _leave_alone(request: Any) -> Any:
    return request
