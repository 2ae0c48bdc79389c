"""What an export guarantees, on ClickHouse (chdb) and PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.exports.base import Checksum, Destination, ExportError, NotEqualError, Target
from lakehouse_analytics.exports.checksum import checksum_of
from lakehouse_analytics.exports.columns import Column, Converter, columns_of
from lakehouse_analytics.exports.registry import destination
from lakehouse_analytics.exports.run import export
from postgres_server import PostgresServer, postgres_server

from .copies import EVERY_TYPE, Chdb, Lake, PostgresCopies

Copies = Chdb | PostgresCopies


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as found:
        yield found


@pytest.fixture(scope="module", params=["clickhouse", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copies(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Copies:
    if engine == "clickhouse":
        return Chdb(tmp_path / "clickhouse")
    return PostgresCopies(request.getfixturevalue("server"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake.duckdb")


class Around:
    """A destination that does something else before it verifies the staged table."""

    def __init__(self, made: Destination, then: Callable[[str], None]) -> None:
        self._made, self._then = made, then

    def __enter__(self) -> Self:
        self._made.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._made.__exit__(*error)

    def prepare(self, columns: Sequence[Column]) -> list[str]:
        return self._made.prepare(columns)

    def stage(self, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> None:
        self._made.stage(columns, batches)

    def checksum(self, columns: Sequence[Column]) -> Checksum:
        self._then(self._made._target.staged)  # type: ignore[attr-defined]
        return self._made.checksum(columns)

    def publish(self, columns: Sequence[Column], expected: Checksum) -> None:
        self._made.publish(columns, expected)

    def discard(self) -> None:
        self._made.discard()


def test_every_type_arrives_as_it_is(lake: Lake, copies: Copies) -> None:
    lake.sql(f"create table gold.t as {EVERY_TYPE}")
    first, second = (lake.export(copies.connection, key=["id"]) for _ in range(2))
    assert first.checksum == second.checksum
    assert first.checksum.rows == 3
    assert copies.tables() == {"t"}
    [row, _, nulls] = copies.rows("select txt, struct, big, u64, f, t from reporting.t order by id")
    assert row[0] == 'a\tb\\N\nc\r"ü😀;'
    assert str(row[1]).replace("'", '"').replace(" ", "").startswith('{"a":')
    assert [str(value) for value in row[2:4]] == ["-99999999999999999999999999999999999.999", "18446744073709551615"]
    assert row[5] == "01:02:03.000004"
    assert nulls == (None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("tamper", "what"),
    [
        ("delete from {table} where id = 7", "99 rows, but 100 were sent"),
        ("insert into {table} select * from {table} where id = 7", "101 rows, but 100 were sent"),
        ("insert into {table} select * from {table} where id = 7; delete from {table} where id = 8", "checksums"),
        ("{update} set n = 8 where id = 7", "checksums"),
        ("{update} set s = null where s = ''", "checksums"),
        ("{update} set n = 107 - n where id in (53, 54)", "checksums"),
    ],
)
def test_a_lost_doubled_or_changed_row_is_found(
    lake: Lake, copies: Copies, engine: str, tamper: str, what: str
) -> None:
    text = "case when i = 9 then '' else i::varchar end"
    rows = f"select i::bigint as id, i::bigint as n, {text} as s from range(1, {{}}) t(i)"
    lake.sql(f"create table gold.t as {rows.format(11)}")
    lake.export(copies.connection)
    lake.sql(f"create or replace table gold.t as {rows.format(101)}")

    def change(staged: str) -> None:
        table = f"reporting.{staged}"
        update = f"update {table}"
        for statement in tamper.format(table=table, update=update).split("; "):
            if engine == "clickhouse" and statement.startswith("update"):
                statement = statement.replace(f"update {table} set", f"alter table {table} update")  # noqa: PLW2901
                statement += " settings mutations_sync = 2"  # noqa: PLW2901
            if engine == "clickhouse" and statement.startswith("delete"):
                statement += " settings mutations_sync = 2, lightweight_deletes_sync = 2"  # noqa: PLW2901
            copies.run(statement)

    with pytest.raises(NotEqualError, match=what) as caught:
        lake.export(copies.connection, wrap=lambda made: Around(made, change))
    assert caught.value.transient
    assert copies.tables() == {"t"}
    assert copies.rows("select count(*) from reporting.t") == [(10,)]


def test_a_failure_while_loading_keeps_the_old_rows(lake: Lake, copies: Copies) -> None:
    lake.sql("create table gold.t as select i as n from range(10) t(i)")
    lake.export(copies.connection)
    lake.sql("create or replace table gold.t as select i as n from range(200000) t(i)")
    target = Target("reporting", "t", (), "gold/t", "abcdef0123456789")
    staged: list[set[str]] = []

    def breaking(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield next(batches)
        staged.append(copies.tables())
        raise DatabaseError("the lakehouse is gone")

    with destination(copies.connection, target) as made, lake.reader() as reader:
        broken = replace(reader, batches=breaking(reader.batches))
        with pytest.raises(DatabaseError, match="the lakehouse is gone"):
            export(broken, made, (), lambda line: None)
    assert staged == [{"t", "t__lakehouse_abcdef01"}]
    assert copies.tables() == {"t"}
    assert copies.rows("select count(*), max(n) from reporting.t") == [(10, 9)]


def test_a_table_that_something_else_created_is_not_replaced(lake: Lake, copies: Copies, engine: str) -> None:
    lake.sql("create table gold.t as select 1 as n")
    copies.run("create database reporting" if engine == "clickhouse" else "create schema reporting")
    copies.run(
        "create table reporting.t (n int)" + (" engine = MergeTree order by n" if engine == "clickhouse" else "")
    )
    with pytest.raises(
        ExportError, match=r"reporting\.t in .* exists and is not an export of gold/t\. Rename or drop it"
    ):
        lake.export(copies.connection)
    lake.export(copies.connection, "reporting.u")
    with pytest.raises(ExportError, match=r"is not an export of gold/other, but one of gold/t\."):
        lake.export(copies.connection, "reporting.u", origin="gold/other")
    assert copies.tables() == {"t", "u"}
    assert copies.rows("select * from reporting.t") == []


def test_readers_see_the_old_or_the_new_rows_and_never_a_gap(lake: Lake, copies: Copies) -> None:
    lake.sql("create table gold.t as select 0 as version, i as n from range(1000) t(i)")
    lake.export(copies.connection, key=["n"])
    seen: list[Any] = []
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        query = "select count(*), min(version), max(version) from reporting.t"
        try:
            while not done.is_set():
                [row] = copies.rows(query)
                seen.append(row)
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(1, 6):
        lake.sql(
            f"create or replace table gold.t as select {version} as version, i as n from range(1000 + {version}) t(i)"
        )
        lake.export(copies.connection, key=["n"])
    done.set()
    for reader in readers:
        reader.join()
    assert not problems
    assert {(rows - 1000, low, high) for rows, low, high in seen} <= {(v, v, v) for v in range(6)}
    assert len({low for _, low, _ in seen}) > 1


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from tests.unit.exports.copies import Lake, connection_to
from tests.unit.exports.test_run import Around
lake = Lake.__new__(Lake)
lake.path = Path({lake!r})
def wait(staged):
    print(staged, flush=True)
    time.sleep(600)
lake.export(connection_to({url!r}), wrap=lambda made: Around(made, wait), run_id="00000000dead")
"""


def test_a_killed_export_keeps_the_old_rows_and_the_next_one_cleans_up(
    lake: Lake, copies: Copies, tmp_path: Path
) -> None:
    lake.sql("create table gold.t as select i as n from range(10) t(i)")
    lake.export(copies.connection)
    lake.sql("create or replace table gold.t as select i as n from range(100000) t(i)")
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(path=sys.path, lake=str(lake.path), url=copies.connection.url))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline().strip() == "t__lakehouse_00000000"
        child.send_signal(signal.SIGKILL)
    assert copies.tables() == {"t", "t__lakehouse_00000000"}
    assert copies.rows("select count(*) from reporting.t") == [(10,)]

    # Not ours: another pattern, or without the comment.
    empty = " (n int)" + (" engine = MergeTree order by n" if isinstance(copies, Chdb) else "")
    for name in ("t__lakehouse_0000000g", "t__lakehouse_11111111", "t2__lakehouse_00000000"):
        copies.run(f"create table reporting.{name}{empty}")
    assert lake.export(copies.connection).checksum.rows == 100_000
    assert copies.tables() == {"t", "t__lakehouse_0000000g", "t__lakehouse_11111111", "t2__lakehouse_00000000"}
    assert copies.rows("select count(*) from reporting.t") == [(100_000,)]


def test_changed_columns_and_keys_are_taken_over(lake: Lake, copies: Copies) -> None:
    lake.sql("create table gold.t as select 1 as a, 'x' as b")
    lake.export(copies.connection, key=["a"])
    lake.sql("create or replace table gold.t as select 2::bigint as c, 'y' as b")
    lake.export(copies.connection, key=["B", "c"])
    assert copies.rows("select * from reporting.t") == [(2, "y")]
    lake.sql("delete from gold.t")
    assert lake.export(copies.connection, key=["b"]).checksum == Checksum(0, 0)
    assert copies.rows("select * from reporting.t") == []


def test_what_is_wrong_with_the_key_is_said_before_anything_is_loaded(lake: Lake, copies: Copies) -> None:
    lake.sql("create table gold.t as select 1 as a, null::int as b")
    with pytest.raises(ExportError, match=r"serve\.key has day, but the table has only a, b\."):
        lake.export(copies.connection, key=["day"])
    with pytest.raises(ExportError, match=r"Column b of meta\.lakehouse\.serve\.key has nulls"):
        lake.export(copies.connection, key=["b"])
    assert copies.tables() == set()


VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "n": (pa.decimal128(38, 9), st.decimals(-(10**28), 10**28, places=9)),
    "d": (pa.float64(), st.floats()),
    "b": (pa.bool_(), st.booleans()),
    "s": (pa.string(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "x": (pa.binary(), st.binary(max_size=20)),
    "day": (pa.date32(), st.integers(-25567, 120_529).map(lambda days: days)),
    "ts": (pa.timestamp("us"), st.integers(-2_208_988_800_000_000, 10_413_791_999_999_999)),
    "tz": (pa.timestamp("us", "UTC"), st.integers(-2_208_988_800_000_000, 10_413_791_999_999_999)),
}
ROWS = st.lists(st.tuples(*(st.none() | values for _, values in VALUES.values())), max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_both_sides_compute_the_same_checksum(copies: Copies, rows: list[tuple[Any, ...]]) -> None:
    schema = pa.schema([(name, kind) for name, (kind, _) in VALUES.items()])
    arrays = [
        pa.array([row[number] for row in rows], kind if name != "day" else pa.int32()).cast(kind)
        for number, (name, (kind, _)) in enumerate(VALUES.items())
    ]
    columns = columns_of(schema, ())
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    target = Target("reporting", "t", (), "gold/t", "abcdef01")
    with Converter(schema, columns) as converter, destination(copies.connection, target) as made:
        [table] = converter.convert(iter([batch]))
        expected = checksum_of(converter.connection, columns, table)
        made.prepare(columns)
        made.stage(columns, iter(table.to_batches()))
        assert made.checksum(columns) == expected
        made.discard()
