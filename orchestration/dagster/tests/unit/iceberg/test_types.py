"""DuckDB types in Iceberg, and back."""

from __future__ import annotations

import pytest
from lakehouse_analytics.iceberg.types import duckdb_type, iceberg_type, schema_of, stored_type
from pyiceberg.types import FixedType, TimestampNanoType, UnknownType, UUIDType


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        ("BOOLEAN", "BOOLEAN"),
        ("TINYINT", "INTEGER"),
        ("USMALLINT", "INTEGER"),
        ("UINTEGER", "BIGINT"),
        ("BIGINT", "BIGINT"),
        ("UBIGINT", "DECIMAL(20,0)"),
        ("HUGEINT", "DECIMAL(38,0)"),
        ("DECIMAL(12,4)", "DECIMAL(12,4)"),
        ("FLOAT", "FLOAT"),
        ("DOUBLE", "DOUBLE"),
        ("VARCHAR", "VARCHAR"),
        ("JSON", "VARCHAR"),
        ("UUID", "VARCHAR"),
        ("ENUM('a', 'b')", "VARCHAR"),
        ("TIME WITH TIME ZONE", "VARCHAR"),
        ("INTERVAL", "VARCHAR"),
        ("BLOB", "BLOB"),
        ("DATE", "DATE"),
        ("TIME", "TIME"),
        ("TIMESTAMP", "TIMESTAMP"),
        ("TIMESTAMP_S", "TIMESTAMP"),
        ("TIMESTAMP_NS", "TIMESTAMP"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"),
        ("UTINYINT[]", "INTEGER[]"),
        ("INTEGER[3]", "INTEGER[]"),
        ('STRUCT(a UBIGINT, "b c" JSON[])', 'STRUCT(a DECIMAL(20,0), "b c" VARCHAR[])'),
        ("MAP(VARCHAR, SMALLINT)", "MAP(VARCHAR, INTEGER)"),
    ],
)
def test_types_are_stored(kind: str, stored: str) -> None:
    assert stored_type(kind) == stored
    assert stored_type(stored) == stored


@pytest.mark.parametrize("kind", ["UNION(a INTEGER)", "STRUCT(a UNION(b INTEGER))", "intreger", ""])
def test_other_types_are_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="no Iceberg type for "):
        iceberg_type(kind)


def test_types_that_only_others_write_are_named() -> None:
    assert duckdb_type(UUIDType()) == "UUID"
    assert duckdb_type(FixedType(4)) == "BLOB"
    assert duckdb_type(TimestampNanoType()) == "TIMESTAMP_NS"
    assert duckdb_type(UnknownType()) == "unknown"


def test_the_ids_of_a_schema_are_distinct() -> None:
    schema = schema_of({"a": "STRUCT(x INTEGER, y MAP(VARCHAR, INTEGER[]))", "b": "INTEGER[]", "c": "DATE"})
    assert [field.field_id for field in schema.fields] == [1, 2, 3]
    assert sorted(schema.field_ids) == [*range(1, 10)]
    assert not any(field.required for field in schema.fields)
