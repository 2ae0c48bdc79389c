"""Loads files into the table of a source, exactly one row per row of the current version of each file.

Three tables belong to a source: its own, `<table>__files` with each file that was read, and `<table>__quarantine` with
the rows that were not loaded. A load changes the quarantine first, then the rows, then the list of files. Each change
first removes what the table has of the same files, so a load that was killed in between is repeated without loss and
without duplicates.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from lakehouse_analytics.arrivals.files.batch import read_batch
from lakehouse_analytics.arrivals.files.places import DATE, FILE, LOADED, QUARANTINE, VERSION
from lakehouse_analytics.arrivals.files.rows import declared_types, separate
from lakehouse_analytics.arrivals.files.staging import (
    BAD,
    FILES_COLUMNS,
    QUARANTINE_COLUMNS,
    UNREADABLE,
    FileReport,
    PartitionOfFiles,
    StagedFiles,
    in_list,
    scratch,
)
from lakehouse_analytics.arrivals.files.storage import FileStorage
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change, RawTable
from lakehouse_analytics.common.names import counted, some
from lakehouse_analytics.common.scratch import ARRIVALS, scratch_folder
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.contract.arrivals import FileArrival

#: Maximum number of files, and of bytes, of one batch, which is one commit.
BATCH_FILES, BATCH_BYTES = 2_000, 512 << 20
#: Files that are moved at the same time.
_MOVES = 16


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
    _may_pass: bool = field(default=False, init=False)

    def load_new(self, run_id: str = "") -> Iterator[FileReport]:
        """Load each version of a file that was not loaded before, and yield a report per batch, which is one commit.

        Args:
            run_id: The Dagster run, which is stored with the list of files. See `last_batch`.

        Raises:
            ArrivalError: A file or a table cannot be read or written. Batches before it are complete.
        """
        self.storage.finish_moves()
        listed = f"SELECT {FILE}, {VERSION}, status FROM {{table}}"  # noqa: S608
        known = {path: (version, status) for path, version, status in self.tables.files.query(listed)}
        new: list[FileVersion] = []
        left: dict[FileVersion, str] = {}
        for file in self.storage.settled():
            version, status = known.get(file.path, ("", ""))
            if version != file.version or status == UNREADABLE:
                new.append(file)
            elif self.arrival.after_load == "move":
                # An earlier load was killed before it moved the file.
                left[file] = QUARANTINE if status == BAD else LOADED
        _move(self.storage, left, self.log)
        total = FileReport()
        for batch in _batches(new):
            report = self._load_batch(batch, known, run_id)
            total.add(report)
            yield report
        self._refuse_unreadable(total.unreadable, total.bad_files, total.files)

    def _load_batch(self, batch: Sequence[FileVersion], known: Mapping[str, object], run_id: str) -> FileReport:
        report = FileReport()
        with self._staged([batch], records_unreadable=True) as staged:
            staged.partitions.update(self._replaced(staged, known))
            replaces = _Replaced(
                rows=_of_files(staged),
                files=in_list(FILE, [file.path for file in staged.files]),
                quarantine=in_list(FILE, staged.paths_of_read),
            )
            partitions = [[day.isoformat(), value] for day, value in staged.partitions]
            again = any(file.path in known for file in staged.files)
            self._apply(staged, replaces, report, {"run_id": run_id, "partitions": partitions}, first_time=not again)
        return report

    def _refuse_unreadable(self, unreadable: Collection[str], reasons: Mapping[str, str], loaded: int) -> None:
        """Fail if no file could be read.

        Raises:
            ArrivalError: No file could be read.
        """
        if unreadable and not loaded and len(unreadable) == len(reasons):
            found = [f"{path}: {reasons[path]}" for path in sorted(unreadable)]
            raise ArrivalError(
                f"{self.storage.pattern.text}: none of the new files can be read: {some(found, between='; ')}",
                transient=self._may_pass,
            )

    def last_batch(self) -> tuple[str, list[PartitionOfFiles]]:
        """Return the run that loaded the last batch, and the partitions of the batch.

        If that run has died, Dagster may not know of them.
        """
        state = self.tables.files.read().state
        # Older releases stored null for rows that are in no partition.
        found = [
            (date.fromisoformat(day), value)
            for day, value in state.get("partitions", ())
            if day is not None and value is not None
        ]
        return str(state.get("run_id", "")), found

    def reload(
        self, days: Sequence[date] | None = None, values: Mapping[date, Sequence[str]] | None = None
    ) -> FileReport:
        """Load the current files again, and replace the rows of whole partitions, or of the table, in one commit.

        The rows of a bad file stay as they are, as in `load_new`.

        Args:
            days: The dates to replace. None replaces the whole table, including its columns.
            values: For each date, the values of `split_by` to replace. None replaces all of them.

        Raises:
            ArrivalError: A file or a table cannot be read or written, or the whole table would lose the rows of a bad
                file. The table is unchanged.
        """
        self.storage.finish_moves()
        current = {file.path: file for file in self.storage.versions(LOADED)}
        current |= {file.path: file for file in self.storage.settled()}
        chosen = [file for file in current.values() if days is None or file.day in days]
        report = FileReport()
        with self._staged([*_batches(chosen)], values=values, from_start=days is None) as staged:
            self._refuse_unreadable(staged.unreadable, staged.bad_files, len(staged.files) - len(staged.bad_files))
            if days is None:
                _refuse_loss(self.tables.rows, staged)
                self._apply(staged, _Replaced(None, "true", "true"), report, {})
                return report
            bad = f" AND NOT {in_list(FILE, [*staged.bad_files])}" if staged.bad_files else ""
            unread = f" AND NOT {in_list(FILE, [*staged.unreadable])}" if staged.unreadable else ""
            of_days = in_list(DATE, [str(day) for day in days])
            of_files = in_list(FILE, [file.path for file in staged.files])
            rows = f"({_of_partitions(days, values, self.arrival.split_by)}){bad}"
            if values is None:
                self._apply(staged, _Replaced(rows, of_days + unread, of_days + unread), report, {})
            else:
                # The other rows of a file may be those of a new version, so it is not recorded as loaded. Files that
                # were deleted are forgotten, so that they are loaded if they are restored.
                staged.listed = []
                gone = f"{of_days} AND NOT {of_files}" if staged.files else of_days
                self._apply(staged, _Replaced(rows, gone, in_list(FILE, staged.paths_of_read)), report, None)
        return report

    def _replaced(self, staged: StagedFiles, known: Mapping[str, object]) -> dict[PartitionOfFiles, int]:
        """Return the partitions from which a new version of a file removes rows, and the dates of all good files.

        They count 0 rows: a new version may have none in them. Rows that were loaded before the contract had a date or
        `split_by` are in no partition.
        """
        good = [file for file in staged.files if file.path not in staged.bad_files]
        found = {(file.day, ""): 0 for file in good if file.day} if self.arrival.split_by is None else {}
        again = [file.path for file in good if file.path in known]
        split = (self.arrival.split_by or FILE).lower()
        if again and self.arrival.date_format and split in map(str.lower, self.tables.rows.read().columns):
            rows = self.tables.rows.query(
                f"SELECT DISTINCT {DATE}, {self._split} FROM {{table}} WHERE {in_list(FILE, again)}"  # noqa: S608
            )
            is_split = self.arrival.split_by is not None
            found |= dict.fromkeys(((day, value) for day, value in rows if day and (value or not is_split)), 0)
        return found

    @property
    def _split(self) -> str:
        """The expression of a row's value of `split_by`, or of an empty text without one."""
        return f"trim({identifier(self.arrival.split_by)}::VARCHAR)" if self.arrival.split_by else "''"

    def partition_statistics(self, days: Sequence[date]) -> dict[PartitionOfFiles, Statistics]:
        """Return what the table has of some dates, by partition: rows, and means of declared fractional columns.

        Args:
            days: The dates.
        """
        if not days:
            return {}
        declared = {name.lower() for name in self.arrival.columns}
        fractional = [
            name
            for name, kind in self.tables.rows.read().columns.items()
            if name.lower() in declared and kind.startswith(("DECIMAL", "DOUBLE", "FLOAT"))
        ]
        means = "".join(f", avg({identifier(name)})::DOUBLE" for name in fractional)
        where = in_list(DATE, [str(day) for day in days])
        rows = self.tables.rows.query(
            f"SELECT {DATE}, {self._split}, count(*){means} FROM {{table}} WHERE {where} GROUP BY ALL"  # noqa: S608
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
        records_unreadable: bool = False,
    ) -> Iterator[StagedFiles]:
        """Parse batches of files into Parquet files, which are removed afterwards."""
        with scratch_folder(ARRIVALS, self.folder) as folder:
            columns = {} if from_start else dict(self.tables.rows.read().columns)
            staged = StagedFiles(folder, columns, records_unreadable)
            types = {name.lower(): kind for name, kind in staged.columns.items()}
            types = {**declared_types(self.arrival), **types}
            for number, files in enumerate(batches):
                with scratch(folder) as db:
                    copies = folder / "files"
                    copies.mkdir()
                    found = self.storage.read(files, copies)
                    self._may_pass |= bool(found.passing)
                    batch = read_batch(db, self.arrival, found.read)
                    batch.add_unreadable(found.unreadable)
                    typing = separate(self.arrival, types, batch)
                    staged.add(number, batch, typing, values)
                    shutil.rmtree(copies)
                types |= {name.lower(): kind for name, kind in staged.columns.items()}
            yield staged

    def _apply(
        self,
        staged: StagedFiles,
        replaced: _Replaced,
        report: FileReport,
        state: Mapping[str, object] | None,
        *,
        first_time: bool = False,
    ) -> None:
        """Change the three tables, then move the files.

        Args:
            staged: The parsed files.
            replaced: What the new rows replace.
            report: The report, which is completed.
            state: Stored with the list of files; None if the files are not recorded as loaded, and not moved.
            first_time: Whether none of the files was read before, so that the quarantine has no rows of them.
        """
        tables = self.tables
        if staged.bad_row_count or not first_time:
            _write(tables.quarantine, QUARANTINE_COLUMNS, staged.quarantine, replaced.quarantine)
        before = tables.rows.read()
        change = Change(
            staged.columns, staged.rows, before.state, replaces=replaced.rows is None, delete_where=replaced.rows
        )
        outcome = tables.rows.apply(change, before) if staged.columns else None
        _write(tables.files, FILES_COLUMNS, staged.listed, replaced.files, state)
        report.total = outcome.rows if outcome else report.total
        staged.count(report)
        self.log(
            f"{counted(len(staged.files) - len(staged.bad_files), 'file')} loaded with "
            f"{counted(staged.row_count, 'row')}"
            + (f"; {counted(staged.bad_row_count, 'row')} in the quarantine" if staged.bad_row_count else "")
            + (f"; not loaded: {some([*staged.bad_files])}" if staged.bad_files else "")
        )
        if self.arrival.after_load == "move" and state is not None:
            read = [file for file in staged.files if not file.folder and file.path not in staged.unreadable]
            folders = {file: QUARANTINE if file.path in staged.bad_files else LOADED for file in read}
            _move(self.storage, folders, self.log)


def _move(storage: FileStorage, folders: Mapping[FileVersion, str], log: Callable[[str], None]) -> None:
    """Move files to folders; if that fails, the next load tries again."""

    def move(file: FileVersion) -> ArrivalError | None:
        try:
            storage.move(file, folders[file])
        except ArrivalError as error:
            return error
        return None

    with ThreadPoolExecutor(_MOVES) as threads:
        for file, error in zip(folders, threads.map(move, folders), strict=True):
            if error:
                log(f"{file.path} was loaded, but not moved; the next load tries again: {error}")


@dataclass(frozen=True)
class _Replaced:
    """Conditions on the rows that new ones replace, in each table; `rows` is None for all rows and columns."""

    rows: str | None
    files: str
    quarantine: str


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


def _refuse_loss(table: RawTable, staged: StagedFiles) -> None:
    """Refuse to replace a table without the rows of files that have become bad.

    Raises:
        ArrivalError: A bad file has rows in the table.
    """
    rows = table.query(f"SELECT DISTINCT {FILE} FROM {{table}} WHERE {in_list(FILE, [*staged.bad_files])}")  # noqa: S608
    if rows:
        reasons = [f"{path}: {staged.bad_files[path]}" for (path,) in rows]
        raise ArrivalError(
            f"The table has rows of files that are bad now, and would lose them: {some(reasons, between='; ')}. "
            "Correct or delete these files, and launch the load again."
        )


def _of_files(staged: StagedFiles) -> str:
    """Return the condition on the rows of files that were read, except bad ones: their last good version stays."""
    return in_list(FILE, [file.path for file in staged.files if file.path not in staged.bad_files])


def _of_partitions(days: Sequence[date], values: Mapping[date, Sequence[str]] | None, split: str | None) -> str:
    """Return the condition on the rows of partitions."""
    if values is None or split is None:
        return in_list(DATE, [str(day) for day in days])
    parts = (f"{DATE} = DATE '{day}' AND {in_list(f'trim({identifier(split)}::VARCHAR)', values[day])}" for day in days)
    return " OR ".join(parts)


def _write(
    table: RawTable,
    columns: Mapping[str, str],
    rows: Sequence[Path],
    where: str,
    state: Mapping[str, object] | None = None,
) -> None:
    before = table.read()
    table.apply(Change(columns, rows, before.state if state is None else state, delete_where=where), before)
