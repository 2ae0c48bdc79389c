"""Types of columns, as DuckDB names them: their usual spelling, and whether the values of one fit into another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

#: Bits of integers, and whether they have a sign.
_INTEGERS = {
    "tinyint": (8, True),
    "smallint": (16, True),
    "integer": (32, True),
    "bigint": (64, True),
    "hugeint": (128, True),
    "utinyint": (8, False),
    "usmallint": (16, False),
    "uinteger": (32, False),
    "ubigint": (64, False),
    "uhugeint": (128, False),
}
_TIMESTAMPS = {"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"}
_TEXTS = {"varchar", "enum", "uuid"}
#: Nested types, and those whose values fit if the values in them do.
_NESTED = {"list": {"list", "array"}, "array": set(), "struct": {"struct"}, "map": {"map"}}


def parse(kind: str) -> DuckDBPyType:
    """Return the DuckDB type with this name.

    Raises:
        ArrivalError: There is no such type.
    """
    import duckdb

    try:
        return duckdb.sqltype(kind)
    except duckdb.Error:
        raise ArrivalError(
            f"{kind!r} is not a type of DuckDB: https://duckdb.org/docs/sql/data_types/overview"
        ) from None


def normalized(kind: str) -> str:
    """Return the spelling of a type in `duckdb_columns()`."""
    return str(parse(kind))


def fits(kind: str, into: str) -> bool:
    """Return whether every value of a type can be stored in another type without a loss.

    Fractions of a second below a microsecond are an exception: they are cut.
    """
    return kind == '"NULL"' or _fits(parse(kind), parse(into))


def _fits(kind: DuckDBPyType, into: DuckDBPyType) -> bool:
    if str(kind) == str(into) or kind.id == "null":
        return True
    if kind.id in _INTEGERS:
        return _integer_fits(kind.id, into)
    if kind.id == "decimal" and into.id == "decimal":
        (precision, scale), (into_precision, into_scale) = _decimal(kind), _decimal(into)
        return scale <= into_scale and precision - scale <= into_precision - into_scale
    if into.id in _NESTED:
        return _nested_fits(kind, into)
    return (
        (kind.id in _TEXTS and into.id == "varchar")
        or (kind.id == "varchar" and into.id == "enum")  # Parquet does not have it, and the conversion checks values
        or (kind.id in _TIMESTAMPS and into.id in _TIMESTAMPS)
        or (kind.id == "float" and into.id == "double")
    )


def _nested_fits(kind: DuckDBPyType, into: DuckDBPyType) -> bool:
    if kind.id not in _NESTED[into.id]:
        return False
    fields, into_fields = fields_of(kind), fields_of(into)
    return list(fields) == list(into_fields) and all(_fits(fields[name], into_fields[name]) for name in fields)


def _integer_fits(kind: str, into: DuckDBPyType) -> bool:
    bits, signed = _INTEGERS[kind]
    if into.id in _INTEGERS:
        into_bits, into_signed = _INTEGERS[into.id]
        return into_bits > bits if into_signed and not signed else into_bits >= bits and into_signed == signed
    if into.id == "decimal":
        precision, scale = _decimal(into)
        return len(str(2 ** (bits - signed))) <= precision - scale
    return False


def _decimal(kind: DuckDBPyType) -> tuple[int, int]:
    precision, scale = re.findall(r"\d+", str(kind))
    return int(precision), int(scale)


def fields_of(kind: DuckDBPyType) -> dict[str, DuckDBPyType]:
    """Return the types in a list, an array, a map or a struct, by name in lower case."""
    from duckdb.sqltypes import DuckDBPyType

    # The children of an array include its size.
    return {name.lower(): child for name, child in kind.children if isinstance(child, DuckDBPyType)}
