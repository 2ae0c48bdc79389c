"""Statements of `lakehouse doctor` on Trino. They are not retried, because doctor reports the current state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.network import reason
from lakehouse_analytics.doctor.probe import FailedError, ProbeContext, unchecked

if TYPE_CHECKING:
    from lakehouse_analytics.engines.trino.session import TrinoServer


class NotCheckedError(FailedError):
    """Trino is up, but did not run the statement in time, so the result is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "")
        self.finding = unchecked(f"not checked: {message}")


class DeniedError(FailedError):
    """Trino refused a statement to this user."""


def server_of(context: ProbeContext) -> TrinoServer:
    """The coordinator, with the timeouts of a probe. A token must be valid for as long as a run may last."""
    from lakehouse_analytics.engines.trino.resource import TrinoResource

    server = TrinoResource.of(context.settings).server()
    return server.model_copy(
        update={
            "request_timeout": min(server.request_timeout, context.patience),
            "start_timeout": 0.0,
            "queue_timeout": 0.0,
            # No session property: the user may lack the right to set any.
            "statement_timeout": context.patience,
            "token_needed_until": datetime.now(UTC) + timedelta(seconds=context.settings.max_runtime),
        }
    )


def version_of(server: TrinoServer) -> str:
    """Its version; needs no log-in.

    Raises:
        FailedError: it cannot be reached, or is starting.
    """
    import requests

    from lakehouse_analytics.engines.trino.errors import classify
    from lakehouse_analytics.engines.trino.session import TrinoError, http_session

    try:
        with http_session(server) as session:
            answer = session.get(f"{server.address}/v1/info", timeout=server.request_timeout)
            said = answer.json() if answer.ok else {}
    except TrinoError as error:
        raise FailedError(f"Trino at {server.address}: {_words(error)}", error.failure.advice) from None
    except ValueError:  # a gateway may answer in its own words
        said = {}
    except requests.RequestException as error:
        advice = classify(RuntimeError(f"failed to execute: {error}")).advice
        raise FailedError(f"Trino at {server.address} cannot be reached: {reason(error)}", advice) from None
    if answer.status_code in (429, 502, 503, 504):
        raise FailedError(f"{server.address} answers {answer.status_code} ({answer.reason})", "See that Trino runs.")
    if said.get("starting") is True:
        raise FailedError(f"Trino at {server.address} is still starting", "Ask again in a minute.")
    version = said.get("nodeVersion")
    return str(version.get("version")) if isinstance(version, dict) else "of a version that it does not tell"


def ask(server: TrinoServer, sql: str) -> list[tuple[Any, ...]]:
    """The rows of one statement.

    Raises:
        FailedError: there are none. `NotCheckedError` where the statement is still in a queue or was refused by a full
            one, `DeniedError` where this user may not run it.
    """
    from lakehouse_analytics.engines.trino.client import execute
    from lakehouse_analytics.engines.trino.errors import FULL, STILL_QUEUED
    from lakehouse_analytics.engines.trino.session import TrinoError

    try:
        return execute(server, sql, log=lambda _: None).rows
    except TrinoError as error:
        failure = error.failure
        said = f"Trino at {server.address}: {_words(error)}"
        if failure.name == STILL_QUEUED or failure.queue_full:
            raise NotCheckedError(f"{said}. {failure.advice}") from None
        advice = FULL if failure.name == "EXCEEDED_TIME_LIMIT" else failure.advice
        kind = DeniedError if failure.name == "PERMISSION_DENIED" else FailedError
        raise kind(said, advice) from None


def _words(error: Any) -> str:
    return f"{error.failure.name}: {' '.join(str(error.failure.message).split())[:300]}"
