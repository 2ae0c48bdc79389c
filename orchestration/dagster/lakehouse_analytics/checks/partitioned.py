"""Row-count checks of partitioned tables: an evaluation a partition, judged against the partitions around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, tzinfo

import dagster as dg

from lakehouse_analytics.checks.history import History
from lakehouse_analytics.checks.results import UNSAID, drift_outcome, last_count, row_count_outcome, uncounted_outcomes
from lakehouse_analytics.checks.row_count_rules import Counts, judge_drift
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.contract.models import Drift, Grain
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.definitions import GrainPartitions, PartitionRange, Window, overlapping, windows

#: Partitions before a partition that its drift is judged against.
BEFORE: Mapping[Grain, timedelta] = {
    "hourly": timedelta(days=7),
    "daily": timedelta(days=60),
    "weekly": timedelta(weeks=52),
    "monthly": timedelta(days=3 * 366),
}
#: What windows of a grain are alike, as a format of `strftime`: hours of a day, days of a week.
SEASON: Mapping[Grain, str] = {"hourly": "%H:00", "daily": "%A", "weekly": "", "monthly": ""}


def partition_evaluations(
    table: Table,
    partitions_def: GrainPartitions,
    span: PartitionRange,
    answer: Mapping[str, Counts] | str,
    history: History,
    *,
    zone: tzinfo,
    accepted: bool,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The checks of one table, for each window of a run.

    Dagster would store an `AssetCheckResult` of a run of several partitions once, and for none of them.

    Args:
        table: What was counted.
        partitions_def: Its windows.
        span: Those that the run has built.
        answer: Their counts, or why they are not known.
        history: Earlier counts.
        zone: Decides what a weekday is.
        accepted: An operator accepts these counts as the new level.
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
            for name, outcome in uncounted_outcomes(table, answer, history, window.key).items():
                yield evaluation(name, window.key, outcome["severity"] == dg.AssetCheckSeverity.ERROR, outcome)
        return
    count_key = dg.AssetCheckKey(key, ROW_COUNT)
    row_counts: dict[str, bool] = {}
    for window in span.windows:
        last_passed = None
        if rules.max_drop is not None and not accepted:
            # Against the same window as it was built before: others have their own number of rows.
            last_passed = last_count(history, count_key, window.key)
        outcome = row_count_outcome(rules, answer[window.key].rows, last_passed, name=table.name, accepted=accepted)
        row_counts[window.key] = bool(outcome["passed"])
        yield evaluation(ROW_COUNT, window.key, rules.severity == "error", outcome)
    if rules.drift:
        drifts = Drifts(table, rules.drift, history, zone, accepted=accepted)
        for window, outcome in drifts.judge(partitions_def, span, answer, row_counts):
            yield evaluation(DRIFT, window.key, rules.drift.severity == "error", outcome)


class Drifts:
    """Compares windows with the windows before them."""

    def __init__(self, table: Table, rules: Drift, history: History, zone: tzinfo, *, accepted: bool) -> None:
        self._rules, self._history, self._zone, self._accepted = rules, history, zone, accepted
        self._name, self._grain = table.name, table.grain or "daily"
        self._key = dg.AssetCheckKey(asset_key(table), DRIFT)

    def judge(
        self,
        partitions_def: GrainPartitions,
        span: PartitionRange,
        answer: Mapping[str, Counts],
        row_counts: Mapping[str, bool],
    ) -> Iterator[tuple[Window, dict[str, object]]]:
        """The drift check of each window of a span.

        Args:
            partitions_def, span: Windows of the table, and those that were counted.
            answer: Counts by window.
            row_counts: Whether `row_count` passed, by window.
        """
        length = BEFORE[self._grain]
        counted: list[tuple[datetime, int]] = []
        for window in _before(partitions_def, span, length):
            past = self._history.last(self._key, window.key)
            if past and past.known is not None:
                counted = [*([] if past.accepted or past.starts else counted), (window.start, past.known)]
        for window in span.windows:
            rows = answer[window.key].rows
            memory = self._history.last(self._key, window.key)
            known = memory.known if memory else None
            if memory and known is not None and (memory.accepted or memory.starts):
                # Its level was accepted before. Without the accepted count itself a second build would fail again.
                counted = [(window.start, known)]
            near = [(start, count) for start, count in counted if start >= window.start - length]
            verdict = judge_drift(self._rules, rows, near, window.start, self._zone, season=SEASON[self._grain])
            outcome = drift_outcome(
                self._rules, rows, verdict, len(near),
                name=self._name, accepted=self._accepted, row_count_passed=row_counts[window.key], memory=memory,
            )  # fmt: skip
            yield window, outcome
            # Windows that are judged together are each other's history.
            if self._accepted:
                counted = [(window.start, rows)]
            elif outcome["passed"] and row_counts[window.key]:
                counted = [*(entry for entry in counted if entry[0] != window.start), (window.start, rows)]
            elif known is not None and (window.start, known) not in counted:
                counted = [*counted, (window.start, known)]


def _before(partitions_def: GrainPartitions, span: PartitionRange, length: timedelta) -> list[Window]:
    keys = overlapping(partitions_def, span.start - length, span.start)
    return [window for window in windows(partitions_def, keys) if window.end <= span.start]
