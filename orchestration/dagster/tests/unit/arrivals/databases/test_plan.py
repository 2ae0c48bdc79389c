"""The state that a sync stores. `test_sync.py` tests the decisions on real servers."""

from __future__ import annotations

from datetime import UTC, datetime

from lakehouse_analytics.arrivals.databases.plan import Stored

POSITION = (datetime(2026, 1, 1, tzinfo=UTC), "1")


def test_the_state_is_json() -> None:
    stored = Stored({"table": "public.t"}, {"id": "INTEGER"}, [POSITION], "5/17")
    assert Stored.parse(stored.json()) == stored
    assert Stored.parse({}) is None
    assert Stored.parse({"kind": "files"}) is None
