"""The feed against a list of jobs that is as unruly as a busy Airbyte's, for thousands of histories."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lakehouse_analytics.triggers.airbyte import poller as feed
from lakehouse_analytics.triggers.airbyte.cursor import Cursor
from lakehouse_analytics.triggers.airbyte.jobs import Job
from lakehouse_analytics.triggers.airbyte.poller import Page, poll

from .versions import as_version_1

BEGIN = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
OVERLAP = timedelta(seconds=30)
SMALL_PAGE = 4
#: Histories of one run; thousands take minutes.
HISTORIES = int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "300"))


@dataclass
class Row:
    """A job in Airbyte's database."""

    id: int
    status: str
    updated: datetime
    visible: datetime
    connection: str = "c"


class Airbyte:
    """The list of jobs, and a clock."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.rows: dict[int, Row] = {}
        self.between: list[tuple[int, str]] = []  # what happens between two requests of one tick
        self.next_id = 100

    def start(self, status: str = "running") -> int:
        self.next_id += 1
        # Two connections, so that ids say nothing of them.
        self.rows[self.next_id] = Row(self.next_id, status, self.now, self.now, f"c{self.next_id % 2}")
        return self.next_id

    def try_again(self, job_id: int) -> None:
        """A job that failed runs again, under its id."""
        self.rows[job_id] = replace(self.rows[job_id], status="running", updated=self.now, visible=self.now)

    def install_again(self) -> None:
        """Another database behind the same address: ids begin again, connections have their old ids or new ones."""
        self.rows, self.next_id = {}, 100 - self.next_id % 2

    def end(self, job_id: int, status: str, early: timedelta = timedelta(0), late: timedelta = timedelta(0)) -> None:
        """`early`: it is stamped with a time so long past; `late`: it can be seen so much later."""
        row = self.rows[job_id]
        self.rows[job_id] = Row(job_id, status, self.now - early, self.now + late, row.connection)

    def running(self) -> list[int]:
        return [row.id for row in self.rows.values() if row.status == "running"]

    def failed(self) -> list[int]:
        return [row.id for row in self.rows.values() if row.status == "failed" and row.visible <= self.now]

    def ends(self) -> set[End]:
        return {end_of(parse_job(row)) for row in self.rows.values() if row.status != "running"}

    def ask(self, since: datetime, offset: int) -> Page:
        if self.between:
            after, what = self.between.pop(0)
            self.now += timedelta(seconds=after)
            if what == "fail":
                raise ConnectionError("down")
            running = self.running()
            if what == "end" and running:
                for job_id in running[:3]:
                    self.end(job_id, "succeeded")
            elif what == "start":
                self.start()
        # A row whose change cannot be seen yet is left out: before, it was elsewhere in the order anyway.
        rows = [row for row in self.rows.values() if row.visible <= self.now and row.updated >= since]
        rows.sort(key=lambda row: (row.updated, row.id))
        page = rows[offset : offset + feed.PAGE]
        jobs = [parse_job(row) for row in page]
        return Page(
            jobs,
            len(page),
            first=page[0].id if page else None,
            last=page[-1].id if page else None,
            more=len(page) == feed.PAGE,
            now=self.now,
        )


def parse_job(row: Row) -> Job:
    ended = row.updated.replace(microsecond=0) if row.status in ("succeeded", "failed", "cancelled") else None
    return Job(row.id, row.connection, "sync", row.status, ended=ended)


#: What identifies an ended job: connection, id, status and end.
End = tuple[str, int, str, datetime | None]


def end_of(job: Job) -> End:
    return (job.connection, job.id, job.status, job.ended)


#: Also in the future, by a clock that was wrong.
STAMPS = st.integers(-int(2 * OVERLAP.total_seconds()), int(OVERLAP.total_seconds() / 2) - 1).map(
    lambda n: timedelta(seconds=n)
)
TIMES = st.integers(0, int(OVERLAP.total_seconds() / 2) - 1).map(lambda n: timedelta(seconds=n))
FINAL = st.sampled_from(["succeeded", "failed", "cancelled"])


class Feed(RuleBasedStateMachine):
    """Jobs start and end while ticks come, fail, are cut short and are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.airbyte = Airbyte()
        self.reported: Counter[End] = Counter()
        self.history: set[End] = set()
        self.cursor = Cursor.starting(BEGIN).dumps()

    @initialize(before=st.integers(0, 6))
    def a_history(self, before: int) -> None:
        for _ in range(before):
            self.airbyte.end(self.airbyte.start(), "succeeded")
        self.history = self.airbyte.ends()
        self.airbyte.now += timedelta(seconds=1)
        self.cursor = Cursor.starting(self.airbyte.now).dumps()

    @rule(seconds=st.sampled_from([0, 1, 2, 7, 31, 86_400]), micros=st.integers(0, 999_999))
    def time_passes(self, seconds: int, micros: int) -> None:
        self.airbyte.now += timedelta(seconds=seconds, microseconds=micros)

    @rule(number=st.integers(1, 2 * SMALL_PAGE))
    def jobs_start(self, number: int) -> None:
        for _ in range(number):
            self.airbyte.start()

    @precondition(lambda self: self.airbyte.running())
    @rule(data=st.data(), status=FINAL, early=STAMPS, late=TIMES)
    def one_ends(self, data: st.DataObject, status: str, early: timedelta, late: timedelta) -> None:
        job_id = data.draw(st.sampled_from(self.airbyte.running()))
        began = self.airbyte.rows[job_id].updated
        early = min(early, self.airbyte.now - max(began, BEGIN))
        self.airbyte.end(job_id, status, early, late)

    @precondition(lambda self: self.airbyte.running())
    @rule(late=TIMES)
    def all_end_in_one_transaction(self, late: timedelta) -> None:
        for job_id in self.airbyte.running():
            self.airbyte.end(job_id, "succeeded", late=late)

    @precondition(lambda self: self.airbyte.failed())
    @rule(data=st.data())
    def one_that_failed_is_tried_again(self, data: st.DataObject) -> None:
        self.airbyte.try_again(data.draw(st.sampled_from(self.airbyte.failed())))

    @precondition(lambda self: self.airbyte.rows)
    @rule(seconds=st.sampled_from([1, 600]))
    def airbyte_is_installed_again(self, seconds: int) -> None:
        self.airbyte.now += timedelta(seconds=seconds)
        self.airbyte.install_again()

    @rule()
    def the_code_is_upgraded(self) -> None:
        """The cursor that an older version of this project would have left."""
        if not any(job.at is None for job in Cursor.loads(self.cursor).seen):
            self.cursor = as_version_1(self.cursor)

    @rule(
        requests=st.integers(1, 6),
        jobs=st.integers(1, 9),
        between=st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["nothing", "end", "start", "fail"])), max_size=6
        ),
        crashes=st.sampled_from([False, False, False, True]),
    )
    def tick(self, requests: int, jobs: int, between: list[tuple[int, str]], crashes: bool) -> None:
        self.airbyte.between = between
        found = poll(self.airbyte.ask, Cursor.loads(self.cursor), overlap=OVERLAP, max_requests=requests, max_jobs=jobs)
        self.airbyte.between = []
        if not crashes:
            self.reported.update(end_of(job) for job in found.jobs)
            self.cursor = found.cursor.dumps()

    @invariant()
    def nothing_is_told_twice_or_before_its_end(self) -> None:
        assert not [end for end, times in self.reported.items() if times > 1]
        assert not [end for end in self.reported if end[2] not in ("succeeded", "failed", "cancelled")]
        assert not self.reported.keys() & self.history

    def teardown(self) -> None:
        self.airbyte.now += OVERLAP
        for _ in range(3):  # the pass that was begun, and another
            finished = False
            while not finished:
                found = poll(self.airbyte.ask, Cursor.loads(self.cursor), overlap=OVERLAP)
                self.reported.update(end_of(job) for job in found.jobs)
                self.cursor, finished = found.cursor.dumps(), found.finished
        # Those of a server that is gone, or that were tried again, may have been seen before.
        assert self.airbyte.ends() - self.history <= self.reported.keys()
        assert {*self.reported.values()} <= {1}


def test_rows_that_move_away_within_one_second_take_nothing_with_them() -> None:
    """And it is long past, so that no overlap would bring the others back."""
    airbyte = Airbyte()
    running = [airbyte.start() for _ in range(SMALL_PAGE)]
    ended = [airbyte.start() for _ in range(SMALL_PAGE)]
    for job_id in ended:
        airbyte.end(job_id, "failed")
    airbyte.now += 10 * OVERLAP
    airbyte.between = [(0, "nothing"), (0, "end")]
    found = poll(airbyte.ask, Cursor.starting(BEGIN), overlap=OVERLAP)
    assert sorted(job.id for job in found.jobs) == sorted([*ended, *running[:3]])
    assert found.finished


@pytest.mark.parametrize("since_is_ignored", [False, True])
def test_a_server_that_ignores_the_offset_is_one_error_and_loses_no_job(since_is_ignored: bool) -> None:
    airbyte = Airbyte()
    ended = [airbyte.start() for _ in range(SMALL_PAGE + 2)]
    for job_id in ended:
        airbyte.end(job_id, "succeeded")

    def ask(since: datetime, _: int) -> Page:
        return airbyte.ask(BEGIN if since_is_ignored else since, 0)

    reported: list[int] = []
    cursor = Cursor.starting(BEGIN)
    for _ in range(3):
        found = poll(ask, cursor, overlap=OVERLAP)
        assert not found.finished
        assert found.requests < 10
        assert "ignores `offset`" in str(found.error)
        reported += [job.id for job in found.jobs]
        cursor = Cursor.loads(found.cursor.dumps())
    assert reported == ended[:SMALL_PAGE]
    # The server is repaired: what it had hidden is still to come.
    found = poll(airbyte.ask, cursor, overlap=OVERLAP)
    assert (found.finished, found.error) == (True, None)
    assert [job.id for job in found.jobs] == ended[SMALL_PAGE:]


@pytest.fixture(autouse=True, scope="module")
def small_pages():  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "PAGE", SMALL_PAGE)
        yield


class TestFeed(Feed.TestCase):  # type: ignore[valid-type,misc]
    settings = settings(
        max_examples=HISTORIES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
