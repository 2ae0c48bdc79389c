"""Checks a change against the columns of its table and its Parquet files, and builds the SQL that both storages use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError, Change
from lakehouse_analytics.arrivals.raw_tables.kinds import fits, normalized
from lakehouse_analytics.common.scratch import ARRIVALS, scratch_folder
from lakehouse_analytics.common.sql import identifier, literal

if TYPE_CHECKING:
    import duckdb

#: Settings that limit the memory of DuckDB, and what it prints.
SETTINGS = (
    "memory_limit = '256MB'",
    "threads = 2",
    "preserve_insertion_order = false",
    "enable_external_file_cache = false",
    "write_buffer_row_group_count = 1",
    "enable_progress_bar = false",
    "TimeZone = 'UTC'",
)
_WITH_INFINITY = {"DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}
_LARGE = 30 << 20  # bytes of a row group that two threads can read within the limit above


@contextmanager
def scratch() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in memory, as a tool, with its spill files in a private folder."""
    import duckdb

    with scratch_folder(ARRIVALS) as folder, duckdb.connect() as db:
        for setting in (*SETTINGS, f"temp_directory = {literal(str(folder))}"):
            db.execute(f"SET {setting}")
        # `old` rows are a stream whose size is not known: a join must keep the other side in memory.
        db.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        yield db


@dataclass(frozen=True)
class NewRows:
    """The checked rows of a change.

    Attributes:
        change: The change.
        columns: All columns of the table after the change, with the types in which they are stored.
        added: Those of them that the table does not have yet.
        stored: The columns of the new rows that are stored: name in the files by name in the table.
        finite: Whether infinite dates and timestamps are an error.
    """

    change: Change
    columns: Mapping[str, str]
    added: Mapping[str, str]
    stored: Mapping[str, str]
    finite: bool = False

    @property
    def select(self) -> str | None:
        """A query for the new rows, with the columns and types of the table. None if there are none."""
        if not self.change.rows:
            return None
        values = ", ".join(f"{self._value(name)} AS {identifier(name)}" for name in self.stored)
        return f"SELECT {values} FROM {_parquet(self.change.rows)}"  # noqa: S608  # names and paths are quoted

    def _value(self, name: str) -> str:
        value = f"CAST({identifier(self.stored[name])} AS {self.columns[name]})"
        if not self.finite or self.columns[name] not in _WITH_INFINITY:
            return value
        message = f"column {name} contains an infinite value, which the storage does not have. Load null instead"
        return f"CASE WHEN isfinite({value}) OR {value} IS NULL THEN {value} ELSE error({literal(message)}) END"

    @property
    def keys(self) -> str | None:
        """A query for the distinct keys whose rows are removed. None if there are none."""
        queries = []
        if self.change.key and self.change.rows:
            kinds = {key: (self.stored[key], self.columns[key]) for key in self._key}
            queries.append(_cast(kinds, self.change))
        if self.change.delete_keys:
            casts = ", ".join(
                f"CAST({identifier(key)} AS {self.columns[key]}) AS {identifier(key)}" for key in self._key
            )
            queries.append(f"SELECT DISTINCT {casts} FROM {_parquet([self.change.delete_keys])}")  # noqa: S608
        return " UNION ".join(queries) or None  # without duplicates

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the key, as the table names them."""
        return tuple(self._key)

    @property
    def _key(self) -> list[str]:
        names = {name.lower(): name for name in self.columns}
        return [names[key.lower()] for key in self.change.key]


def _limit_memory(db: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Allow for files with large row groups, which DuckDB reads as a whole and writes as large ones."""
    sizes = [0]
    for path in files:
        sizes += [
            size for (size,) in db.execute("SELECT row_group_bytes FROM parquet_metadata(?)", [str(path)]).fetchall()
        ]
    if max(sizes) > _LARGE:
        db.execute("SET threads = 1")
        db.execute(f"SET memory_limit = '{max(256, 144 + 3 * (max(sizes) >> 20))}MB'")


def check(
    db: duckdb.DuckDBPyConnection,
    change: Change,
    existing: Mapping[str, str],
    stored_type: Callable[[str], str],
    *,
    finite: bool = False,
) -> NewRows:
    """Return the checked rows of a change.

    Args:
        db: A connection that can read the files.
        change: The change.
        existing: Columns of the table, with their types. Empty if it does not exist.
        stored_type: Returns the type in which the storage stores a type.
        finite: Whether infinite dates and timestamps are an error.

    Raises:
        ArrivalError: A column of the change or of a file does not fit the table, or the new rows contain a key twice.
    """
    _limit_memory(db, change.rows)
    declared = {name: normalized(kind) for name, kind in change.columns.items()}
    _check_names(declared)
    columns = {} if change.replaces else dict(existing)
    names = {name.lower(): name for name in columns}
    added = {}
    for name, kind in declared.items():
        stored = stored_type(kind)
        known = names.setdefault(name.lower(), name)
        if known not in columns:
            columns[known] = added[known] = stored
        elif not fits(stored, columns[known]):
            raise ArrivalError(
                f"column {known} has the type {columns[known]}, but the new rows have {stored}. "
                "Load the table from the beginning, or convert the values to the type of the column"
            )
    if not columns:
        raise ArrivalError("a new table needs at least one column")
    kinds = {**columns, **{names[name.lower()]: kind for name, kind in declared.items()}}
    key = _known_key(change, names)
    found = _columns_of(db, change.rows, kinds) if change.rows else {}
    rows = NewRows(change, columns, added, found, finite)
    if change.rows:
        if not found:
            raise ArrivalError(f"{_names(change.rows)}: none of the columns {', '.join(columns)} is in the file")
        _check_key(db, rows, key)
    if change.delete_keys:
        in_file = _columns_of(db, [change.delete_keys], {name: kinds[name] for name in key})
        if missing := [name for name in key if name not in in_file]:
            raise ArrivalError(f"{change.delete_keys}: column {missing[0]} of the key is missing")
    return rows


def _check_names(declared: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name in declared:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ArrivalError(f"the columns {other} and {name} differ only in case, which SQL does not distinguish")


def _known_key(change: Change, names: Mapping[str, str]) -> list[str]:
    if change.delete_keys and not change.key:
        raise ArrivalError("rows cannot be deleted by their keys: the key of the table is not known")
    if missing := [key for key in change.key if key.lower() not in names]:
        raise ArrivalError(f"the table has no column {missing[0]}, which is part of the key")
    return [names[key.lower()] for key in change.key]


def _columns_of(db: duckdb.DuckDBPyConnection, files: Sequence[Path], kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of files that the table has: name in the files by name in the table."""
    names = {name.lower(): name for name in kinds}
    found: dict[str, str] = {}
    for file in files:
        for file_name, kind, *_ in db.execute(f"DESCRIBE FROM {_parquet([file])}").fetchall():
            name = names.get(file_name.lower())
            if name is None:
                continue
            if not fits(kind, kinds[name]):
                raise ArrivalError(
                    f"{file}: column {file_name} has the type {kind}; expected {kinds[name]}, the type of the table"
                )
            found[name] = file_name
    return found


def _check_key(db: duckdb.DuckDBPyConnection, rows: NewRows, key: Sequence[str]) -> None:
    if not key:
        return
    if missing := [name for name in key if name not in rows.stored]:
        raise ArrivalError(f"{_names(rows.change.rows)}: column {missing[0]} of the key is missing")
    keys = _cast({name: (rows.stored[name], rows.columns[name]) for name in key}, rows.change)
    twice = db.execute(f"SELECT *, count(*) FROM ({keys}) GROUP BY ALL HAVING count(*) > 1 LIMIT 1").fetchone()  # noqa: S608
    if twice:
        values = ", ".join(f"{name} = {value!r}" for name, value in zip(key, twice, strict=False))
        raise ArrivalError(
            f"{_names(rows.change.rows)}: {twice[-1]} of the new rows have the key {values}; expected one row for each "
            "key. Remove the duplicates, or choose other columns for the key"
        )


def _cast(columns: Mapping[str, tuple[str, str]], change: Change) -> str:
    casts = (
        f"CAST({identifier(file_name)} AS {kind}) AS {identifier(name)}" for name, (file_name, kind) in columns.items()
    )
    return f"SELECT {', '.join(casts)} FROM {_parquet(change.rows)}"  # noqa: S608  # names and paths are quoted


def _parquet(files: Sequence[Path]) -> str:
    paths = ", ".join(literal(str(file)) for file in files)
    return f"read_parquet([{paths}], union_by_name = true)"


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:3])) + (", …" if len(files) > 3 else "")
