"""Derives columns from a stream's JSON schema, and builds the SQL that converts records to typed values.

The types are those of Airbyte destinations (Airbyte docs: "Data Types in Records"): a value that does not fit becomes
null and is listed in `_airbyte_meta.changes`; objects, arrays and unions become JSON text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.common.sql import identifier, literal

CHANGES = "STRUCT(field VARCHAR, change VARCHAR, reason VARCHAR)[]"
META = {
    "_airbyte_raw_id": "VARCHAR",
    "_airbyte_extracted_at": "TIMESTAMP WITH TIME ZONE",
    "_airbyte_generation_id": "BIGINT",
    "_airbyte_meta": f"STRUCT(sync_id BIGINT, changes {CHANGES})",
}
#: The reason in `_airbyte_meta.changes` for a value that became null, because it does not have its column's type.
TYPECAST = "DESTINATION_TYPECAST_ERROR"
_JSON = "JSON"  # stored as VARCHAR
_SCALARS = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
_FORMATS = {"date": "DATE", "date-time": "TIMESTAMP WITH TIME ZONE", "time": "TIME"}
_AIRBYTE_TYPES = {
    "integer": "BIGINT",
    "timestamp_with_timezone": "TIMESTAMP WITH TIME ZONE",
    "timestamp_without_timezone": "TIMESTAMP",
    "time_without_timezone": "TIME",
    "time_with_timezone": "VARCHAR",
}
_DAY = r"\d{4}-\d{2}-\d{2}"
#: Casts that are stricter than DuckDB's own, which round 12.7 to 13 and accept 'infinity' as a timestamp.
_CASTS = {
    "BIGINT": r"CASE WHEN regexp_full_match({v}, '[+-]?\d+(\.0*)?') THEN TRY_CAST({v} AS BIGINT) END",
    "DOUBLE": r"CASE WHEN regexp_full_match({v}, '[+-]?\d+(\.\d*)?([eE][+-]?\d+)?') "
    r"AND isfinite(TRY_CAST({v} AS DOUBLE)) THEN TRY_CAST({v} AS DOUBLE) END",
    "BOOLEAN": "CASE lower({v}) WHEN 'true' THEN true WHEN 'false' THEN false END",
    "DATE": rf"CASE WHEN regexp_full_match({{v}}, '{_DAY}') THEN TRY_CAST({{v}} AS DATE) END",
    "TIMESTAMP": rf"CASE WHEN regexp_matches({{v}}, '^{_DAY}') THEN TRY_CAST({{v}} AS TIMESTAMP) END",
    "TIMESTAMP WITH TIME ZONE": rf"CASE WHEN regexp_matches({{v}}, '^{_DAY}') THEN TRY_CAST({{v}} AS TIMESTAMPTZ) END",
    "TIME": "TRY_CAST({v} AS TIME)",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        field: The key in the record.
        name: Name of the column.
        kind: A DuckDB type, or JSON.
    """

    field: str
    name: str
    kind: str

    @property
    def type(self) -> str:
        """The column's type in DuckDB."""
        return "VARCHAR" if self.kind == _JSON else self.kind


def columns(json_schema: dict[str, Any]) -> tuple[Column, ...]:
    """Return the columns of a stream, in the schema's order.

    Names that differ only in case get a number, because DuckDB ignores case. A field with an empty name becomes the
    column `_`.
    """
    taken = {name.lower() for name in META}
    result = []
    for field, schema in (json_schema.get("properties") or {}).items():
        name, number = field or "_", 0
        while name.lower() in taken:
            number += 1
            name = f"{field or '_'}_{number}"
        taken.add(name.lower())
        result.append(Column(field, name, _kind(schema if isinstance(schema, dict) else {})))
    return tuple(result)


def _kind(schema: dict[str, Any]) -> str:
    branches = [b for word in ("oneOf", "anyOf") for b in schema.get(word) or [] if isinstance(b, dict)]
    if branches and "type" not in schema:
        kinds = {_kind(branch) for branch in branches if branch.get("type") not in ("null", ["null"])}
        return kinds.pop() if len(kinds) == 1 else _JSON
    declared = schema.get("type")
    types = {t for t in (declared if isinstance(declared, list) else [declared]) if t not in ("null", None)}
    if types == {"integer", "number"}:
        types = {"number"}
    if len(types) != 1:
        return _JSON
    kind = types.pop()
    airbyte_type = schema.get("airbyte_type")
    if airbyte_type in _AIRBYTE_TYPES and kind in ("string", "number", "integer"):
        return _AIRBYTE_TYPES[airbyte_type]
    if kind == "string":
        return _FORMATS.get(str(schema.get("format")), "VARCHAR")
    return _SCALARS.get(kind, _JSON)


def select(source: str, table_columns: tuple[Column, ...], *, generation_id: int, sync_id: int) -> str:
    """Return a query that converts staged RECORD messages to rows.

    Args:
        source: SQL that yields `record`, a struct of data (JSON), emitted_at (milliseconds) and meta.changes.
        table_columns: The columns of the table.
        generation_id, sync_id: Stored with each row.
    """
    raw, typed, out, changes = [], [], [], []
    for index, column in enumerate(table_columns):
        pointer = literal("/" + column.field.replace("~", "~0").replace("/", "~1"))
        value = f"r{index}"
        if column.kind == _JSON:
            # JSON text of the value. JSON's null becomes SQL's.
            raw.append(f"nullif(CAST(record.data->{pointer} AS VARCHAR), 'null') AS {value}")
        else:
            raw.append(f"record.data->>{pointer} AS {value}")
        cast = _CASTS.get(column.kind)
        typed.append((cast.replace("{v}", value) if cast else value) + f" AS v{index}")
        out.append(f"v{index} AS {identifier(column.name)}")
        if cast:
            changes.append(
                f"CASE WHEN r{index} IS NOT NULL AND v{index} IS NULL THEN {{'field': {literal(column.name)}, "
                f"'change': 'NULLED', 'reason': '{TYPECAST}'}} END"
            )
    nulled = f"list_filter([{', '.join(changes)}], lambda c: c IS NOT NULL)" if changes else "[]"
    return f"""
        SELECT CAST(uuidv7() AS VARCHAR) AS _airbyte_raw_id,
            coalesce(epoch_ms(CAST(emitted_at AS BIGINT)) AT TIME ZONE 'UTC', now()) AS _airbyte_extracted_at,
            CAST({generation_id} AS BIGINT) AS _airbyte_generation_id,
            {{'sync_id': CAST({sync_id} AS BIGINT),
              'changes': CAST(list_concat(coalesce(source_changes, []), {nulled}) AS {CHANGES})}} AS _airbyte_meta
            {"".join(", " + item for item in out)}
        FROM (SELECT *{"".join(", " + item for item in typed)}
            FROM (SELECT record.emitted_at AS emitted_at, record.meta.changes AS source_changes
                {"".join(", " + item for item in raw)} FROM {source}))
    """  # noqa: S608  # names and literals are quoted


def column_types(table_columns: tuple[Column, ...]) -> dict[str, str]:
    """Return the columns of a table with their types, including Airbyte's own."""
    return META | {column.name: column.type for column in table_columns}


def table_definition(table_columns: tuple[Column, ...]) -> str:
    """Return the list of columns for CREATE TABLE."""
    return ", ".join(f"{identifier(name)} {kind}" for name, kind in column_types(table_columns).items())


def fingerprint(value: object) -> str:
    """Return a value as canonical JSON, to detect changes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
