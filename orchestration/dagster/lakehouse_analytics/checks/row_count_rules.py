"""Row counts: one statement for many tables, and the rules that judge them.

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
#: Counts that never change have a MAD of zero; this share of the median stands in for it.
MAD_FLOOR = 0.01
#: Counts of the same season, such as a weekday, needed before only those are compared.
SAME_SEASON = 4


@dataclass(frozen=True)
class CountRequest:
    """What is asked of one table. `relation` is quoted already, as dbt's manifest has it."""

    relation: str
    distinct: tuple[str, ...] = ()
    event_time: str | None = None


@dataclass(frozen=True)
class Counts:
    """What one table answered. `newest` is the largest event time; naive times are taken as UTC."""

    rows: int
    distinct: Mapping[str, int] = field(default_factory=dict)
    newest: datetime | None = None


def count_sql(tables: Sequence[CountRequest]) -> str:
    """One statement that counts every table: `place, newest, rows, distinct…`, padded with nulls."""
    width = max((len(table.distinct) for table in tables), default=0)
    selects = []
    for place, table in enumerate(tables):
        distinct = [f"count(distinct {identifier(column)})" for column in table.distinct]
        columns = [str(place), newest_sql(table), "count(*)", *distinct, *padding(table, width)]
        # Names come from the manifest and the contract, and are quoted.
        selects.append(f"select {', '.join(columns)} from {table.relation}")  # noqa: S608
    return "\nunion all\n".join(selects)


def newest_sql(table: CountRequest) -> str:
    """The largest event time as text, or null."""
    return f"cast(max({identifier(table.event_time)}) as varchar)" if table.event_time else "cast(null as varchar)"


def padding(table: CountRequest, width: int) -> list[str]:
    """Nulls for the distinct columns that other tables of the statement have."""
    return ["cast(null as bigint)"] * (width - len(table.distinct))


def chunks(tables: Sequence[CountRequest], stages: int | None, *, each: int = 1) -> Iterator[Sequence[CountRequest]]:
    """Cut tables into statements of at most so many stages; None is one statement, however many tables.

    Trino 476 plans a stage for each `select` of `count_sql`, and, where it has to mark them, one more for each distinct
    column. What a view costs besides is not known here. A table that is over the limit by itself is a chunk of its own.

    Args:
        tables: In order.
        stages: Of a statement, at most.
        each: Stages of one `select`, without its distinct columns.
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
    """Match the answer of `count_sql` to its tables, whatever order the rows came in.

    Raises:
        ValueError: a table has no row or more than one.
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
    """A time as an engine writes it; None where there is none, or it cannot be read."""
    if not text:
        return None
    # Trino ends with a zone's name, DuckDB with an offset, dates have neither.
    when, _, zone = text.rpartition(" ")
    try:
        if zone[:1].isalpha():
            return datetime.fromisoformat(when).replace(tzinfo=ZoneInfo(zone))
        parsed = datetime.fromisoformat(when + zone if zone[:1] in ("+", "-") else text)
    except (ValueError, ZoneInfoNotFoundError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def broken_rules(rules: Rows, rows: int, last_passed: int | None) -> list[str]:
    """The row rules that do not hold, each as a sentence with what was seen and expected.

    Args:
        rules: The contract.
        rows: Rows now.
        last_passed: Rows when this check last passed, if it ever did. Not the last count: a drop that
            failed once must not become the new normal by being looked at twice.
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
class DriftVerdict:
    """How a row count compares with its own history.

    `judged` is False while there is too little history; `explanation` then says how much is there.
    """

    judged: bool
    passed: bool
    explanation: str
    median: float | None = None
    allowed: float | None = None


def judge_drift(
    rules: Drift,
    rows: int,
    history: Sequence[tuple[datetime, int]],
    now: datetime,
    zone: tzinfo,
    *,
    season: str = "%A",
) -> DriftVerdict:
    """Compare a row count with earlier ones.

    Args:
        rules: The contract.
        rows: Rows now.
        history: Earlier counts with the aware time of each, in any order.
        now: The time of this count, aware.
        zone: Decides what a weekday is.
        season: What times are alike, as a format of `strftime`: weekdays; `""` is all of them. With `SAME_SEASON`
            counts of this season only those are used.
    """
    if len(history) < rules.min_history:
        return DriftVerdict(False, True, f"not judged: {len(history)} earlier counts, {rules.min_history} are needed")
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
    return DriftVerdict(True, passed, explanation, median, allowed)
