"""A batch of files in DuckDB's memory: rows by format, as they are written in the files."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.files.places import DATE, FILE, LOADED_AT, VERSION
from lakehouse_analytics.arrivals.files.versions import FileVersion
from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.common.text import suggestion
from lakehouse_analytics.contract.arrivals import FileArrival

if TYPE_CHECKING:
    import duckdb

TEXT = "VARCHAR"
#: Columns that a file cannot have, because every row gets them.
_RESERVED = frozenset({FILE, VERSION, DATE, LOADED_AT})
#: Bytes of the longest row of CSV or JSON lines.
_LONGEST = 16 << 20
#: The number of a file, from the path of its copy.
_NUMBER = "parse_filename({}, true)::INTEGER"


@dataclass
class Batch:
    """The rows of some files.

    The table `raw` of the connection has the rows with the number of their file, and `bad` the rows that do not have
    the shape of their file, as text.

    Attributes:
        db: A connection to DuckDB in memory.
        files: The files, by number.
        columns: Types of the files' columns, by name.
        bad_files: Why nothing of a file is loaded, by the file's number.
        unreadable: The numbers of the bad files that could not be read at all.
        split_by: The column that each file must have; None if it need not have any.
    """

    db: duckdb.DuckDBPyConnection
    files: dict[int, FileVersion]
    columns: dict[str, str] = field(default_factory=dict)
    bad_files: dict[int, str] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    split_by: str | None = None

    def run(self, sql: str) -> list[tuple[object, ...]]:
        """Run a statement and return its rows."""
        rows: list[tuple[object, ...]] = self.db.execute(sql).fetchall()
        return rows

    def add_unreadable(self, files: Mapping[FileVersion, str]) -> None:
        """Add files that could not be read to the bad files, with the reasons."""
        for number, (file, reason) in enumerate(files.items(), max(self.files, default=-1) + 1):
            self.files[number] = file
            self.bad_files[number] = f"it cannot be read now, and the next load tries again: {reason}"
            self.unreadable.add(number)


def read_batch(db: duckdb.DuckDBPyConnection, arrival: FileArrival, files: Sequence[tuple[FileVersion, Path]]) -> Batch:
    """Read files into the tables `raw` and `bad`.

    Args:
        db: A connection to DuckDB in memory. Its tables are replaced.
        arrival: The contract of the source.
        files: The files with their copies, whose names are the numbers of the files.

    """
    # The numbers may have gaps: a file that was deleted since it was listed has no copy.
    paths = {int(path.name.partition(".")[0]): path for _, path in files}
    batch = Batch(db, dict(zip(paths, (file for file, _ in files), strict=True)), split_by=arrival.split_by)
    batch.run("CREATE OR REPLACE TABLE raw (__lh_file INTEGER)")
    batch.run("CREATE OR REPLACE TABLE bad (__lh_file INTEGER, row_number BIGINT, row_text VARCHAR, reason VARCHAR)")
    if arrival.date_format:
        undated = [number for number, file in batch.files.items() if file.day is None]
        batch.bad_files |= dict.fromkeys(undated, "its path has no valid date")
        paths = {number: path for number, path in paths.items() if number not in batch.bad_files}
    match arrival.file_format:
        case "csv":
            _read_csv(batch, paths, arrival.delimiter or ("\t" if ".tsv" in arrival.files else ","))
        case "jsonl":
            _read_json_lines(batch, paths)
        case "parquet":
            _read_parquet(batch, paths)
    return batch


def _read_csv(batch: Batch, paths: Mapping[int, Path], delimiter: str) -> None:
    groups: dict[tuple[str, ...], dict[int, Path]] = defaultdict(dict)
    for number, path in paths.items():
        try:
            header = _header(path, delimiter)
        except (OSError, EOFError, zlib.error, csv.Error) as error:
            batch.bad_files[number] = f"it cannot be read: {error}"
            continue
        if problem := _header_problem(header, batch.split_by):
            batch.bad_files[number] = problem
        else:
            groups[header][number] = path
    for header, group in groups.items():
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header)
        options = (
            f"header = true, columns = {{{columns}}}, delim = {literal(delimiter)}, quote = '\"', escape = '\"', "
            "null_padding = false, strict_mode = true"
        )
        values = {name: identifier(name) for name in header}
        _read_text(batch, group, options, partial(_add, batch, values, dict.fromkeys(header, TEXT)))


def _read_json_lines(batch: Batch, paths: Mapping[int, Path]) -> None:
    # A character that JSON cannot contain separates the values of a line, so that a line is one value.
    options = "header = false, columns = {'line': 'VARCHAR'}, delim = '\x1f', quote = '', escape = ''"
    batch.run("CREATE OR REPLACE TABLE lines (__lh_file INTEGER, line VARCHAR)")
    _read_text(batch, paths, options, lambda reads: batch.run(f"INSERT INTO lines FROM {reads}"))
    is_object = "coalesce(try(json_type(line)) = 'OBJECT', false)"
    batch.run(
        "INSERT INTO bad SELECT __lh_file, NULL, line, 'it is not a JSON object' FROM lines "  # noqa: S608
        f"WHERE NOT {is_object} AND trim(line) <> ''"
    )
    batch.run(f"DELETE FROM lines WHERE NOT {is_object}")  # noqa: S608
    variants = _json_keys(batch)
    values = {
        name: f"coalesce({', '.join(f'line ->> {_json_path(key)}' for key in keys)})" for name, keys in variants.items()
    }
    _add(batch, values, dict.fromkeys(values, TEXT), "lines")
    batch.run("DROP TABLE lines")


def _json_keys(batch: Batch) -> dict[str, list[str]]:
    """Return the keys of the table `lines` by column: keys of different files that differ only in case are one column.

    Files whose keys cannot be columns become bad files, and their lines are removed.
    """
    by_file: dict[int, list[str]] = defaultdict(list)
    for number, key in batch.run(
        "SELECT __lh_file, key FROM (SELECT __lh_file, unnest(json_keys(line)) AS key, rowid AS place "
        "FROM lines) GROUP BY ALL ORDER BY min(place), key"
    ):
        assert isinstance(number, int)  # noqa: S101
        by_file[number].append(str(key))
    bad = {number: problem for number, keys in by_file.items() if (problem := _header_problem(keys, batch.split_by))}
    batch.bad_files |= bad
    if bad:
        batch.run(f"DELETE FROM lines WHERE __lh_file IN ({', '.join(map(str, bad))})")  # noqa: S608
    found: dict[str, tuple[str, list[str]]] = {}
    for number, keys in by_file.items():
        for key in keys if number not in bad else ():
            variants = found.setdefault(key.lower(), (key, []))[1]
            if key not in variants:
                variants.append(key)
    return dict(found.values())


def _json_path(key: str) -> str:
    return literal("$." + json.dumps(key, ensure_ascii=False))


def _read_parquet(batch: Batch, paths: Mapping[int, Path]) -> None:
    import duckdb

    for number, path in paths.items():
        reads = f"read_parquet({literal(str(path))})"
        try:
            types = {str(row[0]): str(row[1]) for row in batch.run(f"DESCRIBE FROM {reads}")}
            if problem := _header_problem([*types], batch.split_by):
                batch.bad_files[number] = problem
            else:
                values = {name: identifier(name) for name in types}
                _add(batch, values, types, f"(SELECT {number} AS __lh_file, * FROM {reads})")  # noqa: S608
        except duckdb.Error as error:
            batch.bad_files[number] = f"it cannot be read: {first_line(error)}"


def _read_text(batch: Batch, paths: Mapping[int, Path], options: str, insert: Callable[[str], object]) -> None:
    """Read text files of one shape.

    Lines of another shape become bad rows, and files that DuckDB cannot read, such as damaged archives, bad files.

    Args:
        batch: The batch.
        paths: The copies of the files, by number.
        options: Options of `read_csv`.
        insert: Stores the rows of a query that reads the files. It is called for fewer files if DuckDB refuses one.
    """
    import duckdb

    groups = [[*paths.items()]] if paths else []
    while groups:
        group = groups.pop()
        names = ", ".join(literal(str(path)) for _, path in group)
        _drop_rejects(batch)
        try:
            reads = (
                f"read_csv([{names}], {options}, auto_detect = false, filename = '__lh_source', store_rejects = true, "
                f"rejects_limit = 0, max_line_size = {_LONGEST})"
            )
            insert(f"(SELECT {_NUMBER.format('__lh_source')} AS __lh_file, * EXCLUDE (__lh_source) FROM {reads})")  # noqa: S608
        except duckdb.Error as error:
            if len(group) == 1:
                batch.bad_files[group[0][0]] = f"it cannot be read: {first_line(error)}"
            else:
                groups += [group[: len(group) // 2], group[len(group) // 2 :]]
            continue
        batch.run(
            f"INSERT INTO bad SELECT {_NUMBER.format('file_path')}, line, any_value(csv_line), "  # noqa: S608
            "any_value(error_message) FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
            "GROUP BY file_path, line"
        )
    _drop_rejects(batch)


def _drop_rejects(batch: Batch) -> None:
    for table in ("reject_errors", "reject_scans"):
        batch.run(f"DROP TABLE IF EXISTS {table}")


def _add(batch: Batch, columns: Mapping[str, str], types: Mapping[str, str], reads: str) -> None:
    """Append rows to the table `raw`, with the columns that it does not have yet.

    Args:
        batch: The batch.
        columns: The expression of each column.
        types: The type of each column.
        reads: A table or query with the rows, and the column `__lh_file`.
    """
    have = {name.lower(): name for name in batch.columns}
    targets = []
    for name in columns:
        known = have.get(name.lower(), name)
        if known not in batch.columns:
            batch.run(f"ALTER TABLE raw ADD COLUMN {identifier(name)} {types[name]}")
            batch.columns[name] = types[name]
        elif batch.columns[known] != types[name]:
            # Files disagree on the type: with text, each value is compared with the type of the table later.
            batch.run(f"ALTER TABLE raw ALTER COLUMN {identifier(known)} TYPE VARCHAR")
            batch.columns[known] = TEXT
        targets.append(identifier(known))
    values = ", ".join(["__lh_file", *(f"({expression})" for expression in columns.values())])
    batch.run(f"INSERT INTO raw ({', '.join(['__lh_file', *targets])}) SELECT {values} FROM {reads}")  # noqa: S608


def _header(path: Path, delimiter: str) -> tuple[str, ...]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        # The csv module, because the first row may have line breaks in quotes.
        return tuple(name.strip() for name in next(csv.reader(file, delimiter=delimiter), []))


def _header_problem(columns: Sequence[str], split_by: str | None) -> str | None:
    """Return why the columns of a file cannot be those of a table; None if they can."""
    if problem := _name_problem(columns):
        return problem
    if split_by is not None and split_by.lower() not in (name.lower() for name in columns):
        return f"it has no column {split_by!r} (split_by); {suggestion(split_by, columns, others='columns')}"
    return None


def _name_problem(columns: Sequence[str]) -> str | None:
    lower = [name.lower() for name in columns]
    if not any(lower):
        return "it has no columns: the first line must have their names"
    if any("\ufffd" in name for name in lower):
        return "its first line is not UTF-8"
    if "" in lower:
        return f"column {lower.index('') + 1} has no name in the first line"
    if double := next((name for name in lower if lower.count(name) > 1), None):
        return f"it has several columns {double!r}; the case of names does not distinguish them"
    if reserved := next((name for name in lower if name in _RESERVED or name.startswith("__lh_")), None):
        return f"its column {reserved!r} has the name of a column that every loaded row gets"
    return None


def first_line(error: Exception) -> str:
    """Return the first line of an error of DuckDB, without the paths of copies."""
    return str(error).strip().splitlines()[0][:300]
