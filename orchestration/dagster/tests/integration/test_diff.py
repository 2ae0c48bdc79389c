"""`lakehouse diff` on each engine equals brute force, and reads the states that the engine has."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import shutil
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from brute_force import NAMES, VALUES, Row, brute_force
from click.testing import CliRunner, Result
from lakehouse_analytics.cli import main
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.diff.compare import Options
from lakehouse_analytics.diff.run import diff
from lakehouse_analytics.engines.comparison import Comparable
from lakehouse_analytics.engines.content_hash import ContentHash, content_hash
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse
from .databases import Database, DuckDB, Postgres, Trino

pytestmark = pytest.mark.engine("duckdb", "trino", "postgres")
MODELS = """
    models:
      - name: a
        columns: [{name: id, data_tests: [unique, not_null]}]
      - name: b
    """
TYPES = {
    "duckdb": {"amount": "double", "raw": "blob", "list": "integer[]"},
    "postgres": {"amount": "double precision", "raw": "bytea", "list": "integer[]"},
    "trino": {"amount": "double", "raw": "varbinary", "list": "array(integer)"},
}
COMMON = {
    "id": "bigint", "part": "varchar", "price": "decimal(16, 2)", "day": "date", "moment": "timestamp(6)",
    "tz": "timestamp(6) with time zone", "name": "varchar", "flag": "boolean",
}  # fmt: skip


def types_of(database: Database) -> dict[str, str]:
    types = {name: TYPES[database.engine].get(name) or COMMON[name] for name in NAMES}
    if isinstance(database, DuckDB):
        types |= {"moment": "timestamp", "tz": "timestamptz"}
    return types


def literal(database: Database, value: Any, data_type: str) -> str:
    """A value in the engine's own words."""
    if value is None:
        text = "null"
    elif isinstance(value, bytes):
        text = {"duckdb": "unhex('{}')", "postgres": "decode('{}', 'hex')", "trino": "from_hex('{}')"}[
            database.engine
        ].format(value.hex())
    elif isinstance(value, list):
        text = f"array[{', '.join('null' if item is None else str(item) for item in value)}]"
    elif isinstance(value, float):
        words = {math.inf: "Infinity", -math.inf: "-Infinity"}
        text = f"'{'NaN' if math.isnan(value) else words.get(value, repr(value))}'"
    elif isinstance(value, dt.datetime):
        zone = " UTC" if value.tzinfo and isinstance(database, Trino) else "+00" if value.tzinfo else ""
        text = f"'{value.replace(tzinfo=None).isoformat(sep=' ')}{zone}'"
    elif isinstance(value, str | dt.date):
        text = "'" + str(value).replace("'", "''") + "'"
    else:
        text = str(value)
    return f"cast({text} as {data_type})"


def ask(database: Database, statement: str) -> list[Row]:
    """Run a statement in the engine's own words."""
    return database.sql(statement) if isinstance(database, DuckDB) else database.ask(statement)  # type: ignore[attr-defined]


def fill(database: Database, table: str, rows: list[Row]) -> None:
    types = types_of(database)
    ask(database, f"create table {table} ({', '.join(f'{name} {kind}' for name, kind in types.items())})")
    values = [f"({', '.join(literal(database, v, types[n]) for n, v in zip(NAMES, row, strict=True))})" for row in rows]
    ask(database, f"insert into {table} values {', '.join(values)}")


def random_rows(chance: random.Random) -> tuple[list[Row], list[Row]]:
    """Two tables that share most rows, with repeated and null keys."""
    pools: dict[str, list[Any]] = {
        "part": [None, "a", "A", ""], "amount": [None, 0.0, -0.0, 0.1, 0.1000000001, 1e308, math.nan, math.inf],
        "price": [None, Decimal("-1.50"), Decimal("99999999999999.99")], "day": [None, dt.date(2026, 3, 29)],
        "moment": [None, dt.datetime(2026, 3, 29, 2, 30, 0, 1)], "tz": [None, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)],
        "name": [None, "null", "", " ", "O'Brien", 'a"b', "ü😀", "a\tb\nc", "N;", "%s {}"], "flag": [None, True, False],
        "raw": [None, b"", b"\x00\xff"], "list": [None, [], [1, None]],
    }  # fmt: skip
    assert ["id", *pools] == list(VALUES)

    def row(key: int | None) -> Row:
        return (key, *(chance.choice(pool) for pool in pools.values()))

    base = [row(key) for key in range(40)] + [row(key) for key in (3, 4, 4, None, None)]
    head = [row(chance.randrange(60)) if chance.random() < 0.1 else one for one in base if chance.random() < 0.9]
    for place, one in enumerate(head):
        if chance.random() < 0.3:
            column = chance.randrange(1, len(one))
            head[place] = (*one[:column], chance.choice([*pools.values()][column - 1]), *one[column + 1 :])
    return base, [*head, *(row(key) for key in range(100, 104))]


@pytest.fixture
def tables(lakehouse: Lakehouse) -> Lakehouse:
    """The small project, whose bronze tables the tests make themselves."""
    lakehouse.files["models/bronze/bronze.yml"] = MODELS
    lakehouse.write()
    lakehouse.definitions()
    for schema in ("bronze", "pr_42"):
        ask(lakehouse.database, f"create schema {schema}")
    return lakehouse


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["diff", *words])


def hash_of(database: Database, schema: str, table: str) -> ContentHash:
    from lakehouse_analytics.dbt.manifest import read
    from lakehouse_analytics.dbt.project import DbtProject
    from lakehouse_analytics.engines.resources import engine

    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    graph = read(project.manifest(), project.configuration())
    resource = engine(settings, graph)
    assert isinstance(resource, Comparable)
    with resource.comparison() as session:
        catalog = str(graph.tables["model.small.a"].node.database)
        return content_hash(session, session.now(Relation(catalog, schema, table)))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_equal_to_brute_force(tables: Lakehouse, seed: int) -> None:
    base, head = random_rows(random.Random(seed))
    fill(tables.database, "pr_42.a", base)
    fill(tables.database, "bronze.a", head)
    base, head = ([tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in rows] for rows in (base, head))
    for key, tolerance in ((["id"], None), (["id"], 1e-6), (["id", "amount"], None), (["part"], None)):
        options = Options(key=key, tolerance=tolerance, samples=5)
        found = diff(Settings.load(), "bronze/a", "schema:pr_42", "main", options)
        expected = brute_force(NAMES, key, base, head, tolerance)
        expected.check(found)
        assert expected.unchanged
        assert {sample.kind for sample in found.samples} == {
            kind for kind in ("added", "removed", "changed") if getattr(expected, kind)
        }


def test_the_hash_of_contents(tables: Lakehouse) -> None:
    base, head = random_rows(random.Random(3))
    fill(tables.database, "pr_42.a", base)
    fill(tables.database, "bronze.a", [*reversed(base)])
    fill(tables.database, "bronze.b", head)
    first = hash_of(tables.database, "pr_42", "a")
    assert first.rows == len(base)
    assert str(first) == str(hash_of(tables.database, "bronze", "a"))
    assert first.total != hash_of(tables.database, "bronze", "b").total
    ask(tables.database, "update bronze.a set name = '' where id = 0 and name is null")
    ask(tables.database, "update bronze.a set name = null where id = 0 and name <> ''")
    ask(tables.database, "update bronze.a set flag = coalesce(not flag, true) where id = 1")
    changed = hash_of(tables.database, "bronze", "a")
    assert (changed.rows, changed.columns) == (first.rows, first.columns)
    assert changed.total != first.total


def test_the_command(tables: Lakehouse) -> None:
    make: Callable[[str, str], Any] = lambda table, rows: ask(  # noqa: E731
        tables.database, f"create table {table} as select * from (values {rows}) as t(id, n, s)"
    )
    make("pr_42.a", "(1, 10, 'x'), (2, 20, 'y'), (3, 30, 'z')")
    make("bronze.a", "(2, 21, 'y'), (3, 30, 'z'), (4, 40, 'w')")
    done = run("a", "--base", "schema:pr_42", "--fail-on-difference")
    assert done.exit_code == 1
    assert done.stdout == (
        "bronze/a: schema:pr_42 → main\n"
        "Rows are matched by id (dbt's test unique).\n\n"
        "  rows                    3 → 3\n"
        "  added                   1\n"
        "  removed                 1\n"
        "  changed                 1\n"
        "  unchanged               1\n\n"
        "Changed values per column:\n"
        "  n          1  (50.0 %)\n\n"
        "Examples of added rows:\n"
        "  id 4: n 40, s w\n\n"
        "Examples of removed rows:\n"
        "  id 1: n 10, s x\n\n"
        "Examples of changed rows:\n"
        "  id 2: n 20 → 21\n"
    )
    done = run("bronze/a", "--base", "schema:pr_42", "--format", "markdown", "--where", "id <> 1")
    assert done.exit_code == 0
    assert "| removed | 0 |" in done.stdout
    assert "40" not in done.stdout  # no row is shown
    found = json.loads(run("bronze/a", "--base", "schema:pr_42", "--format", "json", "--samples", "1").stdout)
    assert (found["equal"], found["columns"]) == (False, {"n": 1, "s": 0})
    assert found["samples"][-1] == {"kind": "changed", "key": {"id": "2"}, "rows": 1,
                                    "values": {"n": {"base": "20", "head": "21"}}}  # fmt: skip
    equal = run("a", "--base", "schema:pr_42", "--where", "id = 3", "--fail-on-difference")
    assert equal.exit_code == 0


def test_a_side_that_is_missing(tables: Lakehouse) -> None:
    ask(tables.database, "create table bronze.a as select 1 as id")
    ask(tables.database, "create table pr_42.other as select 1 as id")
    for words, message in (
        (("bronze/aa", "--base", "main"), "--base and --head are both main"),
        (("bronze/aa", "--base", "schema:pr_42"), "no table bronze/aa; did you mean bronze/a?"),
        (
            ("a", "--base", "schema:pr_42"),
            "--base schema:pr_42: there is no table pr_42.a. Schemas that have a: bronze, raw.",
        ),
        (
            ("a", "--base", "schema:pr_4"),
            "there is no table pr_4.a; did you mean pr_42? Schemas that have a: bronze, raw.",
        ),
        (("a", "--base", "yesterday"), "--base yesterday is not a state. Expected `main` (the table as it is)"),
        (("a", "--base", "2026-11-29"), "such as 2026-11-29T00:00:00Z or 2026-11-29T00:00:00+01:00."),
        (("b", "--base", "schema:pr_42"), "there is no table pr_42.b"),
    ):
        done = run(*words)
        assert done.exit_code == 1
        assert message in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


@pytest.mark.engine("duckdb", "postgres")
def test_engines_without_snapshots_say_so(tables: Lakehouse) -> None:
    ask(tables.database, "create table bronze.a as select 1 as id")
    for state in ("snapshot:1", "2026-11-29T00:00:00Z"):
        done = run("a", "--base", state)
        assert done.exit_code == 1
        assert "keeps no earlier states of a table, so bronze.a cannot be read at" in done.stderr


@pytest.mark.engine("postgres")
def test_postgres_has_no_files(tables: Lakehouse) -> None:
    assert isinstance(tables.database, Postgres)
    assert "PostgreSQL has no database files" in run("a", "--base", "file:x.duckdb").stderr


@pytest.mark.engine("postgres")
def test_types_of_postgres(tables: Lakehouse) -> None:
    ask(
        tables.database, "create table pr_42.a as select 1 as id, '{\"a\": 1}'::json as j, point '(1,2)' as p, 1.0 as x"
    )
    ask(
        tables.database,
        "create table bronze.a as select 1 as id, '{\"a\":1}'::json as j, point '(1,3)' as p, 1.00 as x",
    )
    found = diff(Settings.load(), "a", "schema:pr_42", "main", Options())
    assert found.columns == {"j": 0, "p": 1, "x": 0}


@pytest.mark.engine("duckdb")
def test_another_file(tables: Lakehouse, tmp_path: Path) -> None:
    assert isinstance(tables.database, DuckDB)
    ask(tables.database, "create table bronze.a as select 1 as id, 1 as n")
    before = tmp_path / "be'fore.duckdb"
    shutil.copy(tables.database.path, before)
    ask(tables.database, "update bronze.a set n = 2")
    found = diff(Settings.load(), "a", f"file:{before}", "main", Options())
    assert (found.changed, found.columns) == (1, {"n": 1})
    after = tmp_path / "after.duckdb"
    shutil.copy(tables.database.path, after)
    between = diff(Settings.load(), "a", f"file:{before}", f"file:{after}", Options())
    assert (between.base, between.head, between.changed) == (f"file:{before}", f"file:{after}", 1)
    assert "is the database itself" in run("a", "--base", f"file:{tables.database.path}").stderr
    assert "does not exist: expected a DuckDB file" in run("a", "--base", "file:gone.duckdb").stderr


@pytest.mark.engine("trino")
def test_snapshots(tables: Lakehouse) -> None:
    assert isinstance(tables.database, Trino)
    ask(tables.database, "create table bronze.a as select * from (values (1, 10), (2, 20)) as t(id, n)")
    [(first,)] = ask(tables.database, 'select snapshot_id from bronze."a$snapshots"')
    time.sleep(0.01)
    [(moment,)] = ask(tables.database, "select cast(to_iso8601(cast(now() as timestamp(6) with time zone)) as varchar)")
    ask(tables.database, "insert into bronze.a values (3, 30)")
    ask(tables.database, "update bronze.a set n = 21 where id = 2")
    for base in (f"snapshot:{first}", str(moment)):
        found = diff(Settings.load(), "a", base, "main", Options())
        assert (found.base_rows, found.added, found.changed, found.unchanged) == (2, 1, 1, 1)
    ask(tables.database, "alter table bronze.a add column later varchar")  # which is no snapshot
    found = diff(Settings.load(), "a", f"snapshot:{first}", "main", Options())
    assert found.only_head == {"later": "varchar"}
    done = run("a", "--base", "snapshot:1")
    assert "bronze.a has no snapshot 1. It has 3 snapshots, the latest: " in done.stderr.replace("\n", " ")
    done = run("a", "--base", "2020-01-01T00:00:00Z")
    assert "has no snapshot as old as 2020-01-01 00:00:00.000000 UTC." in done.stderr.replace("\n", " ")


@pytest.mark.engine("trino")
def test_structures_of_trino(tables: Lakehouse) -> None:
    structure = "cast(row(uuid '{}', timestamp '2026-01-01 00:00:00 UTC', map(array['a', 'b'], array[1, null])) as "
    structure += "row(uuid uuid, t timestamp(6) with time zone, m map(varchar, integer)))"
    for table, last in (("pr_42.a", "0"), ("bronze.a", "1")):
        same, other = (structure.format(f"00000000-0000-0000-0000-00000000000{digit}") for digit in ("0", last))
        ask(tables.database, f"create table {table} as select 1 as id, {same} as s, array[{other}] as l")
    found = diff(Settings.load(), "a", "schema:pr_42", "main", Options(samples=1))
    assert found.columns == {"s": 0, "l": 1}
    [sample] = found.samples
    shown = (
        '[{"uuid":"00000000-0000-0000-0000-000000000001","t":"2026-01-01 00:00:00.000000 UTC","m":{"a":1,"b":null}}]'
    )
    assert json.loads(sample.values["l"][1]) == json.loads(shown)


@pytest.mark.engine("trino")
def test_all_statements_read_one_snapshot(tables: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer between two statements of a comparison changes nothing."""
    ask(tables.database, "create table bronze.a as select * from (values (1, 10), (2, 20)) as t(id, n)")
    ask(tables.database, "create table pr_42.a as select * from bronze.a")
    from lakehouse_analytics.engines.trino.comparison import TrinoComparison

    original = TrinoComparison.fetch_all

    def fetch_all(self: TrinoComparison, sql: str) -> Any:
        rows = original(self, sql)
        if "group by" in sql:
            ask(tables.database, "delete from bronze.a")
        return rows

    monkeypatch.setattr(TrinoComparison, "fetch_all", fetch_all)
    found = diff(Settings.load(), "a", "schema:pr_42", "main", Options())
    assert ask(tables.database, "select count(*) from bronze.a") == [(0,)]
    assert (found.head_rows, found.is_empty) == (2, True)
