"""Row-count checks of partitioned tables: one evaluation per partition, compared with the partitions before it.

Those of a value are compared with earlier builds of the same value, as it has no partitions before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import dagster as dg

from lakehouse_analytics.checks.history import History
from lakehouse_analytics.checks.row_count_results import (
    DEFAULT_RULES,
    drift_outcome,
    last_count,
    row_count_outcome,
    row_count_outcomes,
    uncounted_outcomes,
)
from lakehouse_analytics.checks.row_count_rules import Counts, evaluate_drift
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.contract.models import Drift, Grain
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.partitions.definitions import (
    GrainPartitions,
    PartitionRange,
    Window,
    overlapping_keys,
    windows,
)

#: Length of the history before a partition that its drift check uses.
HISTORY_LENGTH: Mapping[Grain, timedelta] = {
    "hourly": timedelta(days=7),
    "daily": timedelta(days=60),
    "weekly": timedelta(weeks=52),
    "monthly": timedelta(days=3 * 366),
}
#: Format of `strftime` that is equal for comparable partitions: the same hour of the day, the same day of the week.
SEASON: Mapping[Grain, str] = {"hourly": "%H:00", "daily": "%A", "weekly": "", "monthly": ""}


def partition_evaluations(
    table: Table,
    partitions_def: GrainPartitions,
    partition_range: PartitionRange,
    answer: Mapping[str, Counts] | str,
    history: History,
    *,
    zone: tzinfo,
    accepted: bool,
    key_of: Callable[[str], str] = str,
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the row-count checks of one table, for each partition of a run.

    They are evaluations because Dagster would store an `AssetCheckResult` of a run of several partitions only once, and
    for none of them.

    Args:
        table: The table that was counted.
        partitions_def: The partitions definition of the table.
        partition_range: The partitions that the run has built.
        answer: Their counts by partition key, or the reason why they could not be counted.
        history: Earlier counts.
        zone: The time zone that determines the day of the week.
        accepted: Whether an operator accepts these counts as the new level.
        key_of: Returns the partition key of a window, for the windows of one value of a column.
    """
    partition_range = PartitionRange(with_keys(partition_range.windows, key_of))
    rules = table.contract.rows or DEFAULT_RULES
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
        for window in partition_range.windows:
            for name, outcome in uncounted_outcomes(table, answer, history, window.key).items():
                yield evaluation(name, window.key, outcome["severity"] == dg.AssetCheckSeverity.ERROR, outcome)
        return
    count_key = dg.AssetCheckKey(key, ROW_COUNT)
    row_counts: dict[str, bool] = {}
    for window in partition_range.windows:
        last_passed = None
        if rules.max_drop is not None and not accepted:
            # Compared with an earlier build of the same partition, because partitions differ in size.
            last_passed = last_count(history, count_key, window.key)
        outcome = row_count_outcome(rules, answer[window.key].rows, last_passed, name=table.name, accepted=accepted)
        row_counts[window.key] = bool(outcome["passed"])
        yield evaluation(ROW_COUNT, window.key, rules.severity == "error", outcome)
    if rules.drift:
        drifts = PartitionDrift(table, rules.drift, history, zone, accepted=accepted, key_of=key_of)
        for window, outcome in drifts.evaluate(partitions_def, partition_range, answer, row_counts):
            yield evaluation(DRIFT, window.key, rules.drift.severity == "error", outcome)


class PartitionDrift:
    """Compares the row counts of partitions with those of the partitions before them."""

    def __init__(
        self,
        table: Table,
        rules: Drift,
        history: History,
        zone: tzinfo,
        *,
        accepted: bool,
        key_of: Callable[[str], str] = str,
    ) -> None:
        self._key_of = key_of
        self._rules, self._history, self._zone, self._accepted = rules, history, zone, accepted
        self._name, self._grain = table.name, table.grain or "daily"
        self._key = dg.AssetCheckKey(asset_key(table), DRIFT)

    def evaluate(
        self,
        partitions_def: GrainPartitions,
        partition_range: PartitionRange,
        answer: Mapping[str, Counts],
        row_counts: Mapping[str, bool],
    ) -> Iterator[tuple[Window, dict[str, object]]]:
        """Yield the drift check of each partition.

        Args:
            partitions_def: The partitions definition of the table.
            partition_range: The partitions that were counted.
            answer: Their counts by partition key.
            row_counts: Whether the check `row_count` passed, by partition key.
        """
        length = HISTORY_LENGTH[self._grain]
        counted: list[tuple[datetime, int]] = []
        for window in with_keys(_partitions_before(partitions_def, partition_range, length), self._key_of):
            past = self._history.last(self._key, window.key)
            if past and past.new_baseline is not None:
                counted = [
                    *([] if past.accepted or past.starts_history else counted),
                    (window.start, past.new_baseline),
                ]
        for window in partition_range.windows:
            rows = answer[window.key].rows
            memory = self._history.last(self._key, window.key)
            known = memory.new_baseline if memory else None
            if memory and known is not None and (memory.accepted or memory.starts_history):
                # This partition's level was accepted. Without the accepted count, a second build would fail again.
                counted = [(window.start, known)]
            near = [(start, count) for start, count in counted if start >= window.start - length]
            verdict = evaluate_drift(self._rules, rows, near, window.start, self._zone, season=SEASON[self._grain])
            outcome = drift_outcome(
                self._rules, rows, verdict, len(near),
                name=self._name, accepted=self._accepted, row_count_passed=row_counts[window.key], memory=memory,
            )  # fmt: skip
            yield window, outcome
            # Partitions of the same run are part of each other's history.
            if self._accepted:
                counted = [(window.start, rows)]
            elif outcome["passed"] and row_counts[window.key]:
                counted = [*(entry for entry in counted if entry[0] != window.start), (window.start, rows)]
            elif known is not None and (window.start, known) not in counted:
                counted = [*counted, (window.start, known)]


def value_evaluations(
    table: Table,
    values: Sequence[str],
    answer: Mapping[str, Counts] | str,
    history: History,
    *,
    zone: tzinfo,
    accepted: bool,
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the row-count checks of one table that is partitioned by a column, for each value of a run.

    Args:
        table: The table that was counted.
        values: The values that the run has built.
        answer: Their counts, or the reason why they could not be counted.
        history: Earlier counts.
        zone: The time zone that determines the day of the week.
        accepted: Whether an operator accepts these counts as the new level.
    """
    now = datetime.now(UTC)
    for value in values:
        outcomes = (
            uncounted_outcomes(table, answer, history, value)
            if isinstance(answer, str)
            else row_count_outcomes(
                table, answer[value], history, now=now, zone=zone, accepted=accepted, partition=value
            )
        )
        for name, outcome in outcomes.items():
            yield dg.AssetCheckEvaluation(
                asset_key=asset_key(table),
                check_name=name,
                partition=value,
                blocking=_severity(table, name) == "error",
                **outcome,
            )


def _severity(table: Table, name: str) -> str:
    rules = table.contract.rows or DEFAULT_RULES
    return rules.drift.severity if name == DRIFT and rules.drift else rules.severity


def with_keys(windows: Sequence[Window], key_of: Callable[[str], str]) -> list[Window]:
    """Return windows with other keys."""
    return [replace(window, key=key_of(window.key)) for window in windows]


def _partitions_before(
    partitions_def: GrainPartitions, partition_range: PartitionRange, length: timedelta
) -> list[Window]:
    keys = overlapping_keys(partitions_def, partition_range.start - length, partition_range.start)
    return [window for window in windows(partitions_def, keys) if window.end <= partition_range.start]
