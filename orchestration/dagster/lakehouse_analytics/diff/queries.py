"""The statements of a comparison, in standard SQL: `Comparison` has what differs between engines.

Rows are matched by a full outer join on the key. Keys that are null, not a number or repeated on a side match no single
row: their rows, and all rows if there is no key, are counted per distinct row on both sides instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.comparison import Comparison, Family, family

_EXACT = {Family.INTEGER, Family.DECIMAL}
_TIMES = {Family.DATE, Family.TIMESTAMP, Family.INSTANT}


@dataclass(frozen=True)
class Pair:
    """A column on both sides.

    Attributes:
        name: Its name, as the head spells it.
        base, head: Expressions that are equal for equal values.
        base_text, head_text: Expressions of the values as text.
        types: The types on both sides.
        is_float: Whether a value may be NaN, and a tolerance applies.
    """

    name: str
    base: str
    head: str
    base_text: str
    head_text: str
    types: tuple[str, str]
    is_float: bool = False


def pair_of(session: Comparison, base: tuple[str, str], head: tuple[str, str]) -> Pair:
    """Return a column on both sides.

    If the types differ, numbers are compared as numbers, times as times, and everything else as text. Decimals of
    different types are compared by their text without zeros at its end: no type may have room for the values of both.

    Args:
        session: The engine.
        base, head: The name and the type of the column.
    """
    (left, left_type), (right, right_type) = (identifier(base[0]), base[1]), (identifier(head[0]), head[1])
    kinds = {family(left_type), family(right_type)}
    texts = session.text(left, left_type), session.text(right, right_type)
    if kinds <= {*_EXACT, Family.FLOAT} and Family.FLOAT in kinds:
        values = tuple(f"cast({name} as double precision)" for name in (left, right))
    elif left_type == right_type or (len(kinds) == 1 and not kinds & {Family.OTHER, Family.DECIMAL}):
        values = session.value(left, left_type), session.value(right, right_type)
    elif kinds <= _EXACT:
        values = _without_zeros(texts[0]), _without_zeros(texts[1])
    elif kinds <= _TIMES:
        values = left, right
    else:
        values = texts
    return Pair(head[0], values[0], values[1], *texts, (left_type, right_type), Family.FLOAT in kinds)


def _without_zeros(number: str) -> str:
    """Return the text of a decimal without zeros at its end: a cast to the type of the other side might fail."""
    return f"case when {number} like '%.%' then rtrim(rtrim({number}, '0'), '.') else {number} end"


@dataclass(frozen=True)
class Statements:
    """The statements of one comparison.

    Attributes:
        base, head: The tables, as they follow `from`.
        key: The columns by which rows are matched.
        columns: The other compared columns.
        where: A condition on the rows of both sides.
        tolerance: The largest difference between equal floats.
        split: Whether a side has keys that match no single row.
    """

    base: str
    head: str
    key: Sequence[Pair]
    columns: Sequence[Pair]
    where: str | None = None
    tolerance: float | None = None
    split: bool = False

    def key_counts(self) -> str:
        """Return a statement with a row per side: rows, rows with an unusable key, repeated keys, their rows."""
        keys = _names("k", self.key)
        return "\nunion all\n".join(
            f"select {number}, coalesce(sum(n), 0), coalesce(sum(case when {self._usable()} then 0 else n end), 0), "  # noqa: S608
            f"count(case when {self._usable()} and n > 1 then 1 end), "
            f"coalesce(sum(case when {self._usable()} and n > 1 then n end), 0)\n"
            f"from (select {keys}, count(*) as n from ({rows}) as side group by {keys}) as counted"
            for number, rows in enumerate((self._rows("base"), self._rows("head")))
        )

    def matched(self) -> str:
        """Return a statement of one row: rows added, removed and changed, then the changed values of each column."""
        anything = " or ".join(f"d{n}" for n in range(len(self.columns))) or "1 = 0"
        each = "".join(f", count(case when d{n} then 1 end)" for n in range(len(self.columns)))
        return (
            "select count(case when is_added then 1 end), count(case when is_removed then 1 end), "
            f"count(case when {anything} then 1 end){each}\nfrom ({self._joined()}) as joined"
        )

    def counted(self) -> str:
        """Return a statement of one row about the rows that are not matched: added, removed and unchanged."""
        return (
            "select coalesce(sum(case when in_head > in_base then in_head - in_base else 0 end), 0), "
            "coalesce(sum(case when in_base > in_head then in_base - in_head else 0 end), 0), "
            f"coalesce(sum(least(in_base, in_head)), 0)\nfrom ({self._grouped()}) as grouped"
        )

    def matched_samples(self, most: int) -> str:
        """Return a statement of examples: kind, texts of the key, then base, head and difference of each column."""
        anything = " or ".join(f"d{n}" for n in range(len(self.columns))) or "1 = 0"
        kind = f"case when is_added then 'added' when is_removed then 'removed' when {anything} then 'changed' end"
        columns = [f"kt{n}" for n in range(len(self.key))]
        columns += [f"{letter}{n}" for n in range(len(self.columns)) for letter in ("bt", "ht", "d")]
        order = _names("k", self.key)
        return (
            f"select kind, {', '.join(columns)} from (\n"  # noqa: S608
            f"select kinds.*, row_number() over (partition by kind order by {order}) as place from (\n"
            f"select joined.*, {kind} as kind from ({self._joined(texts=True)}) as joined) as kinds\n"
            f"where kind is not null) as placed where place <= {most} order by kind, place"
        )

    def counted_samples(self, most: int) -> str:
        """Return a statement of examples of rows that are not matched: kind, number of rows, text of each column."""
        texts = _names("t", self._all)
        return (
            f"select kind, n, {texts} from (\n"  # noqa: S608
            f"select kinds.*, row_number() over (partition by kind order by {texts}) as place from (\n"
            "select grouped.*, case when in_head > in_base then 'added' else 'removed' end as kind, "
            "abs(in_head - in_base) as n\n"
            f"from ({self._grouped(texts=True)}) as grouped where in_head <> in_base) as kinds) as placed\n"
            f"where place <= {most} order by kind, place"
        )

    @property
    def _all(self) -> Sequence[Pair]:
        return [*self.key, *self.columns]

    def _usable(self, alias: str = "") -> str:
        """Return the condition that a key can match a row."""
        conditions = []
        for n, pair in enumerate(self.key):
            conditions.append(f"{alias}k{n} is not null")
            if pair.is_float:
                conditions.append(f"lower(cast({alias}k{n} as varchar)) <> 'nan'")
        return " and ".join(conditions)

    def _rows(self, side: str, *, texts: bool = False) -> str:
        """Return a query of the columns of a side: `k…` of the key and `c…` of others, `kt…` and `t…` their texts."""
        selected = ["1 as present"]
        for letter, pairs in (("k", self.key), ("c", self.columns)):
            for n, pair in enumerate(pairs):
                selected.append(f"{getattr(pair, side)} as {letter}{n}")
                if texts:
                    name = f"kt{n}" if letter == "k" else f"t{n}"
                    selected.append(f"{getattr(pair, side + '_text')} as {name}")
        where = f" where ({self.where}\n)" if self.where else ""
        return f"select {', '.join(selected)} from {getattr(self, side)}{where}"  # noqa: S608

    def _side(self, side: str, *, texts: bool = False, matched: bool) -> str:
        """Return a query of the rows of a side that are matched by their key, or of those that are not."""
        rows = self._rows(side, texts=texts)
        if not (self.split and self.key):
            return rows
        keys = _names("k", self.key)
        repeated = "\nunion\n".join(
            f"select {keys} from ({self._rows(each)}) as side where {self._usable()} "  # noqa: S608
            f"group by {keys} having count(*) > 1"
            for each in ("base", "head")
        )
        same = " and ".join(f"side.k{n} = repeated.k{n}" for n in range(len(self.key)))
        unusable = f"repeated.k0 is not null or not ({self._usable('side.')})"
        return (
            f"select side.* from ({rows}) as side left join ({repeated}) as repeated on {same} "  # noqa: S608
            f"where {'not ' if matched else ''}({unusable})"
        )

    def _joined(self, *, texts: bool = False) -> str:
        """Return a query with a row per key, whether it is added or removed, and whether each column differs."""
        selected = ["base.present is null as is_added", "head.present is null as is_removed"]
        both = "base.present is not null and head.present is not null"
        for n, pair in enumerate(self.columns):
            selected.append(f"({both} and {self._differs(pair, f'base.c{n}', f'head.c{n}')}) as d{n}")
        if texts:
            for n in range(len(self.key)):
                selected.append(f"coalesce(head.k{n}, base.k{n}) as k{n}")
                selected.append(f"coalesce(head.kt{n}, base.kt{n}) as kt{n}")
            for n in range(len(self.columns)):
                selected.append(f"base.t{n} as bt{n}, head.t{n} as ht{n}")
        on = " and ".join(f"base.k{n} = head.k{n}" for n in range(len(self.key)))
        base, head = (self._side(side, texts=texts, matched=True) for side in ("base", "head"))
        return f"select {', '.join(selected)}\nfrom ({base}) as base\nfull join ({head}) as head on {on}"

    def _differs(self, pair: Pair, base: str, head: str) -> str:
        differs = f"{base} is distinct from {head}"
        if self.tolerance is None or not pair.is_float:
            return differs
        # Not the absolute difference, which may overflow.
        within = f"{base} between {head} - {self.tolerance!r} and {head} + {self.tolerance!r}"
        return f"({differs} and not coalesce({within}, 1 = 0))"

    def _grouped(self, *, texts: bool = False) -> str:
        """Return a query with a row per distinct row that is not matched, and its number on both sides."""
        count: Callable[[int], str] = lambda side: ", ".join(  # noqa: E731
            f"{1 if side == number else 0} as {name}" for number, name in enumerate(("in_base", "in_head"))
        )
        values = [f"k{n}" for n in range(len(self.key))] + [f"c{n}" for n in range(len(self.columns))]
        shown = [f"kt{n}" for n in range(len(self.key))] + [f"t{n}" for n in range(len(self.columns))]
        selected = [f"{value} as v{n}" for n, value in enumerate(values)]
        more = [f"{text} as t{n}" for n, text in enumerate(shown)] if texts else []
        sides = "\nunion all\n".join(
            f"select {', '.join([*selected, *more])}, {count(number)} "  # noqa: S608
            f"from ({self._side(side, texts=texts, matched=False)}) as side"
            for number, side in enumerate(("base", "head"))
        )
        groups = ", ".join(f"v{n}" for n in range(len(values)))
        least = "".join(f", min(t{n}) as t{n}" for n in range(len(values))) if texts else ""
        return (
            f"select sum(in_base) as in_base, sum(in_head) as in_head{least} from ({sides}) as sides group by {groups}"  # noqa: S608
        )


def _names(letter: str, pairs: Sequence[Pair]) -> str:
    return ", ".join(f"{letter}{n}" for n in range(len(pairs)))
