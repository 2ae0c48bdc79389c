"""From which `update_key` an incremental sync starts. `sync.py` has the reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

#: The time of a sync by the clock of the database, and the highest `update_key` that it saw.
Position = tuple[datetime, str]
#: Maximum number of stored positions.
_MAX_POSITIONS = 100


def start_of(positions: Sequence[Position], lag: timedelta, *, is_time: bool, is_date: bool = False) -> str | None:
    """Return the lowest `update_key` to read; None for all.

    Args:
        positions: Of earlier syncs.
        lag: Maximum time between setting an `update_key` and its commit.
        is_time: Whether the values are times, from which `lag` can be subtracted. Otherwise the result is the highest
            key that was visible `lag` before the last sync.
        is_date: Whether the values are dates.
    """
    if not positions:
        return None
    at, key = positions[-1]
    if not is_time:
        return next((key for earlier, key in reversed(positions) if earlier <= at - lag), None)
    try:
        time = datetime.fromisoformat(key) - lag
    except (ValueError, OverflowError):  # such as a year before Christ
        return None
    return time.date().isoformat() if is_date else time.isoformat(" ")


def positions_after(
    positions: Sequence[Position], at: datetime, key: str | None, lag: timedelta, *, is_time: bool
) -> list[Position]:
    """Return the positions to store after a sync.

    Args:
        positions: Of earlier syncs. An empty table has none.
        at: Time of the snapshot, by the database's clock.
        key: The highest `update_key`, if there is one.
        lag: Maximum time between setting an `update_key` and its commit.
        is_time: Whether the values are times. Only the last position matters then.
    """
    if key is None:
        return []
    # After a failover, the clock may be behind.
    earlier = [position for position in positions if position[0] < at]
    needed = next((place for place in reversed(range(len(earlier))) if earlier[place][0] <= at - lag), 0)
    kept = [] if is_time else earlier[needed:]
    while len(kept) >= _MAX_POSITIONS:
        # Remove one between two that are close: the next older position reads only a little more.
        gaps = [
            (after[0] - before[0], place) for place, (before, after) in enumerate(zip(kept, kept[2:], strict=False), 1)
        ]
        del kept[min(gaps)[1]]
    return [*kept, (at, key)]
