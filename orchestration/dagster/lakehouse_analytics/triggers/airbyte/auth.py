"""Authentication with Airbyte: the `Authorization` header, and the tokens of an application.

The official SDK is not used for tokens. It does not report why a token was refused, fails on an `expires_in` that is
not a number, requests a token per request if tokens live for a minute or less, caches tokens for the whole process by
client id and secret (so that two servers share them), and does not repeat a request whose token was revoked. In
addition, the sensor needs tokens, and must not import the SDK.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from lakehouse_analytics.triggers.airbyte.errors import AttemptError
from lakehouse_analytics.triggers.airbyte.server import AirbyteServer

TOKEN_PATH = "/applications/token"  # noqa: S105
#: A token is renewed this many seconds before it expires, or a tenth of its lifetime if that is shorter.
TOKEN_MARGIN = 30.0
#: Seconds for which a token is used if the server does not report a valid lifetime.
_DEFAULT_LIFETIME = 180.0
_MAX_LIFETIME = 86_400

#: Requests a token. Takes the body of the request and the deadline, and returns the body of the response.
RequestToken = Callable[[Mapping[str, str], float | None], Mapping[str, Any]]


class Authenticator:
    """Provides the `Authorization` header for a server. Caches the current token; may be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float], request_token: RequestToken) -> None:
        self._server, self._clock, self._request_token = server, clock, request_token
        self._lock = Lock()
        self._token: tuple[str, float] | None = None

    @property
    def renews(self) -> bool:
        """Whether a rejected header can be replaced by another."""
        return self._server.auth == "client_credentials"

    def header(self, *, deadline: float | None) -> str:
        """Return the value of the header; empty without authentication.

        Raises:
            AttemptError: A token is needed, but the server does not issue one.
        """
        if not self.renews:
            return self._fixed_header()
        with self._lock:
            if self._token is None or self._clock() >= self._token[1]:
                try:
                    self._token = self._new_token(deadline)
                except AttemptError as failed:
                    failed.not_executed = True
                    raise
            return self._token[0]

    def discard(self, header: str) -> None:
        """Discard a token that the server rejected, unless another thread has replaced it already."""
        with self._lock:
            if self._token and self._token[0] == header:
                self._token = None

    def secrets(self, header: str = "") -> list[str]:
        """Return the texts to redact from messages: the secret, and the headers in the form in which they are sent.

        Args:
            header: A header that was sent, and may have been replaced since.
        """
        token = self._token
        current = (token[0] if token else "") if self.renews else self._fixed_header()
        return [self._server.secret_value, *(value.partition(" ")[2] for value in (header, current))]

    def _fixed_header(self) -> str:
        secret = self._server.secret_value
        if self._server.auth == "bearer":
            return f"Bearer {secret}"
        if self._server.auth == "basic":
            return "Basic " + base64.b64encode(f"{self._server.user}:{secret}".encode()).decode()
        return ""

    def _new_token(self, deadline: float | None) -> tuple[str, float]:
        requested = self._clock()
        # Airbyte's OpenAPI document spells the third field both ways.
        body = {"client_id": self._server.user, "client_secret": self._server.secret_value}
        body |= {"grant_type": "client_credentials", "grant-type": "client_credentials"}
        answer = self._request_token(body, deadline)
        lifetime = answer.get("expires_in")
        seconds = _DEFAULT_LIFETIME
        if isinstance(lifetime, int | float) and lifetime > 0:
            seconds = float(min(lifetime, _MAX_LIFETIME))
        return f"Bearer {answer['access_token']}", requested + seconds - min(TOKEN_MARGIN, seconds / 10)
