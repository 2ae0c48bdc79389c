"""Errors of requests to Airbyte."""

from __future__ import annotations

URL_ADVICE = (
    "LAKEHOUSE_AIRBYTE_URL should be the base URL of the public API, such as https://api.airbyte.com/v1 (Cloud) or "
    "https://airbyte.example.com/api/public/v1."
)


class AirbyteError(RuntimeError):
    """Airbyte did not return a valid response. The message is one line without secrets, and says what to do.

    Attributes:
        status: HTTP status of the response; None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AttemptError(Exception):
    """A request attempt failed.

    Attributes:
        status: HTTP status of the response; None if there was none.
        transient: Whether another attempt may succeed.
        not_executed: Whether the server certainly did not execute the request.
        retry_after: Seconds to wait before the next attempt, as requested by the server; None if not specified.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        transient: bool = False,
        not_executed: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.transient, self.not_executed, self.retry_after = status, transient, not_executed, retry_after
