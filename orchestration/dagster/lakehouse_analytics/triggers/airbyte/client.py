"""Airbyte's public API: what this project asks of it.

Not the official SDK: one unknown value of an enumeration makes it refuse a whole page of jobs, it has no time limit of
its own, and it asks for a token at an address that drops the server's base path. The requests and answers here are
held against the official OpenAPI document by tests, and the SDK reads the same test server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lakehouse_analytics.triggers.airbyte.connections import Connection, connection_of
from lakehouse_analytics.triggers.airbyte.http import AirbyteError, AirbyteServer, Http, date_of
from lakehouse_analytics.triggers.airbyte.jobs import Job, NotAJobError, job_of
from lakehouse_analytics.triggers.airbyte.poller import PAGE, Page

__all__ = ["Airbyte", "AirbyteError", "AirbyteServer"]


class Airbyte:
    """Asks one server; may be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._http = Http(server, clock)

    @property
    def requests(self) -> int:
        """HTTP requests that were sent, tokens included."""
        return self._http.requests

    def changed_jobs(self, since: datetime, offset: int, *, deadline: float | None = None) -> Page:
        """Jobs that were changed at an instant or later, in that order; a page of them from a place on.

        Args:
            since: With a zone.
            offset: Place in the order.
            deadline: No try begins, and no answer is waited for, after this reading of the clock.

        Raises:
            AirbyteError: there is no such answer.
        """
        return self._jobs(
            {"updatedAtStart": _written(since), "orderBy": "updatedAt|ASC", "offset": offset}, deadline=deadline
        )

    def jobs_of(self, connection: str, limit: int = 20, *, deadline: float | None = None) -> Sequence[Job]:
        """The newest jobs of a connection, the newest first."""
        query = {"connectionId": connection, "orderBy": "createdAt|DESC", "limit": limit}
        return self._jobs(query, deadline=deadline).jobs

    def running_jobs(self, *, deadline: float | None = None) -> Sequence[Job]:
        """Running jobs, the oldest first: at most a page of them."""
        return self._jobs({"status": "running", "orderBy": "createdAt|ASC"}, deadline=deadline).jobs

    def job(self, job_id: int) -> Job:
        """One job."""
        return self._job(self._http.request("GET", f"/jobs/{job_id}"))

    def start_sync(self, connection: str) -> Job:
        """Start a sync. Not repeated when its outcome is unknown.

        Raises:
            AirbyteError: with status 409 where one is running already.
        """
        return self._job(self._http.request("POST", "/jobs", body={"connectionId": connection, "jobType": "sync"}))

    def cancel(self, job_id: int) -> Job:
        """Cancel a job."""
        return self._job(self._http.request("DELETE", f"/jobs/{job_id}"))

    def connections(self, *, deadline: float | None = None) -> list[Connection]:
        """Every connection of the workspaces.

        Raises:
            AirbyteError: there is no such answer.
        """
        found: dict[str, Connection] = {}
        before: list[Any] = []
        offset = 0
        while True:
            query = self._workspaces({"limit": PAGE, "offset": offset})
            body, _ = self._http.request("GET", "/connections", query, deadline=deadline)
            rows = self._data(body, "/connections")
            for connection in filter(None, map(connection_of, rows)):
                found.setdefault(connection.id, connection)
            if (len(rows) < PAGE and not body.get("next")) or not rows:
                return [*found.values()]
            if rows == before:
                if len(rows) < PAGE:
                    return [*found.values()]  # all of them; that there are more is not true
                raise AirbyteError(
                    f"{self._http.address('/connections')} ignores `offset`: it lists the same {len(rows)} connections "
                    "whatever the offset, so that further ones cannot be read. Expected: `offset=N` leaves out the "
                    "first N. See that the server, or the proxy before it, passes `offset` on."
                )
            # One row twice, so that rows that move away while this reads take none with them.
            offset, before = offset + max(1, len(rows) - 1), rows

    def now(self, *, deadline: float | None = None) -> datetime:
        """What Airbyte's clock says; ours where it does not."""
        _, headers = self._http.request("GET", "/jobs", self._workspaces({"limit": 1}), deadline=deadline)
        return date_of(headers.get("Date")) or datetime.now(UTC)

    def _jobs(self, query: Mapping[str, Any], *, deadline: float | None) -> Page:
        query = self._workspaces({"limit": PAGE, **query})
        body, headers = self._http.request("GET", "/jobs", query, deadline=deadline)
        rows = self._data(body, "/jobs")
        jobs: list[Job | None] = []
        problems = []
        for row in rows:
            try:
                jobs.append(job_of(row))
            except NotAJobError as error:
                jobs.append(None)
                problems.append(f"Airbyte listed {error}; it is left out.")
        ids = [job.id if job else None for job in jobs]
        return Page(
            jobs=[job for job in jobs if job],
            size=len(rows),
            first=ids[0] if ids else None,
            last=ids[-1] if ids else None,
            more=bool(body.get("next")),
            problems=problems,
            now=date_of(headers.get("Date")),
        )

    def _job(self, answer: tuple[dict[str, Any], Mapping[str, str]]) -> Job:
        try:
            return job_of(answer[0])
        except NotAJobError as error:
            message = f"Airbyte at {self.server.url} answered with {error}{self._http.said(answer[0])}."
            raise AirbyteError(message) from None

    def _workspaces(self, query: dict[str, Any]) -> dict[str, Any]:
        return {**query, "workspaceIds": list(self.server.workspaces)} if self.server.workspaces else query

    def _data(self, body: Mapping[str, Any], path: str) -> list[Any]:
        rows = body.get("data")
        if not isinstance(rows, list):
            raise AirbyteError(
                f"{self._http.address(path)} answered without a list of {path[1:]}{self._http.said(body)}."
            )
        return rows


def _written(moment: datetime) -> str:
    # The server takes one without an offset for its own zone.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
