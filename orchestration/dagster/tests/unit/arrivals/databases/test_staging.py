"""Comparisons of keys that a sync has read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from lakehouse_analytics.arrivals.databases.base import SourceColumn
from lakehouse_analytics.arrivals.databases.staging import subtract


@pytest.fixture(params=["America/New_York", "Asia/Tokyo"])
def _time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_time_zone")
def test_times_with_and_without_a_zone_are_compared_in_utc(tmp_path: Path) -> None:
    for name, values in {
        "known": "TIMESTAMP '2026-03-01 10:00:00'",
        "read": "TIMESTAMPTZ '2026-03-01 10:00:00+00'",
    }.items():
        duckdb.execute(f"COPY (SELECT {values} AS at) TO '{tmp_path / name}' (FORMAT parquet)")
    for kind in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        column = SourceColumn("at", kind, kind, "at", lambda array: (array, 0), "time", "false")
        assert subtract(tmp_path / "known", [tmp_path / "read"], [column], tmp_path / "gone").rows == 0
