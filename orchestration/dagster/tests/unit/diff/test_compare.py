"""Comparisons of real tables in DuckDB equal brute force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from brute_force import KEYS, NAMES, TYPES, Row, brute_force, two_sides
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.diff.compare import Difference, Options, compare
from lakehouse_analytics.diff.errors import DiffError
from lakehouse_analytics.diff.keys import Key
from lakehouse_analytics.diff.relations import Side
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.duckdb.comparison import DuckDBComparison


class Tables:
    """Two tables in memory, and their comparison."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.session = DuckDBComparison(self.connection, Path("memory.duckdb"), {})

    def make(self, name: str, select: str) -> None:
        self.connection.execute(f"create or replace table {name} as {select}")

    def fill(self, name: str, rows: list[Row]) -> None:
        columns = ", ".join(f"{column} {TYPES[column]}" for column in NAMES)
        self.connection.execute(f"create or replace table {name} ({columns})")
        if rows:
            self.connection.executemany(f"insert into {name} values ({', '.join('?' * len(NAMES))})", rows)

    def diff(self, *key: str, **options: Any) -> Difference:
        base, head = (Side(name, name, self.session.columns(name)) for name in ("base", "head"))
        return compare(self.session, base, head, Options(key=key, **options), table="gold/t")


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    found = Tables()
    yield found
    found.connection.close()


@settings(max_examples=300)
@given(sides=two_sides(), key=KEYS, tolerance=st.sampled_from([None, 0.0, 1e-6, 1.0]))
def test_equal_to_brute_force(
    tables: Tables, sides: tuple[list[Row], list[Row]], key: list[str], tolerance: float | None
) -> None:
    for name, rows in zip(("base", "head"), sides, strict=True):
        tables.fill(name, rows)
    found = tables.diff(*key, tolerance=tolerance, samples=3)
    base, head = ([tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in rows] for rows in sides)
    brute_force(NAMES, key, base, head, tolerance).check(found)
    assert found.is_empty == (not (found.added or found.removed or found.changed))
    for kind in ("added", "removed", "changed"):
        shown = [sample for sample in found.samples if sample.kind == kind]
        assert len(shown) <= 3
        assert bool(shown) == bool(getattr(found, kind))


def test_columns_and_types_that_differ(tables: Tables) -> None:
    tables.make("base", "select i as Id, i as n, i::decimal(9, 4) as d, '1' as t, 1 as old from range(3) as r(i)")
    tables.make(
        "head", "select i as id, i::double as n, i::decimal(38, 30) as d, 1 as t, 2 as new from range(1, 4) as r(i)"
    )
    found = tables.diff("ID")
    assert (found.key, found.key_origin) == (("id",), "--key")
    assert (found.added, found.removed, found.changed, found.unchanged) == (1, 1, 0, 2)
    assert (found.only_base, found.only_head) == ({"old": "INTEGER"}, {"new": "INTEGER"})
    assert found.types == {
        "n": ("BIGINT", "DOUBLE"),
        "d": ("DECIMAL(9,4)", "DECIMAL(38,30)"),
        "t": ("VARCHAR", "INTEGER"),
    }
    assert not found.is_empty


def test_structures_are_compared_by_their_contents(tables: Tables) -> None:
    tables.make(
        "base",
        "select 1 as id, map {'a': 1, 'b': 2} as m, '{\"a\": 1}'::json as j, {'x': 'nan'::double} as s, "
        "null::json as n",
    )
    tables.make(
        "head",
        "select 1 as id, map {'b': 2, 'a': 1} as m, '{\"a\":1}'::json as j, {'x': 'nan'::double} as s, null as n",
    )
    assert tables.diff("id").changed == 0
    tables.make("head", "select 1 as id, map {'b': 2} as m, '{\"a\":2}'::json as j, {'x': 1.0} as s, '1'::json as n")
    found = tables.diff("id", samples=1)
    assert found.columns == {"m": 1, "j": 1, "s": 1, "n": 1}
    assert found.samples[0].values["n"] == (None, "1")


def test_excluded_columns_and_a_condition(tables: Tables) -> None:
    tables.make("base", "select i as id, i as n, 1 as loaded_at from range(10) as r(i)")
    tables.make("head", "select i as id, i % 8 as n, 2 as loaded_at from range(10) as r(i)")
    assert tables.diff("id").changed == 10
    found = tables.diff("id", exclude=["Loaded_At"])
    assert (found.changed, found.excluded) == (2, ["loaded_at"])
    found = tables.diff("id", exclude=["loaded_at"], where="id < 9 -- the last is late")
    assert (found.base_rows, found.changed, found.unchanged) == (9, 1, 8)


def test_repeated_and_null_keys_are_reported(tables: Tables) -> None:
    tables.make("base", "select * from (values (1, 'a'), (1, 'b'), (2, 'c'), (null, 'd')) as t(id, v)")
    tables.make("head", "select * from (values (1, 'a'), (2, 'C'), (null, 'd'), (null, 'd')) as t(id, v)")
    found = tables.diff("id", samples=5)
    assert (found.added, found.removed, found.changed, found.unchanged) == (1, 1, 1, 2)
    assert found.notes[:2] == [
        "base has 1 row whose key is null or not a number and 1 key that is repeated, in 2 rows.",
        "head has 2 rows whose key is null or not a number.",
    ]
    [added, changed, removed] = sorted(found.samples, key=lambda sample: sample.kind)
    assert (added.values, removed.values) == ({"id": None, "v": "d"}, {"id": "1", "v": "b"})
    assert (changed.key, changed.values) == ({"id": "2"}, {"v": ("c", "C")})


def test_the_first_declared_key_that_both_sides_have_is_used(tables: Tables) -> None:
    tables.make("base", "select 1 as id, 1 as n")
    tables.make("head", "select 1 as id, 2 as n")
    base, head = (Side(name, name, tables.session.columns(name)) for name in ("base", "head"))
    declared = [Key(("gone",), "the config unique_key"), Key(("id",), "dbt's test unique")]
    found = compare(tables.session, base, head, Options(), table="gold/t", declared=declared)
    assert (found.key, found.key_origin, found.changed) == (("id",), "dbt's test unique", 1)
    found = compare(tables.session, base, head, Options(exclude=["id"]), table="gold/t", declared=declared)
    assert (found.key, found.added, found.removed) == ((), 1, 1)


def test_a_key_of_all_columns(tables: Tables) -> None:
    tables.make("base", "select 1 as id, 1 as n")
    tables.make("head", "select 1 as id, 2 as n")
    found = tables.diff("id", "n", samples=2)
    assert (found.added, found.removed, found.changed) == (1, 1, 0)
    assert [(sample.kind, sample.key) for sample in found.samples] == [
        ("added", {"id": "1", "n": "2"}),
        ("removed", {"id": "1", "n": "1"}),
    ]


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        (("idd",), {}, "--key idd: not a column of both sides; did you mean id?"),
        (("only",), {}, "--key only: not a column of both sides; Columns of both sides: id, n"),
        ((), {"exclude": ["m"]}, "--exclude m: neither side has this column; Columns: id, n, only"),
        ((), {"exclude": ["id", "n"]}, "gold/t: base and head have no column to compare."),
    ],
)
def test_wrong_options(tables: Tables, key: tuple[str, ...], options: dict[str, Any], message: str) -> None:
    tables.make("base", "select 1 as id, 1 as n, 1 as only")
    tables.make("head", "select 1 as id, 1 as n")
    with pytest.raises(DiffError) as caught:
        tables.diff(*key, **options)
    assert str(caught.value) == message


def test_a_condition_that_is_wrong(tables: Tables) -> None:
    tables.make("base", "select 1 as id, 1 as n")
    tables.make("head", "select 1 as id")
    with pytest.raises(DatabaseError, match=r"gold/t: base and head cannot be compared: .*\. --where is `n > 0`\.$"):
        tables.diff("id", where="n > 0")


def test_decimals_of_different_scales_whose_values_do_not_fit_one_type(tables: Tables) -> None:
    large = "cast('1' || repeat('0', 30) as decimal(38, 0))"
    tables.make("base", f"select 1 as id, {large} as n union all select 2, 5 union all select 3, 7")
    tables.make("head", "select i as id, 5::decimal(38, 10) as n from range(1, 4) as r(i)")
    found = tables.diff("id", samples=2)
    assert (found.changed, found.unchanged) == (2, 1)
    assert found.samples[1].values == {"n": ("7", "5.0000000000")}
    assert tables.diff("n").unchanged == 1
