"""Names of tables in other schemas."""

from __future__ import annotations

import pytest
from lakehouse_analytics.dbt.relation import in_schema


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('"lake"."gold"."t"', '"lake"."gold__b"."t"'),
        ('"gold"."gold"."gold"', '"gold"."gold__b"."gold"'),
        ('"gold"."t"', '"gold__b"."t"'),
    ],
)
def test_a_name_in_another_schema(name: str, expected: str) -> None:
    assert in_schema(name, "gold__b") == expected
