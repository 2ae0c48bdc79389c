from __future__ import annotations

import pyarrow as pa
import pytest
from lakehouse_analytics.engines.trino.reading import _column


@pytest.mark.parametrize(
    ("kind", "expression", "arrow"),
    [
        ("bigint", '"n"', pa.int64()),
        ("varchar", '"n"', pa.string()),
        ("varchar(10)", '"n"', pa.string()),
        ("decimal(18, 2)", '"n"', pa.decimal128(18, 2)),
        ("decimal(38,0)", '"n"', pa.decimal128(38, 0)),
        ("timestamp(9)", 'cast("n" as timestamp(6))', pa.timestamp("us")),
        (
            "timestamp(6) with time zone",
            "cast(\"n\" at time zone 'UTC' as timestamp(6) with time zone)",
            pa.timestamp("us", "UTC"),
        ),
        ("time(6)", 'cast("n" as varchar)', pa.string()),
        ("time(6) with time zone", 'cast("n" as varchar)', pa.string()),
        ("uuid", 'cast("n" as varchar)', pa.string()),
        ("interval day to second", 'cast("n" as varchar)', pa.string()),
        ("array(decimal(18, 2))", 'json_format(cast("n" as json))', pa.string()),
        ("row(a bigint, b varchar)", 'json_format(cast("n" as json))', pa.string()),
        ("json", 'json_format(cast("n" as json))', pa.string()),
    ],
)
def test_each_type_has_an_expression_and_a_type_of_arrow(kind: str, expression: str, arrow: pa.DataType) -> None:
    assert _column("n", kind) == ("n", expression, arrow)
