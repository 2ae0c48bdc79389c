"""Raw tables in Iceberg, written by pyiceberg and read by Trino: same values, whole tables, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.ingest import IngestReport, run_ingest
from lakehouse_analytics.ingest.iceberg_table import Change, replace
from lakehouse_analytics.settings import Settings, repository_root
from pyiceberg.exceptions import CommitFailedException
from trino.exceptions import TrinoExternalError

from tests.dagster_ui import poll

from .databases import Trino, new_database

pytestmark = [pytest.mark.integration, pytest.mark.trino]

COUNT = 300
#: Every kind of column, with what tends to go wrong in it.
EVERY_TYPE = """
    SELECT 'id-' || n AS _airbyte_raw_id,
        TIMESTAMPTZ '2023-11-14 22:13:20.123+00' + n * INTERVAL 1 MICROSECOND AS _airbyte_extracted_at,
        1::BIGINT AS _airbyte_generation_id,
        {'sync_id': n, 'changes': CASE n % 2 WHEN 0 THEN [] ELSE
            [{'field': 'n', 'change': 'NULLED', 'reason': 'DESTINATION_TYPECAST_ERROR'}] END
        }::STRUCT(sync_id BIGINT, changes STRUCT(field VARCHAR, change VARCHAR, reason VARCHAR)[]) AS _airbyte_meta,
        [9223372036854775807, -1, NULL][n]::BIGINT AS "Whole Number",
        [1e300, -0.5, NULL][n]::DOUBLE AS x,
        [true, false, NULL][n] AS ok,
        [DATE '1899-12-31', '2024-02-29', NULL][n] AS day,
        [TIME '23:59:59.999999', '00:00:00', NULL][n] AS "time",
        [TIMESTAMP '1969-12-31 23:59:59.999999', '2024-02-29 10:00:00', NULL][n] AS naive,
        [TIMESTAMPTZ '1900-01-01 00:00:00.000001+00', '2024-02-29 12:00:00+02', NULL][n] AS zoned,
        ['ä"\U0001f600' || chr(10), '', NULL][n] AS "a/b.c",
        ['{"a":[1,null]}', '[]', NULL][n] AS json
    FROM (SELECT unnest([1, 2, 3])::BIGINT AS n)
"""


@pytest.fixture
def trino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trino:
    """An empty catalog, and the environment to use it."""
    database = new_database("trino", tmp_path)
    assert isinstance(database, Trino)
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return database


@pytest.fixture(scope="module")
def connectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("connectors")


def load(trino: Trino, table: str, query: str) -> list[tuple[Any, ...]]:
    """The query's rows, in DuckDB's words, and put into `landed.<table>` of the catalog."""
    catalog = open_catalog(trino.catalog)
    catalog.create_namespace_if_not_exists("landed")
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(f"CREATE TABLE t AS {query}")
        columns = dict(
            db.execute("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 't'").fetchall()
        )
        replace(catalog, ("landed", table), columns, db.sql("FROM t").to_arrow_reader())
        names = ", ".join(f'"{field.name}"' for field in catalog.load_table(("landed", table)).schema().fields)
        return db.execute(f"SELECT {names} FROM t ORDER BY 1").fetchall()


def plain(value: Any) -> Any:
    """Rows of both clients in the same words: structs as lists of their values, moments in UTC."""
    if isinstance(value, dict):
        return [plain(item) for item in value.values()]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def test_trino_reads_every_type_as_duckdb_does(trino: Trino) -> None:
    expected = load(trino, "everything", EVERY_TYPE)
    assert trino.columns("landed", "everything") == [
        ("_airbyte_raw_id", "varchar"),
        ("_airbyte_extracted_at", "timestamp(6) with time zone"),
        (
            "_airbyte_meta",
            "row(sync_id bigint, changes array(row(field varchar, change varchar, reason varchar)))",
        ),
        ("_airbyte_generation_id", "bigint"),
        ("whole number", "bigint"),
        ("x", "double"),
        ("ok", "boolean"),
        ("day", "date"),
        ("time", "time(6)"),
        ("naive", "timestamp(6)"),
        ("zoned", "timestamp(6) with time zone"),
        ("a/b.c", "varchar"),
        ("json", "varchar"),
    ]
    assert plain(trino.ask("select * from landed.everything order by 1")) == plain(expected)
    assert trino.ask(
        "select _airbyte_meta.sync_id, c.reason from landed.everything cross join unnest(_airbyte_meta.changes) as c "
        "where zoned < timestamp '1901-01-01 00:00:00 UTC' or \"whole number\" is null order by 1"
    ) == [(1, "DESTINATION_TYPECAST_ERROR"), (3, "DESTINATION_TYPECAST_ERROR")]


def test_whoever_reads_while_a_table_is_replaced_sees_all_of_one_version(trino: Trino) -> None:
    # A version has its own number of rows, and a column of its own.
    content = "SELECT 'r' || i AS _airbyte_raw_id, {0} AS version, i AS only_in_{0} FROM range({0} * 1000) r(i)"
    load(trino, "t", content.format(1))
    seen: list[tuple[Any, ...]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.extend(trino.ask("select count(*), min(version), max(version) from landed.t"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in (2, 3) * 6:
            load(trino, "t", content.format(number))
            before = len(seen)
            while len(seen) < before + 2 and reader.is_alive():
                done.wait(0.01)
    finally:
        done.set()
        reader.join()
    assert set(seen) <= {(n * 1000, n, n) for n in (1, 2, 3)}
    assert {(2000, 2, 2), (3000, 3, 3)} <= set(seen)
    assert len(seen) >= 24


class Faker:
    """The published connector into the catalog."""

    def __init__(self, connectors: Path, root: Path) -> None:
        self.settings = Settings(**{**Settings.load().model_dump(exclude_unset=True), "connectors_dir": connectors})
        self.connectors = connectors
        self.lines: list[str] = []
        faker = repository_root() / "connectors" / "faker.yaml"
        self.content = yaml.safe_load(faker.read_text())
        self.content["connector"]["lock"] = str((faker.parent / self.content["connector"]["lock"]).resolve())
        self.content["schema"] = "landed"
        self.path = root / "faker.yaml"

    def run(self, **options: Any) -> IngestReport:
        self.path.write_text(yaml.safe_dump(self.content))
        return run_ingest(self.settings, config_path=self.path, progress=self.lines.append, **options)

    def killed(self, before_commit: int) -> None:
        """A sync that is killed before the catalog takes the commit of this number."""
        self.path.write_text(yaml.safe_dump(self.content))
        program = (
            "import os, signal, sys; from pathlib import Path\n"
            "from pyiceberg.catalog.sql import SqlCatalog; from lakehouse_analytics.ingest import run_ingest\n"
            "from lakehouse_analytics.settings import Settings\n"
            "left, commit = [int(sys.argv[2])], SqlCatalog.commit_table\n"
            "def count(*arguments, **named):\n"
            "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
            "    left[0] -= 1\n"
            "    return commit(*arguments, **named)\n"
            "SqlCatalog.commit_table = count\n"
            "run_ingest(Settings.load(), config_path=Path(sys.argv[1]))\n"
        )
        command = [sys.executable, "-c", program, str(self.path), str(before_commit)]
        environ = os.environ | {"LAKEHOUSE_CONNECTORS_DIR": str(self.connectors)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def faker(trino: Trino, connectors: Path, tmp_path: Path) -> Faker:
    return Faker(connectors, tmp_path)


def test_first_second_and_changed(trino: Trino, faker: Faker) -> None:
    first = {s.stream: s for s in faker.run(count=COUNT).streams}
    assert {name: (s.mode, s.rows_total) for name, s in first.items()} == {
        "users": ("first", COUNT),
        "products": ("first", 100),
        "purchases": ("first", COUNT),
    }
    for table, stream in first.items():
        assert trino.ask(f"select count(*), count(distinct id) from landed.{table}") == [(stream.rows_total,) * 2]
    assert trino.ask("select distinct _airbyte_meta.sync_id, cardinality(_airbyte_meta.changes) from landed.users") == [
        (1, 0)
    ]
    assert [(s.mode, s.rows_read) for s in faker.run(count=COUNT).streams] == [("incremental", 0)] * 3
    assert {(s.mode, s.generation_id) for s in faker.run(count=COUNT + 50).streams} == {("refresh", 2)}
    assert trino.ask("select count(*), min(_airbyte_generation_id) from landed.users") == [(COUNT + 50, 2)]
    assert trino.ask(
        "select element_at(summary, 'lakehouse.source'), element_at(summary, 'lakehouse.sync-id') "
        'from landed."users$snapshots" order by committed_at'
    ) == [("faker", "1"), ("faker", "3")]
    assert trino.ask("select source, stream, sync_id from landed._airbyte_state order by 2") == [
        ("faker", "products", 3),
        ("faker", "purchases", 3),
        ("faker", "users", 3),
    ]


def test_rows_of_a_killed_sync_go_even_when_trino_has_compacted_them(trino: Trino, faker: Faker) -> None:
    # So it sends everything again each time, and rows are only added.
    faker.content["config"]["always_updated"] = True
    tables = [stream.table for stream in faker.run(count=COUNT).streams]
    faker.content["config"]["count"] = COUNT
    faker.run()
    before = {table: trino.ask(f"select count(*) from landed.{table}")[0][0] for table in tables}
    faker.killed(1)
    after = {table: trino.ask(f"select count(*) from landed.{table}")[0][0] for table in tables}
    assert [after[table] > before[table] for table in tables] == [True, False, False]
    trino.ask(f"alter table landed.{tables[0]} execute optimize")
    report = faker.run()
    assert {stream.mode for stream in report.streams} == {"incremental"}
    for stream in report.streams:
        expected = before[stream.table] + stream.rows_read
        assert trino.ask(f"select count(*), count(distinct _airbyte_raw_id) from landed.{stream.table}") == [
            (expected, expected)
        ]


def test_a_first_sync_that_fails_leaves_room_for_the_next(trino: Trino) -> None:
    query = "SELECT range AS n FROM range(5)"
    catalog = open_catalog(trino.catalog)
    catalog.create_namespace_if_not_exists("landed")

    def failing(rows: Any) -> Any:
        yield from rows
        raise ConnectionError("the source went away")

    with duckdb.connect() as db, pytest.raises(ConnectionError):
        replace(catalog, ("landed", "late"), {"n": "BIGINT"}, failing(db.sql(query).to_arrow_reader()))
    assert not catalog.table_exists(("landed", "late"))
    load(trino, "late", query)
    assert trino.ask("select count(*) from landed.late") == [(5,)]


def test_of_two_syncs_that_write_at_once_the_second_is_refused(trino: Trino) -> None:
    load(trino, "met", "SELECT range AS n FROM range(5)")
    catalog, name = open_catalog(trino.catalog), ("landed", "met")
    changes = [Change(catalog, name, catalog.load_table(name), {"n": "BIGINT"}, {}) for _ in range(2)]
    with duckdb.connect() as db:
        for change in changes:
            change.write(db.sql("SELECT range AS n FROM range(5, 10)").to_arrow_reader())
    changes[0].commit()
    with pytest.raises(CommitFailedException):
        changes[1].commit()

    def counted() -> list[tuple[Any, ...]] | None:
        # pyiceberg deletes what it wrote in vain, and the stack's S3 server then hides the folder for a second.
        with suppress(TrinoExternalError):
            return trino.ask("select count(*), count(distinct n) from landed.met")
        return None

    assert poll(counted, seconds=30, what="the table") == [(10, 10)]
