"""From which `update_key` a sync starts: nothing that was committed within `lag` is below it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.databases.positions import Position, positions_after, start_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LAG = timedelta(seconds=10)

#: Seconds at which keys are assigned, how long their transactions take, and seconds at which syncs take a snapshot.
transactions = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), min_size=1, max_size=20)
snapshots = st.lists(st.integers(1, 70), unique=True, max_size=15).map(sorted)


def second(number: float) -> datetime:
    return BEGIN + timedelta(seconds=number)


def _is_at_least(key: str, start: str, is_time: bool) -> bool:
    return datetime.fromisoformat(key) >= datetime.fromisoformat(start) if is_time else key >= start


@pytest.mark.parametrize("is_time", [True, False])
@given(transactions=transactions, snapshots=snapshots)
def test_a_sync_finds_every_transaction_that_takes_at_most_lag(
    transactions: list[tuple[int, int]], snapshots: list[int], is_time: bool
) -> None:
    """Keys are assigned in order, and become visible when their transaction commits."""
    ordered = sorted(transactions)
    keys = {number: (at, at + takes) for number, (at, takes) in enumerate(ordered)}
    text = {number: second(at).isoformat() if is_time else f"{number:04}" for number, (at, _) in keys.items()}
    found: set[int] = set()
    positions: list[Position] = []
    for snapshot in [*snapshots, 1000]:
        start = start_of(positions, LAG, is_time=is_time)
        visible = [number for number, (_, commits) in keys.items() if commits < snapshot]
        found |= {number for number in visible if start is None or _is_at_least(text[number], start, is_time)}
        assert found == set(visible)
        highest = max((text[number] for number in visible), default=None)
        positions = positions_after(positions, second(snapshot), highest, LAG, is_time=is_time)


def test_numbers_start_from_the_last_sync_that_is_old_enough() -> None:
    positions = [(second(at), str(key)) for at, key in ((0, 100), (20, 200), (25, 300), (30, 400), (35, 500))]
    assert start_of(positions, LAG, is_time=False) == "300"
    assert start_of(positions, timedelta(0), is_time=False) == "500"
    assert start_of(positions, timedelta(minutes=1), is_time=False) is None
    assert positions_after(positions, second(40), "600", LAG, is_time=False) == [*positions[3:], (second(40), "600")]
    assert positions_after(positions, second(40), None, LAG, is_time=False) == []


def test_times_are_reduced_by_lag() -> None:
    for key, expected in (
        ("2026-01-01 00:00:05+00", "2025-12-31 23:59:55+00:00"),
        ("2026-01-01 00:00:05.000001", "2025-12-31 23:59:55.000001"),
        ("2026-01-01", "2025-12-31 23:59:50"),
        ("0044-03-15 BC", None),
        ("0001-01-01 00:00:05", None),
    ):
        assert start_of([(second(0), key)], LAG, is_time=True) == expected
    assert start_of([(second(0), "2026-01-02")], timedelta(hours=1), is_time=True, is_date=True) == "2026-01-01"
    assert start_of([], LAG, is_time=True) is None


def test_the_number_of_positions_is_limited() -> None:
    positions: list[Position] = []
    for at in range(5000):
        positions = positions_after(positions, second(at), str(at), timedelta(seconds=3000), is_time=False)
        assert len(positions) <= 100
        start = start_of(positions, timedelta(seconds=3000), is_time=False)
        assert start is None or int(start) <= max(0, at - 3000)
    # It is not much older than necessary.
    assert int(start or 0) > 1000


def test_a_clock_that_is_set_back() -> None:
    positions = [(second(0), "1"), (second(50), "2")]
    assert positions_after(positions, second(40), "3", LAG, is_time=False) == [(second(0), "1"), (second(40), "3")]
