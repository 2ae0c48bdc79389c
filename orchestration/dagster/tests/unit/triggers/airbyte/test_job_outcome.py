"""What is made of a job that has ended, and of one that does not end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.triggers.airbyte.job_outcome import MIN_STALLED_AGE, STALLED, job_outcome, running_outcome
from lakehouse_analytics.triggers.airbyte.jobs import FINAL_STATUSES, Job

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
COUNTS = st.none() | st.integers(0, 10**12)


def job(status: str = "succeeded", kind: str = "sync", **more: Any) -> Job:
    return Job(7, "c", kind, status, **more)


@pytest.mark.parametrize("rows", [1, None, 1_234_567])
@pytest.mark.parametrize("kind", ["sync", "refresh", "vacuum"])
def test_a_success_is_passed_and_what_reads_it_is_built(kind: str, rows: int | None) -> None:
    outcome = job_outcome(job(kind=kind, rows=rows, seconds=75.0))
    assert (outcome.passed, outcome.filled, outcome.status) == (True, True, "succeeded")
    moved = "Airbyte does not report the number of rows" if rows is None else f"{rows:,} rows"
    assert outcome.reason == f"{kind} 7 succeeded after 75 s: {moved}"


@pytest.mark.parametrize("may_be_empty", [False, True])
@pytest.mark.parametrize("status", ["failed", "cancelled"])
@pytest.mark.parametrize("kind", ["sync", "reset"])
def test_a_failure_is_an_error_whatever_it_wrote(status: str, kind: str, may_be_empty: bool) -> None:
    outcome = job_outcome(job(status, kind, rows=0), may_be_empty=may_be_empty)
    assert (outcome.passed, outcome.warn, outcome.filled, outcome.status) == (False, False, False, status)
    assert outcome.reason == f"{kind} 7 {status}; 0 rows were written"
    assert "some rows may have been written" in job_outcome(job(status, kind)).reason


@pytest.mark.parametrize("may_be_empty", [False, True])
@pytest.mark.parametrize("kind", ["reset", "clear"])
def test_emptied_tables_are_worth_a_look_and_build_nothing(kind: str, may_be_empty: bool) -> None:
    outcome = job_outcome(job(kind=kind, rows=0), may_be_empty=may_be_empty)
    assert (outcome.passed, outcome.warn, outcome.filled) == (False, True, False)
    assert "emptied the tables" in outcome.reason


def test_a_success_without_rows_is_a_warning_unless_it_is_usual() -> None:
    outcome = job_outcome(job(rows=0, bytes=0))
    assert (outcome.passed, outcome.warn, outcome.filled) == (False, True, False)
    assert "meta.lakehouse.airbyte.allow_empty" in outcome.reason
    usual = job_outcome(job(rows=0, bytes=0), may_be_empty=True)
    assert (usual.passed, usual.warn, usual.filled) == (True, False, True)


def test_bytes_without_rows_are_something() -> None:
    assert job_outcome(job(rows=0, bytes=5)).filled


@given(
    st.sampled_from(sorted(FINAL_STATUSES)), st.sampled_from(["sync", "clear", ""]), COUNTS, COUNTS, st.booleans(),
    st.none() | st.floats(0, 1e9),
)  # fmt: skip
def test_nothing_is_built_that_is_not_passed(
    status: str, kind: str, rows: int | None, size: int | None, may_be_empty: bool, seconds: float | None
) -> None:
    outcome = job_outcome(job(status, kind, rows=rows, bytes=size, seconds=seconds), may_be_empty=may_be_empty)
    assert outcome.filled is outcome.passed
    assert not (outcome.passed and outcome.warn)
    assert not outcome.passed or status == "succeeded"
    assert "\n" not in outcome.reason


def running(minutes: float) -> Job:
    return job("running", started=NOW - timedelta(minutes=minutes))


def past(*minutes: float, **more: Any) -> list[Job]:
    return [job(seconds=60 * length, **more) for length in minutes]


@pytest.mark.parametrize(
    ("minutes", "earlier", "stalled"),
    [
        (31, past(1, 1, 1), True),
        (29, past(1, 1, 1), False),  # too young, whatever is usual
        (179, past(60), False),
        (181, past(60), True),
        (181, past(60, 60, 600), True),  # one long job changes nothing
        (10_000, [], False),
        (10_000, past(60, status="failed"), False),
        (10_000, past(60, kind="clear"), False),
        (10_000, [job(), running(20_000)], False),  # none of them says how long it took
    ],
)
def test_a_job_is_stalled_at_three_times_the_usual_length(minutes: int, earlier: list[Job], stalled: bool) -> None:
    outcome = running_outcome(running(minutes), NOW, earlier, None)
    assert (outcome is not None) is stalled
    if outcome:
        assert (outcome.passed, outcome.warn, outcome.filled, outcome.status) == (False, False, False, STALLED)
        assert "usually" in outcome.reason


@pytest.mark.parametrize("earlier", [[], past(600), past(1)])
def test_the_contracts_limit_decides_and_is_told(earlier: list[Job]) -> None:
    limit = timedelta(minutes=10)
    assert limit < MIN_STALLED_AGE
    assert running_outcome(running(10), NOW, earlier, limit) is None
    outcome = running_outcome(running(11), NOW, earlier, limit)
    assert outcome
    assert outcome.reason == "sync 7 has been running for 11 min, the limit is 10 min"


def test_a_job_without_a_beginning_or_from_the_future_is_not_stalled() -> None:
    assert running_outcome(job("running"), NOW, past(1), timedelta(0)) is None
    assert running_outcome(running(-60), NOW, past(1), timedelta(0)) is None


@pytest.mark.parametrize(
    ("minutes", "words"), [(1.5, "90 s"), (2, "2 min"), (119, "119 min"), (120, "2 h"), (3000, "2 days 2 h")]
)
def test_lengths_in_words(minutes: float, words: str) -> None:
    outcome = running_outcome(running(minutes), NOW, [], timedelta(seconds=1))
    assert outcome
    assert f"running for {words}," in outcome.reason
