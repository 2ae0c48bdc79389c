"""Every job that ends, reported once: passes over the list of jobs in the order of their last change.

Why it is correct. A job that ends moves to the end of that order, where the pass has not been. Each page begins at the
second in which the one before ended, not at a place in the list, because rows before it move away while it is read;
only within one second, and among jobs without an end, places are counted, and checked. A job that becomes visible late,
or with an earlier time than its neighbours, is found by the next pass, which begins an overlap before the end that was
known when this one began. Connection, id, status and end tell a job that was reported already: a job that is tried
again under its id ends again, and the ids of a server that is installed again begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lakehouse_analytics.triggers.airbyte.cursor import Cursor, Place
from lakehouse_analytics.triggers.airbyte.http import AirbyteError
from lakehouse_analytics.triggers.airbyte.identity import Ended, ended
from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Jobs of one page; the API's largest.
PAGE = 100
#: Answers in a row that hold the same rows as the one before, from another place in the same order. Rows that move
#: while they are read can cause one; a server that ignores `offset` gives nothing else.
REPEATS = 2


@dataclass(frozen=True)
class Page:
    """One answer.

    Attributes:
        jobs: In the order of their last change, the oldest first.
        size: Rows in the answer, those that are no jobs included.
        first, last: Ids of the first and the last row; None where that is no job.
        more: Airbyte says that there are more.
        problems: Rows that are no jobs, in words.
        now: The server's clock; None where it does not tell.
    """

    jobs: Sequence[Job]
    size: int
    first: int | None = None
    last: int | None = None
    more: bool = False
    problems: Sequence[str] = ()
    now: datetime | None = None


#: Jobs changed at an instant or later, from a place in their order on. Raises what a caller of `poll` gets back.
Ask = Callable[[datetime, int], Page]


@dataclass
class Poll:
    """What one tick saw.

    Attributes:
        jobs: Ended and not told before, in the order in which Airbyte lists them.
        cursor: For the next tick, if these were taken.
        finished: The pass came to its end; otherwise the next tick goes on.
        error: What stopped it; what came before it counts.
        problems: Rows that are no jobs, in words.
        now: The server's clock at the last answer; None where it does not tell.
    """

    cursor: Cursor
    jobs: list[Job] = field(default_factory=list)
    requests: int = 0
    finished: bool = False
    error: Exception | None = None
    problems: list[str] = field(default_factory=list)
    now: datetime | None = None


def poll(
    ask: Ask,
    cursor: Cursor,
    *,
    overlap: timedelta,
    most_requests: int = 20,
    most_jobs: int = 500,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Poll:
    """Go on with the pass over the jobs, or begin one.

    Args:
        ask: Asks Airbyte.
        cursor: Of the tick before.
        overlap: A job may become visible so late, and jobs may be so far out of order.
        most_requests, most_jobs: After so many, the rest is the next tick's.
        out_of_time: Asked before each request but the first.
    """
    found = Poll(cursor)
    seen, watermark = dict(cursor.seen), cursor.watermark
    listed: set[Ended] = set()
    place = cursor.place or Place(cursor.floor, 0, None, cursor.watermark)
    before, repeats = (place, Page([], 0)), 0
    while found.requests < most_requests and len(found.jobs) < most_jobs:
        if found.requests and out_of_time():
            break
        try:
            found.requests += 1
            page = ask(place.since, place.offset)
        except Exception as error:
            found.error = error
            if found.requests == 1:
                return found
            break
        found.now = page.now or found.now
        repeats = repeats + 1 if _repeats(before, (place, page)) else 0
        before = place, page
        if repeats == REPEATS:
            found.error = AirbyteError(
                f"Airbyte ignores `offset`: its list of jobs changed since {place.since:%Y-%m-%d %H:%M:%S} UTC has the "
                f"same {page.size} jobs (the first is {page.first}) whatever the offset, although more than these "
                "have that time. Expected: `GET /jobs?offset=N` leaves out the first N. Jobs behind them cannot be "
                "read until the server, or the proxy before it, passes `offset` on; none is lost, because the sensor "
                "waits there."
            )
            break
        if place.anchor is not None and page.first != place.anchor:
            # Rows before this place have moved away: those that took their places were not read.
            place = replace(place, offset=max(0, place.offset - PAGE + 1), anchor=None)
            continue
        found.problems += page.problems
        for job in page.jobs:
            if not job.has_ended:
                continue
            end, until = ended(job), job.ended or place.since
            listed.add(end)
            if not _is_seen(end, seen):
                found.jobs.append(job)
            seen[end] = max(until, seen.get(end, until))
            # An end in the future, by a clock that was wrong, would hide what ends before it.
            watermark = max(watermark, min(until, page.now) if page.now else until)
        if page.size < PAGE and not page.more:
            found.finished = True
            break
        place = _next(place, page)
    floor = cursor.floor
    if found.finished:
        floor = max(floor, place.began - overlap)
        # A job without an end is remembered as long as Airbyte lists it, so that it is not reported again.
        seen = {end: until for end, until in seen.items() if until >= floor or (end.at is None and end in listed)}
    found.cursor = replace(cursor, floor=floor, watermark=watermark, seen=seen, place=None if found.finished else place)
    return found


def _repeats(before: tuple[Place, Page], now: tuple[Place, Page]) -> bool:
    """Whether two places of one order have the same rows."""
    (place, page), (other, same) = before, now
    return (
        place.since == other.since
        and place.offset != other.offset
        and page.size > 0
        and (page.size, page.first, page.last) == (same.size, same.first, same.last)
        and [job.id for job in page.jobs] == [job.id for job in same.jobs]
    )


def _is_seen(end: Ended, seen: Mapping[Ended, datetime]) -> bool:
    if end in seen:
        return True
    # As version 1 of the cursor wrote it: by its second; of a job without an end, by the second of the request.
    if end.at:
        return Ended(end.id, "", end.at) in seen
    return any(known.id == end.id and not known.tag for known in seen)


def _next(place: Place, page: Page) -> Place:
    ends = [job.ended for job in page.jobs if job.has_ended and job.ended]
    if ends and ends[-1] > place.since:
        return replace(place, since=ends[-1], offset=0, anchor=None)
    if page.size > 1 and page.last is not None:
        return replace(place, offset=place.offset + page.size - 1, anchor=page.last)
    return replace(place, offset=place.offset + page.size, anchor=None)
