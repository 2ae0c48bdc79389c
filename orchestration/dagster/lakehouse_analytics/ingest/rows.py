"""SQL for the new rows of a stream from its staged Parquet file, independent of the destination."""

from __future__ import annotations

from pathlib import Path

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.ingest.plan import StreamPlan


def staged(parquet: Path) -> str:
    """Return the staged file as a relation."""
    return f"read_parquet({literal(str(parquet))})"


def incoming(stream: StreamPlan, parquet: Path) -> str:
    """Return a query for the rows to add: all staged rows or, if they are deduplicated, the last one of each key."""
    if not stream.key_columns:
        return f"SELECT * FROM {staged(parquet)}"  # noqa: S608  # paths are quoted
    numbered = f"read_parquet({literal(str(parquet))}, file_row_number = true)"
    keys = ", ".join(identifier(name) for name in stream.key_columns)
    order = ", ".join([*_cursor(stream), "_airbyte_extracted_at DESC", "file_row_number DESC"])
    return (
        f"SELECT * EXCLUDE (file_row_number) FROM {numbered} "  # noqa: S608  # names are quoted
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"
    )


def same_key(stream: StreamPlan, left: str, right: str) -> str:
    """Return the condition that two rows of a deduplicated stream have the same key.

    Null is treated like any other value.
    """
    keys = [identifier(name) for name in stream.key_columns]
    return " AND ".join(f"{left}.{key} IS NOT DISTINCT FROM {right}.{key}" for key in keys)


def _cursor(stream: StreamPlan) -> list[str]:
    # Airbyte keeps the record with the greatest cursor, then the one extracted last.
    path = stream.stream.default_cursor_field or []
    return [f"{identifier(c.name)} DESC NULLS LAST" for c in stream.columns if [c.field] == path]
