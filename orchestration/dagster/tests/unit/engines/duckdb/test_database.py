"""Opening the DuckDB file, and the message if that fails."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.duckdb.database import connect

HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.readline()"


def _hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "open\n"
    return process


def test_a_writer_creates_the_file_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "data" / "lakehouse.duckdb"
    with connect(path, read_only=False) as connection:
        connection.execute("create table t as select 1 as x")
    with connect(path) as connection:
        assert connection.execute("select x from t").fetchall() == [(1,)]


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match=r"none\.duckdb does not exist: run `lakehouse ingest`"),
        connect(tmp_path / "none.duckdb"),
    ):
        pass


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DatabaseError, match="LAKEHOUSE_DUCKDB_PATH"),
        connect(tmp_path / "file" / "lakehouse.duckdb", read_only=False),
    ):
        pass


def test_a_path_that_is_a_folder_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="LAKEHOUSE_DUCKDB_PATH"), connect(tmp_path, read_only=False, timeout=0):
        pass


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.duckdb"
    path.write_text("not a database" * 1000)
    with pytest.raises(DatabaseError, match=r"notes\.duckdb cannot be opened"), connect(path):
        pass
    assert path.read_text().startswith("not a database")


def test_a_held_file_is_reported_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lakehouse.duckdb"
    holder = _hold(path)
    try:
        with pytest.raises(DatabaseError) as caught, connect(path, timeout=0.2):
            pass
    finally:
        holder.communicate("\n")
    assert f"PID {holder.pid}" in str(caught.value)
    assert "LAKEHOUSE_DUCKDB_LOCK_TIMEOUT" in str(caught.value)


def test_a_held_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lakehouse.duckdb"
    holder = _hold(path)
    release = threading.Timer(0.5, holder.communicate, ("\n",))
    release.start()
    with connect(path, read_only=False, timeout=60) as connection:
        assert connection.execute("select 1").fetchall() == [(1,)]
    release.join()
