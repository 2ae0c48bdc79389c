"""Raw tables in a DuckDB file: what only a file can have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, Outcome
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable

from .conftest import SCHEMA, TABLE, Storage


@pytest.fixture
def file(new_storage: Callable[[str], Storage]) -> Storage:
    return new_storage("duckdb")


def run(file: Storage, statement: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(file.data / "lakehouse.duckdb")) as db:
        return db.execute(statement).fetchall()


def test_the_state_is_in_a_table_of_the_schema(file: Storage) -> None:
    file.change("SELECT 1 AS id", state={"cursor": "x"})
    other = file.table("Other")
    other.apply(Change({"id": "INTEGER"}, [file.parquet("SELECT 2 AS id")], {"cursor": "y"}), other.read())
    file.change("SELECT 3 AS id", state={"cursor": "z"})
    assert run(file, "SELECT table_name, state FROM raw._lakehouse_arrivals ORDER BY 1") == [
        (TABLE, '{"cursor": "z"}'),
        ("other", '{"cursor": "y"}'),
    ]
    assert file.table("OTHER").read() == other.read()
    [(version,)] = run(file, f"SELECT version FROM raw._lakehouse_arrivals WHERE table_name = '{TABLE}'")
    assert str(file.table().read().version).startswith(str(version))


def test_rows_that_another_program_adds_are_a_concurrent_change(file: Storage) -> None:
    file.change("SELECT 1 AS id", state={"n": 1})
    before = file.table().read()
    run(file, "INSERT INTO raw.orders VALUES (5)")
    with pytest.raises(ArrivalError, match=r"raw\.orders in /.*\.duckdb was changed by another program"):
        file.table().apply(Change({}, [], {"n": 2}), before)
    assert file.table().read().state == {"n": 1}
    assert file.change("SELECT 2 AS id", key=["id"]) == Outcome(3, 1, 0)


def test_a_file_that_another_process_has_open_is_an_error_after_the_timeout(file: Storage) -> None:
    path = file.data / "lakehouse.duckdb"
    file.change("SELECT 1 AS id")
    table = DuckDBTable(path, 0.2, SCHEMA, TABLE)
    before = table.read()
    hold = f"import duckdb, time; c = duckdb.connect({str(path)!r}); print('open', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        try:
            for call in (table.read, lambda: table.apply(Change({}, [], {}), before)):
                with pytest.raises(ArrivalError, match=rf"is locked by .*{process.pid}.*; waited 0\.2 s"):
                    call()
        finally:
            process.kill()


def test_a_view_is_refused(file: Storage) -> None:
    run(file, "CREATE SCHEMA raw; CREATE VIEW raw.orders AS SELECT 1 AS id")
    with pytest.raises(ArrivalError, match=r"raw\.orders in .* is a view; expected a table"):
        file.table().read()


def test_a_folder_that_is_not_mounted_is_not_created(file: Storage) -> None:
    table = DuckDBTable(file.root / "disk" / "lake" / "x.duckdb", 1, SCHEMA, TABLE)
    with pytest.raises(ArrivalError, match=r"nothing was changed: No such file or directory"):
        table.apply(Change({"id": "INTEGER"}, [], {}), table.read())
    assert not (file.root / "disk").exists()
    (file.root / "disk").mkdir()
    assert table.apply(Change({"id": "INTEGER"}, [], {}), table.read()) == Outcome(0, 0, 0)


def test_a_file_that_is_no_database_is_an_error(file: Storage) -> None:
    (file.data / "lakehouse.duckdb").write_text("no database" * 1000)
    with pytest.raises(ArrivalError, match=r"lakehouse\.duckdb cannot be opened: "):
        file.table().read()


def test_a_table_that_another_program_created_gets_a_state(file: Storage) -> None:
    run(file, "CREATE SCHEMA raw; CREATE TABLE raw.Orders AS SELECT 1 AS Id; COMMENT ON TABLE raw.orders IS 'mine'")
    state = file.table().read()
    assert (state.exists, dict(state.columns), state.state) == (True, {"Id": "INTEGER"}, {})
    assert file.change("SELECT 2 AS id", state={"n": 1}) == Outcome(2, 1, 0)
    assert file.table().read().state == {"n": 1}


def test_infinity_is_a_value(file: Storage) -> None:
    file.change("SELECT 'infinity'::TIMESTAMP AS until")
    assert file.content("1", "isfinite(until)") == [(False,)]


def test_a_schema_may_have_the_name_of_the_file(tmp_path: Path) -> None:
    """DuckDB calls `customers.customers` ambiguous then."""
    rows = tmp_path / "rows.parquet"
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT 1 AS id) TO '{rows}'")
    table = DuckDBTable(tmp_path / "customers.duckdb", 1, "customers", "customers")
    table.apply(Change({"id": "INTEGER"}, [rows], {"n": 1}), table.read())
    table.apply(Change({"id": "INTEGER"}, [rows], {"n": 2}), table.read())
    assert table.query("SELECT count(*) FROM {table}") == [(2,)]
    assert table.read().state == {"n": 2}
