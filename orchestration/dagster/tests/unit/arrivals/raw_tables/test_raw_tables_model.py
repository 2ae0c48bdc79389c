"""Random sequences of changes, compared with a model in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.raw_tables.base import Change, Outcome

from .conftest import KINDS, KINDS_WITH_CONDITIONS, Storage

Row = dict[str, Any]
KEY = ("a", "b")
COLUMNS = {"a": "BIGINT", "b": "VARCHAR", "n": "INTEGER", "x": "DECIMAL(20,2)", "y": "VARCHAR"}

KEY_VALUES = {"a": st.sampled_from([None, 0, 1, 2, 300]), "b": st.sampled_from([None, "", "x", "y"])}
VALUES = KEY_VALUES | {"n": st.integers(0, 3), "x": st.none() | st.just(1), "y": st.sampled_from([None, "it's"])}
#: Conditions in SQL and in Python: null is not a match.
CONDITIONS: dict[str, Callable[[Row], bool]] = {
    "a = 1": lambda row: row["a"] == 1,
    "b IN ('x', '')": lambda row: row["b"] in ("x", ""),
    "A IN (0, 300) AND b = 'y'": lambda row: row["a"] in (0, 300) and row["b"] == "y",
    "'x' = b": lambda row: row["b"] == "x",
    "n >= 2 OR a IS NULL": lambda row: row["n"] >= 2 or row["a"] is None,
    "NOT (b = 'x')": lambda row: row["b"] is not None and row["b"] != "x",
    "a = 1 + 1": lambda row: row["a"] == 2,
}


def rows(columns: Sequence[str], *, distinct: bool) -> st.SearchStrategy[list[Row]]:
    row = st.fixed_dictionaries({name: VALUES[name] for name in columns})
    return st.lists(row, max_size=6, unique_by=(lambda r: tuple(r[k] for k in KEY)) if distinct else None)


@st.composite
def changes(draw: st.DrawFn, *, conditions: bool) -> dict[str, Any]:
    columns = [*KEY, "n", *draw(st.sets(st.sampled_from(["x", "y"])))]
    by_key = draw(st.booleans())
    return {
        "columns": columns,
        "rows": draw(st.none() | rows(columns, distinct=by_key)),
        "replaces": draw(st.integers(0, 5)) == 0,
        "key": by_key,
        "delete_where": draw(st.none() | st.sampled_from(sorted(CONDITIONS))) if conditions else None,
        "delete_keys": draw(st.none() | st.lists(st.fixed_dictionaries(KEY_VALUES), max_size=3)) if by_key else None,
    }


@dataclass
class Model:
    """A table as a list of rows."""

    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def apply(self, change: Mapping[str, Any]) -> Outcome:
        def is_removed(row: Row) -> bool:
            key = [row[name] for name in KEY]
            where = change["delete_where"]
            return (
                change["replaces"]
                or (where is not None and CONDITIONS[where](row))
                or (change["key"] and any(key == [new[name] for name in KEY] for new in change["rows"] or ()))
                or any(key == [gone[name] for name in KEY] for gone in change["delete_keys"] or ())
            )

        if change["replaces"]:
            self.columns = []
        self.columns += [name for name in change["columns"] if name not in self.columns]
        kept = [row for row in self.rows if not is_removed(row)]
        new = change["rows"] or []
        deleted = len(self.rows) - len(kept)
        self.rows = [{name: row.get(name) for name in self.columns} for row in [*kept, *new]]
        return Outcome(len(self.rows), len(new), deleted)


def content(found: Sequence[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, found))


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_equal_the_model(kind: str, new_storage: Callable[[str], Storage]) -> None:
    new_storage(kind)  # only for the environment

    conditions = kind in KINDS_WITH_CONDITIONS

    @settings(max_examples=20 if conditions else 8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(changes(conditions=conditions), min_size=1, max_size=6))
    def converges(history: list[dict[str, Any]]) -> None:
        with TemporaryDirectory() as folder:
            storage = Storage(Path(folder), kind)
            model = Model()
            for number, change in enumerate(history):
                table = storage.table()
                types = {name: COLUMNS[name] for name in change["columns"]}
                new = [] if change["rows"] is None else [storage.rows(types, change["rows"])]
                keys = change["delete_keys"]
                outcome = table.apply(
                    Change(
                        types,
                        new,
                        {"number": number},
                        replaces=change["replaces"],
                        key=KEY if change["key"] else (),
                        delete_where=change["delete_where"],
                        delete_keys=None if keys is None else storage.rows({name: COLUMNS[name] for name in KEY}, keys),
                    ),
                    table.read(),
                )
                assert outcome == model.apply(change)
                state = table.read()
                assert state.state == {"number": number}
                assert dict(state.columns) == {name: COLUMNS[name] for name in model.columns}
                names = ", ".join(model.columns)
                expected = [
                    tuple(
                        str(row[name]) if name == "x" and row[name] is not None else row[name] for name in model.columns
                    )
                    for row in model.rows
                ]
                select = names.replace("x", "CAST(CAST(x AS BIGINT) AS VARCHAR)")
                found = table.query(f"SELECT {select} FROM {{table}}")
                assert content(found) == content(expected)

    converges()


def test_the_conditions_mean_the_same_in_sql() -> None:
    """The model is right about null."""
    examples = [{"a": a, "b": b, "n": n} for a in (None, 0, 1, 2, 300) for b in (None, "", "x", "y") for n in (0, 2)]
    with duckdb.connect() as db:
        db.execute("CREATE TABLE t (a BIGINT, b VARCHAR, n INTEGER)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [list(row.values()) for row in examples])
        for condition, python in CONDITIONS.items():
            [(found,)] = db.execute(f"SELECT count(*) FROM t WHERE {condition}").fetchall()
            assert found == sum(map(python, examples)) > 0
