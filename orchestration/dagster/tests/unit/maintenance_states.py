"""Policies and states of tables, for tests of what holds of every plan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from lakehouse_analytics.maintenance.plan import Snapshot, State
from lakehouse_analytics.maintenance.policy import Policy

NOW = datetime(2026, 11, 21, 5, tzinfo=UTC)
COUNTS = st.integers(0, 200)
TIMES = st.timedeltas(timedelta(), timedelta(days=60)).map(lambda ago: NOW - ago)


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[Snapshot, ...]:
    times = sorted(draw(st.lists(TIMES, max_size=12)))
    return tuple(Snapshot(n, time, draw(COUNTS)) for n, time in enumerate(times))


@st.composite
def states(draw: st.DrawFn) -> State:
    small = draw(COUNTS)
    return State(
        now=NOW,
        data_files=small + draw(COUNTS),
        small_files=small,
        mergeable=draw(st.integers(0, small)),
        partitions_to_merge=draw(COUNTS),
        delete_files=draw(COUNTS),
        rows=draw(st.integers(0, 10_000)),
        deleted_rows=draw(COUNTS),
        manifests=draw(COUNTS),
        manifest_bytes=draw(st.integers(0, 2**30)),
        snapshots=draw(snapshots()),
        referenced=frozenset(draw(st.sets(st.integers(0, 12)))),
        analyzed=draw(st.none() | TIMES),
        searched=draw(st.none() | TIMES),
    )


RETENTIONS = st.integers(1, 40 * 24).map(lambda hours: timedelta(hours=hours))
POLICIES = st.builds(
    Policy,
    optimize=st.booleans(),
    small_files=st.integers(1, 100),
    deleted=st.floats(0.01, 1),
    optimize_manifests=st.booleans(),
    small_manifests=st.integers(1, 100),
    expire_snapshots=st.booleans(),
    retain=RETENTIONS,
    remove_orphan_files=st.booleans(),
    orphans=RETENTIONS,
    analyze=st.booleans(),
    changed=st.floats(0.01, 1),
)
