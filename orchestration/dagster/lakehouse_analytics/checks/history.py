"""Earlier counts that a row count is compared with: only those that passed, or that an operator accepted."""

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

#: Earlier counts of one check that drift is judged against, at most: two months of a daily run.
HISTORY = 60
#: Newest evaluations among which the latest is searched: Dagster lists them in the order in which their runs were
#: queued, and a run of higher priority overtakes others.
NEAR = 5
# Metadata of an evaluation; see `Past`.
ROWS = "rows"
BASELINE = "last_passed_rows"
ACCEPTED = "accepted_by_hand"
STARTS = "accepted_level"
EXCLUDED, REMEMBERED = "not_in_history", "history_before"

_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


@dataclass(frozen=True)
class Past:
    """One earlier evaluation of a row-count check.

    Attributes:
        when: Time of the evaluation, aware.
        rows: The count; None if the table could not be counted.
        passed: Result of the check.
        baseline: The last count before this one that passed or was accepted, as this evaluation recorded it.
        accepted: An operator accepted this count as the new level.
        starts: The drift history starts at this partition, because its level was accepted.
        in_history: Whether other checks of the same count allow it to become history.
        remembered: The history before this evaluation, as one that passed and is not history recorded it; None if it
            recorded none.
    """

    when: datetime
    rows: int | None
    passed: bool
    baseline: int | None = None
    accepted: bool = False
    starts: bool = False
    in_history: bool = True
    remembered: Sequence[Past] | None = None

    @property
    def is_history(self) -> bool:
        """Whether later counts may be compared with this one: it passed, or it was accepted."""
        return self.rows is not None and (self.accepted or (self.passed and self.in_history))

    @property
    def known(self) -> int | None:
        """The last count that passed or was accepted, up to and including this evaluation."""
        return self.rows if self.is_history else self.baseline


class History(Protocol):
    """Earlier counts of the row-count checks. Only counts that passed or were accepted belong to it."""

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> Past | None:
        """The newest evaluation that knows the last count that passed or was accepted (`Past.known`).

        None if no count of this check and partition ever passed or was accepted.
        """

    def counts(self, key: dg.AssetCheckKey) -> Sequence[Past]:
        """Counts of a check without partitions that passed or were accepted, newest first, at most `HISTORY`."""


class StoredHistory:
    """The history that Dagster's event log holds; about 5 ms for a check or a partition.

    Evaluations that are not counts of the past are never looked at instead of those that are: Dagster stores the
    result of each evaluation, and planned, failed and uncounted ones are left out by it. One that passed and is not
    history records the history before it (`remembered`), so that any number of them hides nothing, and the newest
    `HISTORY` evaluations that passed are all that has to be kept. An evaluation that did not pass also records the
    baseline, so that the baseline survives if the passed evaluation is deleted.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._storage = instance.event_log_storage

    def last(self, key: dg.AssetCheckKey, partition: str | None = None) -> Past | None:
        """See `History`."""
        rows = self._read(key, partition, _EVALUATED, NEAR)
        newest = max(past_of(rows), key=lambda past: past.when, default=None)
        if newest is None or newest.known is not None:
            return newest
        # Either no count has passed yet, or an earlier version of this project did not record the baseline.
        return next(iter(self._passed(key, partition, 1)), None)

    def counts(self, key: dg.AssetCheckKey) -> list[Past]:
        """See `History`."""
        return self._passed(key, None, HISTORY)

    def _passed(self, key: dg.AssetCheckKey, partition: str | None, most: int) -> list[Past]:
        found: dict[datetime, Past] = {}
        cursor: int | None = None
        while True:
            rows = self._read(key, partition, {AssetCheckExecutionRecordStatus.SUCCEEDED}, HISTORY, cursor)
            page = [*past_of(rows)]
            memories = [past.remembered for past in page if past.remembered is not None]
            found |= {past.when: past for memory in memories for past in memory}
            found |= {past.when: past for past in page if past.is_history}
            # Further pages are read only if all of one was stored by a version that recorded no history.
            if memories or len(found) >= most or len(rows) < HISTORY:
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
    """Earlier counts of all row-count checks, from Dagster's event log."""
    return StoredHistory(instance)


def past_of(records: Iterable[object]) -> Iterable[Past]:
    """The evaluations among the records of a row-count check, in the records' order."""
    for record in records:
        event = getattr(record, "event", None)
        evaluation = event.asset_check_evaluation if event else None
        if event and evaluation:
            metadata = evaluation.metadata
            yield Past(
                datetime.fromtimestamp(event.timestamp, UTC),
                _whole(metadata.get(ROWS)),
                evaluation.passed,
                _whole(metadata.get(BASELINE)),
                ACCEPTED in metadata,
                STARTS in metadata,
                EXCLUDED not in metadata,
                _memory(metadata.get(REMEMBERED)),
            )


def memory_of(history: Iterable[Past]) -> dg.JsonMetadataValue:
    """Earlier counts, newest first, as an evaluation records them (`Past.remembered`): time, rows, accepted."""
    return dg.MetadataValue.json(
        [[past.when.timestamp(), past.rows, past.accepted] for past in islice(history, HISTORY)]
    )


def _memory(value: object) -> list[Past] | None:
    if not isinstance(value, dg.JsonMetadataValue) or not isinstance(value.data, list):
        return None
    return [
        Past(datetime.fromtimestamp(when, UTC), rows, passed=True, accepted=accepted)
        for when, rows, accepted in value.data
    ]


def _whole(value: object) -> int | None:
    return value.value if isinstance(value, dg.IntMetadataValue) else None
