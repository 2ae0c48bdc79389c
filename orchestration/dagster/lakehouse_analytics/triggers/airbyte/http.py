"""HTTP as Airbyte's public API wants it: log-in, retries, and one line for whatever goes wrong, without a secret."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from lakehouse_analytics.common.network import reason
from lakehouse_analytics.common.redact import Redactor
from lakehouse_analytics.settings import AirbyteAuth

if TYPE_CHECKING:
    import requests
    import tenacity

#: Tries of one request that may be repeated; seconds before the second one, doubled each time.
TRIES = 4
FIRST_WAIT = 0.5
#: A token is renewed when so many seconds, or a tenth of its life if that is less, are left of it.
TOKEN_MARGIN = 30.0
TOKEN_PATH = "/applications/token"  # noqa: S105

#: Bytes of an answer, decompressed. A page has 100 jobs or connections at most; one of a connection's thousand streams
#: takes some hundred bytes.
LARGEST = 64 << 20

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
    auth: AirbyteAuth = "none"
    user: str = ""
    secret: SecretStr | None = field(default=None, repr=False)
    workspaces: tuple[str, ...] = ()
    timeout: float = 10.0


class Http:
    """Requests to one server. Keeps its token and nothing else; may be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._clock = clock
        self._lock = Lock()
        self._token: tuple[str, float] | None = None
        #: HTTP requests that were sent, tokens included.
        self.requests = 0

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Send a request, log in where that is wanted, and try again where it may help and can do no harm.

        Returns:
            The JSON object of the answer, and its headers.

        Raises:
            AirbyteError: there is no such answer.
        """
        import tenacity

        def worthwhile(error: BaseException) -> bool:
            return isinstance(error, _FailedError) and error.passing and (method == "GET" or error.not_begun)

        def enough(state: tenacity.RetryCallState) -> bool:
            left = self.server.timeout if deadline is None else deadline - self._clock()
            return state.attempt_number >= TRIES or state.upcoming_sleep >= left

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(worthwhile),
            wait=_pause,
            stop=enough,
            sleep=time.sleep,
            reraise=True,
        )
        try:
            return tries(self._once, method, path, query, body, deadline=deadline)
        except _FailedError as failed:
            raise AirbyteError(str(failed), failed.status) from None

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
            said = self.said(answer)
            raise _FailedError(f"{self.address(TOKEN_PATH)} gave no access_token{said}: {_ADDRESS_ADVICE}")
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
                raise _FailedError(f"{self.address(path)} was not asked: the time for it is over.")
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
                    self.address(path),
                    params=dict(query or {}),
                    json=body,
                    headers=headers,
                    timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type]
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    content = self._content(answer, path, until)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise _FailedError(
                f"{self.address(path)} did not answer within {timeout:.3g} s (LAKEHOUSE_AIRBYTE_TIMEOUT).",
                passing=True,
                not_begun=isinstance(error, requests.ConnectTimeout),
            ) from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise _FailedError(
                f"{self.address(path)} cannot be reached ({reason(error)}): see that Airbyte runs, and check "
                "LAKEHOUSE_AIRBYTE_URL.",
                passing=True,
                not_begun=_never_connected(error),
            ) from None
        except (requests.exceptions.InvalidHeader, UnicodeError):
            variables = _variables(self.server.auth)
            message = f"{self.address(path)} was not asked: the log-in cannot be sent as it is; check {variables}."
            raise _FailedError(message) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _FailedError(
                f"{self.address(path)} cannot be asked ({type(error).__name__}); check LAKEHOUSE_AIRBYTE_URL.",
                passing=not isinstance(error, ValueError),  # such as an address that is none
            ) from None
        return self._read(answer, content, path, log_in), answer.headers

    def _content(self, answer: requests.Response, path: str, until: float) -> bytes:
        """The body of an answer, limited in time and size: the timeout of `requests` starts again with each byte."""
        import requests

        pieces: list[bytes] = []
        size = 0
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST:
                raise _FailedError(
                    f"{self.address(path)} answered with more than {LARGEST >> 20} MiB, and a page has 100 entries at "
                    f"most: {_ADDRESS_ADVICE}"
                )
            if self._clock() > until:
                raise requests.Timeout
        return b"".join(pieces)

    def _read(self, answer: requests.Response, content: bytes, path: str, log_in: str) -> dict[str, Any]:
        where, status = self.address(path), answer.status_code
        kind = answer.headers.get("Content-Type", "").split(";")[0]
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        said = self.said(body, log_in)
        if status in (401, 403):
            what = "the log-in" if status == 401 else "this to the log-in"
            raise _FailedError(
                f"{where} refuses {what} ({status}{said}): check {_variables(self.server.auth)}.", status
            )
        if status == 429 or status >= 500:
            why = self._clean(answer.reason or "no reason", log_in)
            raise _FailedError(
                f"{where} answered {status} ({why}{said}); it may pass by itself.",
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

    def said(self, body: object, log_in: str = "") -> str:
        """The words of an answer, to follow ours."""
        if not isinstance(body, dict):
            return ""
        words = next((body[key] for key in ("detail", "message", "title", "error") if body.get(key)), "")
        # Cut afterwards: half a secret is not found.
        short = " ".join(self._clean(str(words), log_in).split())[:_LONGEST].rstrip(". ")
        return f": {short}" if short else ""

    def address(self, path: str) -> str:
        """The URL of a path."""
        return f"{self.server.url.rstrip('/')}{path}"

    def _clean(self, text: str, log_in: str) -> str:
        token = self._token
        held = (token[0] if token else "") if self.server.auth == "client_credentials" else self._log_in(deadline=None)
        # A token that Airbyte gave, or a log-in as it is sent, means nothing else: 8 characters or more of it.
        sent = [header.partition(" ")[2] for header in (log_in, held)]
        return Redactor([self._secret, *sent])(text)


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


def _pause(state: tenacity.RetryCallState) -> float:
    """As long as the server asks for, else twice as long as before."""
    failed = state.outcome and state.outcome.exception()
    asked = failed.retry_after if isinstance(failed, _FailedError) else None
    return FIRST_WAIT * 2.0 ** (state.attempt_number - 1) if asked is None else asked


def _variables(auth: AirbyteAuth) -> str:
    return {
        "client_credentials": "LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET",
        "bearer": "LAKEHOUSE_AIRBYTE_TOKEN",
        "basic": "LAKEHOUSE_AIRBYTE_USER and LAKEHOUSE_AIRBYTE_PASSWORD",
        "none": "whether it wants one: set LAKEHOUSE_AIRBYTE_CLIENT_ID and LAKEHOUSE_AIRBYTE_CLIENT_SECRET",
    }[auth]


def _never_connected(error: BaseException) -> bool:
    from urllib3.exceptions import NewConnectionError

    return bool(error.args) and isinstance(getattr(error.args[0], "reason", None), NewConnectionError)


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`: a number of seconds, or a date."""
    if text and text.strip().isascii() and text.strip().isdigit():
        return float(text)
    moment = date_of(text)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else None


def date_of(text: str | None) -> datetime | None:
    """A date as HTTP writes it; None of anything else."""
    try:
        found = email.utils.parsedate_to_datetime(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _leave_alone(request: Any) -> Any:
    return request
