"""Bodies of reports: what is understood, and how the rest is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.triggers.events import load_materialization
from lakehouse_analytics.webhook.report import MAX_ENTRIES, ReportError, parse

KEY = ("shop", "orders")


def mistake(body: Any) -> str:
    with pytest.raises(ReportError) as caught:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    return str(caught.value)


def test_a_report_becomes_a_load() -> None:
    report = parse(
        b'{"id": "batch-17", "rows": 1200, "started": "2026-05-10T02:00:00+02:00", "ended": "2026-05-10T00:10:00Z",'
        b' "metadata": {"file": "orders.csv", "bad": 0, "share": 0.5, "full": true, "note": null}}'
    )
    load = report.load(KEY)
    assert (load.id, load.tables) == ("batch-17", [KEY])
    assert load.started == datetime(2026, 5, 10, 2, tzinfo=timezone(timedelta(hours=2)))
    event = load_materialization(load, KEY)
    assert (event.tags or {})["dagster/data_version"] == "batch-17"
    assert event.metadata["dagster/row_count"].value == 1200
    values = {name: event.metadata[name].value for name in ("file", "bad", "share", "full", "note")}
    assert values == {"file": "orders.csv", "bad": 0, "share": 0.5, "full": True, "note": None}
    assert event.metadata["ended"].value == datetime(2026, 5, 10, 0, 10, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}"])
def test_a_report_without_a_body_has_an_id_and_an_end(body: bytes) -> None:
    first, second = (parse(body).load(KEY) for _ in range(2))
    assert first.id.startswith("webhook-")
    assert first.id != second.id
    assert first.started is None
    assert abs((datetime.now(UTC) - (first.ended or datetime.min.replace(tzinfo=UTC))).total_seconds()) < 3600
    assert "dagster/row_count" not in first.metadata


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"row": 3}, "unknown key 'row'; did you mean 'rows'?"),
        ({"x": 3}, "unknown key 'x'; keys: ended, id, metadata, rows, started"),
        ({"rows": "3"}, "rows: input should be a valid integer"),
        ({"rows": True}, "rows: input should be a valid integer"),
        ({"rows": -1}, "rows: input should be greater than or equal to 0"),
        ({"rows": 2**63}, "rows: input should be less than or equal to 9223372036854775807"),
        ({"id": ""}, "id: string should have at least 1 character"),
        ({"id": "a\nb"}, "id: expected printable characters, without spaces at the start or the end"),
        ({"id": " a"}, "id: expected printable characters, without spaces at the start or the end"),
        ({"id": 7}, "id: input should be a valid string"),
        ({"ended": "2026-05-10T00:10:00"}, "ended: expected a time with a time zone, such as 2026-01-31T06:00:00Z"),
        ({"ended": "yesterday"}, "ended: expected a time with a time zone, such as 2026-01-31T06:00:00Z"),
        ({"started": "2026-05-10T00:10:00Z", "ended": "2026-05-10T00:09:59Z"}, "ended is before started"),
        (
            {"metadata": {"a": [1]}},
            "metadata.a: expected text of at most 10,000 characters, a number, true, false or null",
        ),
        (
            {"metadata": {"a": "\0"}},
            "metadata.a: expected text of at most 10,000 characters, a number, true, false or null",
        ),
        ({"metadata": {"started": 1}}, "metadata: the name 'started' cannot be used: "),
        ({"metadata": {"dagster/row_count": 1}}, "metadata: the name 'dagster/row_count' cannot be used: "),
        (
            {"metadata": {str(n): n for n in range(MAX_ENTRIES + 1)}},
            "metadata: dictionary should have at most 50 items",
        ),
        ({"row": 3, "rows": -1}, "rows: input should be greater than or equal to 0; unknown key 'row'"),
    ],
)
def test_what_is_wrong_is_named(body: Any, message: str) -> None:
    assert mistake(body).startswith(message)


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"3", b'"x"', b"{", b"rows=3", b"\xff", b'{"rows": NaN}', b"[" * 5000]
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert mistake(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
keys = st.sampled_from(["id", "rows", "started", "ended", "metadata", "x"])


@given(st.binary() | st.dictionaries(keys, json_values).map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_report_or_refused(body: bytes) -> None:
    """And what is accepted can be stored."""
    try:
        report = parse(body)
    except ReportError:
        return
    event = load_materialization(report.load(KEY), KEY)
    assert (event.tags or {})["dagster/data_version"]
