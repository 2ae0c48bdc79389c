"""Raw tables of arrivals: Trino reads what was written, and a merge of a million rows needs little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from lakehouse_analytics.arrivals.raw_tables.base import Change, Outcome
from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable

from .databases import Trino, new_database

pytestmark = pytest.mark.integration

EVERY_TYPE = """
    SELECT n::BIGINT AS id, 18446744073709551615::UBIGINT AS "unsigned", n::UTINYINT AS tiny,
        [1, -0.01, NULL][n]::DECIMAL(38,8) AS price, [1e300, -0.5, NULL][n] AS x, 0.5::FLOAT AS f,
        [true, false, NULL][n] AS ok, ['ä"😀' || chr(10), '', NULL][n] AS "a/b.c",
        ['{"a":[1,null]}', '[]', NULL][n]::JSON AS js,
        ['\\x00\\xFF'::BLOB, ''::BLOB, NULL][n] AS bytes, [DATE '1899-12-31', '2024-02-29', NULL][n] AS day,
        [TIME '23:59:59.999999', '00:00:00', NULL][n] AS clock,
        [TIMESTAMP '1969-12-31 23:59:59.999999', '2024-02-29 10:00:00', NULL][n] AS naive,
        [TIMESTAMPTZ '1900-01-01 00:00:00.000001+00', '2024-02-29 12:00:00+02', NULL][n] AS zoned,
        [[1, NULL], [], NULL][n]::INTEGER[] AS list, {'a': n, 'b': ['x']} AS struct
    FROM (SELECT unnest([1, 2, 3]) AS n)
"""
#: Loads a million rows, and merges a million rows into them. Prints the memory of the process in MB.
MERGE = """
import sys
from pathlib import Path
from lakehouse_analytics.arrivals.raw_tables.base import Change
kind, folder, step = sys.argv[1:]
rows = [Path(folder) / f"{step}.parquet"]
import duckdb
with duckdb.connect() as db:
    columns = {name: kind for name, kind, *_ in db.execute(f"DESCRIBE FROM '{rows[0]}'").fetchall()}
if kind == "file":
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
    table = DuckDBTable(Path(folder) / "lakehouse.duckdb", 5.0, "raw", "orders")
else:
    from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable
    table = IcebergTable("lake", "raw", "orders")
print(table.apply(Change(columns, rows, {"step": step}, key=["id"]), table.read()))
print(list(table.query("SELECT count(*), count(DISTINCT id), CAST(sum(price) AS VARCHAR) FROM {table}")))
# The maximum of getrusage includes that of the process which started this one.
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(int(peak.split()[1]) // 1024)
"""
NARROW = [
    "md5(i::VARCHAR) AS name",
    "TIMESTAMPTZ '2026-01-01' + INTERVAL 1 SECOND * (i % 86400) AS at",
    "'customer-' || (i % 5000) AS customer",
]
#: About 480 bytes per row.
WIDE = [
    expression.format(n=n) + f" AS c{n}"
    for n in range(5)
    for expression, n in (
        ("md5((i * {n})::VARCHAR)", 4 * n),
        ("(i * {n} % 100000 / 7.0)::DECIMAL(18,4)", 4 * n + 1),
        ("TIMESTAMPTZ '2026-01-01' + INTERVAL 1 SECOND * (i * {n} % 8640000)", 4 * n + 2),
        ("'some longer text of column {n}: ' || (i % 77777)", 4 * n + 3),
    )
][1:]


def parquet(path: Path, query: str) -> Path:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


@pytest.fixture
def trino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trino:
    """An empty catalog, and the environment to use it."""
    database = new_database("trino", tmp_path)
    assert isinstance(database, Trino)
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)
    return database


def apply(trino: Trino, path: Path, query: str | None, **options: Any) -> Outcome:
    table = IcebergTable(trino.catalog, "landed", "orders")
    columns: dict[str, str] = {}
    if query:
        with duckdb.connect() as db:
            columns = {name: kind for name, kind, *_ in db.execute(f"DESCRIBE {query}").fetchall()}
    rows = [parquet(path / "rows.parquet", query)] if query else []
    return table.apply(Change(columns, rows, options.pop("state", {}), **options), table.read())


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return [plain(item) for item in value.values()]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def content(trino: Trino) -> Sequence[Any]:
    return [plain(row) for row in trino.ask("select * from landed.orders order by id")]


@pytest.mark.trino
def test_trino_reads_every_type_and_each_change_is_one_snapshot(trino: Trino, tmp_path: Path) -> None:
    assert apply(trino, tmp_path, EVERY_TYPE, state={"n": 1}) == Outcome(3, 3, 0)
    assert trino.columns("landed", "orders") == [
        ("id", "bigint"),
        ("unsigned", "decimal(20,0)"),
        ("tiny", "integer"),
        ("price", "decimal(38,8)"),
        ("x", "double"),
        ("f", "real"),
        ("ok", "boolean"),
        ("a/b.c", "varchar"),
        ("js", "varchar"),
        ("bytes", "varbinary"),
        ("day", "date"),
        ("clock", "time(6)"),
        ("naive", "timestamp(6)"),
        ("zoned", "timestamp(6) with time zone"),
        ("list", "array(integer)"),
        ("struct", "row(a integer, b array(varchar))"),
    ]
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        expected = [plain(row) for row in db.execute(f"SELECT * FROM ({EVERY_TYPE}) ORDER BY id").fetchall()]
    for row in expected:
        row[1] = Decimal(row[1])
    assert content(trino) == expected

    new = f"SELECT * REPLACE (id + 1 AS id, price + 5 AS price), 'x' AS added FROM ({EVERY_TYPE})"
    assert apply(trino, tmp_path, new, key=["id"], state={"n": 2}) == Outcome(4, 3, 2)
    assert trino.ask("select id, price, added from landed.orders order by id") == [
        (1, Decimal("1.00000000"), None),
        (2, Decimal("6.00000000"), "x"),
        (3, Decimal("4.99000000"), "x"),
        (4, None, "x"),
    ]
    assert apply(trino, tmp_path, None, state={"n": 3}) == Outcome(4, 0, 0)
    assert apply(trino, tmp_path, None, delete_where="id IN (1, 4)", state={"n": 4}) == Outcome(2, 0, 2)
    assert apply(trino, tmp_path, "SELECT 7 AS k", replaces=True, state={"n": 5}) == Outcome(1, 1, 2)
    snapshots = trino.ask('select operation from landed."orders$snapshots" order by committed_at')
    assert [operation for (operation,) in snapshots] == ["append", "overwrite", "append", "overwrite", "overwrite"]
    assert trino.ask("select * from landed.orders") == [(7,)]
    state = trino.ask("select value from landed.\"orders$properties\" where key = 'lakehouse.arrival-state'")
    assert state == [('{"n": 5}',)]


@pytest.mark.trino
def test_a_table_without_rows_is_readable(trino: Trino, tmp_path: Path) -> None:
    table = IcebergTable(trino.catalog, "landed", "orders")
    assert table.apply(Change({"id": "BIGINT"}, [], {}), table.read()) == Outcome(0, 0, 0)
    assert trino.ask("select count(*), max(id) from landed.orders") == [(0, None)]
    assert apply(trino, tmp_path, "SELECT 1::BIGINT AS id", key=["id"]) == Outcome(1, 1, 0)
    assert trino.ask("select * from landed.orders") == [(1,)]


@pytest.mark.trino
def test_rows_that_trino_changed_are_merged(trino: Trino, tmp_path: Path) -> None:
    """Trino's deletes are files of positions: they must count, and their rows must not appear again."""
    rows = "SELECT i AS id, i % 7 AS n FROM range(1000) t(i)"
    apply(trino, tmp_path, rows, state={"n": 1})
    trino.ask("delete from landed.orders where id % 2 = 0")
    trino.ask("insert into landed.orders values (1000, 1)")
    table = IcebergTable(trino.catalog, "landed", "orders")
    assert table.read().state == {"n": 1}
    assert list(table.query("SELECT count(*), sum(id) FROM {table}")) == [(501, 251_000)]
    new = "SELECT unnest([0, 1, 1000])::BIGINT AS id, 9::BIGINT AS n"
    assert apply(trino, tmp_path, new, key=["id"]) == Outcome(502, 3, 2)
    assert trino.ask("select count(*), sum(id), count_if(n = 9) from landed.orders") == [(502, 251_000, 3)]
    trino.ask("alter table landed.orders execute optimize")
    assert apply(trino, tmp_path, None, delete_where="n = 9") == Outcome(499, 0, 3)
    assert trino.ask("select count(*), sum(id) from landed.orders") == [(499, 249_999)]


@pytest.mark.parametrize(("kind", "columns"), [("file", NARROW), ("iceberg", NARROW), ("iceberg", WIDE)])
def test_a_merge_of_a_million_rows_needs_less_than_500_mb(
    kind: str, columns: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    properties = {"uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse"}
    SqlCatalog("lake", **properties)  # creates its tables
    for name, value in {"type": "sql", **properties}.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name.upper()}", value)
    for step, first in {"load": 0, "merge": 500_000}.items():
        parquet(
            tmp_path / f"{step}.parquet",
            f"SELECT i AS id, (i % 1000 / 100)::DECIMAL(12,4) AS price, {', '.join(columns)} "
            f"FROM range({first}, {first + 1_000_000}) t(i) ORDER BY hash(i)",
        )
        command = [sys.executable, "-c", MERGE, kind, str(tmp_path), step]
        outcome, found, memory = subprocess.check_output(command, text=True).splitlines()
        total, deleted = (1_000_000, 0) if step == "load" else (1_500_000, 500_000)
        assert outcome == str(Outcome(total, 1_000_000, deleted))
        assert found == str([(total, total, "4995000.0000" if step == "load" else "7492500.0000")])
        print(f"{kind}, {len(columns) + 2} columns, {step}: {memory} MB")
        assert int(memory) < 500
