"""Whatever the order of messages and wherever the connector dies: data and state agree, nothing lost or doubled."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.ingest import IngestError

from .conftest import ID, KINDS, Lake

STREAMS = ("a", "b")
# Small letters: a RECORD of that stream; capitals: its STATE.
ORDER = st.lists(st.sampled_from("aabbAB"), max_size=12)
RUN = st.tuples(ORDER, st.none() | st.integers(0, 12), st.sampled_from(["kill", "exit", "half a line"]))


def state_cursors(lake: Lake) -> dict[str, int]:
    rows = lake.query("SELECT stream, state FROM raw._airbyte_state")
    return {stream: json.loads(state)["stream"]["stream_state"]["cursor"] for stream, state in rows}


def ids(lake: Lake, stream: str) -> list[int]:
    return lake.column(f"SELECT id FROM raw.{stream} ORDER BY id")


@pytest.mark.parametrize("kind", KINDS)
@given(runs=st.lists(RUN, min_size=1, max_size=3), totals=st.tuples(st.integers(0, 6), st.integers(0, 6)))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data_and_state_agree(
    bin_directory: Path,
    temporary: Path,
    kind: str,
    runs: list[tuple[list[str], int | None, str]],
    totals: tuple[int, int],
) -> None:
    root = bin_directory.parent
    with TemporaryDirectory(dir=root) as data:
        lake = KINDS[kind](root, Path(data))
        lake.config["streams"] = [{"name": name, "sync_mode": "incremental_append"} for name in STREAMS]
        scenario: dict[str, Any] = {
            "schemas": dict.fromkeys(STREAMS, ID),
            "total": dict(zip(STREAMS, totals, strict=True)),
        }
        succeeded = False
        for order, crash_at, crash in runs:
            lake.scenario(**scenario, order=order, crash_at=crash_at, crash=crash)
            if crash_at is not None and crash_at < len(order):
                with pytest.raises(IngestError):
                    lake.run()
            else:
                lake.run()
                succeeded = True
            if succeeded:
                cursors = state_cursors(lake)
                for stream in STREAMS:
                    assert ids(lake, stream) == list(range(1, cursors[stream] + 1))
        # The source grows and is read to its end: each record is there once.
        everything = [token for token in "ab" for _ in range(10)]
        grown = {stream: total + 2 for stream, total in scenario["total"].items()}
        lake.scenario(schemas=scenario["schemas"], total=grown, order=everything)
        lake.run()
        for stream in STREAMS:
            assert ids(lake, stream) == list(range(1, grown[stream] + 1))
