"""The cursor as text: what is written is read, and it stays short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.triggers.airbyte.cursor import MAX_LENGTH, Cursor, CursorError, Position
from lakehouse_analytics.triggers.airbyte.job_identity import JobEnd, job_end
from lakehouse_analytics.triggers.airbyte.jobs import Job

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
SECONDS = st.integers(0, 86_400).map(lambda n: NOW + timedelta(seconds=n))
JOB_IDS = st.integers(0, 2**63 - 1)
TAGS = st.text("abcxyz-_0", min_size=3, max_size=3)


def seen_of(jobs: list[tuple[int, str, bool, datetime]]) -> dict[JobEnd, datetime]:
    """Jobs as the cursor remembers them: if Airbyte gives no end, by the second that was requested."""
    return {JobEnd(job_id, tag, until if dated else None): until for job_id, tag, dated, until in jobs}


CURSORS = st.builds(
    Cursor,
    floor=st.just(NOW),
    watermark=SECONDS,
    # Version 1 knew no tags and no job without an end.
    seen=st.lists(
        st.tuples(JOB_IDS, TAGS, st.booleans(), SECONDS) | st.tuples(JOB_IDS, st.just(""), st.just(True), SECONDS),
        max_size=30,
    ).map(seen_of),
    position=st.none() | st.builds(Position, SECONDS, st.integers(0, 10_000), st.none() | JOB_IDS, SECONDS),
    epoch=st.sampled_from(["", "replay-20261121T020000"]),
    server=st.sampled_from(["", "0123456789"]),
    stored=st.none() | st.integers(0, 2**63 - 1),
    ticked=st.integers(0, 2_000_000_000).map(float),
    stalled_checked=st.integers(0, 2_000_000_000).map(float),
)


def many(jobs: int, apart: int, seconds: int) -> dict[JobEnd, datetime]:
    ends = {n * apart: NOW + timedelta(seconds=n % seconds) for n in range(jobs)}
    return {job_end(Job(n, f"c{n % 97}", "sync", "succeeded", ended=at)): at for n, at in ends.items()}


@given(CURSORS)
def test_what_is_written_is_read(cursor: Cursor) -> None:
    assert Cursor.loads(cursor.dumps()) == cursor


@pytest.mark.parametrize("jobs", [20_000, 60_000])
@pytest.mark.parametrize("seconds", [1, 300])
def test_it_stays_short_at_any_load(jobs: int, seconds: int) -> None:
    seen = many(jobs, 7_919_000_000, seconds)
    place = Position(NOW + timedelta(seconds=seconds - 1), 0, None, NOW)
    for cursor in (Cursor(NOW, NOW, seen), Cursor(NOW, NOW, seen, place)):
        text = cursor.dumps()
        assert len(text) <= MAX_LENGTH < 64 * 1024
        kept = Cursor.loads(text)
        assert kept.seen.items() <= seen.items()
        # The newest are kept, or their second is done with; and what the pass has not reached is still requested.
        assert len(kept.seen) > 1000 or kept.floor > max(seen.values())
        assert not kept.position or (kept.seen and kept.floor <= kept.position.since)


@settings(max_examples=20)
@given(st.sampled_from([1, 5, 60, 300]), st.integers(0, 3000))
def test_what_is_forgotten_is_never_asked_for_again_unless_all_ended_at_once(seconds: int, more: int) -> None:
    seen = many(8_000 + more, 10**12, seconds)
    kept = Cursor.loads(Cursor(NOW, NOW, seen).dumps())
    forgotten = {until for job, until in seen.items() if job not in kept.seen}
    assert forgotten
    assert all(until < kept.floor for until in forgotten) or not kept.seen or seconds == 1


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", "null", '{"version":3}', '{"version":2}', '{"version":1}', '{"version":1,"floor":"x"}', "12"],
)
def test_what_is_no_cursor_is_told_in_one_line(text: str) -> None:
    with pytest.raises(CursorError, match=r"\A[^\n]+\Z"):
        Cursor.loads(text)


def test_an_older_code_says_which_version_it_reads() -> None:
    with pytest.raises(CursorError, match="version 3, and this code reads versions up to 2"):
        Cursor.loads('{"version": 3}')


def test_eight_thousand_jobs_of_one_overlap_are_remembered() -> None:
    seen = many(8_000, 1, 300)
    assert Cursor.loads(Cursor(NOW, NOW, seen).dumps()).seen == seen


def test_a_cursor_of_version_1_is_read() -> None:
    # What release 0.1 wrote of job 4711, which ended three seconds after the floor.
    text = (
        '{"version":1,"floor":"2026-11-21T02:00:00Z","watermark":"2026-11-21T02:00:03Z","seen":[[3,4711]],"epoch":"",'
        '"ticked":1795226403,"asked_for_stalled":1795226000,"place":["2026-11-21T02:00:03Z",2,4711,"2026-11-21T02:00:00Z"]}'
    )
    read = Cursor.loads(text)
    at = NOW + timedelta(seconds=3)
    assert read == Cursor(
        NOW, at, {JobEnd(4711, "", at): at}, Position(at, 2, 4711, NOW), "", "", None, 1795226403.0, 1795226000.0
    )
    assert Cursor.loads(read.dumps()) == read
