"""JSON requests to Airbyte, with authentication and with retries if repeating the request is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.triggers.airbyte.auth import TOKEN_PATH, Authenticator
from lakehouse_analytics.triggers.airbyte.errors import URL_ADVICE, AirbyteError, AttemptError
from lakehouse_analytics.triggers.airbyte.responses import ResponseReader
from lakehouse_analytics.triggers.airbyte.server import AirbyteServer
from lakehouse_analytics.triggers.airbyte.transport import Request, Transport

if TYPE_CHECKING:
    import tenacity

#: Maximum attempts of a request that may be repeated, and seconds before the second one, doubled for each further one.
MAX_ATTEMPTS = 4
FIRST_WAIT = 0.5


@dataclass(frozen=True)
class JsonResponse:
    """A successful response.

    Attributes:
        body: The JSON object.
        headers: The headers as sent by the server.
        content: The bytes of the body.
    """

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    content: bytes


class JsonClient:
    """Sends JSON requests to one server. May be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._clock = clock
        self._transport = Transport(server, clock)
        self._authenticator = Authenticator(server, clock, self._request_token)
        self._reader = ResponseReader(server, self._authenticator.secrets)

    @property
    def requests(self) -> int:
        """Number of HTTP requests sent, including those for tokens."""
        return self._transport.requests

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, deadline: float | None = None) -> JsonResponse:
        """Send a GET request; see `send`."""
        return self.send(Request("GET", path, query or {}), deadline=deadline)

    def send(self, request: Request, *, deadline: float | None = None) -> JsonResponse:
        """Send a request, authenticate if the server requires it, and retry transient failures.

        Requests other than GET are only retried if the server certainly did not execute them.

        Args:
            request: The request.
            deadline: Reading of the clock after which no attempt starts and no response is awaited.

        Raises:
            AirbyteError: There is no valid response.
        """
        import tenacity

        def may_retry(error: BaseException) -> bool:
            return (
                isinstance(error, AttemptError) and error.transient and (request.method == "GET" or error.not_executed)
            )

        def is_last(state: tenacity.RetryCallState) -> bool:
            left = self.server.timeout if deadline is None else deadline - self._clock()
            return state.attempt_number >= MAX_ATTEMPTS or state.upcoming_sleep >= left

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_retry), wait=_wait, stop=is_last, sleep=time.sleep, reraise=True
        )
        try:
            return attempts(self._attempt, request, deadline)
        except AttemptError as failed:
            raise AirbyteError(str(failed), failed.status) from None

    def quoted(self, body: Mapping[str, Any]) -> str:
        """Return the error message in a body, to be appended to ours; empty if it has none."""
        return self._reader.quoted(body)

    def _attempt(self, request: Request, deadline: float | None) -> JsonResponse:
        header = self._authenticator.header(deadline=deadline)
        try:
            return self._send_once(request, header, deadline)
        except AttemptError as failed:
            if failed.status != 401 or not self._authenticator.renews:
                raise
        # The token may have been revoked before it expired.
        self._authenticator.discard(header)
        return self._send_once(request, self._authenticator.header(deadline=deadline), deadline)

    def _send_once(self, request: Request, header: str, deadline: float | None) -> JsonResponse:
        response = self._transport.send(request, header, deadline=deadline)
        body = self._reader.json_object(response, request.path, header)
        return JsonResponse(body, response.headers, response.content)

    def _request_token(self, body: Mapping[str, str], deadline: float | None) -> Mapping[str, Any]:
        request = Request("POST", TOKEN_PATH, body=json.dumps(body).encode())
        answer = self._send_once(request, "", deadline).body
        token = answer.get("access_token")
        if not isinstance(token, str) or not token:
            url, quoted = self.server.url_of(TOKEN_PATH), self.quoted(answer)
            raise AttemptError(f"{url} answered without an access_token{quoted}: {URL_ADVICE}")
        return answer


def _wait(state: tenacity.RetryCallState) -> float:
    """Return the seconds to wait before a retry: as requested by the server, else twice as long as before."""
    failed = state.outcome and state.outcome.exception()
    retry_after = failed.retry_after if isinstance(failed, AttemptError) else None
    return FIRST_WAIT * 2.0 ** (state.attempt_number - 1) if retry_after is None else retry_after
