"""Statements on Trino: one connection each, always closed; repeated only where that cannot do harm. No Dagster in here.

The client repeats single HTTP requests by itself. That is harmless even for a statement that writes: Trino starts a
statement when its first page is asked for, so that one whose answer was lost is never run.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.sql import identifier
from lakehouse_analytics.trino_errors import FULL, Failure, Kind, classify, starting
from lakehouse_analytics.trino_session import (
    SOURCE,
    TrinoError,
    TrinoServer,
    TrinoUnavailableError,
    failed,
    http_session,
)

if TYPE_CHECKING:
    import requests
    import tenacity
    import trino

#: Tries of one statement, and of one HTTP request of it.
STATEMENT_ATTEMPTS = 5
REQUEST_ATTEMPTS = 5
#: Seconds: the first wait before another try, the longest, and what chance adds so that clients do not march in step.
FIRST_WAIT, LONGEST_WAIT, JITTER = 0.5, 10.0, 0.5

_LOGGER = logging.getLogger("lakehouse_analytics")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_READS = frozenset({"select", "show", "describe", "desc", "values", "with", "explain"})
# EXPLAIN ANALYZE runs what it explains; a table function such as `query` of a JDBC catalog may write.
_MAY_WRITE = re.compile(r"\b(analyze|table\s*\()", re.IGNORECASE)


@dataclass(frozen=True)
class QueryResult:
    """What one statement gave."""

    rows: list[tuple[Any, ...]]
    query_id: str


def is_read_only(sql: str) -> bool:
    """Whether a statement certainly writes nothing; in doubt, no."""
    bare = _COMMENT.sub(" ", sql).lstrip(" \t\r\n(")
    word = re.match(r"[a-z]+", bare, re.IGNORECASE)
    return bool(word and word[0].lower() in _READS and not _MAY_WRITE.search(sql))


def backoff() -> tenacity.wait.wait_base:
    """How long to wait before each further try: growing, bounded, with a little chance."""
    import tenacity

    return tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=JITTER)


def execute(server: TrinoServer, sql: str, client_tags: Sequence[str] = ()) -> QueryResult:
    """Run one statement to its end.

    It is tried again where the failure may pass and either it only reads, or it certainly was not done; before that,
    a server that went away is waited for.

    Raises:
        TrinoError: with the query id. `TrinoUnavailableError` where no other statement would fare better.
    """
    import tenacity

    repeatable = is_read_only(sql)

    def again(error: BaseException) -> bool:
        return isinstance(error, TrinoError) and may_be_repeated(error.failure, repeatable=repeatable)

    def before(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        _LOGGER.warning("Trino, try %d of %d: %s", state.attempt_number, STATEMENT_ATTEMPTS, error)
        if isinstance(error, TrinoUnavailableError):
            wait_until_ready(server)

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(again),
        stop=tenacity.stop_after_attempt(STATEMENT_ATTEMPTS),
        wait=backoff(),
        before_sleep=before,
        reraise=True,
    )
    return tries(_once, server, sql, client_tags)


def may_be_repeated(failure: Failure, *, repeatable: bool) -> bool:
    """Whether a failed statement is run again; `repeatable` where running it twice does no harm."""
    return failure.transient and (repeatable or failure.certainly_not_applied)


def wait_until_ready(server: TrinoServer, say: Callable[[str], None] = _LOGGER.warning) -> None:
    """Return once the coordinator has started and a query on the catalog works.

    Args:
        server: Where to ask.
        say: Told once, with the reason, when it is not ready at once.

    Raises:
        TrinoUnavailableError: not within `start_timeout` seconds, with the last answer; at once where waiting cannot
            help, as with a wrong log-in.
    """
    import tenacity

    deadline = time.monotonic() + server.start_timeout

    def before(state: tenacity.RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if state.attempt_number == 1:
            say(f"Trino at {server.address} is not ready; it is asked for {server.start_timeout:g} s: {error}")

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, TrinoError) and error.failure.transient),
        stop=tenacity.stop_before_delay(server.start_timeout),
        wait=backoff(),
        before_sleep=before,
        reraise=True,
    )
    try:
        tries(_ask, server, deadline)
    except TrinoError as error:
        if not error.failure.transient:
            # Of a query that asks nothing but whether the catalog is there: no other would fare better.
            raise TrinoUnavailableError(error.failure, str(error)) from None
        count = tries.statistics["attempt_number"]
        raise TrinoUnavailableError(
            error.failure,
            f"Trino at {server.address} (LAKEHOUSE_TRINO_HOST, LAKEHOUSE_TRINO_PORT) was not ready within "
            f"{server.start_timeout:g} s (LAKEHOUSE_TRINO_START_TIMEOUT); asked {count} times, at last: {error}",
        ) from None


def _ask(server: TrinoServer, deadline: float) -> None:
    left = max(deadline - time.monotonic(), 1.0)
    with closing(http_session(server)) as session:
        _refuse_starting(server, session, min(server.request_timeout, left))
    # On the catalog, because its database may be gone while Trino is there; on a worker, because one may be missing.
    in_time = replace(
        server,
        request_timeout=min(server.request_timeout, left),
        # Time in Trino's queue counts too.
        session_properties={**server.session_properties, "query_max_run_time": f"{left:.0f}s"},
    )
    try:
        _once(in_time, f"show schemas from {identifier(server.catalog)}", ())
    except TrinoError as error:
        if error.failure.name != "EXCEEDED_TIME_LIMIT":
            raise
        raise failed(replace(error.failure, kind=Kind.TRANSIENT, advice=FULL, of_server=True)) from None


def _refuse_starting(server: TrinoServer, session: requests.Session, timeout: float) -> None:
    import requests

    try:
        answer = session.get(f"{server.address}/v1/info", timeout=timeout)
    except requests.RequestException as error:
        raise failed(classify(RuntimeError(f"failed to execute: {error}"))) from None
    if answer.status_code in (429, 502, 503, 504):
        raise failed(classify(RuntimeError(f"error {answer.status_code}: {answer.reason}")))
    said = None
    with suppress(ValueError):  # a gateway may answer in its own words: then the query decides
        said = answer.json()
    if isinstance(said, dict) and said.get("starting") is True:
        raise failed(starting())


def _once(server: TrinoServer, sql: str, client_tags: Sequence[str]) -> QueryResult:
    with closing(connect(server, client_tags)) as connection:
        cursor = connection.cursor()
        try:
            cursor.execute(sql)
            rows = [tuple(row) for row in cursor.fetchall()]
        except BaseException as error:
            # Also when a person stops the run: nobody would ever fetch what Trino goes on to compute.
            _cancel(cursor)
            if not isinstance(error, Exception):
                raise
            raise failed(_judged(error, cursor.query_id)) from error
        return QueryResult(rows, str(cursor.query_id))


def _judged(error: Exception, query_id: str | None) -> Failure:
    if not isinstance(error, TrinoError):
        return classify(error, query_id)
    # The HTTP session knows neither the query nor whether it runs.
    unapplied = error.failure.certainly_not_applied and query_id is None
    return replace(error.failure, query_id=query_id, certainly_not_applied=unapplied)


def connect(server: TrinoServer, client_tags: Sequence[str] = ()) -> trino.dbapi.Connection:
    """A connection with this server's settings; the caller closes it.

    Raises:
        TrinoUnavailableError: what the log-in needs is missing, or the token expires too early.
    """
    from trino.dbapi import Connection
    from trino.transaction import IsolationLevel

    authentication = server.authentication()
    return Connection(
        host=server.host,
        port=server.port,
        user=server.user,
        catalog=server.catalog,
        http_scheme=server.http_scheme,
        auth=authentication,
        http_session=http_session(server),
        session_properties=server.session_properties,
        request_timeout=server.request_timeout,
        max_attempts=REQUEST_ATTEMPTS,
        isolation_level=IsolationLevel.AUTOCOMMIT,
        source=SOURCE,
        client_tags=list(client_tags),
        timezone="UTC",
    )


def _cancel(cursor: trino.dbapi.Cursor) -> None:
    try:
        cursor.cancel()  # type: ignore[no-untyped-call]
    except Exception as error:
        _LOGGER.warning("Trino: query %s could not be cancelled and may run on: %s", cursor.query_id, error)
