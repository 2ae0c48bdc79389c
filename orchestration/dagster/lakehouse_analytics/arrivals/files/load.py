"""Loads files into the table of a source, exactly one row per row of the current version of each file.

Three tables belong to a source: its own, `<table>__files` with each file that was read, and `<table>__quarantine` with
the rows that were not loaded. A load changes the quarantine first, then the rows, then the list of files. Each change
first removes what the table has of the same files, so a load that was killed in between is repeated without loss and
without duplicates.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from lakehouse_analytics.arrivals.files.batch import read_batch
from lakehouse_analytics.arrivals.files.places import DATE, FILE, LOADED, QUARANTINE, VERSION
from lakehouse_analytics.arrivals.files.rows import declared_types, separate
from lakehouse_analytics.arrivals.files.staging import (
    FILES_COLUMNS,
    QUARANTINE_COLUMNS,
    FileReport,
    PartitionOfFiles,
    StagedFiles,
    in_list,
    scratch,
)
from lakehouse_analytics.arrivals.files.storage import FileStorage, FileVersion
from lakehouse_analytics.arrivals.raw_tables.base import Change, RawTable
from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.contract.arrivals import FileArrival

#: Maximum number of files, and of bytes, of one batch, which is one commit.
BATCH_FILES, BATCH_BYTES = 2_000, 512 << 20


@dataclass(frozen=True)
class FileTables:
    """The tables of a source: its rows, its files, and the rows that were not loaded."""

    rows: RawTable
    files: RawTable
    quarantine: RawTable


@dataclass(frozen=True)
class Statistics:
    """Statistics of a partition.

    Attributes:
        rows: Number of rows.
        means: The mean of each fractional column; None if all values are null.
    """

    rows: int
    means: Mapping[str, float | None] = field(default_factory=dict)


@dataclass
class FileLoader:
    """Loads the files of one source.

    Args:
        arrival: The contract.
        storage: The files.
        tables: The tables.
        folder: A folder with space for copies of the files; by default the system's.
        log: Called with one line per batch.
    """

    arrival: FileArrival
    storage: FileStorage
    tables: FileTables
    folder: Path | None = None
    log: Callable[[str], None] = print

    def load_new(self) -> FileReport:
        """Load each version of a file that was not loaded before.

        Raises:
            ArrivalError: A file or a table cannot be read or written. Batches before it are complete.
        """
        known = dict(self.tables.files.query(f"SELECT {FILE}, {VERSION} FROM {{table}}"))  # noqa: S608
        new = [file for file in self.storage.settled() if known.get(file.path) != file.version]
        report = FileReport()
        for batch in _batches(new):
            with self._staged([batch]) as staged:
                self._apply(staged, _of_files(staged), report)
        return report

    def reload(
        self, days: Sequence[date] | None = None, values: Mapping[date, Sequence[str]] | None = None
    ) -> FileReport:
        """Load the current files again, and replace the rows of whole partitions, or of the table, in one commit.

        Args:
            days: The dates to replace. None replaces the whole table, including its columns.
            values: For each date, the values of `split_by` to replace. None replaces all of them.

        Raises:
            ArrivalError: A file or a table cannot be read or written. The table is unchanged.
        """
        current = {file.path: file for file in self.storage.versions(LOADED)}
        current |= {file.path: file for file in self.storage.versions()}
        chosen = [file for file in current.values() if days is None or file.day in days]
        report = FileReport()
        with self._staged([*_batches(chosen)], values=values, from_start=days is None) as staged:
            where = None if days is None else _of_partitions(days, values, self.arrival.split_by)
            self._apply(staged, where, report, lists_files=values is None)
        return report

    def partition_statistics(self, days: Sequence[date]) -> dict[PartitionOfFiles, Statistics]:
        """Return what the table has of some dates, by partition: rows, and means of declared fractional columns.

        Args:
            days: The dates.
        """
        if not days:
            return {}
        have = {name.lower() for name in self.tables.rows.read().columns}
        kinds = ("DECIMAL", "DOUBLE", "FLOAT")
        fractional = [
            name for name, kind in declared_types(self.arrival).items() if name in have and kind.startswith(kinds)
        ]
        split = f"trim({identifier(self.arrival.split_by)}::VARCHAR)" if self.arrival.split_by else "''"
        means = "".join(f", avg({identifier(name)})::DOUBLE" for name in fractional)
        where = in_list(DATE, [str(day) for day in days])
        rows = self.tables.rows.query(
            f"SELECT {DATE}, {split}, count(*){means} FROM {{table}} WHERE {where} GROUP BY ALL"  # noqa: S608
        )
        return {
            (day, value): Statistics(number, dict(zip(fractional, averages, strict=True)))
            for day, value, number, *averages in rows
        }

    @contextmanager
    def _staged(
        self,
        batches: Sequence[Sequence[FileVersion]],
        *,
        values: Mapping[date, Sequence[str]] | None = None,
        from_start: bool = False,
    ) -> Iterator[StagedFiles]:
        """Parse batches of files into Parquet files, which are removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".arrival-") as text:
            folder = Path(text)
            staged = StagedFiles(folder, {} if from_start else dict(self.tables.rows.read().columns))
            types = {name.lower(): kind for name, kind in staged.columns.items()}
            types = {**declared_types(self.arrival), **types}
            for number, files in enumerate(batches):
                with scratch(folder) as db:
                    copies = folder / "files"
                    copies.mkdir()
                    batch = read_batch(db, self.arrival, self.storage.read(files, copies))
                    typing = separate(self.arrival, types, batch)
                    staged.add(number, batch, typing, values)
                    shutil.rmtree(copies)
                types |= {name.lower(): kind for name, kind in staged.columns.items()}
            yield staged

    def _apply(self, staged: StagedFiles, where: str | None, report: FileReport, *, lists_files: bool = True) -> None:
        """Change the three tables, then move the files.

        Args:
            staged: The parsed files.
            where: A condition on rows that the new ones replace; None for all rows.
            report: The report, which is completed.
            lists_files: Whether the files are recorded as loaded. They are not if only some of their rows were: the
                others may be those of a new version.
        """
        read = in_list(FILE, [file.path for file in staged.files])
        tables = self.tables
        _write(tables.quarantine, QUARANTINE_COLUMNS, staged.quarantine, read)
        before = tables.rows.read()
        change = Change(staged.columns, staged.rows, before.state, replaces=where is None, delete_where=where)
        outcome = tables.rows.apply(change, before) if staged.columns else None
        if lists_files:
            _write(tables.files, FILES_COLUMNS, staged.listed, read)
        report.total = outcome.rows if outcome else report.total
        staged.count(report)
        self.log(
            f"{counted(len(staged.files) - len(staged.bad_files), 'file')} loaded with "
            f"{counted(staged.row_count, 'row')}"
            + (f"; {counted(staged.bad_row_count, 'row')} in the quarantine" if staged.bad_row_count else "")
            + (f"; not loaded: {some([*staged.bad_files])}" if staged.bad_files else "")
        )
        if self.arrival.after_load == "move":
            for file in staged.files:
                if not file.folder:
                    self.storage.move(file, QUARANTINE if file.path in staged.bad_files else LOADED)


def _batches(files: Sequence[FileVersion]) -> Iterator[list[FileVersion]]:
    """Yield the files in batches, oldest date first."""
    batch: list[FileVersion] = []
    size = 0
    for file in sorted(files, key=lambda file: (file.day or date.min, file.path)):
        if batch and (len(batch) == BATCH_FILES or size + file.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _of_files(staged: StagedFiles) -> str:
    """Return the condition on the rows of files that were read, except bad ones: their last good version stays."""
    return in_list(FILE, [file.path for file in staged.files if file.path not in staged.bad_files])


def _of_partitions(days: Sequence[date], values: Mapping[date, Sequence[str]] | None, split: str | None) -> str:
    """Return the condition on the rows of partitions."""
    if values is None or split is None:
        return in_list(DATE, [str(day) for day in days])
    parts = (f"{DATE} = DATE '{day}' AND {in_list(f'trim({identifier(split)}::VARCHAR)', values[day])}" for day in days)
    return " OR ".join(parts)


def _write(table: RawTable, columns: Mapping[str, str], rows: Sequence[Path], where: str) -> None:
    before = table.read()
    table.apply(Change(columns, rows, before.state, delete_where=where), before)
