"""Rows of the list of jobs: every JSON value is a job or an error."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.triggers.airbyte.jobs import InvalidJobError, Job, parse_duration, parse_job, parse_time

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
ROW = {"jobId": 7, "status": "succeeded", "jobType": "sync", "startTime": "2026-11-21T02:00Z", "connectionId": "c"}
FIELDS = [*ROW, "lastUpdatedAt", "duration", "rowsSynced", "bytesSynced"]

NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, 1e300, 7.5, True])
TEXTS = (
    st.text()
    | st.datetimes().map(str)
    | st.sampled_from(["PT1.2.3S", "PT" + "9" * 400 + "S", "9" * 5000, "²", "\ud800"])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
# One field at a time is strange, or several are, or all.
ROWS = st.sets(st.sampled_from(FIELDS), min_size=1).flatmap(
    lambda strange: st.fixed_dictionaries(dict.fromkeys(sorted(strange), JSON | SCALARS | NUMBERS | TEXTS))
)


@settings(max_examples=500)
@given(JSON | ROWS | ROWS.map(lambda strange: {**ROW, **strange}))
def test_any_json_is_a_job_or_told_to_be_none(value: object) -> None:
    try:
        job = parse_job(value)
    except InvalidJobError as error:
        message = str(error)
        assert len(message.splitlines()) == 1
        assert len(message) < 100
        return
    assert 0 <= job.id < 2**63
    assert job.connection == job.connection.lower() != ""
    assert job.rows is None or job.rows >= 0
    assert job.bytes is None or job.bytes >= 0
    for moment in (job.started, job.ended):
        assert moment is None or (moment.tzinfo is UTC and not moment.microsecond)
    assert isinstance(job.has_ended | job.empties | job.moved_nothing, bool)
    json.dumps([job.id, job.kind, job.status, job.seconds, job.rows, job.bytes], allow_nan=False)


def test_a_row_as_airbyte_writes_it() -> None:
    more = {"lastUpdatedAt": "2026-11-21T02:08:12Z", "duration": "PT8M12S", "rowsSynced": 5, "bytesSynced": 900}
    assert parse_job({**ROW, **more}) == Job(
        7, "c", "sync", "succeeded", started=NOW, ended=NOW + timedelta(seconds=492), seconds=492.0, rows=5, bytes=900
    )


def test_a_row_of_what_is_required_alone() -> None:
    assert parse_job(ROW) == Job(7, "c", "sync", "succeeded", started=NOW)
    assert parse_job({"jobId": "7", "connectionId": "C"}) == Job(7, "c", "", "")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "a NoneType where a job was expected"),
        ([ROW], "a list where a job was expected"),
        ({}, "a job without a jobId"),
        ({**ROW, "jobId": True}, "a job without a jobId"),
        ({**ROW, "jobId": 7.5}, "a job without a jobId"),
        ({**ROW, "jobId": -7}, "a job without a jobId"),
        ({**ROW, "jobId": 2**63}, "a job without a jobId"),
        ({**ROW, "connectionId": None}, "job 7 without a connectionId"),
        ({**ROW, "connectionId": ""}, "job 7 without a connectionId"),
        ({**ROW, "connectionId": 5}, "job 7 without a connectionId"),
    ],
)
def test_what_is_no_job_says_what_it_lacks(row: object, words: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(row)
    assert str(caught.value) == words


@pytest.mark.parametrize("nothing", [None, 5, True, {}, []])
def test_a_status_that_is_no_word_is_none(nothing: object) -> None:
    job = parse_job({**ROW, "status": nothing, "jobType": nothing})
    assert (job.status, job.kind, job.has_ended, job.empties) == ("", "", False, False)


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("pending", False),
        ("queued", False),
        ("running", False),
        ("incomplete", False),
        ("paused", False),
        ("failed", True),
        ("succeeded", True),
        ("cancelled", True),
        ("SUCCEEDED", True),
    ],
)
def test_which_jobs_have_ended(status: str, ended: bool) -> None:
    assert parse_job({**ROW, "status": status}).has_ended is ended


@pytest.mark.parametrize(
    ("kind", "empties"),
    [("sync", False), ("refresh", False), ("reset", True), ("clear", True), ("vacuum", False), ("RESET", True)],
)
def test_which_jobs_empty_the_tables(kind: str, empties: bool) -> None:
    assert parse_job({**ROW, "jobType": kind}).empties is empties


@pytest.mark.parametrize(
    ("rows", "size", "nothing"),
    [
        (0, 0, True),
        (0, None, True),
        (0, 5, False),
        (None, 0, False),
        (None, None, False),
        (3, 0, False),
        (-1, 0, False),
    ],
)
def test_only_airbytes_word_says_that_nothing_was_moved(rows: object, size: object, nothing: bool) -> None:
    assert parse_job({**ROW, "rowsSynced": rows, "bytesSynced": size}).moved_nothing is nothing


@given(st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1)), st.integers(-14, 14))
def test_a_time_is_the_same_however_it_is_written(moment: datetime, hours: int) -> None:
    second = moment.replace(microsecond=0, tzinfo=UTC)
    zone = timezone(timedelta(hours=hours))
    for written in (
        f"{moment.isoformat()}Z",
        moment.isoformat(),
        moment.replace(tzinfo=UTC).astimezone(zone).isoformat(),
    ):
        assert parse_time(written) == second
    assert parse_time(second.strftime("%Y-%m-%dT%H:%MZ")) == second.replace(second=0)


@pytest.mark.parametrize(
    "text", [None, 5, "", "now", "1687450500000", "0001-01-01T00:00+14:00", "\ud800", b"2026-11-21"]
)
def test_what_is_no_time_is_none(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT8H6M12S", 29_172.0),
        ("PT0S", 0.0),
        ("PT0.5S", 0.5),
        ("P1DT1S", 86_401.0),
        ("PT25H", 90_000.0),
        ("PT", None),
        ("P", None),
        ("P1M", None),
        ("-PT5S", None),
        ("PT1.2.3S", None),
        ("PT" + "9" * 400 + "S", None),
        ("5", None),
        (5, None),
        (None, None),
    ],
)
def test_a_length_in_seconds(text: object, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
