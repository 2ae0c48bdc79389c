"""Row counts by window: one statement for all windows of many tables.

Pure: no Dagster, no connection. A row is put into its window by its time in seconds, so that windows may be of any
length, and a day of 23 or 25 hours is one; dates by their day. What type a column has, the statement itself asks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from lakehouse_analytics.checks.row_counts import Counted, Counts, newest_sql, padding, parse_time
from lakehouse_analytics.common.sql import identifier

#: Added to the seconds of dates: their windows stand behind those of times in one list. Whole days.
DATES = 86400 * 10**7
#: What the filter that lets an engine skip files leaves of room: zones, and sessions in other zones.
ROOM = timedelta(days=2)
#: Stages that Trino plans for one table, beside those for its distinct columns.
STAGES = 2


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


def _day(time: datetime) -> date:
    """The day that begins with a moment: a zone that skips its midnight begins it later."""
    return time.date()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def window_count_sql(adapter: str, bins: Bins, tables: Sequence[Counted]) -> str:
    """One statement that counts every table by window: `place, bucket, newest, rows, distinct…`, padded with nulls."""
    width = max((len(table.distinct) for table in tables), default=0)
    return "\nunion all\n".join(_select(adapter, bins, place, table, width) for place, table in enumerate(tables))


def _select(adapter: str, bins: Bins, place: int, table: Counted, width: int) -> str:
    distinct = [f"count(distinct {identifier(column)})" for column in table.distinct]
    columns = [str(place), "lakehouse_bucket", newest_sql(table), "count(*)", *distinct, *padding(table, width)]
    # Names come from the manifest and the contract, and are quoted.
    return (
        f"select {', '.join(columns)} from ({_bucketed(adapter, bins, table)}) "  # noqa: S608
        "as counted group by lakehouse_bucket"
    )


def _bucketed(adapter: str, bins: Bins, table: Counted) -> str:
    time, relation = identifier(table.event_time or ""), table.relation
    low, high = (f"timestamp '{_naive(moment)}'" for moment in (bins.times[0] - ROOM, bins.times[-1] + ROOM))
    near = f"{time} >= {low} and {time} < {high}"
    # A moment without a zone is UTC, whatever the session's zone is.
    if adapter == "trino":
        seconds = (
            f"case when typeof({time}) = 'date' then {DATES} + 86400e0 * date_diff('day', date '1970-01-01', "
            f"cast({time} as date)) when typeof({time}) like '%with time zone' "
            f"then to_unixtime(cast({time} as timestamp(6) with time zone)) "
            f"else to_unixtime(with_timezone(cast({time} as timestamp(6)), 'UTC')) end"
        )
        borders = ", ".join(f"{border}e0" for border in bins.borders)
        bucket = f"width_bucket({seconds}, array[{borders}])"
        return f"select *, {bucket} as lakehouse_bucket from {relation} where {near}"  # noqa: S608
    # A hash join over steps that every border is a multiple of; an `asof join` would sort the table.
    first, step = bins.borders[0], bins.step
    since = f"epoch_us({time}) + case when typeof({time}) = 'DATE' then {DATES}000000 else 0 end - {first}000000"
    places = [(border - first) // step for border in bins.borders]
    gap = len(bins.keys)  # between times and dates
    lows, highs, numbers = (
        [value for place, value in enumerate(values) if place != gap]
        for values in (places[:-1], places[1:], [*range(1, len(places))])
    )
    return (
        "select stored.*, windows.lakehouse_bucket from "  # noqa: S608
        f"(select *, {since} as lakehouse_since from {relation} where {near}) as stored join ("
        "select lakehouse_bucket, unnest(range(low, high)) as place from (select "
        f"unnest({lows}) as low, unnest({highs}) as high, unnest({numbers}) as lakehouse_bucket)) as windows "
        f"on stored.lakehouse_since // {step}000000 = windows.place where stored.lakehouse_since >= 0"
    )


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def read_window_counts(
    bins: Bins, tables: Sequence[Counted], answer: Sequence[Sequence[Any]]
) -> list[Mapping[str, Counts]]:
    """Match the answer of `window_count_sql` to its tables: counts by key, zero where a window has no rows."""
    nothing = [Counts(0, dict.fromkeys(table.distinct, 0)) for table in tables]
    found: list[dict[str, Counts]] = [dict.fromkeys(bins.keys, nothing[place]) for place in range(len(tables))]
    for place, bucket, newest, rows, *distinct in answer:
        key = bins.key(int(bucket))
        if key is not None:
            columns = tables[int(place)].distinct
            values = dict(zip(columns, map(int, distinct[: len(columns)]), strict=True))
            found[int(place)][key] = Counts(int(rows), values, parse_time(newest))
    return [*found]
