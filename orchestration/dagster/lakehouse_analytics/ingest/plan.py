"""Plans a sync: for each stream, whether it continues from its state or is read from the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.common.text import suggestion
from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest.config import Connection, StreamConfig, SyncMode
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.protocol import Catalog, Stream, StreamKey, without_streams
from lakehouse_analytics.ingest.report import Mode
from lakehouse_analytics.ingest.state import StoredState, Table


@dataclass(frozen=True)
class StreamPlan:
    """The plan for a stream.

    Attributes:
        stream: The stream in the connector's catalog.
        table: Name of the table.
        columns: Columns of the table.
        sync_mode: The sync mode.
        mode: Whether the stream continues from its state.
        reason: Why the stream is read from the start.
        generation_id: Generation of the rows; a higher one replaces all rows.
        key_columns: Columns of the primary key, if rows are deduplicated.
        settings: Stored with the state. The next sync compares them with its own.
        unfinished_after: Set if the table has rows of a sync that did not finish. Rows with a higher sync_id are
            removed, because they are read again.
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
        """Whether the rows of older generations are removed."""
        return self.mode != "incremental"


@dataclass(frozen=True)
class Plan:
    """The plan for one sync of a source."""

    sync_id: int
    streams: dict[StreamKey, StreamPlan]
    state: list[dict[str, Any]]

    def catalog(self) -> dict[str, Any]:
        """Return the ConfiguredAirbyteCatalog, with the generations of Airbyte's refreshes."""
        return {"streams": [_configured(plan, self.sync_id) for plan in self.streams.values()]}


def make(
    connection: Connection, catalog: Catalog, known: StoredState, config: dict[str, Any], *, from_start: bool = False
) -> Plan:
    """Plan each of the configured streams.

    Args:
        connection: The connection.
        catalog: The connector's catalog.
        known: The stored state, and the existing tables.
        config: The connector's config without secrets. If it has changed, streams are read from the start.
        from_start: Read all streams from the start, whatever is stored.

    Raises:
        IngestError: The connector does not have a stream, a primary key is missing, or a table was not written by this
            source.
    """
    sync_id = known.sync_id + 1
    plans: dict[StreamKey, StreamPlan] = {}
    for wanted in connection.streams:
        stream = _find(connection, wanted, catalog)
        plans[stream.key] = _plan(connection, wanted, stream, known, config, from_start=from_start)
    restarted = {key for key, plan in plans.items() if plan.replaces}
    if known.shared and known.shared.get("type") != "GLOBAL" and restarted and len(restarted) < len(plans):
        # A LEGACY state cannot be split, so all streams have to start again.
        return make(connection, catalog, known, config, from_start=True)
    state = [
        stored.state for key, stored in known.streams.items() if key in plans and key not in restarted and stored.state
    ]
    if known.shared and len(restarted) < len(plans):
        state.append(without_streams(known.shared, restarted))
    return Plan(sync_id, plans, state)


def _find(connection: Connection, wanted: StreamConfig, catalog: Catalog) -> Stream:
    found = [s for s in catalog.streams if s.name == wanted.name and wanted.namespace in (None, s.namespace)]
    if not found:
        hint = suggestion(wanted.name, [s.name for s in catalog.streams])
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
        # A sync replaced the rows, but did not store its state. The stored state refers to rows that are gone.
        reason = "the last refresh did not finish"
    elif stored.state is None and known.shared is None and not keys:
        # Without a state, the connector sends all rows. Appending them would duplicate the existing ones.
        reason = "no state is stored for it"
    elif from_start:
        reason = "it shares its state with another stream"
    else:
        mode = "incremental"
    generation = (stored.generation_id if stored else 0) + (mode != "incremental")
    unfinished_after = None
    if mode == "incremental" and stored and table and table.sync_id > stored.sync_id and not keys:
        # Not needed for deduplicated rows: the same records are read again and replace themselves.
        unfinished_after = stored.sync_id
    return StreamPlan(
        stream, wanted.table_name, columns, sync_mode, mode, reason, generation, keys, settings, unfinished_after
    )


def _must_be_ours(table: Table, connection: Connection, wanted: StreamConfig, *, has_state: bool) -> None:
    """Check that a table was written by this source, and is not a view.

    Raises:
        IngestError: It was not, or it is a view.
    """
    name = f"{connection.schema_name}.{wanted.table_name}"
    advice = f"Drop or rename it, or give stream {wanted.name!r} another 'table' in {connection.path}"
    if table.view:
        raise IngestError(f"{name} is a view, but a sync writes tables. {advice}")
    if not _is_ours(table, connection.name, has_state=has_state):
        raise IngestError(
            f"{name} exists and was not written by source {connection.name}: it would be replaced. {advice}"
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
    if with_new_type := _columns_with_new_type(table, columns):
        return f"type of {', '.join(with_new_type)} changed"
    with_new_field = _columns_with_new_field(before, columns)
    return f"the field of column {', '.join(with_new_field)} changed" if with_new_field else ""


def _columns_with_new_type(table: Table, columns: tuple[sql.Column, ...]) -> list[str]:
    """Return the columns whose type differs from that in the table. DuckDB ignores the case of names."""
    have = {name.lower(): kind for name, kind in table.columns.items()}
    return [column.name for column in columns if have.get(column.name.lower(), column.type) != column.type]


def _columns_with_new_field(before: dict[str, Any], columns: tuple[sql.Column, ...]) -> list[str]:
    """Return the columns that contain another field than before.

    Names that differ only in case are numbered in the order in which the connector lists them, which may change.
    """
    # The state of older versions of this project does not have the fields.
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
            raise IngestError(
                f"{where} is required for incremental_deduped_history, because the connector does not define one"
            )
        fields = tuple(path[0] for path in paths)
    names = {column.field: column.name for column in columns}
    for field in fields:
        if field not in names:
            raise IngestError(f"{where}: no column {field!r}; {suggestion(field, list(names))}")
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
