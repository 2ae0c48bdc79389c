"""What the lakehouse knows of a source: the connector's state, generations, and the tables as they stand.

Kept in `<schema>._airbyte_state`, beside the data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.ingest.protocol import StreamKey

if TYPE_CHECKING:
    from lakehouse_analytics.ingest.plan import Plan
    from lakehouse_analytics.ingest.staging import Staging

TABLE = "_airbyte_state"


@dataclass(frozen=True)
class StreamState:
    """A stream's row. `settings` is what it was read with; `state` the connector's last STATE message."""

    generation_id: int
    settings: dict[str, Any]
    state: dict[str, Any] | None
    sync_id: int = 0


@dataclass(frozen=True)
class Table:
    """A table as it stands.

    Args:
        columns: name to type, as DuckDB names types, in the table's order.
        source: who wrote it last, where the table itself says so; else only the stored state tells.
        sync_id, generation_id: of that load. Beyond those of the stored state, the sync that wrote them never ended.
    """

    columns: dict[str, str]
    source: str | None = None
    sync_id: int = 0
    generation_id: int = 0


@dataclass
class Known:
    """All that is stored of a source. `sync_id` is the last of any source; `tables` go by name in lower case."""

    sync_id: int = 0
    streams: dict[StreamKey, StreamState] = field(default_factory=dict)
    shared: dict[str, Any] | None = None
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the state table. Without `stream` it holds the state of the whole source."""

    namespace: str | None
    stream: str | None
    generation_id: int | None
    sync_id: int
    settings: str | None
    state: str | None


def take(known: Known, rows: list[Row]) -> None:
    """Notes a source's stored rows in `known`."""
    for row in rows:
        content = json.loads(row.state) if row.state else None
        if row.stream is None:
            known.shared = content
        else:
            settings = json.loads(row.settings or "{}")
            known.streams[(row.namespace, row.stream)] = StreamState(
                row.generation_id or 0, settings, content, row.sync_id
            )


def following(plan: Plan, staging: Staging, known: Known) -> list[Row]:
    """The rows that a finished sync leaves: one for each of its streams, and the shared state where there is one."""
    rows = []
    for key, stream in plan.streams.items():
        state = staging.streams[key].state
        if stream.sync_mode == "full_refresh_overwrite":
            state = None
        elif state is None and not stream.replaces:
            # Nothing new was said: the connector's word still holds.
            state = known.streams[key].state
        settings, text = json.dumps(stream.settings), json.dumps(state) if state else None
        rows.append(Row(key[0], key[1], stream.generation_id, plan.sync_id, settings, text))
    if shared := staging.shared_state or known.shared:
        rows.append(Row(None, None, None, plan.sync_id, None, json.dumps(shared)))
    return rows
