"""Earlier row counts that a new one is compared with: only those that passed or that an operator accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

import dagster as dg

from lakehouse_analytics._dagster_internals import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    PartitionKeyFilter,
)

#: Maximum number of earlier counts that the drift check uses: two months of daily runs.
MAX_HISTORY = 60
#: Number of evaluations among which the newest is searched. Dagster lists them in the order in which their runs were
#: queued, and a run of higher priority can overtake others.
NEWEST = 5
# Metadata keys of an evaluation. See `PastCount`.
ROWS = "rows"
BASELINE = "last_passed_rows"
ACCEPTED = "accepted_by_hand"
ACCEPTED_LEVEL = "accepted_level"
EXCLUDED, HISTORY_BEFORE = "not_in_history", "history_before"

_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


@dataclass(frozen=True)
class PastCount:
    """One earlier evaluation of a row-count check.

    Attributes:
        when: The time of the evaluation, timezone-aware.
        rows: The row count, or None if the table could not be counted.
        passed: Whether the check passed.
        baseline: The last count before this one that passed or was accepted, as recorded by this evaluation.
        accepted: Whether an operator accepted this count as the new level.
        starts_history: Whether the drift history starts at this partition, because its level was accepted.
        in_history: Whether the other checks of the same count allow it to enter the history.
        history_before: The history before this evaluation. Only recorded by an evaluation that passed without entering
            the history, otherwise None.
    """

    when: datetime
    rows: int | None
    passed: bool
    baseline: int | None = None
    accepted: bool = False
    starts_history: bool = False
    in_history: bool = True
    history_before: Sequence[PastCount] | None = None

    @property
    def is_history(self) -> bool:
        """Whether later counts may be compared with this one, because it passed or was accepted."""
        return self.rows is not None and (self.accepted or (self.passed and self.in_history))

    @property
    def new_baseline(self) -> int | None:
        """The last count that passed or was accepted, up to and including this evaluation."""
        return self.rows if self.is_history else self.baseline


class History(Protocol):
    """Earlier counts of the row-count checks. It contains only counts that passed or were accepted."""

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> PastCount | None:
        """Return the newest evaluation that records a baseline (`PastCount.new_baseline`).

        Returns:
            The evaluation, or None if no count of this check and partition has ever passed or been accepted.
        """

    def counts(self, key: dg.AssetCheckKey, partition: str | None = None) -> Sequence[PastCount]:
        """Return the newest counts of a check, or of one of its partitions, that passed or were accepted.

        Returns:
            At most `MAX_HISTORY` counts, newest first.
        """


class StoredHistory:
    """The history in Dagster's event log. Reading it takes about 5 ms per check or partition.

    Evaluations that are not part of the history cannot displace those that are. The query is restricted to evaluations
    of the right status, which leaves out planned and failed ones and tables that could not be counted. An evaluation
    that passed without entering the history records the history before it (`history_before`), so no number of them
    hides earlier counts, and only the newest `MAX_HISTORY` evaluations that passed have to be retained. An evaluation
    that did not pass also records the baseline, which thus survives if the evaluation that passed is deleted.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._storage = instance.event_log_storage

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> PastCount | None:
        """Return the newest evaluation that records a baseline. See `History.last`."""
        rows = self._read(key, partition, _EVALUATED, NEWEST)
        newest = max(past_counts(rows), key=lambda past: past.when, default=None)
        if newest is None or newest.new_baseline is not None:
            return newest
        # Either no count has passed yet, or the evaluation is from a version that did not record the baseline.
        return next(iter(self._passed(key, partition, 1)), None)

    def counts(self, key: dg.AssetCheckKey, partition: str | None = None) -> list[PastCount]:
        """Return the counts that passed or were accepted. See `History.counts`."""
        return self._passed(key, partition, MAX_HISTORY)

    def _passed(self, key: dg.AssetCheckKey, partition: str | None, most: int) -> list[PastCount]:
        found: dict[datetime, PastCount] = {}
        cursor: int | None = None
        while True:
            rows = self._read(key, partition, {AssetCheckExecutionRecordStatus.SUCCEEDED}, MAX_HISTORY, cursor)
            page = [*past_counts(rows)]
            memories = [past.history_before for past in page if past.history_before is not None]
            found |= {past.when: past for memory in memories for past in memory}
            found |= {past.when: past for past in page if past.is_history}
            # Further pages are only needed if all of this one is from a version that did not record the history.
            if memories or len(found) >= most or len(rows) < MAX_HISTORY:
                return sorted(found.values(), key=lambda past: past.when, reverse=True)[:most]
            cursor = rows[-1].id

    def _read(
        self,
        key: dg.AssetCheckKey,
        partition: str | None,
        status: set[AssetCheckExecutionRecordStatus],
        limit: int,
        cursor: int | None = None,
    ) -> Sequence[AssetCheckExecutionRecord]:
        return self._storage.get_asset_check_execution_history(
            key, limit=limit, cursor=cursor, status=status, partition_filter=PartitionKeyFilter(key=partition)
        )


def history_of(instance: dg.DagsterInstance) -> History:
    """Return the history of all row-count checks in an instance's event log."""
    return StoredHistory(instance)


def past_counts(records: Iterable[object]) -> Iterable[PastCount]:
    """Yield the evaluations among the records of a row-count check, in the order of the records."""
    for record in records:
        event = getattr(record, "event", None)
        evaluation = event.asset_check_evaluation if event else None
        if event and evaluation:
            metadata = evaluation.metadata
            yield PastCount(
                datetime.fromtimestamp(event.timestamp, UTC),
                _int_value(metadata.get(ROWS)),
                evaluation.passed,
                _int_value(metadata.get(BASELINE)),
                ACCEPTED in metadata,
                ACCEPTED_LEVEL in metadata,
                EXCLUDED not in metadata,
                _past_counts_from(metadata.get(HISTORY_BEFORE)),
            )


def history_metadata(history: Iterable[PastCount]) -> dg.JsonMetadataValue:
    """Return the metadata in which an evaluation records earlier counts (`PastCount.history_before`).

    Args:
        history: The earlier counts, newest first.
    """
    return dg.MetadataValue.json(
        [[past.when.timestamp(), past.rows, past.accepted] for past in islice(history, MAX_HISTORY)]
    )


def _past_counts_from(value: object) -> list[PastCount] | None:
    if not isinstance(value, dg.JsonMetadataValue) or not isinstance(value.data, list):
        return None
    return [
        PastCount(datetime.fromtimestamp(when, UTC), rows, passed=True, accepted=accepted)
        for when, rows, accepted in value.data
    ]


def _int_value(value: object) -> int | None:
    return value.value if isinstance(value, dg.IntMetadataValue) else None
