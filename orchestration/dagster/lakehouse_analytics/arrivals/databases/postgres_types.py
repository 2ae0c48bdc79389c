"""Types of PostgreSQL: how the values of a column are read, and in which type they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.databases.base import Convert, Order, SourceColumn
from lakehouse_analytics.common.sql import identifier

if TYPE_CHECKING:
    import pyarrow as pa

#: Types that the driver returns as they are stored, by the name in pg_type.
_DIRECT = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "text": "VARCHAR",
    "varchar": "VARCHAR",
    "bpchar": "VARCHAR",
    "bytea": "BLOB",
}
#: Types with values that no type of DuckDB or Iceberg has: infinity, and timestamps after the year 294246. The query
#: returns the last value of the range for all of them, and `_nulls` replaces it.
_BOUNDED = {
    "date": ("DATE", "date '5874897-12-31'", 2_145_031_948),
    "timestamp": ("TIMESTAMP", "timestamp '294246-12-31'", 9_223_371_158_400_000_000),
    "timestamptz": ("TIMESTAMP WITH TIME ZONE", "timestamptz '294246-12-31 00:00:00+00'", 9_223_371_158_400_000_000),
}
_ORDERS: dict[str, Order] = {
    **dict.fromkeys(_BOUNDED, "time"),
    **dict.fromkeys(("int2", "int4", "int8", "numeric", "text", "varchar"), "number or text"),
}
_NUMBERS = ("int2", "int4", "int8", "float4", "float8", "numeric")
#: The highest precision of DuckDB's and Iceberg's decimals.
_MAX_PRECISION = 38
_MIDNIGHT = 86_400_000_000


@dataclass(frozen=True)
class PostgresType:
    """The type of a column in PostgreSQL's catalog, with domains resolved to their base type.

    Attributes:
        declared: As SQL writes it, before domains are resolved.
        name: `typname`.
        is_builtin: Whether it is in the schema pg_catalog.
        typtype: `b` base, `c` composite, `e` enum, `r` range, `m` multirange.
        is_array: Whether it is an array.
        modifier: `atttypmod`.
    """

    declared: str
    name: str
    is_builtin: bool
    typtype: str
    is_array: bool
    modifier: int


def column(name: str, of: PostgresType) -> SourceColumn:
    """Return how a column is read."""
    quoted = identifier(name)
    known = of.name if of.is_builtin and of.typtype == "b" and not of.is_array else ""
    kind, expression, convert = _reading(quoted, known, of)
    marked = f"({quoted} is not null)"
    if known == "bool":
        marked = f"({quoted} is true)"
    elif known in _NUMBERS:
        marked = f"(coalesce({quoted}, 0) <> 0)"
    return SourceColumn(name, of.declared, kind, expression, convert, _ORDERS.get(known, "none"), marked)


def _reading(quoted: str, known: str, of: PostgresType) -> tuple[str, str, Convert]:  # noqa: PLR0911  # a table
    if known in _DIRECT:
        return _DIRECT[known], quoted, _unchanged
    if known in _BOUNDED:
        kind, last, value = _BOUNDED[known]
        return (
            kind,
            f"case when not isfinite({quoted}) or {quoted} > {last} then {last} else {quoted} end",
            _nulls(value),
        )
    if known == "time":
        return "TIME", quoted, _nulls(_MIDNIGHT)  # 24:00
    if known == "numeric":
        precision, scale = _precision(of.modifier)
        if 0 <= scale <= precision <= _MAX_PRECISION and precision:
            return f"DECIMAL({precision},{scale})", quoted, _decimal(precision, scale)
        return "VARCHAR", f"{quoted}::text", _unchanged
    if known == "oid":
        return "BIGINT", f"{quoted}::bigint", _unchanged
    if known == "money":
        return "VARCHAR", f"{quoted}::numeric::text", _unchanged
    if of.is_array or of.typtype == "c":
        return "VARCHAR", f"to_json({quoted})::text", _unchanged
    return "VARCHAR", f"{quoted}::text", _unchanged


def _precision(modifier: int) -> tuple[int, int]:
    """Return precision and scale of a numeric; zeros if it has none."""
    if modifier < 4:
        return 0, 0
    return (modifier - 4 >> 16) & 0xFFFF, ((modifier - 4 & 0x7FF) ^ 0x400) - 0x400


def _unchanged(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
    return values, 0


def _nulls(value: int) -> Convert:
    """Return a conversion that replaces one value by NULL, and everything above."""

    def convert(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers = values.cast(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
        found = pc.greater_equal(numbers, value)
        count = pc.sum(found).as_py() or 0
        return (pc.if_else(found, pa.scalar(None, values.type), values), count) if count else (values, 0)

    return convert


def _decimal(precision: int, scale: int) -> Convert:
    """Return a conversion of text to decimals. NaN, which a numeric with a scale may have, becomes NULL."""

    def convert(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = values.storage if isinstance(values, pa.ExtensionArray) else values
        found = pc.equal(texts, "NaN")
        count = pc.sum(found).as_py() or 0
        if count:
            texts = pc.if_else(found, pa.scalar(None, texts.type), texts)
        return texts.cast(pa.decimal128(precision, scale)), count

    return convert
