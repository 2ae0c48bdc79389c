"""Loads real files into a real DuckDB file, and is killed while it does."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.files import load
from lakehouse_analytics.arrivals.files.load import FileLoader, FileTables, Statistics
from lakehouse_analytics.arrivals.files.staging import FileReport
from lakehouse_analytics.arrivals.files.storage import FileStorage, storage_of
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, RawTable
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from lakehouse_analytics.contract.arrivals import FileArrival
from unreadable import unreadable

DATED = {"files": "in/{date}_*.csv", "begin": "2026-01-01", "max_bad_rows": 1}


@dataclass
class Landing:
    """A folder of files, and the tables that they are loaded into."""

    root: Path
    arrival: FileArrival = field(default_factory=lambda: FileArrival(**DATED))  # type: ignore[arg-type]
    clock: float = field(default_factory=lambda: time.time() - 10_000)

    def put(self, name: str, text: str) -> None:
        """Write or overwrite a file. Each has a later time than the ones before."""
        path = self.root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def table(self, suffix: str = "") -> RawTable:
        return DuckDBTable(self.root / "lake.duckdb", 5, "landing", "prices" + suffix)

    def loader(self) -> FileLoader:
        tables = FileTables(self.table(), self.table("__files"), self.table("__quarantine"))
        return FileLoader(self.arrival, storage_of(self.arrival, self.root), tables, log=lambda _: None)

    def load_new(self) -> FileReport:
        report = FileReport()
        for batch in self.loader().load_new():
            report.add(batch)
        return report

    def rows(self, columns: str = "_file, n", suffix: str = "") -> list[tuple[Any, ...]]:
        return sorted(self.table(suffix).query(f"SELECT {columns} FROM {{table}}"), key=repr)


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    (tmp_path / "in").mkdir()
    return Landing(tmp_path)


def numbers(*values: object) -> str:
    return "n\n" + "".join(f"{value}\n" for value in values)


def test_each_version_of_a_file_is_loaded_once(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1, 2))
    landing.put("2026-01-02_a.csv", numbers(3))
    report = landing.load_new()
    assert (report.files, report.rows, report.total) == (2, 3, 3)
    assert report.partitions == {(date(2026, 1, 1), ""): 2, (date(2026, 1, 2), ""): 1}
    assert not landing.load_new().found_something
    landing.put("2026-01-01_a.csv", numbers(9))  # overwritten: its rows replace the old ones
    landing.put("2026-01-03_late.csv", numbers(4))
    report = landing.load_new()
    assert (report.files, report.rows, report.total) == (2, 2, 3)
    assert landing.rows() == [("2026-01-01_a.csv", "9"), ("2026-01-02_a.csv", "3"), ("2026-01-03_late.csv", "4")]
    late = (date(2026, 1, 1), "")
    landing.put("2026-01-01_late.csv", numbers(7))
    assert landing.load_new().partitions == {late: 1}
    assert landing.loader().partition_statistics([date(2026, 1, 1)]) == {late: Statistics(2)}
    (landing.root / "in/2026-01-01_late.csv").unlink()
    landing.loader().reload([date(2026, 1, 1)])
    assert landing.rows("_file_date") == [(date(2026, 1, day),) for day in (1, 2, 3)]


def test_files_and_bad_rows_are_recorded(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "columns": {"n": "bigint"}, "max_bad_rows": 0.5})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1, "x", 3))
    landing.put("2026-01-02_bad.csv", numbers("x", "y", 3))
    report = landing.load_new()
    assert (report.files, report.rows, report.bad_rows) == (1, 2, 3)
    assert report.bad_files == {"2026-01-02_bad.csv": "2 of its 3 rows are bad, more than max_bad_rows: 0.5"}
    assert landing.rows("_file, status, rows, bad_rows", "__files") == [
        ("2026-01-01_a.csv", "loaded", 2, 1),
        ("2026-01-02_bad.csv", "bad", 0, 2),
    ]
    assert landing.rows("_file, reason", "__quarantine") == [
        ("2026-01-01_a.csv", "n is 'x', which is not BIGINT"),
        ("2026-01-02_bad.csv", "n is 'x', which is not BIGINT"),
        ("2026-01-02_bad.csv", "n is 'y', which is not BIGINT"),
    ]
    landing.put("2026-01-02_bad.csv", numbers(7, 8))  # corrected
    assert landing.load_new().bad_rows == 0
    assert landing.rows("n") == [(1,), (3,), (7,), (8,)]
    assert len(landing.rows("_file", "__quarantine")) == 1


def test_the_rows_of_the_last_good_version_stay_when_a_file_becomes_bad(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.load_new()
    landing.put("2026-01-01_a.csv", "")
    report = landing.load_new()
    assert report.bad_files.keys() == {"2026-01-01_a.csv"}
    assert landing.rows() == [("2026-01-01_a.csv", "1")]
    assert not landing.load_new().found_something


def test_statistics_have_the_means_of_declared_fractional_columns(landing: Landing) -> None:
    columns = {"n": "bigint", "price": "decimal(9,2)", "Load": "double", "absent": "double"}
    landing.arrival = FileArrival(**{**DATED, "columns": columns, "split_by": "market"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n,price,Load\nIT,1,1.50,\nIT,2,2.50,\nDE,3,7,0.5\n")
    landing.load_new()
    day = date(2026, 1, 1)
    assert landing.loader().partition_statistics([day]) == {
        (day, "IT"): Statistics(2, {"price": 2.0, "Load": None}),
        (day, "DE"): Statistics(1, {"price": 7.0, "Load": 0.5}),
    }


def test_new_columns_are_added_and_missing_ones_are_null(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", "n\n1\n")
    landing.load_new()
    landing.put("2026-01-02_a.csv", "N,extra\n2,x\n")
    landing.put("2026-01-03_a.csv", "extra\ny\n")
    landing.load_new()
    assert landing.rows("n, extra") == [("1", None), ("2", "x"), (None, "y")]


def test_a_partition_is_replaced_with_what_the_files_have_now(landing: Landing) -> None:
    for day in (1, 2):
        landing.put(f"2026-01-0{day}_a.csv", numbers(day))
        landing.put(f"2026-01-0{day}_b.csv", numbers(day * 10))
    landing.load_new()
    (landing.root / "in/2026-01-01_b.csv").unlink()
    report = landing.loader().reload([date(2026, 1, 1)])
    assert (report.files, report.rows) == (1, 1)
    assert landing.rows() == [("2026-01-01_a.csv", "1"), ("2026-01-02_a.csv", "2"), ("2026-01-02_b.csv", "20")]
    assert landing.loader().reload([date(2026, 1, 7)]).rows == 0
    assert len(landing.rows()) == 3


def test_values_of_a_date_are_replaced_and_the_others_stay(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\nDE,2\n")
    landing.put("2026-01-02_a.csv", "market,n\nIT,3\n")
    report = landing.load_new()
    first = date(2026, 1, 1)
    assert report.partitions == {(first, "IT"): 1, (first, "DE"): 1, (date(2026, 1, 2), "IT"): 1}
    landing.put("2026-01-01_a.csv", "market,n\nIT,11\nDE,22\n")
    assert landing.loader().reload([first], {first: ["IT"]}).partitions == {(first, "IT"): 1}
    assert landing.rows("market, n") == [("DE", "2"), ("IT", "11"), ("IT", "3")]
    # The new version was loaded in part, so it is still new: the rest follows.
    assert landing.load_new().rows == 2
    assert landing.rows("market, n") == [("DE", "22"), ("IT", "11"), ("IT", "3")]


@pytest.mark.parametrize("kind", ["VARCHAR", "date"])
def test_the_value_of_a_partition_is_stored_without_blanks(landing: Landing, kind: str) -> None:
    values = {"VARCHAR": ("IT", "DE"), "date": ("2026-02-01", "2026-02-02")}[kind]
    landing.arrival = FileArrival(**{**DATED, "split_by": "Market", "columns": {"market": kind}})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", f"market,n\n {values[0]},1\n{values[0]} , 2\n{values[1]},3\n")
    day = date(2026, 1, 1)
    assert landing.load_new().partitions == {(day, values[0]): 2, (day, values[1]): 1}
    assert landing.rows("market::VARCHAR, n") == sorted([(values[0], "1"), (values[0], " 2"), (values[1], "3")])
    landing.put("2026-01-01_a.csv", f"market,n\n {values[0]},4\n{values[1]},5\n")
    assert landing.loader().reload([day], {day: [values[0]]}).partitions == {(day, values[0]): 1}
    assert landing.rows("market::VARCHAR, n") == sorted([(values[0], "4"), (values[1], "3")])


@pytest.mark.parametrize("without", ["date", "value"])
def test_rows_of_an_older_contract_without_a_date_or_value_are_replaced(landing: Landing, without: str) -> None:
    """Rows that were loaded before the contract had `{date}` or `split_by` belong to no partition."""
    landing.arrival = FileArrival(files="in/*.csv", max_bad_rows=1)
    if without == "value":
        landing.arrival = FileArrival(**DATED)  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.put("2026-01-02_a.csv", numbers(2))
    landing.load_new()
    assert landing.rows("_file_date IS NULL") == [(without == "date",)] * 2
    landing.arrival = FileArrival(**{**DATED, "split_by": "market" if without == "value" else None})  # type: ignore[arg-type]
    landing.put("2026-01-03_a.csv", "market,n\nDE,5\n")
    landing.put("2026-01-01_a.csv", "market,n\nIT,3\n")
    value = "IT" if without == "value" else ""
    other = "DE" if without == "value" else ""
    assert landing.load_new().partitions == {(date(2026, 1, 1), value): 1, (date(2026, 1, 3), other): 1}
    assert landing.rows("n") == [("2",), ("3",), ("5",)]
    landing.loader().last_batch()
    landing.put("2026-01-02_a.csv", "market,n\nIT,4\n")
    assert landing.load_new().partitions == {(date(2026, 1, 2), value): 1}
    assert landing.rows("n") == [("3",), ("4",), ("5",)]


def test_an_empty_value_of_an_older_contract_is_no_partition(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", 'market,n\n"",1\n" ",2\n')
    landing.load_new()
    landing.arrival = FileArrival(**{**DATED, "split_by": "market"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,3\n")
    assert landing.load_new().partitions == {(date(2026, 1, 1), "IT"): 1}
    assert landing.rows("market, n") == [("IT", "3")]


def test_partitions_of_the_last_batch_that_have_no_date_or_value_are_left_out(landing: Landing) -> None:
    """Batches that an older release recorded may have them."""
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.load_new()
    before = landing.table("__files").read()
    partitions = [[None, "IT"], ["2026-01-01", None], ["2026-01-01", "IT"]]
    state = {**before.state, "partitions": partitions}
    landing.table("__files").apply(Change(before.columns, [], state), before)
    assert landing.loader().last_batch()[1] == [(date(2026, 1, 1), "IT")]


def test_the_whole_table_can_be_loaded_again_with_other_types(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", "n,old\n1,x\n")
    landing.load_new()
    landing.put("2026-01-01_a.csv", "n\n1\n")
    landing.arrival = FileArrival(**{**DATED, "columns": {"n": "decimal(5,2)"}})  # type: ignore[arg-type]
    assert landing.loader().reload().total == 1
    assert next(iter(landing.table().read().columns.items())) == ("n", "DECIMAL(5,2)")
    assert "old" not in landing.table().read().columns


def test_loaded_files_are_moved_and_can_be_loaded_again(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "after_load": "move"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.put("2026-01-02_bad.csv", "")
    landing.load_new()
    left = sorted(path.relative_to(landing.root / "in").as_posix() for path in landing.root.glob("in/**/*.csv"))
    assert left == ["_loaded/2026-01-01_a.csv", "_quarantine/2026-01-02_bad.csv"]
    assert landing.loader().reload([date(2026, 1, 1)]).rows == 1
    landing.put("2026-01-01_a.csv", numbers(5))  # delivered again: the newer one counts
    assert landing.load_new().rows == 1
    assert landing.rows() == [("2026-01-01_a.csv", "5")]


def test_a_type_that_does_not_exist_is_an_error_before_anything_is_written(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "columns": {"n": "numbr"}})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1))
    with pytest.raises(ArrivalError, match=r"arrives\.columns\.n is 'numbr': DuckDB has no such type"):
        landing.load_new()
    assert not landing.table().read().exists


def test_columns_may_have_the_names_of_our_own(landing: Landing) -> None:
    names = "day,path,version,bytes,reason,filename,file_no,line,why,loaded_at,status"
    landing.put("2026-01-01_a.csv", f"{names}\n{names}\n")
    assert landing.load_new().rows == 1
    assert landing.rows(names) == [tuple(names.split(","))]
    landing.arrival = FileArrival(**{**DATED, "files": "in/{date}_*.jsonl"})  # type: ignore[arg-type]
    landing.put("2026-01-02_a.jsonl", '{"file_no": 1, "Reason": "x", "__lh_file": 2}\n')
    landing.put("2026-01-03_a.jsonl", '{"file_no": 1, "REASON": "y"}\n{"REASON": "z"}\n')
    report = landing.load_new()
    assert report.bad_files.keys() == {"2026-01-02_a.jsonl"}
    assert landing.rows("reason") == [("reason",), ("y",), ("z",)]


def test_a_partition_in_part_does_not_move_its_files(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market", "after_load": "move"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\nDE,2\n")
    day = date(2026, 1, 1)
    assert landing.loader().reload([day], {day: ["IT"]}).rows == 1
    assert landing.load_new().rows == 2
    assert landing.rows("market, n") == [("DE", "2"), ("IT", "1")]


def test_a_partition_keeps_the_rows_of_a_file_that_has_become_bad(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.put("2026-01-01_b.csv", numbers(2))
    landing.load_new()
    landing.put("2026-01-01_a.csv", "")
    landing.load_new()
    landing.loader().reload([date(2026, 1, 1)])
    assert landing.rows("n") == [("1",), ("2",)]
    with pytest.raises(ArrivalError, match=r"would lose them: 2026-01-01_a\.csv: it has no columns"):
        landing.loader().reload()
    assert landing.rows("n") == [("1",), ("2",)]


@pytest.mark.parametrize("values", [None, ["IT"]])
def test_a_deleted_file_is_loaded_again_once_it_is_restored(landing: Landing, values: list[str] | None) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\n")
    landing.load_new()
    path = landing.root / "in/2026-01-01_a.csv"
    path.rename(landing.root / "away")
    day = date(2026, 1, 1)
    landing.loader().reload([day], {day: values} if values else None)
    assert landing.rows("n") == []
    (landing.root / "away").rename(path)
    assert landing.load_new().rows == 1


def test_a_version_with_fewer_values_reports_what_it_no_longer_has(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\nDE,2\n")
    landing.load_new()
    landing.put("2026-01-01_a.csv", "market,n\nIT,3\n")
    day = date(2026, 1, 1)
    assert dict(landing.load_new().partitions) == {(day, "IT"): 1, (day, "DE"): 0}
    landing.arrival = FileArrival(**DATED)  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\n")
    assert dict(landing.load_new().partitions) == {(day, ""): 0}


def test_files_that_a_killed_load_did_not_move_are_moved_by_the_next(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.load_new()
    landing.arrival = FileArrival(**{**DATED, "after_load": "move"})  # type: ignore[arg-type]
    assert not landing.load_new().found_something
    assert (landing.root / "in/_loaded/2026-01-01_a.csv").exists()


@pytest.mark.parametrize("reloads", [False, True])
@pytest.mark.parametrize("new", ["n\n2\n", None])
def test_a_version_that_a_killed_move_took_along_is_loaded(
    landing: Landing, monkeypatch: pytest.MonkeyPatch, new: str | None, *, reloads: bool
) -> None:
    landing.arrival = FileArrival(**{**DATED, "after_load": "move"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1))
    rename = obstore.rename

    def killed(*arguments: Any, **options: Any) -> None:
        if new:
            landing.put("2026-01-01_a.csv", new)
        rename(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(obstore, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            landing.load_new()
    assert not (landing.root / "in/2026-01-01_a.csv").exists()
    if reloads:
        landing.loader().reload([date(2026, 1, 1)])
    else:
        assert landing.load_new().rows == (1 if new else 0)
    assert landing.rows("n") == [("2" if new else "1",)]
    assert (landing.root / "in/_loaded/2026-01-01_a.csv").read_text() == (new or numbers(1))
    assert not [path for path in (landing.root / "in").rglob("*.csv") if path.parent.name != "_loaded"]


def test_the_last_batch_and_its_run_are_known(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1))
    assert landing.loader().last_batch() == ("", [])
    assert len([*landing.loader().load_new("run-1")]) == 1
    assert landing.loader().last_batch() == ("run-1", [(date(2026, 1, 1), "")])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("bigint", ["7", " -3 "], ["1.5", "1e"]), ("decimal(6,2)", ["1.5", "1.50", "7"], ["1.239", "99999"])],
)
def test_a_number_that_a_type_would_round_is_bad(landing: Landing, kind: str, good: list[str], bad: list[str]) -> None:
    landing.arrival = FileArrival(**{**DATED, "columns": {"n": kind}})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(*good, *bad))
    report = landing.load_new()
    assert (report.rows, report.bad_rows) == (len(good), len(bad))


def test_a_file_that_cannot_be_read_does_not_stop_the_others(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "after_load": "move"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", numbers(1))
    landing.put("2026-01-02_b.csv", numbers(2))
    landing.put("2026-01-03_c.csv", numbers(3))
    path = landing.root / "in/2026-01-02_b.csv"
    with unreadable(path, landing.root):
        report = landing.load_new()
    assert (report.files, report.rows, report.unreadable) == (2, 2, {"2026-01-02_b.csv"})
    assert "Permission denied" in report.bad_files["2026-01-02_b.csv"]
    assert landing.rows("n") == [("1",), ("3",)]
    assert landing.rows("_file, status, reason LIKE '%Permission denied%'", "__files") == [
        ("2026-01-01_a.csv", "loaded", None),
        ("2026-01-02_b.csv", "unreadable", True),
        ("2026-01-03_c.csv", "loaded", None),
    ]
    assert path.exists()
    report = landing.load_new()  # the same version, which can be read now
    assert (report.files, report.rows, report.bad_files) == (1, 1, {})
    assert landing.rows("n") == [("1",), ("2",), ("3",)]
    assert ("2026-01-02_b.csv", "loaded") in landing.rows("_file, status", "__files")
    assert not path.exists()


def test_a_load_of_which_no_file_can_be_read_fails(landing: Landing) -> None:
    landing.put("2026-01-01_a.csv", numbers(1))
    path = landing.root / "in/2026-01-01_a.csv"
    with unreadable(path, landing.root):
        with pytest.raises(ArrivalError, match=r"none of the new files can be read: 2026-01-01_a\.csv: .*Permission"):
            landing.load_new()
        with pytest.raises(ArrivalError, match=r"none of the new files can be read"):
            landing.loader().reload([date(2026, 1, 1)])
    assert landing.load_new().rows == 1


@pytest.mark.parametrize("values", [None, ["IT"]])
def test_a_partition_keeps_what_it_has_of_a_file_that_cannot_be_read(
    landing: Landing, values: list[str] | None
) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market", "columns": {"n": "bigint"}})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\nIT,x\n")
    landing.put("2026-01-01_b.csv", "market,n\nIT,2\n")
    landing.load_new()
    before = landing.rows("*", "__files"), landing.rows("*", "__quarantine")
    day = date(2026, 1, 1)
    with unreadable(landing.root / "in/2026-01-01_a.csv", landing.root):
        report = landing.loader().reload([day], {day: values} if values else None)
    assert (report.files, report.unreadable) == (1, {"2026-01-01_a.csv"})
    assert landing.rows("n") == [(1,), (2,)]
    assert [row for row in landing.rows("*", "__files") if row[0].endswith("a.csv")] == before[0][:1]
    assert landing.rows("*", "__quarantine") == before[1]


def test_a_file_without_the_split_column_is_in_the_quarantine(landing: Landing) -> None:
    landing.arrival = FileArrival(**{**DATED, "split_by": "market", "after_load": "move"})  # type: ignore[arg-type]
    landing.put("2026-01-01_a.csv", "marktet,n\nIT,1\n")
    report = landing.load_new()
    assert report.files == 0
    assert report.bad_files["2026-01-01_a.csv"].startswith("it has no column 'market' (split_by)")
    assert (landing.root / "in/_quarantine/2026-01-01_a.csv").exists()
    assert landing.rows("_file, status", "__files") == [("2026-01-01_a.csv", "bad")]
    landing.put("2026-01-01_a.csv", "market,n\nIT,1\n")
    assert landing.load_new().rows == 1


def test_a_file_that_is_deleted_between_listing_and_reading_does_not_change_the_others(landing: Landing) -> None:
    for day in (1, 2, 3):
        landing.put(f"2026-01-0{day}_a.csv", numbers(day))
    loader = landing.loader()

    class Vanishing(FileStorage):
        def settled(self) -> Iterator[FileVersion]:
            found = [*super().settled()]
            (landing.root / "in/2026-01-01_a.csv").unlink()
            return iter(found)

    loader.storage = Vanishing(loader.storage.pattern)
    assert [report.rows for report in loader.load_new()] == [2]
    assert landing.rows() == [("2026-01-02_a.csv", "2"), ("2026-01-03_a.csv", "3")]


NAMES = [f"2026-01-0{day}_{name}.csv" for day in (1, 2, 3) for name in "ab"]
CONTENT = st.lists(st.integers(0, 99), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), CONTENT),
        st.tuples(st.just("delete"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("load"), st.none(), st.none()),
        st.tuples(st.just("reload"), st.sampled_from(NAMES), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=8)
@given(steps=STEPS, batch=st.integers(1, 3))
def test_any_history_of_files_and_loads_gives_the_rows_of_the_versions_that_were_there(
    steps: list[tuple[str, Any, Any]], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The model: a load has the rows of all current files, and of deleted ones that an earlier load saw."""
    landing = Landing(tmp_path_factory.mktemp("history"))
    (landing.root / "in").mkdir()
    files: dict[str, list[int]] = {}
    table: dict[str, list[int]] = {}
    versions: dict[str, int] = {}
    loaded: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "BATCH_FILES", batch)
        for step, name, content in [*steps, ("load", None, None)]:
            if step == "put":
                landing.put(name, numbers(*content))
                files[name] = content
                versions[name] = versions.get(name, 0) + 1
            elif step == "delete":
                (landing.root / "in" / name).unlink(missing_ok=True)
                files.pop(name, None)
            elif step == "load":
                report = landing.load_new()
                new = {name for name in files if loaded.get(name) != versions[name]}
                assert report.files == len(new)
                loaded |= {name: versions[name] for name in files}
                table |= files
            else:
                landing.loader().reload([date.fromisoformat(name[:10])])
                of_day = {other: rows for other, rows in files.items() if other[:10] == name[:10]}
                table = {other: rows for other, rows in table.items() if other[:10] != name[:10]} | of_day
                loaded |= {other: versions[other] for other in of_day}
            if landing.table().read().exists:
                assert landing.rows() == sorted(
                    ((name, str(value)) for name, values in table.items() for value in values), key=repr
                )


def _load(root: str, arrival: Mapping[str, Any]) -> None:
    Landing(Path(root), FileArrival(**arrival)).load_new()


def test_a_load_that_is_killed_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    arrival = {**DATED, "after_load": "move"}
    landing = Landing(tmp_path, FileArrival(**arrival))  # type: ignore[arg-type]
    expected = []
    chance = random.Random(7)
    killed = 0
    for number in range(40):
        name = f"2026-01-{number % 28 + 1:02}_{number}.csv"
        values = [number * 1000 + place for place in range(200)]
        landing.put(name, numbers(*values))
        expected += [(name, str(value)) for value in values]
        if number % 4 == 3:
            process = multiprocessing.get_context("fork").Process(target=_load, args=(str(tmp_path), arrival))
            process.start()
            process.join(chance.uniform(0.0, 0.25))
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.join()
    landing.load_new()
    assert killed
    assert landing.rows() == sorted(expected, key=repr)
    assert [row[0] for row in landing.rows("_file", "__files")] == sorted({name for name, _ in expected})
    assert not list((tmp_path / "in").glob("*.csv"))
    assert not list((tmp_path / "tmp").glob("*/.lock"))
