"""Restores the snapshot that a table had before a publication, also if maintenance has rewritten its files since.

Source: Iceberg's table specification, "Table metadata fields" and "Snapshots" (https://iceberg.apache.org/spec/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: What makes the definition of a table. `schema` and `partition-spec` are those of format version 1.
_DEFINITION = (
    "current-schema-id",
    "default-spec-id",
    "default-sort-order-id",
    "properties",
    "location",
    "schema",
    "partition-spec",
)
#: What a rollback takes from the earlier metadata.
_RESTORED = (*(key for key in _DEFINITION if key != "location"), "current-snapshot-id")
#: What the ids in the definition refer to, and the name of these ids.
_DEFINITIONS = {"schemas": "schema-id", "partition-specs": "spec-id", "sort-orders": "order-id"}
#: The operation of a snapshot with the same rows in other files.
_REWRITE = "replace"


def is_rewritten(metadata: Mapping[str, Any], published: Mapping[str, Any]) -> bool:
    """Return whether only the files of a table have been rewritten, or snapshots removed, since some metadata of it.

    Args:
        metadata: The current metadata.
        published: The earlier metadata.
    """
    if "table-uuid" not in published or metadata.get("table-uuid") != published["table-uuid"]:
        return False
    if any(_plain(metadata.get(key)) != _plain(published.get(key)) for key in _DEFINITION):
        return False
    snapshots = {snapshot["snapshot-id"]: snapshot for snapshot in metadata.get("snapshots", ())}
    current, earlier = _current(metadata), _current(published)
    while current != earlier:
        snapshot = snapshots.get(current)
        if not snapshot or snapshot.get("summary", {}).get("operation") != _REWRITE:
            return False
        current = snapshot.get("parent-snapshot-id")
    return True


def restored(
    metadata: Mapping[str, Any], previous: Mapping[str, Any], *, location: str, now_ms: int
) -> dict[str, Any] | None:
    """Return metadata in which the snapshot and the definition of earlier metadata are current again.

    All later snapshots stay in the history, as after Iceberg's own rollback.

    Args:
        metadata: The current metadata.
        previous: The earlier metadata.
        location: The file of the current metadata.
        now_ms: The time of the rollback in milliseconds since 1970.

    Returns:
        The metadata; None if the table does not have this snapshot or definition anymore.
    """
    snapshot = _current(previous)
    there = {one["snapshot-id"] for one in metadata.get("snapshots", ())}
    if metadata["table-uuid"] != previous["table-uuid"] or (snapshot is not None and snapshot not in there):
        return None
    definitions = {key: _merged(metadata.get(key, ()), previous.get(key, ()), by) for key, by in _DEFINITIONS.items()}
    if any(merged is None for merged in definitions.values()):
        return None
    refs = {name: ref for name, ref in metadata.get("refs", {}).items() if name != "main"}
    if snapshot is not None:
        refs["main"] = previous.get("refs", {}).get("main") or {"snapshot-id": snapshot, "type": "branch"}
    kept = {key: value for key, value in metadata.items() if key not in _RESTORED}
    log = [*metadata.get("snapshot-log", ()), {"timestamp-ms": now_ms, "snapshot-id": snapshot}]
    return {
        **kept,
        **{key: merged for key, merged in definitions.items() if merged},
        **{key: previous[key] for key in _RESTORED if key in previous},
        "refs": refs,
        "last-updated-ms": now_ms,
        "snapshot-log": [] if snapshot is None else log,
        "metadata-log": [
            *metadata.get("metadata-log", ()),
            {"timestamp-ms": metadata["last-updated-ms"], "metadata-file": location},
        ],
    }


def _merged(now: Iterable[dict[str, Any]], previous: Iterable[dict[str, Any]], by: str) -> list[dict[str, Any]] | None:
    """Return the schemas, specs or orders of both; None if one has changed. Some writers remove what is not used."""
    merged = {one[by]: one for one in now}
    for one in previous:
        if _plain(merged.setdefault(one[by], one)) != _plain(one):
            return None
    return [*merged.values()]


def _plain(value: Any) -> Any:
    """Return a value without an empty list of identifier fields, which some writers leave out."""
    if not isinstance(value, dict) or value.get("identifier-field-ids"):
        return value
    return {key: one for key, one in value.items() if key != "identifier-field-ids"}


def _current(metadata: Mapping[str, Any]) -> int | None:
    """Return the id of the current snapshot; older writers say -1 if there is none."""
    current = int(metadata.get("current-snapshot-id") or -1)
    return None if current == -1 else current
