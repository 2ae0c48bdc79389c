"""Types of MySQL and MariaDB: how the values of a column are read, and in which type they are stored.

`tinyint(1)` stays a number: `BOOLEAN` is its other name, so both look the same, and it may contain 2. `bit(1)` is a
boolean.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.databases.base import Convert, Order, SourceColumn

if TYPE_CHECKING:
    import pyarrow as pa

#: DuckDB types by the type of integers, with and without a sign.
_INTEGERS = {
    "tinyint": ("TINYINT", "UTINYINT"),
    "smallint": ("SMALLINT", "USMALLINT"),
    "mediumint": ("INTEGER", "UINTEGER"),
    "int": ("INTEGER", "UINTEGER"),
    "bigint": ("BIGINT", "UBIGINT"),
    "year": ("SMALLINT", "SMALLINT"),
}
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json")
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector")
_GEOMETRIES = (
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "geomcollection",
)  # fmt: skip
_TIMES = {"date": "DATE", "datetime": "TIMESTAMP", "timestamp": "TIMESTAMP WITH TIME ZONE"}
#: A part of the date is zero. Times never contain this.
_ZERO_DATE = "^0000|-00"
_TIME_OF_DAY = "^([01][0-9]|2[0-3]):"
#: The highest precision of DuckDB's and Iceberg's decimals. MySQL's is 65.
_MAX_PRECISION = 38


@dataclass(frozen=True)
class MySQLType:
    """The type of a column, as in information_schema.columns.

    Attributes:
        declared: `column_type`, such as `int(10) unsigned`.
        name: `data_type`, such as `int`.
        precision: `numeric_precision`.
        scale: `numeric_scale`.
    """

    declared: str
    name: str
    precision: int
    scale: int


def quoted(name: str) -> str:
    """Return an identifier quoted for MySQL."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str, of: MySQLType) -> SourceColumn:
    """Return how a column is read. The driver returns text for each value, or bytes."""
    sql = quoted(name)
    kind, expression, convert = _reading(sql, of)
    order: Order = "none"
    marked = f"({sql} is not null)"
    if of.name in _TIMES:
        order, marked = "time", f"({sql} is not null and {sql} <> 0)"
    elif of.name in _INTEGERS or of.name in ("decimal", "float", "double", "bit"):
        order, marked = (
            "none" if of.name in ("float", "double", "bit") else "number or text",
            f"(coalesce({sql}, 0) <> 0)",
        )
    elif of.name in ("char", "varchar"):
        order = "number or text"
    return SourceColumn(name, of.declared, kind, expression, convert, order, marked)


def _reading(sql: str, of: MySQLType) -> tuple[str, str, Convert]:  # noqa: PLR0911  # a table of types
    if of.name in _INTEGERS:
        kind = _INTEGERS[of.name]["unsigned" in of.declared]
        return kind, sql, _cast(kind)
    if of.name == "decimal":
        kind = f"DECIMAL({of.precision},{of.scale})" if of.precision <= _MAX_PRECISION else "VARCHAR"
        return kind, sql, _cast(kind)
    if of.name in ("float", "double"):
        # As text, a float has six digits only.
        kind = "FLOAT" if of.name == "float" else "DOUBLE"
        return kind, f"{sql} + 0e0", _cast(kind)
    if of.name == "bit":
        kind = "BOOLEAN" if of.declared == "bit(1)" else "UBIGINT"
        return kind, f"cast({sql} as unsigned)", _cast(kind)
    if of.name in _TIMES:
        return _TIMES[of.name], sql, _date(_TIMES[of.name])
    if of.name == "time":
        return "TIME", sql, _time
    if of.name in _BYTES:
        return "BLOB", sql, _unchanged
    if of.name in _TEXTS:
        return "VARCHAR", sql, _unchanged
    if of.name in _GEOMETRIES:
        return "VARCHAR", f"st_astext({sql})", _unchanged
    return "VARCHAR", f"cast({sql} as char)", _unchanged


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a DuckDB type."""
    import pyarrow as pa

    if kind.startswith("DECIMAL"):
        precision, scale = kind[len("DECIMAL(") : -1].split(",")
        return pa.decimal128(int(precision), int(scale))
    types = {
        "BOOLEAN": pa.bool_(),
        "TINYINT": pa.int8(),
        "UTINYINT": pa.uint8(),
        "SMALLINT": pa.int16(),
        "USMALLINT": pa.uint16(),
        "INTEGER": pa.int32(),
        "UINTEGER": pa.uint32(),
        "BIGINT": pa.int64(),
        "UBIGINT": pa.uint64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "VARCHAR": pa.string(),
        "BLOB": pa.binary(),
        "DATE": pa.date32(),
        "TIME": pa.time64("us"),
        "TIMESTAMP": pa.timestamp("us"),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    }
    return types[kind]


def _unchanged(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
    return values, 0


def _cast(kind: str) -> Convert:
    def convert(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
        if kind == "BOOLEAN":
            values = values.cast(arrow_type("UBIGINT"))
        return values.cast(arrow_type(kind)), 0

    return convert


def _date(kind: str) -> Convert:
    """Return a conversion of text to dates and timestamps. Dates that do not exist become NULL."""

    def convert(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
        import pyarrow as pa
        import pyarrow.compute as pc

        values, count = _without(values, pc.match_substring_regex(values, _ZERO_DATE))
        try:
            # Text without a zone has no instant until it is said to be UTC, which is the session's zone.
            naive = values.cast(pa.date32() if kind == "DATE" else pa.timestamp("us"))
        except pa.ArrowInvalid:  # the mode ALLOW_INVALID_DATES accepts 2026-02-31
            parsed = [_parsed(value) for value in values.to_pylist()]
            naive = pa.array(parsed, pa.timestamp("us")).cast(pa.date32() if kind == "DATE" else pa.timestamp("us"))
            count += naive.null_count - values.null_count
        return (pc.assume_timezone(naive, "UTC") if kind == "TIMESTAMP WITH TIME ZONE" else naive), count

    return convert


def _parsed(value: str | None) -> datetime | None:
    if value is not None:
        with suppress(ValueError):
            day = date.fromisoformat(value[:10])
            return datetime.fromisoformat(f"{day}{value[10:]}")
    return None


def _time(values: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
    """Return times of day. MySQL's `time` is also a duration, from -838 to 838 hours, which becomes NULL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values, count = _without(values, pc.invert(pc.match_substring_regex(values, _TIME_OF_DAY)))
    return values.cast(pa.time64("us")), count


def _without(values: pa.Array[Any], found: pa.Array[Any]) -> tuple[pa.Array[Any], int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    count = pc.sum(found).as_py() or 0
    return (pc.if_else(found, pa.scalar(None, values.type), values) if count else values), count
