"""The requests to Airbyte's public API that this project sends.

The official SDK (`airbyte-api`) sends those that change something, which start or cancel a sync; see sdk.py. Lists and
single jobs are requested and parsed here, because in the SDK one unknown enum value fails the whole response
(`ResponseValidationError`). A new status, job type or schedule type of a newer Airbyte would then stop the sensor for
all connections, and a run that waits for a job. Also, importing the SDK takes longer than a quiet sensor tick.

Tests validate requests and responses against Airbyte's OpenAPI document, and read the same test server with the SDK.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.network import http_date
from lakehouse_analytics.triggers.airbyte.connections import Connection, parse_connection
from lakehouse_analytics.triggers.airbyte.errors import AirbyteError
from lakehouse_analytics.triggers.airbyte.http import JsonClient
from lakehouse_analytics.triggers.airbyte.jobs import InvalidJobError, Job, parse_job
from lakehouse_analytics.triggers.airbyte.poller import PAGE, Page
from lakehouse_analytics.triggers.airbyte.server import AirbyteServer

if TYPE_CHECKING:
    from airbyte_api import AirbyteAPI

__all__ = ["Airbyte", "AirbyteError", "AirbyteServer"]


class Airbyte:
    """Client of one Airbyte server. May be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._http = JsonClient(server, clock)

    @property
    def requests(self) -> int:
        """Number of HTTP requests sent, including those for tokens."""
        return self._http.requests

    @cached_property
    def sdk(self) -> AirbyteAPI:
        """The official SDK, with this client's authentication, retries, timeout and error messages.

        It is imported on first use, which takes some tenths of a second.
        """
        from lakehouse_analytics.triggers.airbyte.sdk import sdk_client

        return sdk_client(self._http)

    def changed_jobs(self, since: datetime, offset: int, *, deadline: float | None = None) -> Page:
        """Return a page of the jobs that changed at a time or later, in the order of their last change.

        Args:
            since: The time, with a time zone.
            offset: Position of the page's first job in that order.
            deadline: Reading of the clock after which no attempt starts and no response is awaited.

        Raises:
            AirbyteError: There is no valid response.
        """
        return self._jobs(
            {"updatedAtStart": _format_time(since), "orderBy": "updatedAt|ASC", "offset": offset}, deadline=deadline
        )

    def jobs_of(self, connection: str, limit: int = 20, *, deadline: float | None = None) -> Sequence[Job]:
        """Return the newest jobs of a connection, newest first."""
        query = {"connectionId": connection, "orderBy": "createdAt|DESC", "limit": limit}
        return self._jobs(query, deadline=deadline).jobs

    def running_jobs(self, *, deadline: float | None = None) -> Sequence[Job]:
        """Return the running jobs, oldest first, at most one page."""
        return self._jobs({"status": "running", "orderBy": "createdAt|ASC"}, deadline=deadline).jobs

    def job(self, job_id: int) -> Job:
        """Return a job."""
        return self._job(self._http.get(f"/jobs/{job_id}").body)

    def start_sync(self, connection: str) -> Job:
        """Start a sync. The request is not repeated if its outcome is unknown.

        Raises:
            AirbyteError: The request failed. The status is 409 if a job of the connection is running already.
        """
        from lakehouse_analytics.triggers.airbyte.sdk import start_sync

        return self._job(start_sync(self.sdk, connection))

    def cancel(self, job_id: int) -> Job:
        """Cancel a job."""
        from lakehouse_analytics.triggers.airbyte.sdk import cancel_job

        return self._job(cancel_job(self.sdk, job_id))

    def connections(self, *, deadline: float | None = None) -> list[Connection]:
        """Return all connections of the workspaces.

        Raises:
            AirbyteError: There is no valid response.
        """
        found: dict[str, Connection] = {}
        before: list[Any] = []
        offset = 0
        while True:
            query = self._with_workspaces({"limit": PAGE, "offset": offset})
            body = self._http.get("/connections", query, deadline=deadline).body
            rows = self._data(body, "/connections")
            for connection in filter(None, map(parse_connection, rows)):
                found.setdefault(connection.id, connection)
            if (len(rows) < PAGE and not body.get("next")) or not rows:
                return [*found.values()]
            if rows == before:
                if len(rows) < PAGE:
                    return [*found.values()]  # all of them, although the response has a link to a next page
                raise AirbyteError(
                    f"{self.server.url_of('/connections')} ignores `offset`: it lists the same {len(rows)} connections "
                    "for every offset, so further connections cannot be read. Expected: `offset=N` skips the first N. "
                    "Check that the server, or the proxy in front of it, forwards `offset`."
                )
            # Pages overlap by one row, so that a connection deleted meanwhile does not hide another.
            offset, before = offset + max(1, len(rows) - 1), rows

    def now(self, *, deadline: float | None = None) -> datetime:
        """Return the time of Airbyte's clock, or of ours if the response has no date."""
        headers = self._http.get("/jobs", self._with_workspaces({"limit": 1}), deadline=deadline).headers
        return http_date(headers.get("Date")) or datetime.now(UTC)

    def _jobs(self, query: Mapping[str, Any], *, deadline: float | None) -> Page:
        query = self._with_workspaces({"limit": PAGE, **query})
        response = self._http.get("/jobs", query, deadline=deadline)
        rows = self._data(response.body, "/jobs")
        jobs: list[Job | None] = []
        problems = []
        for row in rows:
            try:
                jobs.append(parse_job(row))
            except InvalidJobError as error:
                jobs.append(None)
                problems.append(f"Airbyte listed {error}, which is skipped.")
        ids = [job.id if job else None for job in jobs]
        return Page(
            jobs=[job for job in jobs if job],
            size=len(rows),
            first=ids[0] if ids else None,
            last=ids[-1] if ids else None,
            more=bool(response.body.get("next")),
            problems=problems,
            now=http_date(response.headers.get("Date")),
        )

    def _job(self, body: Mapping[str, Any]) -> Job:
        try:
            return parse_job(body)
        except InvalidJobError as error:
            message = f"Airbyte at {self.server.url} answered with {error}{self._http.quoted(body)}."
            raise AirbyteError(message) from None

    def _with_workspaces(self, query: dict[str, Any]) -> dict[str, Any]:
        return {**query, "workspaceIds": list(self.server.workspaces)} if self.server.workspaces else query

    def _data(self, body: Mapping[str, Any], path: str) -> list[Any]:
        rows = body.get("data")
        if not isinstance(rows, list):
            url, quoted = self.server.url_of(path), self._http.quoted(body)
            raise AirbyteError(f"{url} answered without a list of {path[1:]}{quoted}.")
        return rows


def _format_time(moment: datetime) -> str:
    # Airbyte interprets a time without an offset in its own time zone.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
