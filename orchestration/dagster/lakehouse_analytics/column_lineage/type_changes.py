"""Whether a data type holds all values of another one."""

from __future__ import annotations

from typing import Literal

from sqlglot import exp
from sqlglot.errors import SqlglotError

Change = Literal["same", "widened", "narrowed", "changed"]

#: Types of which each holds all values of those before it.
_INTEGERS = ("TINYINT", "SMALLINT", "INT", "BIGINT", "INT128")
_FLOATS = ("FLOAT", "DOUBLE")
_TEXTS = ("CHAR", "NCHAR", "VARCHAR", "NVARCHAR", "TEXT")
#: Decimal digits of integers.
_DIGITS = {"TINYINT": 3, "SMALLINT": 5, "INT": 10, "BIGINT": 19, "INT128": 39}
#: The length of a text without a limit.
_UNLIMITED = 1 << 31
#: The precision of a time without one, in digits of a second.
_MICROSECONDS = 6


def compare(before: str, after: str, dialect: str) -> Change:
    """Return how a column's type changes.

    Args:
        before: The name of the type; empty if it is unknown.
        after: The name of the new type.
        dialect: sqlglot's name of the dialect.

    Returns:
        `same` also if one of the types is unknown, and `changed` if none of them holds all values of the other.
    """
    if not before or not after or before.lower() == after.lower():
        return "same"
    try:
        old, new = (exp.DataType.build(text, dialect=dialect, udt=True) for text in (before, after))
    except (SqlglotError, ValueError):
        return "changed"
    if old == new or old.sql(dialect) == new.sql(dialect):
        return "same"
    if _holds(new, old):
        return "same" if _holds(old, new) else "widened"
    return "narrowed" if _holds(old, new) else "changed"


def _holds(wide: exp.DataType, narrow: exp.DataType) -> bool:
    one, other = _name(wide), _name(narrow)
    if one in _TEXTS and other in _TEXTS:
        return _first(wide, _UNLIMITED) >= _first(narrow, _UNLIMITED)
    for types in (_INTEGERS, _FLOATS):
        if one in types and other in types:
            return types.index(one) >= types.index(other)
    if one == "DECIMAL":
        precision, scale = _decimal(wide)
        if other == "DECIMAL":
            digits, fraction = _decimal(narrow)
            return scale >= fraction and precision - scale >= digits - fraction
        return other in _DIGITS and precision - scale >= _DIGITS[other]
    if one == other and one.startswith("TIME"):
        return _first(wide, _MICROSECONDS) >= _first(narrow, _MICROSECONDS)
    return False


def _name(kind: exp.DataType) -> str:
    return kind.this.name if isinstance(kind.this, exp.DType) else str(kind.this)


def _numbers(kind: exp.DataType) -> list[int]:
    return [int(part.name) for part in kind.expressions if part.name.isdigit()]


def _first(kind: exp.DataType, default: int) -> int:
    return next(iter(_numbers(kind)), default)


def _decimal(kind: exp.DataType) -> tuple[int, int]:
    numbers = [*_numbers(kind), *((18, 3) if not kind.expressions else (0,))]
    return numbers[0], numbers[1]
