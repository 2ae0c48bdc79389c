"""What maintenance says of a table in Dagster's metadata, and what it remembers there for the next time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from lakehouse_analytics.maintenance.plan import State, Step

#: Fields of the state that are reported before and after.
REPORTED = ("data_files", "data_bytes", "delete_files", "manifests", "snapshots")
ANALYZED, SEARCHED = "analyzed_at", "orphans_searched_at"


@dataclass(frozen=True)
class Memory:
    """When a table was last analyzed, and last searched for orphan files: nothing in the table tells."""

    analyzed: datetime | None = None
    searched: datetime | None = None

    def metadata(self) -> dict[str, dg.TimestampMetadataValue]:
        """To keep with the materialization."""
        times = {ANALYZED: self.analyzed, SEARCHED: self.searched}
        return {name: dg.MetadataValue.timestamp(time) for name, time in times.items() if time}


def memories_of(instance: dg.DagsterInstance, keys: Mapping[str, dg.AssetKey]) -> dict[str, Memory]:
    """What maintenance remembers of each table, from its asset's latest materialization; one query."""
    events = instance.get_latest_materialization_events([*keys.values()])

    def memory(key: dg.AssetKey) -> Memory:
        event = events.get(key)
        metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
        return Memory(_time(metadata, ANALYZED), _time(metadata, SEARCHED))

    return {unique_id: memory(key) for unique_id, key in keys.items()}


def numbers(before: State, after: State) -> dict[str, int]:
    """Files, bytes, manifests and snapshots, before and after."""

    def value(state: State, name: str) -> int:
        found = getattr(state, name)
        return len(found) if isinstance(found, tuple) else int(found)

    times = (("before", before), ("after", after))
    return {f"{name}_{time}": value(state, name) for name in REPORTED for time, state in times}


def listed(
    steps: Sequence[Step], links: Mapping[Any, str] | None = None, kept: Mapping[Any, str] | None = None
) -> dict[str, dg.MetadataValue[Any]]:
    """The steps, each with its reason and what became of it.

    Args:
        steps: Those that were due.
        links: By a step's kind, links to its queries.
        kept: By a step's kind, why it did not delete files that it could have deleted.
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
