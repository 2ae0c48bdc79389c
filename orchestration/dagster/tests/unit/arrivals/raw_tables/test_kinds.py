"""Which types fit into which."""

from __future__ import annotations

import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.arrivals.raw_tables.kinds import fits, normalized


@pytest.mark.parametrize(
    ("kind", "into"),
    [
        ("INTEGER", "INTEGER"),
        ("INTEGER", "BIGINT"),
        ("UINTEGER", "BIGINT"),
        ("UBIGINT", "DECIMAL(20,0)"),
        ("BIGINT", "DECIMAL(19,0)"),
        ("BIGINT", "HUGEINT"),
        ("FLOAT", "DOUBLE"),
        ("DECIMAL(10,2)", "DECIMAL(12,4)"),
        ("UUID", "VARCHAR"),
        ("ENUM('a')", "VARCHAR"),
        ("VARCHAR", "ENUM('a')"),
        ("JSON", "VARCHAR"),
        ("VARCHAR", "JSON"),
        ("TIMESTAMP", "TIMESTAMP_NS"),
        ("TIMESTAMP_NS", "TIMESTAMP"),
        ('"NULL"', "DATE"),
        ("INTEGER[3]", "BIGINT[]"),
        ("INTEGER[3]", "INTEGER[3]"),
        ("STRUCT(a INTEGER)", "STRUCT(A BIGINT)"),
        ("MAP(VARCHAR, INTEGER)", "MAP(VARCHAR, BIGINT)"),
    ],
)
def test_types_that_fit(kind: str, into: str) -> None:
    assert fits(kind, into)


@pytest.mark.parametrize(
    ("kind", "into"),
    [
        ("UBIGINT", "BIGINT"),
        ("UTINYINT", "TINYINT"),
        ("TINYINT", "UTINYINT"),
        ("BIGINT", "DECIMAL(18,0)"),
        ("BIGINT", "DECIMAL(20,2)"),
        ("BIGINT", "DOUBLE"),
        ("HUGEINT", "DECIMAL(38,0)"),
        ("DECIMAL(10,2)", "DECIMAL(11,4)"),
        ("DECIMAL(10,2)", "DOUBLE"),
        ("INTEGER", "VARCHAR"),
        ("VARCHAR", "INTEGER"),
        ("BLOB", "VARCHAR"),
        ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE"),
        ("DATE", "TIMESTAMP"),
        ("STRUCT(a INTEGER)", "STRUCT(b INTEGER)"),
        ("STRUCT(a INTEGER)", "STRUCT(a INTEGER, b INTEGER)"),
        ("BIGINT[]", "INTEGER[]"),
        ("INTEGER", "INTEGER[]"),
    ],
)
def test_types_that_do_not_fit(kind: str, into: str) -> None:
    assert not fits(kind, into)


def test_types_are_spelled_as_in_the_catalog() -> None:
    assert normalized("decimal(12,4)") == "DECIMAL(12,4)"
    assert normalized("timestamptz") == "TIMESTAMP WITH TIME ZONE"
    for kind in ("intreger", "INTEGER); DROP TABLE t; --", ""):
        with pytest.raises(ArrivalError, match="is not a type of DuckDB"):
            normalized(kind)
