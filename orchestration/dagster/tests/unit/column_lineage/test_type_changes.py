"""Widened and narrowed types."""

from __future__ import annotations

import pytest
from lakehouse_analytics.column_lineage.type_changes import compare


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "bigint", "same"),
        ("integer", "INT", "same"),
        ("varchar", "text", "same"),
        ("decimal(18,2)", "DECIMAL(18, 2)", "same"),
        ("int", "bigint", "widened"),
        ("bigint", "smallint", "narrowed"),
        ("decimal(18, 2)", "decimal(20, 4)", "widened"),
        ("decimal(18, 2)", "decimal(18, 4)", "changed"),
        ("decimal(18, 2)", "decimal(10, 2)", "narrowed"),
        ("int", "decimal(18, 2)", "widened"),
        ("bigint", "decimal(18, 2)", "changed"),
        ("varchar(20)", "varchar", "widened"),
        ("varchar", "varchar(20)", "narrowed"),
        ("double", "real", "narrowed"),
        ("timestamp(3)", "timestamp(6)", "widened"),
        ("timestamp", "date", "changed"),
        ("bigint", "varchar", "changed"),
    ],
)
def test_compare(before: str, after: str, expected: str) -> None:
    assert compare(before, after, "postgres") == expected


def test_duckdb_ignores_the_length_of_a_text() -> None:
    assert compare("varchar(20)", "varchar", "duckdb") == "same"
