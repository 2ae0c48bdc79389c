"""Maps DuckDB's types to those of ClickHouse, and back."""

from __future__ import annotations

import re

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.arrivals.raw_tables.kinds import parse
from lakehouse_analytics.exports.clickhouse_types import type_of
from lakehouse_analytics.exports.columns import Column, Kind

_INTEGERS = {
    f"{'' if signed else 'U'}{name}": (bits, signed)
    for name, bits in {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}.items()
    for signed in (True, False)
}
_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "DOUBLE": Kind.DOUBLE,
    "DATE": Kind.DATE,
    "TIMESTAMP": Kind.TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": Kind.INSTANT,
    "VARCHAR": Kind.TEXT,
    "BLOB": Kind.BINARY,
}
#: Types that are stored in another one.
_STORED = {
    "float": "DOUBLE",
    "hugeint": "DECIMAL(38,0)",
    "timestamp_s": "TIMESTAMP",
    "timestamp_ms": "TIMESTAMP",
    "timestamp_ns": "TIMESTAMP",
    "time": "VARCHAR",
    "time with time zone": "VARCHAR",
    "interval": "VARCHAR",
    "uuid": "VARCHAR",
    "enum": "VARCHAR",
    "bit": "VARCHAR",
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")


def stored_type(kind: str) -> str:
    """Return the DuckDB type in which ClickHouse stores the values of another.

    Raises:
        ArrivalError: It has none.
    """
    parsed = parse(kind)
    stored = "VARCHAR" if kind == "JSON" else _STORED.get(parsed.id, str(parsed))
    column(stored, stored)
    return stored


def column(name: str, kind: str, *, in_key: bool = False) -> Column:
    """Return a column of a DuckDB type that `stored_type` returned.

    Raises:
        ArrivalError: ClickHouse has no such type.
    """
    if kind in _INTEGERS:
        bits, signed = _INTEGERS[kind]
        return Column(name, Kind.INTEGER, bits=bits, signed=signed, in_key=in_key)
    if match := _DECIMAL.fullmatch(kind):
        return Column(name, Kind.DECIMAL, precision=int(match[1]), scale=int(match[2]), in_key=in_key)
    if kind not in _KINDS:
        raise ArrivalError(f"values of the type {kind} cannot be loaded into ClickHouse. Load them as text")
    return Column(name, _KINDS[kind], in_key=in_key)


def type_in_clickhouse(kind: str) -> str:
    """Return the ClickHouse type of a DuckDB type, without `Nullable`."""
    return type_of(column("", kind, in_key=True))


def without_nullable(kind: str) -> str:
    """Return a ClickHouse type without `Nullable`."""
    return kind.removeprefix("Nullable(").removesuffix(")") if kind.startswith("Nullable(") else kind


def kind_of(kind: str) -> str:
    """Return the DuckDB type of a ClickHouse type; for those that a sync does not create, ClickHouse's own name."""
    plain = without_nullable(kind)
    if match := re.fullmatch(r"Decimal\((\d+), (\d+)\)", plain):
        return f"DECIMAL({match[1]},{match[2]})"
    if plain == type_in_clickhouse("TIMESTAMP"):
        return "TIMESTAMP WITH TIME ZONE"
    known = {type_in_clickhouse(name): name for name in (*_INTEGERS, *[name for name in _KINDS if name != "BLOB"])}
    return known.get(plain, kind)
