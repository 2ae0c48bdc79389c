"""The borders of partitions, as the statements that count rows by partition need them.

Pure: no Dagster, no connection. A row is put into its window by its time in seconds, so that windows may be of any
length, and a day of 23 or 25 hours is one; dates by their day. What type a column has, the statement itself asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: Added to the seconds of dates: their windows stand behind those of times in one list. Whole days.
DATES = 86400 * 10**7
#: What the filter that lets an engine skip files leaves of room: zones, and sessions in other zones.
ROOM = timedelta(days=2)


@dataclass(frozen=True)
class Bins:
    """Borders of windows that follow each other without a gap.

    Attributes:
        keys: Of the windows.
        times: Their starts and the end of the last, aware.
    """

    keys: Sequence[str]
    times: Sequence[datetime]

    @property
    def borders(self) -> list[int]:
        """In seconds since 1970: of times, then of dates."""
        days = [int(_midnight(_day(time)).timestamp()) for time in self.times]
        return [*(int(time.timestamp()) for time in self.times), *(DATES + day for day in days)]

    @property
    def step(self) -> int:
        """Seconds of which every window is a multiple, and by which they are apart: an hour, in most zones."""
        first, *others = self.borders
        return math.gcd(*(border - first for border in others))

    def key(self, bucket: int) -> str | None:
        """The window of the n-th interval between borders, counted from 1; None outside all windows."""
        place = (bucket - 1) % len(self.times)
        return self.keys[place] if 0 < bucket < 2 * len(self.times) and place < len(self.keys) else None

    def near(self, time: str) -> str:
        """A condition that lets an engine skip what is far from all windows.

        Args:
            time: The column, quoted.
        """
        low, high = (f"timestamp '{_naive(moment)}'" for moment in (self.times[0] - ROOM, self.times[-1] + ROOM))
        return f"{time} >= {low} and {time} < {high}"


def _day(time: datetime) -> date:
    """The day that begins with a moment: a zone that skips its midnight begins it later."""
    return time.date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
