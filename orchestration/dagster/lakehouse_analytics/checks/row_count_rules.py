"""Row counts: statements that count many tables, and the rules that evaluate a count.

Pure: no Dagster, no connection.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.contract.models import Drift, Rows

#: Makes the MAD of a normal distribution equal to its standard deviation
#: (Rousseeuw & Croux, "Alternatives to the Median Absolute Deviation", 1993).
MAD_SCALE = 1.4826
#: Minimum MAD as a fraction of the median, because counts that never change have a MAD of zero.
MAD_FLOOR = 0.01
#: Number of counts of the same season, such as a weekday, from which on only those are compared.
SAME_SEASON = 4


@dataclass(frozen=True)
class CountRequest:
    """A request to count one table.

    Attributes:
        relation: The table's full name, already quoted, as in dbt's manifest.
        distinct: Columns whose distinct values are counted.
        event_time: The column whose maximum is the newest event time, if any.
    """

    relation: str
    distinct: tuple[str, ...] = ()
    event_time: str | None = None


@dataclass(frozen=True)
class Counts:
    """The counts of one table or partition.

    Attributes:
        rows: The number of rows.
        distinct: The number of distinct values by column.
        newest: The newest event time, timezone-aware. Naive times are interpreted as UTC.
    """

    rows: int
    distinct: Mapping[str, int] = field(default_factory=dict)
    newest: datetime | None = None


def count_sql(tables: Sequence[CountRequest]) -> str:
    """Return a statement that counts every table.

    Its columns are `place, newest, rows, distinct…`. Tables with fewer distinct columns are padded with nulls.
    """
    width = max((len(table.distinct) for table in tables), default=0)
    selects = []
    for place, table in enumerate(tables):
        distinct = [f"count(distinct {identifier(column)})" for column in table.distinct]
        columns = [str(place), newest_sql(table), "count(*)", *distinct, *padding(table, width)]
        # Names come from the manifest and the contract, and are quoted.
        selects.append(f"select {', '.join(columns)} from {table.relation}")  # noqa: S608
    return "\nunion all\n".join(selects)


def newest_sql(table: CountRequest) -> str:
    """Return the SQL of the newest event time as text, or of null if the table has no event time."""
    return f"cast(max({identifier(table.event_time)}) as varchar)" if table.event_time else "cast(null as varchar)"


def padding(table: CountRequest, width: int) -> list[str]:
    """Return null columns in place of the distinct columns that only other tables of the statement have."""
    return ["cast(null as bigint)"] * (width - len(table.distinct))


def chunks(tables: Sequence[CountRequest], stages: int | None, *, each: int = 1) -> Iterator[Sequence[CountRequest]]:
    """Split tables into statements of a limited number of stages.

    Trino 476 plans a stage for each `select` of `count_sql` and, where it has to mark distinct values, one more for
    each distinct column. The additional stages of a view are not known here. A table that exceeds the limit by itself
    gets its own chunk.

    Args:
        tables: The tables, in order.
        stages: The maximum number of stages of a statement. If None, there is one statement for all tables.
        each: The stages of one `select` without its distinct columns.
    """
    begin = weight = 0
    for place, table in enumerate(tables):
        own = each + len(table.distinct)
        if stages is not None and place > begin and weight + own > stages:
            yield tables[begin:place]
            begin, weight = place, 0
        weight += own
    if tables:
        yield tables[begin:]


def read_counts(tables: Sequence[CountRequest], answer: Sequence[Sequence[Any]]) -> list[Counts]:
    """Return the counts of each table from the result of `count_sql`, whose rows may be in any order.

    Raises:
        ValueError: A table has no row, or more than one.
    """
    by_place = {int(row[0]): row for row in answer}
    if len(answer) != len(tables) or by_place.keys() != set(range(len(tables))):
        raise ValueError(f"expected one row for each of {len(tables)} tables, got {len(answer)} rows")
    return [
        Counts(
            rows=int(by_place[place][2]),
            distinct=dict(zip(table.distinct, map(int, by_place[place][3 : 3 + len(table.distinct)]), strict=True)),
            newest=parse_time(by_place[place][1]),
        )
        for place, table in enumerate(tables)
    ]


def parse_time(text: str | None) -> datetime | None:
    """Parse a time as an engine formats it. Return None if there is none or it cannot be parsed."""
    if not text:
        return None
    # Trino appends the name of a time zone and DuckDB an offset; dates have neither.
    when, _, zone = text.rpartition(" ")
    try:
        if zone[:1].isalpha():
            return datetime.fromisoformat(when).replace(tzinfo=ZoneInfo(zone))
        parsed = datetime.fromisoformat(when + zone if zone[:1] in ("+", "-") else text)
    except (ValueError, ZoneInfoNotFoundError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def broken_rules(rules: Rows, rows: int, last_passed: int | None) -> list[str]:
    """Return the violated rules, each as a clause with the actual and the expected value.

    Args:
        rules: The rules of the contract.
        rows: The row count.
        last_passed: The row count when this check last passed, if it ever did. This is not the last count: otherwise, a
            drop that failed once would pass when it is counted again.
    """
    broken = []
    if rules.not_empty and rows == 0:
        broken.append("the table is empty")
    if rules.min is not None and rows < rules.min:
        broken.append(f"{rows} rows, expected at least {rules.min} (min)")
    if rules.max is not None and rows > rules.max:
        broken.append(f"{rows} rows, expected at most {rules.max} (max)")
    if rules.max_drop is not None and last_passed and (lost := (last_passed - rows) / last_passed) > rules.max_drop:
        broken.append(
            f"{rows} rows, {lost:.0%} fewer than the {last_passed} of the last passed check "
            f"(max_drop {rules.max_drop:.0%})"
        )
    return broken


@dataclass(frozen=True)
class DriftResult:
    """The comparison of a row count with earlier ones.

    Attributes:
        compared: Whether there was enough history for a comparison.
        passed: Whether the count is within the allowed distance, or was not compared.
        explanation: The comparison in words, or how much history there is.
        median: The median of the earlier counts.
        allowed: The allowed distance from the median, in rows.
    """

    compared: bool
    passed: bool
    explanation: str
    median: float | None = None
    allowed: float | None = None


def evaluate_drift(
    rules: Drift,
    rows: int,
    history: Sequence[tuple[datetime, int]],
    now: datetime,
    zone: tzinfo,
    *,
    season: str = "%A",
) -> DriftResult:
    """Compare a row count with earlier ones.

    Args:
        rules: The rules of the contract.
        rows: The row count.
        history: Earlier counts with their timezone-aware times, in any order.
        now: The time of this count, timezone-aware.
        zone: The time zone that determines the season.
        season: Format of `strftime` that is equal for comparable times, by default the day of the week. `""` compares
            all times. Once `SAME_SEASON` counts are of the current season, only those are used.
    """
    if len(history) < rules.min_history:
        return DriftResult(False, True, f"not compared: {len(history)} earlier counts, {rules.min_history} are needed")
    ours = now.astimezone(zone).strftime(season)
    same = [count for when, count in history if when.astimezone(zone).strftime(season) == ours]
    seasonal = bool(season) and len(same) >= SAME_SEASON
    counts = same if seasonal else [count for _, count in history]
    median = statistics.median(counts)
    mad = statistics.median(abs(count - median) for count in counts)
    allowed = rules.mads * max(mad * MAD_SCALE, abs(median) * MAD_FLOOR, 1.0)
    basis = f"{len(counts)} earlier counts" + (
        f" on {ours}s" if seasonal and season == "%A" else f" at {ours}" if seasonal else ""
    )
    passed = abs(rows - median) <= allowed
    explanation = f"{rows} rows, {median:g} ± {allowed:.0f} expected from {basis}"
    return DriftResult(True, passed, explanation, median, allowed)
