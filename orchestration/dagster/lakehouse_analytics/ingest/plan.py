"""What a sync will do with each stream: continue from its state, or read it from the start; and its catalog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest.config import Connection, StreamConfig, SyncMode, nearest
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.protocol import Catalog, Stream, StreamKey, without_streams
from lakehouse_analytics.ingest.report import Mode
from lakehouse_analytics.ingest.state import StoredState, Table


@dataclass(frozen=True)
class StreamPlan:
    """One stream. `key_columns` are set when rows are deduplicated; `settings` is compared by the next sync.

    `unfinished_after` is set when the table holds rows of a sync that never ended: those of a greater sync_id are read
    again now, and go.
    """

    stream: Stream
    table: str
    columns: tuple[sql.Column, ...]
    sync_mode: SyncMode
    mode: Mode
    reason: str
    generation_id: int
    key_columns: tuple[str, ...]
    settings: dict[str, Any]
    unfinished_after: int | None = None

    @property
    def replaces(self) -> bool:
        """Whether the rows of older generations go."""
        return self.mode != "incremental"


@dataclass(frozen=True)
class Plan:
    """One sync of a source."""

    sync_id: int
    streams: dict[StreamKey, StreamPlan]
    state: list[dict[str, Any]]

    def catalog(self) -> dict[str, Any]:
        """The ConfiguredAirbyteCatalog, with generations as Airbyte's refreshes have them."""
        return {"streams": [_configured(plan, self.sync_id) for plan in self.streams.values()]}


def make(
    connection: Connection, catalog: Catalog, known: StoredState, config: dict[str, Any], *, from_start: bool = False
) -> Plan:
    """Decide for each configured stream.

    Args:
        config: the connector's config without secrets: when it has changed, streams are read from the start.
        from_start: all streams are, regardless of what is stored.

    Raises:
        IngestError: a stream the connector does not have, a missing primary key, a table that is not ours.
    """
    sync_id = known.sync_id + 1
    plans: dict[StreamKey, StreamPlan] = {}
    for wanted in connection.streams:
        stream = _find(connection, wanted, catalog)
        plans[stream.key] = _plan(connection, wanted, stream, known, config, from_start=from_start)
    lost = {key for key, plan in plans.items() if plan.replaces}
    if known.shared and known.shared.get("type") != "GLOBAL" and lost and len(lost) < len(plans):
        # A LEGACY state cannot be cut: what one stream loses, all lose.
        return make(connection, catalog, known, config, from_start=True)
    state = [stored.state for key, stored in known.streams.items() if key in plans and key not in lost and stored.state]
    if known.shared and len(lost) < len(plans):
        state.append(without_streams(known.shared, lost))
    return Plan(sync_id, plans, state)


def _find(connection: Connection, wanted: StreamConfig, catalog: Catalog) -> Stream:
    found = [s for s in catalog.streams if s.name == wanted.name and wanted.namespace in (None, s.namespace)]
    if not found:
        hint = nearest(wanted.name, [s.name for s in catalog.streams])
        raise IngestError(f"{connection.path}: key 'streams': the connector has no stream {wanted.name!r}; {hint}")
    if len(found) > 1:
        spaces = ", ".join(sorted(str(s.namespace) for s in found))
        raise IngestError(
            f"{connection.path}: key 'streams': {wanted.name!r} is in several namespaces ({spaces}); add 'namespace'"
        )
    return found[0]


def _plan(
    connection: Connection,
    wanted: StreamConfig,
    stream: Stream,
    known: StoredState,
    config: dict[str, Any],
    *,
    from_start: bool,
) -> StreamPlan:
    columns = sql.columns(stream.json_schema)
    sync_mode: SyncMode = wanted.sync_mode or "incremental_append"
    if not stream.can_increment:
        sync_mode = "full_refresh_overwrite"
    keys = _key_columns(connection, wanted, stream, columns) if sync_mode == "incremental_deduped_history" else ()
    settings = {
        "config": config,
        "sync_mode": sync_mode,
        "key": list(keys),
        "table": wanted.table_name,
        "fields": {column.name: column.field for column in columns},
    }
    stored = known.streams.get(stream.key)
    table = known.tables.get(wanted.table_name.lower())
    if table is not None:
        _must_be_ours(table, connection, wanted, has_state=stored is not None)
    mode: Mode = "refresh"
    reason = ""
    if stored is None:
        mode = "first"
    elif table is None:
        reason = "its table is gone"
    elif sync_mode == "full_refresh_overwrite":
        reason = "full refresh" if stream.can_increment else "the connector cannot sync it incrementally"
    elif changed := _changes(stored.settings, settings):
        reason = f"{changed} changed"
    elif changed := _changed_columns(table, columns, stored.settings):
        reason = changed
    elif table.generation_id > stored.generation_id:
        # Its rows were replaced by a sync that did not live to store its state: the stored one is of rows now gone.
        reason = "the last refresh did not end"
    elif stored.state is None and known.shared is None and not keys:
        # Without a state the connector sends everything: appended, it would be there twice.
        reason = "no state of it is stored"
    elif from_start:
        reason = "its state is one with that of another stream"
    else:
        mode = "incremental"
    generation = (stored.generation_id if stored else 0) + (mode != "incremental")
    unfinished_after = None
    if mode == "incremental" and stored and table and table.sync_id > stored.sync_id and not keys:
        # Deduplicated rows need no care: the same records come again and replace themselves.
        unfinished_after = stored.sync_id
    return StreamPlan(
        stream, wanted.table_name, columns, sync_mode, mode, reason, generation, keys, settings, unfinished_after
    )


def _must_be_ours(table: Table, connection: Connection, wanted: StreamConfig, *, has_state: bool) -> None:
    """Refuse what a sync did not write, or cannot write."""
    name = f"{connection.schema_name}.{wanted.table_name}"
    way_out = f"Drop or rename it, or give stream {wanted.name!r} another 'table' in {connection.path}"
    if table.view:
        raise IngestError(f"{name} is a view, and a sync writes tables. {way_out}")
    if not _is_ours(table, connection.name, has_state=has_state):
        raise IngestError(
            f"{name} exists and was not written by source {connection.name}: it would be replaced. {way_out}"
        )


def _is_ours(table: Table, source: str, *, has_state: bool) -> bool:
    if not set(sql.META) <= set(table.columns):
        return False
    return table.source == source if table.source else has_state


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = before.get("config") or {}, now["config"]
    names = [f"config {key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    names += [key for key in ("sync_mode", "key", "table") if before.get(key) != now[key]]
    return ", ".join(names)


def _changed_columns(table: Table, columns: tuple[sql.Column, ...], before: dict[str, Any]) -> str:
    if retyped := _retyped(table, columns):
        return f"type of {', '.join(retyped)} changed"
    moved = _moved(before, columns)
    return f"the field of column {', '.join(moved)} changed" if moved else ""


def _retyped(table: Table, columns: tuple[sql.Column, ...]) -> list[str]:
    """Columns that the table has with another type; DuckDB ignores the case of their names."""
    have = {name.lower(): kind for name, kind in table.columns.items()}
    return [column.name for column in columns if have.get(column.name.lower(), column.type) != column.type]


def _moved(before: dict[str, Any], columns: tuple[sql.Column, ...]) -> list[str]:
    """Columns that hold another field than before: names that are equal but for case are numbered in the order in which
    the connector lists them, and it may list them in another order."""
    # State of an older version of this project does not have the fields.
    before_by_name = {name.lower(): field for name, field in (before.get("fields") or {}).items()}
    return [column.name for column in columns if before_by_name.get(column.name.lower(), column.field) != column.field]


def _key_columns(
    connection: Connection, wanted: StreamConfig, stream: Stream, columns: tuple[sql.Column, ...]
) -> tuple[str, ...]:
    where = f"{connection.path}: stream {wanted.name!r}: key 'primary_key'"
    fields = wanted.primary_key
    if not fields:
        paths = stream.source_defined_primary_key or []
        if not paths or any(len(path) != 1 for path in paths):
            raise IngestError(f"{where} is needed by incremental_deduped_history: the connector names none")
        fields = tuple(path[0] for path in paths)
    names = {column.field: column.name for column in columns}
    for field in fields:
        if field not in names:
            raise IngestError(f"{where}: no column {field!r}; {nearest(field, list(names))}")
    return tuple(names[field] for field in fields)


def _configured(plan: StreamPlan, sync_id: int) -> dict[str, Any]:
    full = plan.sync_mode == "full_refresh_overwrite"
    destination = {"full_refresh_overwrite": "overwrite", "incremental_append": "append"}
    return {
        "stream": plan.stream.model_dump(exclude_none=True),
        "sync_mode": "full_refresh" if full else "incremental",
        "destination_sync_mode": destination.get(plan.sync_mode, "append_dedup"),
        "cursor_field": plan.stream.default_cursor_field or [],
        "primary_key": [[c.field] for c in plan.columns if c.name in plan.key_columns],
        "generation_id": plan.generation_id,
        "minimum_generation_id": plan.generation_id if plan.replaces else 0,
        "sync_id": sync_id,
    }
