"""From JSON schema to columns, and from JSON values to typed ones."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

import pytest
from lakehouse_analytics.ingest.columns import columns, select

ZONED = {"type": "string", "format": "date-time"}
NAIVE = ZONED | {"airbyte_type": "timestamp_without_timezone"}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "VARCHAR"),
        ({"type": ["null", "integer"]}, "BIGINT"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": "number", "airbyte_type": "integer"}, "BIGINT"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": "string", "format": "date"}, "DATE"),
        (ZONED, "TIMESTAMP WITH TIME ZONE"),
        (NAIVE, "TIMESTAMP"),
        ({"type": "string", "airbyte_type": "time_without_timezone"}, "TIME"),
        ({"type": "object"}, "JSON"),
        ({"type": ["null", "array"]}, "JSON"),
        ({"type": ["string", "integer"]}, "JSON"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "JSON"),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "BIGINT"),
        ({}, "JSON"),
    ],
)
def test_kinds(schema: dict[str, Any], kind: str) -> None:
    assert columns({"properties": {"x": schema}})[0].kind == kind


def test_names_that_duckdb_cannot_tell_apart_get_a_number() -> None:
    properties: dict[str, Any] = {"ID": {}, "id": {}, "_airbyte_meta": {}}
    assert [c.name for c in columns({"properties": properties})] == ["ID", "id_1", "_airbyte_meta_1"]


def test_a_field_without_a_name_has_a_column() -> None:
    properties: dict[str, Any] = {"_": {}, "": {}}
    assert [(c.field, c.name) for c in columns({"properties": properties})] == [("_", "_"), ("", "__1")]


def convert(schema: dict[str, Any], value: Any, field: str = "x") -> tuple[Any, list[Any]]:
    import duckdb

    line = json.dumps({"data": {field: value}, "emitted_at": 1, "meta": None})
    shape = (
        '{"data":"JSON","emitted_at":"DOUBLE","meta":{"changes":[{"field":"VARCHAR","change":"VARCHAR",'
        '"reason":"VARCHAR"}]}}'
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE t AS SELECT from_json($1, $2) AS record", [line, shape])
        query = select("t", columns({"properties": {field: schema}}), generation_id=1, sync_id=1)
        row = connection.execute(query).fetchall()[0]
    return row[4], [(change["field"], change["reason"]) for change in row[3]["changes"]]


LISTED = [("x", "DESTINATION_TYPECAST_ERROR")]


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "integer"}, 2**63 - 1, 2**63 - 1),
        ({"type": "integer"}, 5.0, 5),
        ({"type": "integer"}, None, None),
        ({"type": "number"}, 1e300, 1e300),
        ({"type": "number"}, "-1.5", -1.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "string"}, 5, "5"),
        ({"type": "string"}, {"a": 1}, '{"a":1}'),
        ({"type": "string"}, "a'b\"c\u0000d\U0001f600", "a'b\"c\u0000d\U0001f600"),
        ({"type": "object"}, {"a": [1, None]}, '{"a":[1,null]}'),
        ({"type": "object"}, None, None),
        ({"type": ["string", "integer"]}, "null", '"null"'),
        ({"type": "string", "format": "date"}, "2024-02-29", date(2024, 2, 29)),
        (NAIVE, "2024-02-29T10:00:00.5", datetime(2024, 2, 29, 10, 0, 0, 500_000)),
    ],
)
def test_values_that_fit(schema: dict[str, Any], value: Any, expected: Any) -> None:
    assert convert(schema, value) == (expected, [])


@pytest.mark.parametrize("text", ["2024-02-29T12:00:00+02:00", "2024-02-29T10:00:00Z", "2024-02-29 10:00:00"])
def test_time_without_a_zone_is_utc(text: str) -> None:
    value, changes = convert(ZONED, text)
    assert (value.timestamp(), changes) == (1709200800.0, [])


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 2**63),
        ({"type": "integer"}, 12.7),
        ({"type": "integer"}, True),
        ({"type": "integer"}, ""),
        ({"type": "number"}, "nan"),
        ({"type": "number"}, "1e999"),
        ({"type": "number"}, [1]),
        ({"type": "boolean"}, 1),
        ({"type": "string", "format": "date"}, "2024-02-30"),
        ({"type": "string", "format": "date"}, "2024-02-29T10:00:00Z"),
        (ZONED, "infinity"),
        (ZONED, 1709200800),
        (ZONED, "2024-02-29T25:00:00Z"),
        (NAIVE, "soon"),
        ({"type": "string", "format": "time"}, "25:00"),
    ],
)
def test_values_that_do_not_fit_are_null_and_listed(schema: dict[str, Any], value: Any) -> None:
    assert convert(schema, value) == (None, LISTED)


@pytest.mark.parametrize("field", ["", "a b", "a/b~c", 'q"uote', "it's", "$.x", "0", "select"])
def test_any_field_name_can_be_a_column(field: str) -> None:
    assert convert({"type": "integer"}, "x", field) == (None, [(field or "_", "DESTINATION_TYPECAST_ERROR")])
    assert convert({"type": "integer"}, 7, field) == (7, [])
