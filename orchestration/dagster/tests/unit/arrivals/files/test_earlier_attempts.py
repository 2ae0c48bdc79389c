"""What an attempt has loaded is read from the tables, in a real DuckDB file, as the attempt would have reported it."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from lakehouse_analytics.arrivals.files.earlier_attempts import loaded_since
from lakehouse_analytics.arrivals.files.load import FileLoader, FileTables
from lakehouse_analytics.arrivals.files.staging import FileReport
from lakehouse_analytics.arrivals.files.storage import storage_of
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from lakehouse_analytics.contract.arrivals import FileArrival

ARRIVAL = FileArrival.model_validate({"files": "*.csv", "max_bad_rows": 1, "columns": {"n": "bigint"}})


def tables(folder: Path) -> FileTables:
    names = ("prices", "prices__files", "prices__quarantine")
    return FileTables(*(DuckDBTable(folder / "lake.duckdb", 5, "landing", name) for name in names))


def load(folder: Path, **files: str) -> FileReport:
    for name, text in files.items():
        path = folder / f"{name}.csv"
        path.write_text(text)
        os.utime(path, (time.time() - 60,) * 2)
    report = FileReport()
    for batch in FileLoader(ARRIVAL, storage_of(ARRIVAL, folder), tables(folder), log=lambda _: None).load_new():
        report.add(batch)
    return report


def test_the_report_is_that_of_the_load(tmp_path: Path) -> None:
    assert loaded_since(tables(tmp_path), datetime.now(UTC)) == FileReport()  # the tables do not exist yet
    before = load(tmp_path, old="n\n1\nx\n")
    between = datetime.now(UTC)
    reported = load(tmp_path, good="n\n2\n", some="n\n3\n4,5\nfour\n", bad="n\nx\ny\nz\n", empty="n\n", broken="")
    assert (before.bad_rows, reported.files, len(reported.bad_files)) == (1, 4, 1)
    found = loaded_since(tables(tmp_path), between)
    reported.total = None
    assert found == reported
    assert loaded_since(tables(tmp_path), datetime.now(UTC)) == FileReport()
