"""What a comparison must find, computed in Python from the rows, and random tables with the difficult values."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from lakehouse_analytics.diff.compare import Difference

Row = tuple[Any, ...]


@dataclass
class Expected:
    """Counts of a comparison."""

    base_rows: int
    head_rows: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    columns: dict[str, int] = field(default_factory=dict)

    def check(self, found: Difference) -> None:
        counts = {name: getattr(found, name) for name in vars(self) if name != "columns"}
        assert counts == {name: value for name, value in vars(self).items() if name != "columns"}
        assert {name: n for name, n in found.columns.items() if n} == {n: c for n, c in self.columns.items() if c}


def normal(value: Any) -> Any:
    """The value so that equality in Python is equality in SQL: NaN equals NaN, null equals null."""
    return "NaN!" if isinstance(value, float) and math.isnan(value) else value


def is_equal(one: Any, other: Any, tolerance: float | None) -> bool:
    if normal(one) == normal(other):
        return True
    if tolerance is None or not (isinstance(one, float) and isinstance(other, float)):
        return False
    return other - tolerance <= one <= other + tolerance


def brute_force(
    names: Sequence[str], key: Sequence[str], base: Sequence[Row], head: Sequence[Row], tolerance: float | None = None
) -> Expected:
    """Compare two lists of rows."""
    places = [names.index(name) for name in key]

    def key_of(row: Row) -> Row:
        return tuple(normal(row[place]) for place in places)

    counts = Counter(map(key_of, base)), Counter(map(key_of, head))

    def matches(row: Row) -> bool:
        values = key_of(row)
        return bool(key) and None not in values and "NaN!" not in values and all(found[values] <= 1 for found in counts)

    expected = Expected(len(base), len(head))
    old = {key_of(row): row for row in base if matches(row)}
    new = {key_of(row): row for row in head if matches(row)}
    expected.added, expected.removed = len(new.keys() - old.keys()), len(old.keys() - new.keys())
    for values in old.keys() & new.keys():
        differing = [
            name
            for name, one, other in zip(names, old[values], new[values], strict=True)
            if name not in key and not is_equal(one, other, tolerance)
        ]
        expected.changed += bool(differing)
        expected.unchanged += not differing
        for name in differing:
            expected.columns[name] = expected.columns.get(name, 0) + 1
    rest = [Counter(tuple(map(normal, row)) for row in side if not matches(row)) for side in (base, head)]
    expected.added += (rest[1] - rest[0]).total()
    expected.removed += (rest[0] - rest[1]).total()
    expected.unchanged += (rest[0] & rest[1]).total()
    return expected


NAMES = ("id", "part", "amount", "price", "day", "moment", "tz", "name", "flag", "raw", "list")
#: Few values each, so that rows meet, with those that break comparisons.
VALUES = {
    "id": st.one_of(st.none(), st.integers(-2, 4)),
    "part": st.sampled_from([None, "a", "A", "", "a "]),
    "amount": st.sampled_from([None, 0.0, -0.0, 0.1, 0.1000000001, 1e308, -1e308, math.nan, math.inf, -math.inf]),
    "price": st.sampled_from([None, Decimal("0.00"), Decimal("-1.50"), Decimal("99999999999999.99")]),
    "day": st.sampled_from([None, dt.date(1970, 1, 1), dt.date(2026, 3, 29)]),
    "moment": st.sampled_from([None, dt.datetime(2026, 3, 29, 2, 30), dt.datetime(2026, 3, 29, 2, 30, 0, 1)]),
    "tz": st.sampled_from([None, *(dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC) for hour in (0, 1))]),
    "name": st.sampled_from([None, "null", "", " ", "O'Brien", 'a"b', "ü😀", "a\tb\nc", "N;", "--", "%s {}"]),
    "flag": st.sampled_from([None, True, False]),
    "raw": st.sampled_from([None, b"", b"\x00\xff", b"\x00"]),
    "list": st.sampled_from([None, [], [1], [1, None], [None]]),
}
TYPES = {
    "id": "bigint", "part": "varchar", "amount": "double precision", "price": "decimal(16, 2)", "day": "date",
    "moment": "timestamp", "tz": "timestamp with time zone", "name": "varchar", "flag": "boolean", "raw": "blob",
    "list": "integer[]",
}  # fmt: skip
ROWS = st.lists(st.tuples(*VALUES.values()), max_size=8)


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Two tables, of which the second often has rows of the first, changed in one value.

    Most rows have a key of their own, because only those are matched.
    """
    base = [(draw(st.sampled_from([place, place, place, *row[:1]])), *row[1:]) for place, row in enumerate(draw(ROWS))]
    head = [row for row in base if draw(st.integers(0, 5))]
    for place, row in enumerate(head):
        if draw(st.booleans()):
            column = draw(st.sampled_from([NAMES.index("amount"), *range(len(NAMES))]))
            changed = list(row)
            changed[column] = draw(VALUES[NAMES[column]])
            head[place] = tuple(changed)
    return base, draw(st.permutations(head + draw(st.lists(st.tuples(*VALUES.values()), max_size=3))))


KEYS = st.one_of(
    st.just(["id"]),
    st.just(["amount"]),
    st.lists(st.sampled_from(["id", "part", "amount", "day", "list"]), max_size=2, unique=True),
)
