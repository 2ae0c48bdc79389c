"""Parsed files, staged as Parquet files until a change of the tables loads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.files.batch import Batch
from lakehouse_analytics.arrivals.files.places import DATE, FILE, LOADED_AT, VERSION
from lakehouse_analytics.arrivals.files.rows import Typing
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.common.sql import identifier, literal

if TYPE_CHECKING:
    import duckdb

_MEMORY = "256MB"
#: Characters of a bad row that the quarantine keeps.
_LONGEST_ROW = 100_000

META = {FILE: "VARCHAR", VERSION: "VARCHAR", DATE: "DATE", LOADED_AT: "TIMESTAMP WITH TIME ZONE"}
FILES_COLUMNS = {
    **META,
    "status": "VARCHAR",
    "reason": "VARCHAR",
    "rows": "BIGINT",
    "bad_rows": "BIGINT",
    "bytes": "BIGINT",
}
QUARANTINE_COLUMNS = {**META, "row_number": "BIGINT", "row_text": "VARCHAR", "reason": "VARCHAR"}

#: Values of the column `status`. A file that is unreadable is read again by the next load.
BAD, UNREADABLE = "bad", "unreadable"

#: A partition: the date, and the value of `split_by`, or an empty text without one.
PartitionOfFiles = tuple[date, str]


@dataclass
class FileReport:
    """What a load did.

    Attributes:
        files: Number of loaded files.
        bad_files: Reasons why files were not loaded, by path.
        unreadable: Paths of the bad files that could not be read at all. The next load tries again.
        rows: Number of loaded rows.
        bad_rows: Number of rows in the quarantine.
        bytes: Size of the files that were read.
        days: Dates of the files that were read.
        partitions: Number of loaded rows by partition; 0 if a new version has none. Empty if the files have no date.
        reasons: The most frequent reasons of bad rows.
        total: Number of rows in the table afterwards; None if nothing was loaded.
    """

    files: int = 0
    bad_files: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    rows: int = 0
    bad_rows: int = 0
    bytes: int = 0
    days: set[date] = field(default_factory=set)
    partitions: Counter[PartitionOfFiles] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    total: int | None = None

    @property
    def found_something(self) -> bool:
        """Whether any file was read."""
        return bool(self.files or self.bad_files)

    def add(self, other: FileReport) -> None:
        """Add what a later batch did."""
        self.files += other.files
        self.bad_files |= other.bad_files
        self.unreadable |= other.unreadable
        self.rows += other.rows
        self.bad_rows += other.bad_rows
        self.bytes += other.bytes
        self.days |= other.days
        self.partitions.update(other.partitions)
        self.reasons.update(other.reasons)
        self.total = self.total if other.total is None else other.total


@dataclass
class StagedFiles:
    """Parsed files, in Parquet files.

    Attributes:
        folder: The folder of the Parquet files.
        columns: Types of the columns that the table has afterwards.
        records_unreadable: Whether the list of files gets those that could not be read.
    """

    folder: Path
    columns: dict[str, str]
    records_unreadable: bool = False
    files: list[FileVersion] = field(default_factory=list)
    bad_files: dict[str, str] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    rows: list[Path] = field(default_factory=list)
    quarantine: list[Path] = field(default_factory=list)
    listed: list[Path] = field(default_factory=list)
    row_count: int = 0
    bad_row_count: int = 0
    partitions: Counter[PartitionOfFiles] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def paths_of_read(self) -> list[str]:
        """The paths of the files that could be read."""
        return [file.path for file in self.files if file.path not in self.unreadable]

    def add(self, number: int, batch: Batch, typing: Typing, values: Mapping[date, Sequence[str]] | None) -> None:
        """Write the rows of a batch to Parquet files."""
        self.files += batch.files.values()
        self.unreadable |= {batch.files[place].path for place in batch.unreadable}
        self.bad_files |= {batch.files[place].path: reason for place, reason in batch.bad_files.items()}
        have = {name.lower() for name in self.columns}
        if typing.types:
            new = {**typing.types, **META}
            self.columns |= {name: kind for name, kind in new.items() if name.lower() not in have}
        self._list_files(batch)
        meta = f"__lh_path AS {FILE}, __lh_version AS {VERSION}, __lh_day AS {DATE}, __lh_loaded_at AS {LOADED_AT}"
        split = typing.split_column
        if values is not None and split:
            kept = " OR ".join(
                f"(__lh_day = DATE '{day}' AND {in_list(f'trim({identifier(split)}::VARCHAR)', of_day)})"
                for day, of_day in values.items()
            )
            batch.run(f"DELETE FROM good USING files WHERE good.__lh_file = files.__lh_file AND NOT ({kept})")  # noqa: S608
        joined = "JOIN files USING (__lh_file)"
        columns = ", ".join([*(identifier(name) for name in typing.types), meta])
        self.rows.append(self._copy(batch, f"rows{number}", f"SELECT {columns} FROM good {joined}"))  # noqa: S608
        bad = f"SELECT {meta}, row_number, left(row_text, {_LONGEST_ROW}) AS row_text, reason FROM bad {joined}"  # noqa: S608
        self.quarantine.append(self._copy(batch, f"bad{number}", bad))
        listed = (
            f"SELECT {meta}, __lh_status AS status, __lh_why AS reason, "  # noqa: S608
            "(SELECT count(*) FROM good WHERE good.__lh_file = files.__lh_file) AS rows, "
            "(SELECT count(*) FROM bad WHERE bad.__lh_file = files.__lh_file) AS bad_rows, "
            f"__lh_bytes AS bytes FROM files WHERE {self.records_unreadable} OR __lh_status <> {literal(UNREADABLE)}"
        )
        self.listed.append(self._copy(batch, f"files{number}", listed))
        self._count(batch, split)

    def _list_files(self, batch: Batch) -> None:
        batch.run(
            "CREATE TABLE files (__lh_file INTEGER, __lh_path VARCHAR, __lh_version VARCHAR, "
            "__lh_day DATE, __lh_bytes BIGINT, __lh_status VARCHAR, __lh_why VARCHAR, "
            "__lh_loaded_at TIMESTAMPTZ DEFAULT now())"
        )
        rows = [
            (number, file.path, file.version, file.day, file.size, _status(batch, number), batch.bad_files.get(number))
            for number, file in batch.files.items()
        ]
        if rows:
            batch.db.executemany(
                "INSERT INTO files (__lh_file, __lh_path, __lh_version, __lh_day, "
                "__lh_bytes, __lh_status, __lh_why) VALUES (?,?,?,?,?,?,?)",
                rows,
            )

    def _copy(self, batch: Batch, name: str, query: str) -> Path:
        path = self.folder / f"{name}.parquet"
        batch.run(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet)")
        return path

    def _count(self, batch: Batch, split: str | None) -> None:
        value = f"trim({identifier(split)}::VARCHAR)" if split else "''"
        for day, part, rows in batch.run(
            f"SELECT __lh_day, {value}, count(*) FROM good JOIN files USING (__lh_file) GROUP BY ALL"  # noqa: S608
        ):
            assert isinstance(rows, int)  # noqa: S101
            self.row_count += rows
            if isinstance(day, date):
                self.partitions[day, str(part)] += rows
        for reason, rows in batch.run("SELECT reason, count(*) FROM bad GROUP BY ALL ORDER BY 2 DESC LIMIT 20"):
            assert isinstance(rows, int)  # noqa: S101
            self.reasons[str(reason)] += rows
        found = batch.run("SELECT count(*) FROM bad")
        assert isinstance(found[0][0], int)  # noqa: S101
        self.bad_row_count += found[0][0]

    def count(self, report: FileReport) -> None:
        """Add what was loaded to a report."""
        report.files += len(self.files) - len(self.bad_files)
        report.bad_files |= self.bad_files
        report.unreadable |= self.unreadable
        report.rows += self.row_count
        report.bad_rows += self.bad_row_count
        report.bytes += sum(file.size for file in self.files if file.path not in self.unreadable)
        report.days |= {file.day for file in self.files if file.day}
        report.partitions.update(self.partitions)
        report.reasons.update(self.reasons)


def _status(batch: Batch, number: int) -> str:
    return UNREADABLE if number in batch.unreadable else BAD if number in batch.bad_files else "loaded"


def in_list(column: str, values: Sequence[str]) -> str:
    """Return the condition that a column has one of some values."""
    return f"{column} IN ({', '.join(map(literal, values))})" if values else "false"


@contextmanager
def scratch(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in memory, in UTC, with limited memory; what does not fit is on disk."""
    import duckdb

    options: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "temp_directory": str(folder / "spill"),
        "preserve_insertion_order": False,
        "threads": 2,
    }
    with duckdb.connect(config=options) as db:
        db.execute("SET TimeZone = 'UTC'")
        yield db
