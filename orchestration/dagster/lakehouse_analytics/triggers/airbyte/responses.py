"""Parses Airbyte's responses: a JSON object, or an error that says what to do, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from lakehouse_analytics.common.network import http_date
from lakehouse_analytics.common.redact import Redactor
from lakehouse_analytics.triggers.airbyte.errors import URL_ADVICE, AttemptError
from lakehouse_analytics.triggers.airbyte.server import AirbyteServer
from lakehouse_analytics.triggers.airbyte.transport import Response

_MAX_QUOTED = 200


class ResponseReader:
    """Parses the responses of one server.

    Args:
        server: The server.
        secrets: Takes the `Authorization` header that was sent, and returns the texts to redact from messages.
    """

    def __init__(self, server: AirbyteServer, secrets: Callable[[str], Sequence[str]]) -> None:
        self._server, self._secrets = server, secrets

    def json_object(self, response: Response, path: str, authorization: str = "") -> dict[str, Any]:
        """Return the body of a response.

        Raises:
            AttemptError: The response is an error, or its body is not a JSON object.
        """
        body = _json(response.content)
        quoted = self.quoted(body, authorization)
        if response.status >= 300:
            raise self._error(response, path, quoted, authorization)
        if not isinstance(body, dict):
            kind = response.headers.get("Content-Type", "").split(";")[0]
            what = self._redacted(kind, authorization) or "nothing"
            raise AttemptError(
                f"{self._server.url_of(path)} answered with {what} where JSON was expected: {URL_ADVICE}"
            )
        return body

    def quoted(self, body: object, authorization: str = "") -> str:
        """Return a response's own error message, to be appended to ours; empty if it has none."""
        if not isinstance(body, dict):
            return ""
        text = next((body[key] for key in ("detail", "message", "title", "error") if body.get(key)), "")
        # Truncated after redaction, because a truncated secret would not be recognized.
        short = " ".join(self._redacted(str(text), authorization).split())[:_MAX_QUOTED].rstrip(". ")
        return f": {short}" if short else ""

    def _error(self, response: Response, path: str, quoted: str, authorization: str) -> AttemptError:
        url, status = self._server.url_of(path), response.status
        if status in (401, 403):
            what = "rejects the credentials" if status == 401 else "does not permit this request"
            return AttemptError(f"{url} {what} ({status}{quoted}): {self._server.credentials_advice}.", status)
        if status == 429 or status >= 500:
            why = self._redacted(response.reason or "no reason", authorization)
            return AttemptError(
                f"{url} answered {status} ({why}{quoted}), which may be temporary.",
                status,
                transient=True,
                not_executed=status == 429,
                retry_after=seconds_of(response.headers.get("Retry-After")),
            )
        # An error with its own message came from Airbyte, so the address is right.
        misplaced = status < 400 or status in (404, 405) or not quoted
        return AttemptError(f"{url} answered {status}{quoted}" + (f": {URL_ADVICE}" if misplaced else "."), status)

    def _redacted(self, text: str, authorization: str) -> str:
        return Redactor(self._secrets(authorization))(text)


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, which is a number of seconds or a date; None if it is neither."""
    if retry_after and retry_after.strip().isascii() and retry_after.strip().isdigit():
        return float(retry_after)
    moment = http_date(retry_after)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
