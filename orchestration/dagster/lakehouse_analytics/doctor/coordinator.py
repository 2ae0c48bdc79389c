"""Requests to Trino that do not wait or retry: doctor reports the current state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.network import reason
from lakehouse_analytics.doctor.probe import FailedError, ProbeContext, unchecked

if TYPE_CHECKING:
    from lakehouse_analytics.engines.trino.session import TrinoServer


class NotCheckedError(FailedError):
    """Trino runs, but did not execute the statement in time. The result of the check is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "")
        self.finding = unchecked(f"not checked: {message}")


class DeniedError(FailedError):
    """The user does not have the privilege for a statement."""


def probe_server(context: ProbeContext) -> TrinoServer:
    """Return the coordinator, with timeouts that fit into a probe. Its token must be valid for the maximum run time."""
    from lakehouse_analytics.engines.trino.resource import TrinoResource

    server = TrinoResource.of(context.settings).server()
    return server.model_copy(
        update={
            "request_timeout": min(server.request_timeout, context.patience),
            "start_timeout": 0.0,
            "queue_timeout": 0.0,
            # Not a session property: the user may not have the privilege to set one.
            "statement_timeout": context.patience,
            "token_needed_until": datetime.now(UTC) + timedelta(seconds=context.settings.max_runtime),
        }
    )


def server_version(server: TrinoServer) -> str:
    """Return the version of Trino. This needs no authentication.

    Raises:
        FailedError: Trino cannot be reached or is still starting.
    """
    import requests

    from lakehouse_analytics.engines.trino.errors import classify
    from lakehouse_analytics.engines.trino.server_info import server_info
    from lakehouse_analytics.engines.trino.session import TrinoError, http_session

    try:
        with http_session(server) as session:
            info = server_info(server, session, server.request_timeout)
    except TrinoError as error:
        raise FailedError(f"Trino at {server.address}: {_describe(error)}", error.failure.advice) from None
    except requests.RequestException as error:
        advice = classify(RuntimeError(f"failed to execute: {error}")).advice
        raise FailedError(f"Trino at {server.address} cannot be reached: {reason(error)}", advice) from None
    if info.is_unavailable:
        raise FailedError(f"{server.address} returned HTTP {info.status} ({info.phrase})", "Check that Trino runs.")
    if info.starting:
        raise FailedError(f"Trino at {server.address} is still starting", "Try again in a minute.")
    return info.version or "(unknown version)"


def fetch_rows(server: TrinoServer, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows.

    Raises:
        NotCheckedError: The statement is still queued, or was rejected because the queue is full.
        DeniedError: The user may not run the statement.
        FailedError: The statement failed for another reason.
    """
    from lakehouse_analytics.engines.trino.client import execute
    from lakehouse_analytics.engines.trino.errors import FULL, STILL_QUEUED
    from lakehouse_analytics.engines.trino.session import TrinoError

    try:
        return execute(server, sql, log=lambda _: None).rows
    except TrinoError as error:
        failure = error.failure
        message = f"Trino at {server.address}: {_describe(error)}"
        if failure.name == STILL_QUEUED or failure.queue_full:
            raise NotCheckedError(f"{message}. {failure.advice}") from None
        advice = FULL if failure.name == "EXCEEDED_TIME_LIMIT" else failure.advice
        kind = DeniedError if failure.name == "PERMISSION_DENIED" else FailedError
        raise kind(message, advice) from None


def _describe(error: Any) -> str:
    return f"{error.failure.name}: {' '.join(str(error.failure.message).split())[:300]}"
