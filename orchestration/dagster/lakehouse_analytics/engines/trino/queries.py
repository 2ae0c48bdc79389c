"""Trino's information about queries, over HTTP: a statement would itself wait in the queue of a resource group.

The resources below `/v1/query` require no privileges for a user's own queries. A gateway may hide them, so callers
work without them, too. This module does not import Dagster.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.engines.trino.errors import classify
from lakehouse_analytics.engines.trino.session import TrinoServer, failed, http_session

if TYPE_CHECKING:
    import requests

#: Seconds after which the log reports a queued query, and seconds between two polls for the queries of a run.
REPORT_AFTER, POLL_INTERVAL = 2.0, 5.0
#: Seconds between two messages about the same queue: the first interval, doubled each time.
REMIND_AFTER = 60.0
_ENDED = frozenset({"FINISHED", "FAILED"})
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h|d)\s*")


@dataclass(frozen=True)
class Query:
    """A query that Trino has in its history.

    Attributes:
        id: Trino's id of the query.
        state: `QUEUED`, `RUNNING`, `FINISHED`, `FAILED`, …
        resource_group: Full name of the resource group, such as `global.etl`; empty if Trino does not report it.
        queued: The time that the query has spent in the queue so far.
        source: The name that the client gives itself.
        client_tags: The client's tags of the query.
        text: The SQL, which Trino may truncate.
    """

    id: str
    state: str
    resource_group: str
    queued: timedelta
    source: str
    client_tags: frozenset[str]
    text: str

    def belongs_to(self, run_id: str) -> bool:
        """Return whether the query belongs to a Dagster run, by its tag or the comment that dbt adds to statements."""
        return f"run:{run_id}" in self.client_tags or run_id in self.text

    @property
    def ended(self) -> bool:
        """Whether the query has finished or failed."""
        return self.state in _ENDED


def parse_duration(text: str) -> timedelta:
    """Parse a duration in Trino's format, such as `7.00d` or `54.31ms`.

    Raises:
        ValueError: The text is not a duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration of Trino, such as 7.00d")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def list_queries(server: TrinoServer, state: str | None = None) -> list[Query]:
    """Return the queries that the user may see, oldest first. The user's own queries are among them.

    Args:
        server: The coordinator.
        state: Only queries in this state.

    Raises:
        TrinoError: The coordinator does not respond, or a gateway hides the list.
    """
    items = _json(_request(server, "GET", f"/v1/query{f'?state={state}' if state else ''}"))
    if not isinstance(items, list):
        raise failed(classify(RuntimeError("error 404: /v1/query is not a list of queries")))
    return sorted((_query(item) for item in items if isinstance(item, dict)), key=lambda query: query.id)


def resource_group_of(server: TrinoServer, query_id: str) -> str:
    """Return the full name of a query's resource group; empty if it is unknown. Never raises."""
    try:
        item = _json(_request(server, "GET", f"/v1/query/{query_id}"))
    except Exception:  # messages are complete without the name
        return ""
    return _group(item) if isinstance(item, dict) else ""


def kill_query(server: TrinoServer, query_id: str, reason: str) -> None:
    """Kill a query, which then fails with ADMINISTRATIVELY_KILLED. Do nothing if it has ended already.

    Raises:
        TrinoError: The coordinator does not respond or refuses, or a gateway hides the query.
    """
    _request(server, "PUT", f"/v1/query/{query_id}/killed", data=reason)


@contextmanager
def queue_reported(server: TrinoServer, run_id: str, log: Callable[[str], None]) -> Iterator[None]:
    """Log while the block runs that queries are waiting in the queue of a resource group.

    Args:
        server: The coordinator.
        run_id: The Dagster run of the queries.
        log: Called from another thread, once for each new set of resource groups and then at growing intervals.
    """
    done = threading.Event()

    def watch() -> None:
        reported: frozenset[str] = frozenset()
        silent, interval = 0.0, REMIND_AFTER
        while not done.wait(POLL_INTERVAL):
            waiting: list[Query] = []
            with suppress(Exception):  # the statements themselves report an outage
                waiting = [query for query in list_queries(server, "QUEUED") if query.belongs_to(run_id)]
            waiting = [query for query in waiting if query.queued.total_seconds() >= REPORT_AFTER]
            groups = frozenset(query.resource_group for query in waiting)
            silent += POLL_INTERVAL
            if groups and (groups - reported or silent >= interval):
                interval = REMIND_AFTER if groups - reported else interval * 2
                reported, silent = reported | groups, 0.0
                log(_waiting(waiting))

    thread = threading.Thread(target=watch, name="trino-queue", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1)  # a stopped run does not wait for a server that does not respond


def waiting_message(query_id: str, group: str) -> str:
    """Return the log message for a statement that is waiting in a queue."""
    return f"Trino: query {query_id} is waiting in {_named(group)}"


def _waiting(queries: list[Query]) -> str:
    groups = sorted({query.resource_group for query in queries})
    longest = max(query.queued for query in queries).total_seconds()
    return (
        f"Trino: {counted(len(queries), 'query')} of this run "
        f"{'is' if len(queries) == 1 else 'are'} waiting in {' and '.join(map(_named, groups))}, "
        f"for up to {longest:.0f} s so far"
    )


def _named(group: str) -> str:
    return f"resource group {group}" if group else "the queue of a resource group"


def _query(item: Mapping[str, Any]) -> Query:
    session = item.get("session") or {}
    stats = item.get("queryStats") or {}
    try:
        queued = parse_duration(str(stats.get("queuedTime")))
    except ValueError:
        queued = timedelta(0)
    return Query(
        id=str(item.get("queryId")),
        state=str(item.get("state")),
        resource_group=_group(item),
        queued=queued,
        source=str(session.get("source") or ""),
        client_tags=frozenset(map(str, session.get("clientTags") or ())),
        text=str(item.get("query") or ""),
    )


def _group(item: Mapping[str, Any]) -> str:
    return ".".join(map(str, item.get("resourceGroupId") or ()))


def _request(server: TrinoServer, method: str, path: str, data: str | None = None) -> requests.Response:
    import requests

    authentication = server.authentication()
    with closing(http_session(server)) as session:
        if authentication:
            authentication.set_http_session(session)
        try:
            response = session.request(
                method,
                f"{server.address}{path}",
                headers={"X-Trino-User": server.user},
                data=data,
                timeout=server.request_timeout,
            )
        except requests.RequestException as error:
            raise failed(classify(RuntimeError(f"failed to execute: {error}"))) from None
    # 409 and 410 mean that the query has ended, or that Trino has forgotten it.
    if not response.ok and response.status_code not in (409, 410):
        raise failed(classify(RuntimeError(f"error {response.status_code}: {response.reason}")))
    return response


def _json(response: requests.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
