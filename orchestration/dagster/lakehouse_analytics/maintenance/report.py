"""Metadata of maintenance in Dagster: what was done to a table, and what the next run needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from lakehouse_analytics.maintenance.plan import State, Step

#: Fields of the state to report before and after maintenance.
REPORTED = ("data_files", "data_bytes", "delete_files", "manifests", "snapshots")
ANALYZED, SEARCHED = "analyzed_at", "orphans_searched_at"


@dataclass(frozen=True)
class Memory:
    """When a table was last analyzed and last searched for orphan files. The table itself does not record this."""

    analyzed: datetime | None = None
    searched: datetime | None = None

    def metadata(self) -> dict[str, dg.TimestampMetadataValue]:
        """Return the metadata of the materialization that stores these times."""
        times = {ANALYZED: self.analyzed, SEARCHED: self.searched}
        return {name: dg.MetadataValue.timestamp(time) for name, time in times.items() if time}


def load_memories(instance: dg.DagsterInstance, keys: Mapping[str, dg.AssetKey]) -> dict[str, Memory]:
    """Load the memory of each table from the latest materialization of its asset, with one query.

    Args:
        instance: Dagster's instance.
        keys: Asset keys of maintenance, by the table's unique id.
    """
    events = instance.get_latest_materialization_events([*keys.values()])

    def memory(key: dg.AssetKey) -> Memory:
        event = events.get(key)
        metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
        return Memory(_time(metadata, ANALYZED), _time(metadata, SEARCHED))

    return {unique_id: memory(key) for unique_id, key in keys.items()}


def state_metadata(before: State, after: State) -> dict[str, int]:
    """Return the number of files, bytes, manifests and snapshots before and after maintenance."""

    def value(state: State, name: str) -> int:
        found = getattr(state, name)
        return len(found) if isinstance(found, tuple) else int(found)

    times = (("before", before), ("after", after))
    return {f"{name}_{time}": value(state, name) for name in REPORTED for time, state in times}


def step_metadata(
    steps: Sequence[Step], links: Mapping[Any, str] | None = None, kept: Mapping[Any, str] | None = None
) -> dict[str, dg.MetadataValue[Any]]:
    """Return metadata with the steps, their reasons and their outcomes.

    Args:
        steps: The steps that were due.
        links: Links to the queries of a step, by its kind.
        kept: Why a step did not delete files, by its kind.
    """
    links, kept = links or {}, kept or {}
    outcomes = {step.kind: [links.get(step.kind, "")] for step in steps}
    for kind, why in kept.items():
        outcomes[kind].append(f"files kept: {why}")
    rows = [f"| {step.kind} | {step.reason} | {'; '.join(filter(None, outcomes[step.kind]))} |" for step in steps]
    table = "\n".join(["| step | why | query |", "|---|---|---|", *rows]) if rows else "nothing to do"
    files_kept = {"files_kept": dg.MetadataValue.text("; ".join(dict.fromkeys(kept.values())))} if kept else {}
    return {"steps": dg.MetadataValue.md(table), **files_kept}


def _time(metadata: Mapping[str, Any], name: str) -> datetime | None:
    value = metadata.get(name)
    return datetime.fromtimestamp(value.value, UTC) if isinstance(value, dg.TimestampMetadataValue) else None
