"""The recorded state of a build."""

from __future__ import annotations

import json

from lakehouse_analytics.reuse.state import BuildState

STATE = BuildState({"sql": "a"}, {"source.x": "1"}, "2", "run", "it calls now()")


def test_a_state_is_read_as_it_was_recorded() -> None:
    assert BuildState.read(json.loads(json.dumps(STATE.as_json()))) == STATE


def test_other_values_and_other_versions_are_no_states() -> None:
    for value in (None, "text", {}, {"version": 0}, {**STATE.as_json(), "version": 0}, {**STATE.as_json(), "new": 1}):
        assert BuildState.read(value) is None
