"""One transaction: the rows of every stream, and the state that belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.ingest import columns as sql
from lakehouse_analytics.ingest import state as states
from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.plan import Plan, StreamPlan
from lakehouse_analytics.ingest.protocol import StreamKey
from lakehouse_analytics.ingest.staging import Staging
from lakehouse_analytics.ingest.state import Known, StreamState

if TYPE_CHECKING:
    import duckdb


def load(
    database: Path, timeout: float, *, connection: Connection, plan: Plan, staging: Staging, known: Known
) -> dict[StreamKey, int]:
    """Write everything or nothing.

    Returns:
        Rows now in each stream's table.

    Raises:
        DatabaseError: as `connect`.
        duckdb.Error: the load failed and was rolled back.
    """
    from lakehouse_analytics.database import connect

    schema = connection.schema_name
    totals: dict[StreamKey, int] = {}
    with connect(database, read_only=False, timeout=timeout) as db:
        db.execute("BEGIN")
        try:
            db.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.identifier(schema)}")
            for key, stream in plan.streams.items():
                totals[key] = _load_stream(db, schema, stream, staging.streams[key].parquet, known)
            kept = {key: _next_state(stream, key, staging, known) for key, stream in plan.streams.items()}
            shared = staging.shared_state or known.shared
            states.write(db, schema, connection.name, sync_id=plan.sync_id, streams=kept, shared=shared)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    return totals


def _next_state(stream: StreamPlan, key: StreamKey, staging: Staging, known: Known) -> StreamState:
    state = staging.streams[key].state
    if stream.sync_mode == "full_refresh_overwrite":
        state = None
    elif state is None and not stream.replaces:
        # Nothing new was said: the connector's word still holds.
        state = known.streams[key].state
    return StreamState(stream.generation_id, stream.settings, state)


def _load_stream(
    db: duckdb.DuckDBPyConnection, schema: str, stream: StreamPlan, parquet: Path | None, known: Known
) -> int:
    table = f"{sql.identifier(schema)}.{sql.identifier(stream.table)}"
    if stream.replaces:
        db.execute(f"CREATE OR REPLACE TABLE {table} ({sql.table_definition(stream.columns)})")
    else:
        have = {name.lower() for name in known.tables[stream.table.lower()]}
        for column in stream.columns:
            if column.name.lower() not in have:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {sql.identifier(column.name)} {column.type}")
    if parquet is not None:
        source, rows = f"read_parquet({sql.literal(str(parquet))})", "*"
        latest = ""
        if stream.key_columns:
            source, rows = f"{source[:-1]}, file_row_number = true)", "* EXCLUDE (file_row_number)"
            keys = [sql.identifier(name) for name in stream.key_columns]
            same = " AND ".join(f"old.{key} IS NOT DISTINCT FROM new.{key}" for key in keys)
            db.execute(f"DELETE FROM {table} AS old USING {source} AS new WHERE {same}")  # noqa: S608
            order = [*_cursor(stream), "_airbyte_extracted_at DESC", "file_row_number DESC"]
            latest = f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)} ORDER BY {', '.join(order)}) = 1"
        db.execute(f"INSERT INTO {table} BY NAME SELECT {rows} FROM {source} {latest}")  # noqa: S608
    row = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def _cursor(stream: StreamPlan) -> list[str]:
    # Airbyte keeps the record with the greatest cursor, then the one extracted last.
    path = stream.stream.default_cursor_field or []
    return [f"{sql.identifier(c.name)} DESC NULLS LAST" for c in stream.columns if [c.field] == path]
