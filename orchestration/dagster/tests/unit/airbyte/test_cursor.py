"""The cursor as text: what is written is read, and it stays short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.airbyte.cursor import LONGEST, Cursor, CursorError, Place

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
SECONDS = st.integers(0, 86_400).map(lambda n: NOW + timedelta(seconds=n))
JOB_IDS = st.integers(0, 2**63 - 1)
CURSORS = st.builds(
    Cursor,
    floor=st.just(NOW),
    watermark=SECONDS,
    seen=st.dictionaries(JOB_IDS, SECONDS, max_size=30),
    place=st.none() | st.builds(Place, SECONDS, st.integers(0, 10_000), st.none() | JOB_IDS, SECONDS),
    epoch=st.sampled_from(["", "replay-20261121T020000"]),
    ticked=st.integers(0, 2_000_000_000).map(float),
    asked_for_stalled=st.integers(0, 2_000_000_000).map(float),
)


@given(CURSORS)
def test_what_is_written_is_read(cursor: Cursor) -> None:
    assert Cursor.loads(cursor.dumps()) == cursor


@pytest.mark.parametrize("jobs", [20_000, 60_000])
@pytest.mark.parametrize("seconds", [1, 300])
def test_it_stays_short_at_any_load(jobs: int, seconds: int) -> None:
    seen = {n * 7_919_000_000: NOW + timedelta(seconds=n % seconds) for n in range(jobs)}
    place = Place(NOW + timedelta(seconds=seconds - 1), 0, None, NOW)
    for cursor in (Cursor(NOW, NOW, seen), Cursor(NOW, NOW, seen, place)):
        text = cursor.dumps()
        assert len(text) <= LONGEST < 64 * 1024
        kept = Cursor.loads(text)
        assert kept.seen.items() <= seen.items()
        # The newest are kept, or their second is done with; and what the pass has not come to is still asked for.
        assert len(kept.seen) > 1000 or kept.floor > max(seen.values())
        assert not kept.place or (kept.seen and kept.floor <= kept.place.since)


@settings(max_examples=20)
@given(st.sampled_from([1, 5, 60, 300]), st.integers(0, 3000))
def test_what_is_forgotten_is_never_asked_for_again_unless_all_ended_at_once(seconds: int, more: int) -> None:
    seen = {n * 10**12: NOW + timedelta(seconds=n % seconds) for n in range(8_000 + more)}
    kept = Cursor.loads(Cursor(NOW, NOW, seen).dumps())
    forgotten = {ended for job_id, ended in seen.items() if job_id not in kept.seen}
    assert forgotten
    assert all(ended < kept.floor for ended in forgotten) or not kept.seen or seconds == 1


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "null", '{"version":2}', '{"version":1}', '{"version":1,"floor":"x"}', "12"]
)
def test_what_is_no_cursor_is_told_in_one_line(text: str) -> None:
    with pytest.raises(CursorError, match=r"\A[^\n]+\Z"):
        Cursor.loads(text)


def test_an_older_code_says_which_version_it_reads() -> None:
    with pytest.raises(CursorError, match="version 2, and this code reads version 1"):
        Cursor.loads('{"version": 2}')
