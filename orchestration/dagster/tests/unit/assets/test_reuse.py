"""What a run learns of its inputs while it is going on. For decisions, see `unit/reuse`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from lakehouse_analytics.assets.reuse import LOOK_AGAIN, Outside


def test_a_source_that_many_tables_read_is_looked_at_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, versions, read = [0.0], {"a": "1", "b": "1"}, list[str]()
    monkeypatch.setattr("lakehouse_analytics.assets.reuse.time.monotonic", lambda: now[0])

    def look(ids: Collection[str]) -> Mapping[str, str]:
        read.extend(sorted(ids))
        return {one: versions[one] for one in ids if one in versions}

    outside = Outside(dict(versions), look)
    assert not any(outside.has_changed(["a", "unknown"]) for _ in range(5))
    versions["a"] = "2"
    assert not outside.has_changed(["a", "b"])  # a was looked at in this minute
    assert read == ["a", "b"]
    now[0] = LOOK_AGAIN + 1
    assert outside.has_changed(["a"])
    assert not outside.has_changed(["b"])
    versions["a"] = "1"  # what was read in between is what counts
    now[0] *= 3
    assert outside.has_changed(["a"])


def test_a_version_that_is_not_known_anymore_is_a_change() -> None:
    assert Outside({"a": "1"}, lambda _: {}).has_changed(["a"])
