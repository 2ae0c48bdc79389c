"""Row-count checks of partitioned tables: an evaluation a partition, judged against the partitions around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from lakehouse_analytics.checks import (
    UNSAID,
    Past,
    drift_outcome,
    past_of,
    row_count_outcome,
    uncounted_outcomes,
)
from lakehouse_analytics.contract import Drift, Grain
from lakehouse_analytics.graph import Table
from lakehouse_analytics.partitions import Calendar, Span, Window, overlapping, windows
from lakehouse_analytics.row_counts import Counts, judge_drift
from lakehouse_analytics.translator import DRIFT, ROW_COUNT, asset_key

#: Partitions before a partition that its drift is judged against.
BEFORE: Mapping[Grain, timedelta] = {
    "hourly": timedelta(days=7),
    "daily": timedelta(days=60),
    "weekly": timedelta(weeks=52),
    "monthly": timedelta(days=3 * 366),
}
#: What windows of a grain are alike, as a format of `strftime`: hours of a day, days of a week.
SEASON: Mapping[Grain, str] = {"hourly": "%H:00", "daily": "%A", "weekly": "", "monthly": ""}

#: The latest evaluation of a check for one partition.
PartitionHistory = Callable[[dg.AssetCheckKey, str], Past | None]


def partition_history_of(instance: dg.DagsterInstance) -> PartitionHistory:
    """Read it from Dagster's event log; about 5 ms a partition."""

    def read(key: dg.AssetCheckKey, partition: str) -> Past | None:
        records = instance.event_log_storage.get_asset_check_execution_history(
            key,
            limit=1,
            status={AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED},
            partition_filter=PartitionKeyFilter(key=partition),
        )
        return next(iter(past_of(records)), None)

    return read


def partition_evaluations(
    table: Table,
    calendar: Calendar,
    span: Span,
    answer: Mapping[str, Counts] | str,
    history: PartitionHistory,
    *,
    zone: tzinfo,
    accepted: bool,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The checks of one table, for each window of a run.

    Dagster would store an `AssetCheckResult` of a run of several partitions once, and for none of them.

    Args:
        table: What was counted.
        calendar: Its windows.
        span: Those that the run has built.
        answer: Their counts, or why they are not known.
        history: Earlier evaluations.
        zone: Decides what a weekday is.
        accepted: Somebody said that these counts are the new normal.
    """
    rules = table.contract.rows or UNSAID
    key = asset_key(table)

    def evaluation(name: str, partition: str, blocking: bool, outcome: Mapping[str, object]) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=name,
            partition=partition,
            blocking=blocking,
            **outcome,  # type: ignore[arg-type]
        )

    if isinstance(answer, str):
        for window in span.windows:
            for name, outcome in uncounted_outcomes(table, answer).items():
                yield evaluation(name, window.key, outcome["severity"] == dg.AssetCheckSeverity.ERROR, outcome)
        return
    count_key = dg.AssetCheckKey(key, ROW_COUNT)
    for window in span.windows:
        last_passed = None
        if rules.max_drop is not None and not accepted:
            # Against the same window as it was built before: others have their own number of rows.
            past = history(count_key, window.key)
            last_passed = past.known if past else None
        outcome = row_count_outcome(rules, answer[window.key].rows, last_passed, accepted=accepted)
        yield evaluation(ROW_COUNT, window.key, rules.severity == "error", outcome)
    if rules.drift:
        yield from (
            evaluation(DRIFT, partition, rules.drift.severity == "error", outcome)
            for partition, outcome in _drifts(
                table, rules.drift, calendar, span, answer, history=history, zone=zone, accepted=accepted
            )
        )


def _drifts(
    table: Table,
    rules: Drift,
    calendar: Calendar,
    span: Span,
    answer: Mapping[str, Counts],
    *,
    history: PartitionHistory,
    zone: tzinfo,
    accepted: bool,
) -> Iterator[tuple[str, dict[str, object]]]:
    grain = table.grain or "daily"
    key = dg.AssetCheckKey(asset_key(table), DRIFT)
    counted: list[tuple[datetime, int]] = []
    for window in _before(calendar, span, BEFORE[grain]):
        past = history(key, window.key)
        if past and past.accepted:
            counted.clear()
        if past:
            counted.append((window.start, past.rows))
    for window in span.windows:
        rows = answer[window.key].rows
        near = [(start, count) for start, count in counted if start >= window.start - BEFORE[grain]]
        verdict = judge_drift(rules, rows, near, window.start, zone, season=SEASON[grain])
        yield window.key, drift_outcome(rules, rows, verdict, len(near), accepted=accepted)
        # Judged together, windows are each other's past.
        counted.append((window.start, rows))


def _before(calendar: Calendar, span: Span, length: timedelta) -> list[Window]:
    keys = overlapping(calendar, span.start - length, span.start)
    return [window for window in windows(calendar, keys) if window.end <= span.start]
