"""Finds out which events of a sensor tick Dagster has stored already.

Dagster stores the events of a tick one by one, and the cursor after them. A daemon that dies in between repeats the
tick, so a tick looks up which events an earlier one may have stored. Storing one event takes two transactions: first
the event log, then the asset or check that points at it. A daemon that dies between those leaves an event that is in
the log but on no page of the UI.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import dagster as dg

from lakehouse_analytics._dagster_internals import RUNLESS_RUN_ID
from lakehouse_analytics.triggers.events import ENDED, metadata_value

#: Events per query, and the maximum number of events that are searched. Each takes about 0.25 ms.
PAGE, MAX_SEARCHED = 250, 20_000
#: Seconds by which the clock of the loading system may differ from the clocks that write Dagster's events.
SOURCE_CLOCK_TOLERANCE = 86_400.0
_KINDS = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION}

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation
#: Distinguishes the event of one load from the events of other loads.
EventId = tuple[Any, ...]
#: The ids of an event: the one under which it is stored first, then those under which older versions stored it.
EventIds = Callable[[Event], Sequence[EventId]]


def latest_event_id(instance: dg.DagsterInstance) -> int:
    """Return the storage id of the newest event stored outside a run; 0 if there is none."""
    found = instance.get_records_for_run(RUNLESS_RUN_ID, of_type=_KINDS, limit=1, ascending=False).records
    return found[0].storage_id if found else 0


def unstored_events(
    instance: dg.DagsterInstance, events: Sequence[Event], ids: EventIds, *, after: int | None, since: float
) -> list[Event]:
    """Return the events that Dagster has not stored yet.

    This costs one query per `PAGE` events stored in the meantime, newest first, regardless of the number of assets and
    the length of their history.

    Args:
        instance: Dagster's instance.
        events: The events to be stored.
        ids: Returns the ids of an event.
        after: Storage id of an event: events that may be stored already have a higher one. None if unknown.
        since: Unix timestamp. If `after` is None, older events are not searched. At most `MAX_SEARCHED` events are
            searched in either case; for the rest, the histories of the assets and checks are read.
    """
    if not events:
        return []
    if after is not None and after > latest_event_id(instance):
        after = None  # the storage id is from another database
    wanted = {event_id for event in events for event_id in ids(event)}
    stored: set[EventId] = set()
    newest: EventId | None = None
    incomplete: EventId | None = None
    searched = 0
    for record, event in _recent(instance, after, since):
        searched += 1
        event_id = ids(event)[0]
        if event_id in wanted and newest is None:
            # Only the newest event can be incomplete, because every tick searches before it stores, and stores the
            # incomplete one first. Several copies of it may be in the log.
            newest = event_id
            incomplete = None if _complete(instance, record, event) else event_id
        if event_id != incomplete:
            stored.add(event_id)
    fresh = [event for event in events if not is_stored(ids(event), stored)]
    if searched >= MAX_SEARCHED and fresh:
        stored |= {ids(event)[0] for event in _histories(instance, fresh, since)}
        fresh = [event for event in fresh if not is_stored(ids(event), stored)]
    return sorted(fresh, key=lambda event: ids(event)[0] != incomplete)


def is_stored(ids: Sequence[EventId], stored: Collection[EventId]) -> bool:
    """Return whether an event with these ids is among the stored ones."""
    return any(event_id in stored for event_id in ids)


def complete_newest(instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]) -> None:
    """Make the assets point at their newest materializations, in case a process ended while it stored one.

    For writers that store one event after the other: only the newest can be incomplete. In SQLite, where such an event
    is on no page and in no history, it remains so, and is stored again when its writer repeats it.
    """
    for key in keys:
        for record in instance.fetch_materializations(key, limit=1).records:
            if event := _event(record):
                _complete(instance, record, event)


def _histories(instance: dg.DagsterInstance, events: Sequence[Event], since: float) -> Iterator[Event]:
    """Yield the histories of the assets and checks of events, as far back as these events could have been stored.

    A load is recorded after it has ended.
    """
    ends = [float(metadata_value(event, ENDED) or 0.0) for event in events]
    since = min(since, min(ends) - SOURCE_CLOCK_TOLERANCE)
    for key in sorted({event.asset_key for event in events if isinstance(event, dg.AssetMaterialization)}):
        wanted, cursor = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since), None
        while True:
            page = instance.fetch_materializations(wanted, limit=PAGE, cursor=cursor)
            yield from filter(None, map(_event, page.records))
            if not page.has_more:
                break
            cursor = page.cursor
    for check in sorted({event.asset_check_key for event in events if isinstance(event, dg.AssetCheckEvaluation)}):
        before: int | None = None
        while True:
            rows = instance.event_log_storage.get_asset_check_execution_history(check, limit=PAGE, cursor=before)
            yield from filter(None, (row.evaluation for row in rows))
            if len(rows) < PAGE or rows[-1].create_timestamp < since:
                break
            before = rows[-1].id


def _complete(instance: dg.DagsterInstance, record: dg.EventLogRecord, event: Event) -> bool:
    """Return whether the asset or check of a stored event points at it, after updating the asset if possible.

    If False, the event has to be stored again.
    """
    from lakehouse_analytics._dagster_internals import SqlEventLogStorage

    storage = instance.event_log_storage
    if isinstance(event, dg.AssetCheckEvaluation):
        key = event.asset_check_key
        latest = storage.get_latest_asset_check_execution_by_key([key]).get(key)
        # Evaluations are in a separate table, which does not have the first copy of the event.
        return bool(latest and latest.event and latest.event.timestamp >= record.timestamp)
    found = instance.get_asset_records([event.asset_key])
    newest = found[0].asset_entry.last_materialization_record if found else None
    if newest and newest.timestamp >= record.timestamp:
        return True
    if storage.is_run_sharded or not isinstance(storage, SqlEventLogStorage):
        return False
    # A second materialization would be in the asset's history, which Dagster reads from the log.
    storage.store_asset_event_tags([record.event_log_entry], [record.storage_id])
    storage.store_asset_event(record.event_log_entry, record.storage_id)
    return True


def _recent(instance: dg.DagsterInstance, after: int | None, since: float) -> Iterator[tuple[dg.EventLogRecord, Event]]:
    cursor: str | None = None
    for _ in range(MAX_SEARCHED // PAGE):
        page = instance.get_records_for_run(RUNLESS_RUN_ID, cursor, _KINDS, PAGE, ascending=False)
        for record in page.records:
            if record.storage_id <= after if after is not None else record.timestamp < since:
                return
            if event := _event(record):
                yield record, event
        if not page.has_more:
            return
        cursor = page.cursor


def _event(record: dg.EventLogRecord) -> Event | None:
    entry = record.event_log_entry
    return entry.asset_materialization or entry.asset_check_evaluation
