"""Compares two states of a table. The engine computes everything; only counts and examples are fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.common.text import brief, suggestion
from lakehouse_analytics.diff.errors import DiffError
from lakehouse_analytics.diff.keys import Key, choose_key
from lakehouse_analytics.diff.queries import Pair, Statements, pair_of
from lakehouse_analytics.diff.relations import Side
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.comparison import Comparison

#: The kinds of differences between rows, in the order of reports.
KINDS = ("added", "removed", "changed")


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        key: Columns by which rows are matched; empty for the key that the dbt project declares.
        exclude: Columns that are not compared.
        where: A condition on the rows of both sides.
        tolerance: The largest difference between equal floats.
        samples: Maximum number of examples per kind of difference.
    """

    key: Sequence[str] = ()
    exclude: Sequence[str] = ()
    where: str | None = None
    tolerance: float | None = None
    samples: int = 0


@dataclass(frozen=True)
class Sample:
    """An example of a difference. Values are the engine's texts; None is null.

    Attributes:
        kind: `added`, `removed` or `changed`.
        key: The columns of the key; all columns if the row is not matched by its key.
        values: The values of an added or removed row, or of a changed one the changed columns with both values.
        rows: Number of equal rows.
    """

    kind: str
    key: Mapping[str, str | None]
    values: Mapping[str, Any]
    rows: int = 1


@dataclass(frozen=True)
class Difference:
    """The differences between two states of a table.

    Attributes:
        table: The asset key of the table.
        base, head: The states.
        key: The columns by which rows are matched; empty if equal rows are counted instead.
        key_origin: Where the key comes from.
        base_rows, head_rows: Number of rows on each side.
        added, removed, changed, unchanged: Number of rows.
        columns: Number of changed values per compared column.
        only_base, only_head: Types of the columns that only one side has.
        types: Types of the columns whose types differ, on both sides.
        excluded: The columns that were not compared.
        where: The condition on the rows.
        notes: What else to know about the result, one sentence each.
        samples: Examples.
    """

    table: str
    base: str
    head: str
    key: Sequence[str]
    key_origin: str
    base_rows: int
    head_rows: int
    added: int
    removed: int
    changed: int
    unchanged: int
    columns: Mapping[str, int] = field(default_factory=dict)
    only_base: Mapping[str, str] = field(default_factory=dict)
    only_head: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    excluded: Sequence[str] = ()
    where: str | None = None
    notes: Sequence[str] = ()
    samples: Sequence[Sample] = ()

    @property
    def is_empty(self) -> bool:
        """Whether rows, columns and types are equal."""
        return not (self.added or self.removed or self.changed or self.only_base or self.only_head or self.types)


def compare(
    session: Comparison, base: Side, head: Side, options: Options, *, table: str, declared: Iterable[Key] = ()
) -> Difference:
    """Compare two states of a table.

    Args:
        session: The engine.
        base, head: The two states.
        options: What to compare.
        table: The asset key of the table.
        declared: The keys that the dbt project declares, the best first.

    Raises:
        DiffError: An option names no column, or there is nothing to compare.
        DatabaseError: A statement failed.
    """
    return _Comparison(session, base, head, options, table=table).run(declared)


class _Comparison:
    def __init__(self, session: Comparison, base: Side, head: Side, options: Options, *, table: str) -> None:
        self.session, self.table, self.base, self.head, self.options = session, table, base, head, options
        self.notes: list[str] = []
        folded: Callable[[str], str] = str.lower if session.ignores_case else str
        self.base_names = {folded(name): name for name in base.columns}
        self.head_names = {folded(name): name for name in head.columns}
        self.excluded = self._excluded(folded)
        self.common = {
            name: spelled
            for name, spelled in self.head_names.items()
            if name in self.base_names and spelled not in self.excluded
        }

    def run(self, declared: Iterable[Key]) -> Difference:
        """Return the differences."""
        key = choose_key(self.options.key, declared, self.common)
        pairs = {spelled: self._pair(name) for name, spelled in self.common.items()}
        if not pairs:
            raise DiffError(f"{self.table}: {self.base.label} and {self.head.label} have no column to compare.")
        keys, columns = (
            [pair for name, pair in pairs.items() if (name in key.columns) is in_key] for in_key in (True, False)
        )
        options = self.options
        split = bool(keys) and self._has_unusable_keys(self._statements(keys, columns))
        statements = self._statements(keys, columns, split=split)
        added = removed = changed = unchanged = 0
        changes = dict.fromkeys((pair.name for pair in columns), 0)
        if keys:
            added, removed, changed, *each = map(int, self._fetch(statements.matched())[0])
            unchanged = self._rows[0] - removed - changed
            changes = dict(zip(changes, each, strict=True))
        if split or not keys:
            more, fewer, same = map(int, self._fetch(statements.counted())[0])
            added, removed = added + more, removed + fewer
            # Those of matched rows are the rows of the base that are neither removed nor changed nor counted here.
            unchanged = unchanged - fewer if keys else same
            if options.tolerance is not None:
                self.notes.append("Without a key, floats are compared exactly: --tolerance applies to matched rows.")
        base_rows, head_rows = self._rows if keys else (unchanged + removed, unchanged + added)
        return Difference(
            self.table, self.base.label, self.head.label, tuple(pair.name for pair in keys), key.origin,
            base_rows, head_rows, added, removed, changed, unchanged, changes,
            only_base={n: self.base.columns[n] for f, n in self.base_names.items() if f not in self.head_names
                       and n not in self.excluded},
            only_head={n: self.head.columns[n] for f, n in self.head_names.items() if f not in self.base_names
                       and n not in self.excluded},
            types={pair.name: pair.types for pair in pairs.values() if pair.types[0] != pair.types[1]},
            excluded=self.excluded,
            where=options.where,
            notes=self.notes,
            samples=sorted(
                self._samples(statements, matched=bool(keys), counted=split or not keys),
                key=lambda sample: KINDS.index(sample.kind),
            ),
        )  # fmt: skip

    def _statements(self, keys: Sequence[Pair], columns: Sequence[Pair], *, split: bool = False) -> Statements:
        options = self.options
        return Statements(self.base.source, self.head.source, keys, columns, options.where, options.tolerance, split)

    def _pair(self, name: str) -> Pair:
        base, head = self.base_names[name], self.head_names[name]
        return pair_of(self.session, (base, self.base.columns[base]), (head, self.head.columns[head]))

    def _excluded(self, folded: Callable[[str], str]) -> list[str]:
        known = {**self.base_names, **self.head_names}
        found = []
        for name in self.options.exclude:
            if folded(name) not in known:
                hint = suggestion(name, known.values(), quoted=str, others="Columns")
                raise DiffError(f"--exclude {brief(name)}: neither side has this column; {hint}")
            found.append(known[folded(name)])
        return found

    def _fetch(self, sql: str) -> Sequence[Sequence[Any]]:
        try:
            return self.session.fetch_all(sql)
        except DatabaseError as error:
            condition = f" --where is `{brief(self.options.where)}`." if self.options.where else ""
            text = str(error).rstrip(".")
            raise DatabaseError(
                f"{self.table}: {self.base.label} and {self.head.label} cannot be compared: {text}.{condition}"
            ) from None

    def _has_unusable_keys(self, statements: Statements) -> bool:
        """Count the rows of both sides, and return whether some of their keys match no single row."""
        found = sorted([int(number) for number in row] for row in self._fetch(statements.key_counts()))
        self._rows = (found[0][1], found[1][1])
        unusable = False
        for label, (_, _, missing, repeated, rows) in zip((self.base.label, self.head.label), found, strict=True):
            what = []
            if missing:
                what.append(f"{counted(missing, 'row')} whose key is null or not a number")
            if repeated:
                what.append(
                    f"{counted(repeated, 'key')} that {'is' if repeated == 1 else 'are'} repeated, in {rows} rows"
                )
            if what:
                self.notes.append(f"{label} has {' and '.join(what)}.")
            unusable = unusable or bool(what)
        if unusable:
            self.notes.append(
                "Rows with such a key, on either side, are compared as whole rows: a changed one counts as removed and "
                "added."
            )
        return unusable

    def _samples(self, statements: Statements, *, matched: bool, counted: bool) -> Iterator[Sample]:
        most = self.options.samples
        if not most:
            return
        keys, columns = [pair.name for pair in statements.key], [pair.name for pair in statements.columns]
        found: dict[str, int] = {}
        for kind, *values in self._fetch(statements.matched_samples(most)) if matched else ():
            key = dict(zip(keys, values, strict=False))
            rest = values[len(keys) :]
            each = {name: rest[3 * n : 3 * n + 3] for n, name in enumerate(columns)}
            if kind == "changed":
                shown: dict[str, Any] = {name: (old, new) for name, (old, new, differs) in each.items() if differs}
            else:
                shown = {name: new if kind == "added" else old for name, (old, new, _) in each.items()}
            found[kind] = found.get(kind, 0) + 1
            yield Sample(kind, key, shown)
        for kind, rows, *values in self._fetch(statements.counted_samples(most)) if counted else ():
            found[kind] = found.get(kind, 0) + 1
            if found[kind] <= most:
                yield Sample(kind, {}, dict(zip([*keys, *columns], values, strict=True)), int(rows))


def described_columns(columns: Mapping[str, str]) -> str:
    """Return names and types of columns for a message."""
    return some([f"{name} ({data_type})" for name, data_type in columns.items()], 20)
