"""Runs statements on Trino. Each has its own connection, and is retried only if that is safe. No import of Dagster.

The client itself retries single HTTP requests. This is safe even for a statement that writes: Trino starts a statement
when its first page is requested, so a statement whose response was lost never runs.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.trino.errors import FULL, Failure, Kind, classify, starting, still_queued, too_slow
from lakehouse_analytics.engines.trino.queries import REPORT_AFTER, resource_group_of, waiting_message
from lakehouse_analytics.engines.trino.server_info import server_info
from lakehouse_analytics.engines.trino.session import (
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

#: Maximum attempts at one statement, and at each of its HTTP requests.
STATEMENT_ATTEMPTS = 5
REQUEST_ATTEMPTS = 5
#: Waits before retries in seconds: the first wait, the maximum, and the jitter.
FIRST_WAIT, LONGEST_WAIT, JITTER = 0.5, 10.0, 0.5
#: Maximum wait in seconds while the queue is full.
LONGEST_WAIT_IN_QUEUE = 30.0

_LOGGER = logging.getLogger("lakehouse_analytics")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_READS = frozenset({"select", "show", "describe", "desc", "values", "with", "explain"})
# EXPLAIN ANALYZE runs what it explains; a table function such as `query` of a JDBC catalog may write.
_MAY_WRITE = re.compile(r"\b(analyze|table\s*\()", re.IGNORECASE)


@dataclass(frozen=True)
class QueryResult:
    """The result of one statement."""

    rows: list[tuple[Any, ...]]
    query_id: str


def is_read_only(sql: str) -> bool:
    """Return whether a statement certainly writes nothing; False if in doubt."""
    bare = _COMMENT.sub(" ", sql).lstrip(" \t\r\n(")
    word = re.match(r"[a-z]+", bare, re.IGNORECASE)
    return bool(word and word[0].lower() in _READS and not _MAY_WRITE.search(sql))


def backoff(longest: float | None = None) -> tenacity.wait.wait_base:
    """Return the strategy for waits before retries: exponential, with a maximum and jitter.

    Args:
        longest: Maximum in seconds; default: `LONGEST_WAIT`.
    """
    import tenacity

    return tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT, max=longest or LONGEST_WAIT, jitter=JITTER)


class _Patience:
    """Two independent budgets for retries: one for outages, one for a full queue.

    A full queue means that Trino is up and has not run the statement. Time that a statement spends QUEUED counts
    towards neither budget.
    """

    def __init__(self, server: TrinoServer, *, attempts: int | None = None) -> None:
        """
        Args:
            server: The coordinator.
            attempts: Maximum attempts in an outage; None: `start_timeout` is the limit.
        """
        self._server, self._attempts = server, attempts
        self.queued = 0.0
        self.outage = self.full = 0.0
        self.tries = self.refusals = 0
        self._mark = time.monotonic()

    def left(self) -> float:
        """Return the seconds that are left for an outage."""
        return self._server.start_timeout - self.outage

    def start(self) -> None:
        """Begin an attempt. The wait since the last one counts towards no budget."""
        self._mark = time.monotonic()

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds to wait before the next attempt."""
        from types import SimpleNamespace

        full = _error(state).failure.queue_full
        self.tries, self.refusals = self.tries + (not full), self.refusals + full
        longest = LONGEST_WAIT_IN_QUEUE if full else LONGEST_WAIT
        return backoff(longest)(SimpleNamespace(attempt_number=self.refusals if full else self.tries))  # type: ignore[arg-type]

    def spent(self, state: tenacity.RetryCallState) -> bool:
        """Count this attempt and the wait that follows. Return whether their budget is used up."""
        now = time.monotonic()
        took = now - self._mark - self.queued + state.upcoming_sleep
        self._mark, self.queued = now + state.upcoming_sleep, 0.0
        if _error(state).failure.queue_full:
            self.full += took
            return self.full >= self._server.queue_timeout
        self.outage += took
        return self.tries >= self._attempts if self._attempts else self.outage >= self._server.start_timeout


def _error(state: tenacity.RetryCallState) -> TrinoError:
    error = state.outcome and state.outcome.exception()
    assert isinstance(error, TrinoError)  # noqa: S101  # nothing else is retried
    return error


class _Progress:
    """Monitors one statement with the statistics that Trino sends with each page.

    Args:
        server: The coordinator.
        log: Called once if the statement waits in a queue.
        running: Time limit in seconds, not including the time in the queue.
    """

    def __init__(self, server: TrinoServer, log: Callable[[str], None], running: float | None = None) -> None:
        self._server, self._log, self._running = server, log, running
        self._began = self._last = time.monotonic()
        self._state, self._reported = "", False
        self.queued = 0.0

    def __call__(self, stats: Mapping[str, Any]) -> None:
        """Handle the statistics of a page.

        Raises:
            TrinoError: The statement has exceeded a time limit.
        """
        now = time.monotonic()
        if self._state == "QUEUED":
            self.queued += now - self._last
        self._last, self._state = now, str(stats.get("state"))
        if self._state in ("FINISHED", "FAILED"):
            return
        waits, query_id, took = self._state == "QUEUED", str(stats.get("queryId")), now - self._began
        whole = self._server.statement_timeout
        if whole is not None and took > whole:
            group = resource_group_of(self._server, query_id) if waits else ""
            raise failed(still_queued(query_id, group, took) if waits else too_slow(query_id, took))
        if waits and self.queued >= REPORT_AFTER and not self._reported:
            self._reported = True
            self._log(waiting_message(query_id, resource_group_of(self._server, query_id)))
        if self._running is not None and not waits and took - self.queued > self._running:
            raise failed(too_slow(query_id, took - self.queued))


def execute(
    server: TrinoServer, sql: str, client_tags: Sequence[str] = (), log: Callable[[str], None] = _LOGGER.warning
) -> QueryResult:
    """Run one statement to its end.

    It is retried if the failure is transient and the statement either only reads or certainly wrote nothing. If the
    server is down, the retry waits until it is back. While the queue of the resource group is full, the statement is
    retried for `queue_timeout` seconds. The time that it spends in the queue is not limited.

    Args:
        server: The coordinator.
        sql: The statement.
        client_tags: Tags of the query in Trino.
        log: Called when the statement waits in a queue, and before each retry.

    Raises:
        TrinoError: The statement failed; the error has the query id. It is a `TrinoUnavailableError` if other
            statements would fail as well.
    """
    import tenacity

    repeatable = is_read_only(sql)
    patience = _Patience(server, attempts=STATEMENT_ATTEMPTS)

    def again(error: BaseException) -> bool:
        return isinstance(error, TrinoError) and may_be_repeated(error.failure, repeatable=repeatable)

    def before(state: tenacity.RetryCallState) -> None:
        error = _error(state)
        if error.failure.queue_full:
            if patience.refusals == 1:
                log(_full_queue(server, error))
            return
        log(f"Trino, attempt {patience.tries} of {STATEMENT_ATTEMPTS}: {error}")
        if isinstance(error, TrinoUnavailableError):
            wait_until_ready(server, log)
            patience.start()

    def once() -> QueryResult:
        progress = _Progress(server, log)
        try:
            return _once(server, sql, client_tags, progress)
        finally:
            patience.queued += progress.queued

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(again),
        stop=patience.spent,
        wait=patience.wait,
        before_sleep=before,
        reraise=True,
    )
    try:
        return tries(once)
    except TrinoError as error:
        if not error.failure.queue_full:
            raise
        raise _stayed_full(server, error, patience.refusals) from None


def may_be_repeated(failure: Failure, *, repeatable: bool) -> bool:
    """Return whether to retry a failed statement; `repeatable` says that running it twice is harmless."""
    return failure.transient and (repeatable or failure.certainly_not_applied)


def wait_until_ready(server: TrinoServer, log: Callable[[str], None] = _LOGGER.warning) -> None:
    """Wait until the coordinator has started and a query on the catalog works.

    The query sets no session property, because a user may not have the privilege to set any. A query that is QUEUED
    shows that Trino is up, so the time in the queue is not limited. While the queue is full, the query is retried for
    `queue_timeout` seconds.

    Args:
        server: The coordinator.
        log: Called once for each reason to wait: an outage, the queue, a full queue.

    Raises:
        TrinoUnavailableError: Trino is not ready within `start_timeout` seconds (the message has the last failure), or
            the queue was full for `queue_timeout` seconds. Raised at once if waiting cannot help, as with wrong
            credentials.
    """
    import tenacity

    patience = _Patience(server)

    def before(state: tenacity.RetryCallState) -> None:
        error = _error(state)
        if error.failure.queue_full:
            if patience.refusals == 1:
                log(_full_queue(server, error))
        elif patience.tries == 1:
            log(f"Trino at {server.address} is not ready; retrying for up to {server.start_timeout:g} s: {error}")

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, TrinoError) and error.failure.transient),
        stop=patience.spent,
        wait=patience.wait,
        before_sleep=before,
        reraise=True,
    )
    try:
        tries(_ask, server, patience, log)
    except TrinoError as error:
        if error.failure.queue_full:
            raise _stayed_full(server, error, patience.refusals) from None
        if not error.failure.transient:
            # The query only checks that the catalog is available, so other statements would fail as well.
            raise TrinoUnavailableError(error.failure, str(error)) from None
        raise TrinoUnavailableError(
            error.failure,
            f"Trino at {server.address} (LAKEHOUSE_TRINO_HOST, LAKEHOUSE_TRINO_PORT) was not ready within "
            f"{server.start_timeout:g} s (LAKEHOUSE_TRINO_START_TIMEOUT); attempts: {patience.tries}; "
            f"last failure: {error}",
        ) from None


def _full_queue(server: TrinoServer, error: TrinoError) -> str:
    return (
        f"Trino at {server.address} is up, but the queue is full; retrying for {server.queue_timeout:g} s "
        f"(LAKEHOUSE_TRINO_QUEUE_TIMEOUT): {error}"
    )


def _stayed_full(server: TrinoServer, error: TrinoError, refusals: int) -> TrinoUnavailableError:
    return TrinoUnavailableError(
        error.failure,
        f"Trino at {server.address} refused {refusals} statements within {server.queue_timeout:g} s "
        f"(LAKEHOUSE_TRINO_QUEUE_TIMEOUT), because the queue is full: {error}",
    )


def _ask(server: TrinoServer, patience: _Patience, log: Callable[[str], None]) -> None:
    left = max(patience.left(), 1.0)
    timeout = min(server.request_timeout, left)
    with closing(http_session(server)) as session:
        _refuse_starting(server, session, timeout)
    # The catalog's database may be down while Trino is up, and there may be no worker. This query needs both.
    progress = _Progress(server, log, running=left)
    try:
        quick = server.model_copy(update={"request_timeout": timeout})
        _once(quick, f"show schemas from {identifier(server.catalog)}", (), progress)
    except TrinoError as error:
        if error.failure.name != "EXCEEDED_TIME_LIMIT":
            raise
        raise failed(replace(error.failure, kind=Kind.TRANSIENT, advice=FULL, of_server=True)) from None
    finally:
        patience.queued += progress.queued


def _refuse_starting(server: TrinoServer, session: requests.Session, timeout: float) -> None:
    import requests

    try:
        info = server_info(server, session, timeout)
    except requests.RequestException as error:
        raise failed(classify(RuntimeError(f"failed to execute: {error}"))) from None
    if info.is_unavailable:
        raise failed(classify(RuntimeError(f"error {info.status}: {info.phrase}")))
    if info.starting:
        raise failed(starting())


def _once(
    server: TrinoServer, sql: str, client_tags: Sequence[str], progress: Callable[[dict[str, Any]], None]
) -> QueryResult:
    with closing(connect(server, client_tags)) as connection:
        cursor = connection.cursor(stats_callback=progress)
        try:
            cursor.execute(sql)
            rows = [tuple(row) for row in cursor.fetchall()]
        except BaseException as error:
            # Also when a person stops the run: no client would fetch the result that Trino goes on to compute.
            _cancel(cursor)
            if not isinstance(error, Exception):
                raise
            raise failed(_classified(error, cursor.query_id)) from error
        return QueryResult(rows, str(cursor.query_id))


def _classified(error: Exception, query_id: str | None) -> Failure:
    if not isinstance(error, TrinoError):
        return classify(error, query_id)
    # The HTTP session knows neither the query nor whether it runs.
    unapplied = error.failure.certainly_not_applied and query_id is None
    return replace(error.failure, query_id=query_id, certainly_not_applied=unapplied)


def connect(server: TrinoServer, client_tags: Sequence[str] = ()) -> trino.dbapi.Connection:
    """Return a connection with the server's settings. The caller closes it.

    Raises:
        TrinoUnavailableError: The password or token is not set, or the token expires too early.
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
        cursor.cancel()
    except Exception as error:
        _LOGGER.warning("Trino: query %s could not be canceled and may still be running: %s", cursor.query_id, error)
