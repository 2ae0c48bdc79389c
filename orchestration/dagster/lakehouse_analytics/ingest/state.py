"""What the lakehouse knows of a source: the connector's state, generations, and the tables as they stand.

Kept in `<schema>._airbyte_state`, in the same file as the data and written in the same transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.ingest.columns import identifier
from lakehouse_analytics.ingest.protocol import StreamKey

if TYPE_CHECKING:
    import duckdb

TABLE = "_airbyte_state"
_DEFINITION = (
    "source VARCHAR NOT NULL, namespace VARCHAR, stream VARCHAR, generation_id BIGINT, sync_id BIGINT NOT NULL, "
    "settings VARCHAR, state VARCHAR, updated_at TIMESTAMP WITH TIME ZONE NOT NULL"
)


@dataclass(frozen=True)
class StreamState:
    """A stream's row. `settings` is what it was read with; `state` the connector's last STATE message."""

    generation_id: int
    settings: dict[str, Any]
    state: dict[str, Any] | None


@dataclass
class Known:
    """All that is stored of a source. `tables`: name in lower case to its columns and their types."""

    sync_id: int = 0
    streams: dict[StreamKey, StreamState] = field(default_factory=dict)
    shared: dict[str, Any] | None = None
    tables: dict[str, dict[str, str]] = field(default_factory=dict)


def read(database: Path, timeout: float, schema: str, source: str) -> Known:
    """What is stored; empty for a new file. Raises `DatabaseError` as `connect` does."""
    from lakehouse_analytics.database import connect

    known = Known()
    if not database.is_file():
        return known
    with connect(database, read_only=True, timeout=timeout) as connection:
        for table, column, kind in connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE lower(schema_name) = lower(?) AND database_name = current_database() ORDER BY column_index",
            [schema],
        ).fetchall():
            known.tables.setdefault(table.lower(), {})[column] = kind
        if TABLE not in known.tables:
            return known
        name = f"{identifier(schema)}.{TABLE}"
        row = connection.execute(f"SELECT max(sync_id) FROM {name}").fetchone()  # noqa: S608
        known.sync_id = (row[0] if row else None) or 0
        for namespace, stream, generation, settings, state in connection.execute(
            f"SELECT namespace, stream, generation_id, settings, state FROM {name} WHERE source = ?",  # noqa: S608
            [source],
        ).fetchall():
            content = json.loads(state) if state else None
            if stream is None:
                known.shared = content
            else:
                known.streams[(namespace, stream)] = StreamState(generation, json.loads(settings), content)
    return known


def write(
    connection: duckdb.DuckDBPyConnection,
    schema: str,
    source: str,
    *,
    sync_id: int,
    streams: dict[StreamKey, StreamState],
    shared: dict[str, Any] | None,
) -> None:
    """Replace what is stored of these streams, inside the caller's transaction."""
    name = f"{identifier(schema)}.{TABLE}"
    connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({_DEFINITION})")
    rows: list[list[Any]] = [
        [
            source,
            key[0],
            key[1],
            s.generation_id,
            sync_id,
            json.dumps(s.settings),
            json.dumps(s.state) if s.state else None,
        ]
        for key, s in streams.items()
    ]
    for key in streams:
        connection.execute(
            f"DELETE FROM {name} WHERE source = ? AND namespace IS NOT DISTINCT FROM ? AND stream = ?",  # noqa: S608
            [source, *key],
        )
    connection.execute(f"DELETE FROM {name} WHERE source = ? AND stream IS NULL", [source])  # noqa: S608
    if shared:
        rows.append([source, None, None, None, sync_id, None, json.dumps(shared)])
    connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?, ?, ?, now())", rows)  # noqa: S608
