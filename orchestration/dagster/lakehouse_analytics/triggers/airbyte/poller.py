"""Reports every job that ends exactly once, by passes over the list of jobs in the order of their last change.

Why this is correct: A job that ends moves to the end of that order, which the pass has not reached yet. Each page
starts at the second in which the previous page ended, not at a position in the list, because rows before a position
move away while the list is read. Positions are used only within one second and among jobs without an end, and are
verified. A job that becomes visible late, or with an earlier time than its neighbors, is found by the next pass, which
starts an overlap before the latest end that was known when this pass began. Connection, id, status and end identify a
job that was reported already: a job that is retried under its id ends again, and a reinstalled server starts with the
same ids again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lakehouse_analytics.triggers.airbyte.cursor import Cursor, Position
from lakehouse_analytics.triggers.airbyte.errors import AirbyteError
from lakehouse_analytics.triggers.airbyte.job_identity import JobEnd, job_end
from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Jobs per page; the maximum of the API.
PAGE = 100
#: Maximum consecutive pages with the same rows as the previous page, but from another position in the same order. Rows
#: that move while the list is read can cause one such page; a server that ignores `offset` returns nothing else.
MAX_REPEATS = 2


@dataclass(frozen=True)
class Page:
    """A page of the list of jobs.

    Attributes:
        jobs: Jobs in the order of their last change, oldest first.
        size: Number of rows, including those that are not jobs.
        first, last: Ids of the first and the last row; None if that row is not a job.
        more: Whether Airbyte says that there are more rows.
        problems: Messages about rows that are not jobs.
        now: The server's clock; None if the response has no date.
    """

    jobs: Sequence[Job]
    size: int
    first: int | None = None
    last: int | None = None
    more: bool = False
    problems: Sequence[str] = ()
    now: datetime | None = None


#: Requests the jobs that changed at a time or later, starting at a position in their order. `poll` reports its
#: exceptions.
FetchPage = Callable[[datetime, int], Page]


@dataclass
class PollResult:
    """The result of a poll.

    Attributes:
        cursor: The cursor for the next poll, to be stored once the jobs are processed.
        jobs: Jobs that ended and were not reported before, in Airbyte's order.
        requests: Number of pages that were requested.
        finished: Whether the pass reached the end of the list; otherwise the next poll continues it.
        error: The error that ended the poll. Jobs found before it are valid.
        problems: Messages about rows that are not jobs.
        now: The server's clock at the last response; None if the response has no date.
    """

    cursor: Cursor
    jobs: list[Job] = field(default_factory=list)
    requests: int = 0
    finished: bool = False
    error: Exception | None = None
    problems: list[str] = field(default_factory=list)
    now: datetime | None = None


def poll(
    fetch: FetchPage,
    cursor: Cursor,
    *,
    overlap: timedelta,
    max_requests: int = 20,
    max_jobs: int = 500,
    out_of_time: Callable[[], bool] = lambda: False,
) -> PollResult:
    """Continue the pass over the jobs, or start one.

    Args:
        fetch: Requests a page.
        cursor: The cursor of the previous poll.
        overlap: How late a job may become visible, and how far jobs may be out of order.
        max_requests, max_jobs: Limits after which the next poll continues.
        out_of_time: Called before each request but the first; True ends the poll.
    """
    result = PollResult(cursor)
    poller = _Pass(cursor, result)
    while result.requests < max_requests and len(result.jobs) < max_jobs:
        if result.requests and out_of_time():
            break
        try:
            result.requests += 1
            page = fetch(poller.position.since, poller.position.offset)
        except Exception as error:
            result.error = error
            if result.requests == 1:
                return result
            break
        if not poller.read(page):
            break
    result.cursor = poller.next_cursor(overlap)
    return result


class _Pass:
    """The part of a pass that one poll reads."""

    def __init__(self, cursor: Cursor, result: PollResult) -> None:
        self._cursor, self._result = cursor, result
        self._seen, self._watermark = dict(cursor.seen), cursor.watermark
        self._listed: set[JobEnd] = set()
        self.position = cursor.position or Position(cursor.floor, 0, None, cursor.watermark)
        self._before, self._repeats = (self.position, Page([], 0)), 0

    def read(self, page: Page) -> bool:
        """Process the jobs of a page. Return whether there is another page to read."""
        result, position = self._result, self.position
        result.now = page.now or result.now
        self._repeats = self._repeats + 1 if _repeats(self._before, (position, page)) else 0
        self._before = position, page
        if self._repeats == MAX_REPEATS:
            result.error = AirbyteError(_offset_ignored(position, page))
            return False
        if position.anchor is not None and page.first != position.anchor:
            # Rows before this position have moved away, and the rows that took their positions were not read.
            self.position = replace(position, offset=max(0, position.offset - PAGE + 1), anchor=None)
            return True
        result.problems += page.problems
        for job in page.jobs:
            if job.has_ended:
                self._process(job, page.now)
        result.finished = page.size < PAGE and not page.more
        if not result.finished:
            self.position = _next(position, page)
        return not result.finished

    def _process(self, job: Job, now: datetime | None) -> None:
        end, until = job_end(job), job.ended or self.position.since
        self._listed.add(end)
        if not _is_seen(end, self._seen):
            self._result.jobs.append(job)
        self._seen[end] = max(until, self._seen.get(end, until))
        # The end may be in the future if the clock was wrong. As the watermark, it would hide the jobs that end before
        # it.
        self._watermark = max(self._watermark, min(until, now) if now else until)

    def next_cursor(self, overlap: timedelta) -> Cursor:
        """Return the cursor after the pages that were read."""
        finished, floor, seen = self._result.finished, self._cursor.floor, self._seen
        if finished:
            floor = max(floor, self.position.began - overlap)
            # A job without an end is kept as long as Airbyte lists it, so that it is not reported again.
            seen = {
                end: until for end, until in seen.items() if until >= floor or (end.at is None and end in self._listed)
            }
        position = None if finished else self.position
        return replace(self._cursor, floor=floor, watermark=self._watermark, seen=seen, position=position)


def _offset_ignored(position: Position, page: Page) -> str:
    return (
        f"Airbyte ignores `offset`: its list of jobs changed since {position.since:%Y-%m-%d %H:%M:%S} UTC has the same "
        f"{page.size} jobs (the first is {page.first}) for every offset, although more jobs have that time. Expected: "
        "`GET /jobs?offset=N` skips the first N. The jobs after them cannot be read until the server, or the proxy in "
        "front of it, forwards `offset`. No job is lost: the sensor waits at this point."
    )


def _repeats(before: tuple[Position, Page], now: tuple[Position, Page]) -> bool:
    """Return whether two different positions of the same order have the same rows."""
    (position, page), (other, same) = before, now
    return (
        position.since == other.since
        and position.offset != other.offset
        and page.size > 0
        and (page.size, page.first, page.last) == (same.size, same.first, same.last)
        and [job.id for job in page.jobs] == [job.id for job in same.jobs]
    )


def _is_seen(end: JobEnd, seen: Mapping[JobEnd, datetime]) -> bool:
    if end in seen:
        return True
    # Version 1 of the cursor stores a job by its second or, without an end, by the second of the request.
    if end.at:
        return JobEnd(end.id, "", end.at) in seen
    return any(known.id == end.id and not known.tag for known in seen)


def _next(position: Position, page: Page) -> Position:
    ends = [job.ended for job in page.jobs if job.has_ended and job.ended]
    if ends and ends[-1] > position.since:
        return replace(position, since=ends[-1], offset=0, anchor=None)
    if page.size > 1 and page.last is not None:
        return replace(position, offset=position.offset + page.size - 1, anchor=page.last)
    return replace(position, offset=position.offset + page.size, anchor=None)
