"""The time ranges of partitions, as bins for the statements that count rows per partition.

This module needs neither Dagster nor a connection. Bins are in seconds, so that partitions may have any length, such
as a day of 23 or 25 hours. Dates are compared by day. The statement itself determines the type of the column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

#: Added to the seconds of dates, so that one list can contain the bins of timestamps and, after them, those of dates.
#: A multiple of a day.
DATE_OFFSET = 86400 * 10**7
#: Margin of the filter that lets an engine skip files. It covers the time zones of values and of sessions.
FILTER_MARGIN = timedelta(days=2)


@dataclass(frozen=True)
class Bins:
    """The bins of consecutive partitions.

    Attributes:
        keys: The partition keys.
        times: The starts of the partitions and the end of the last one, as aware datetimes.
    """

    keys: Sequence[str]
    times: Sequence[datetime]

    @property
    def borders(self) -> list[int]:
        """The borders of the bins in seconds since 1970: those of timestamps, then those of dates."""
        days = [int(_midnight(_day(time)).timestamp()) for time in self.times]
        return [*(int(time.timestamp()) for time in self.times), *(DATE_OFFSET + day for day in days)]

    @property
    def step(self) -> int:
        """Seconds of which the length of every bin and every gap is a multiple: an hour in most time zones."""
        first, *others = self.borders
        return math.gcd(*(border - first for border in others))

    def key(self, bucket: int) -> str | None:
        """Return the partition key of a bin, counted from 1; None if it belongs to no partition."""
        place = (bucket - 1) % len(self.times)
        return self.keys[place] if 0 < bucket < 2 * len(self.times) and place < len(self.keys) else None

    def near(self, time: str) -> str:
        """Return a condition that lets an engine skip rows that are far from all partitions.

        Args:
            time: The quoted column.
        """
        low, high = (
            f"timestamp '{_naive(moment)}'"
            for moment in (self.times[0] - FILTER_MARGIN, self.times[-1] + FILTER_MARGIN)
        )
        return f"{time} >= {low} and {time} < {high}"


def _day(time: datetime) -> date:
    """Return the day that starts at a time. It starts later than midnight if the time zone skips midnight."""
    return time.date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
