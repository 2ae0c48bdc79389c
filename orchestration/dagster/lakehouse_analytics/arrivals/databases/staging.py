"""Parquet files with the rows and keys that a sync has read, and their comparison in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.arrivals.databases.base import Nullified, SourceColumn, SourceTable
from lakehouse_analytics.arrivals.databases.plan import SYNCED_AT
from lakehouse_analytics.common.sql import identifier, literal

if TYPE_CHECKING:
    import duckdb

#: Beside it, the process needs memory for Python, its libraries, and the batches that are read.
_MEMORY = "128MB"


@dataclass
class Staged:
    """A Parquet file. It does not exist if it would have no rows.

    Attributes:
        path: The file.
        rows: Number of rows.
        bytes: Size in memory (Arrow), before compression.
    """

    path: Path
    rows: int = 0
    bytes: int = 0

    @property
    def files(self) -> list[Path]:
        """The file, if it exists."""
        return [self.path] if self.rows else []


def stage(
    table: SourceTable,
    columns: Sequence[SourceColumn],
    where: str,
    path: Path,
    nullified: Nullified,
    *,
    synced_at: datetime | None = None,
) -> Staged:
    """Write rows of a table to a Parquet file, batch by batch.

    Args:
        table: The table.
        columns: The columns to read.
        where: The condition that the rows meet.
        path: The file, which is overwritten.
        nullified: Counts values that become NULL.
        synced_at: Value of the metadata column. None writes none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    staged = Staged(path)
    path.unlink(missing_ok=True)
    writer: pq.ParquetWriter | None = None
    try:
        for batch in table.batches(columns, where, nullified):
            staged.rows += batch.num_rows
            staged.bytes += batch.nbytes
            if synced_at:
                times = pa.repeat(pa.scalar(synced_at, pa.timestamp("us", "UTC")), batch.num_rows)
                batch = batch.append_column(SYNCED_AT, times)  # noqa: PLW2901
            if writer is None:
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd", compression_level=1)
            writer.write_batch(batch)
    finally:
        if writer:
            writer.close()
    return staged


def first_duplicate(staged: Staged, key: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the values of a key that several rows have; None if there is none."""
    if not staged.rows:
        return None
    names = ", ".join(map(identifier, key))
    with _duckdb(staged.path.parent) as db:
        found = db.execute(
            f"SELECT {names} FROM {_parquet(staged.files)} GROUP BY ALL HAVING count(*) > 1 LIMIT 1"  # noqa: S608
        ).fetchone()
    return dict(zip(key, found, strict=True)) if found else None


def digest(staged: Sequence[Staged]) -> str:
    """Return a text that is the same for the same rows, in any order."""
    found = []
    for each in staged:
        if each.rows:
            with _duckdb(each.path.parent) as db:
                names = db.execute(f"DESCRIBE FROM {_parquet(each.files)}").fetchall()
                columns = ", ".join(identifier(name) for name, *_ in names if name != SYNCED_AT)
                sql = f"SELECT sum(hash({columns})::HUGEINT)::VARCHAR FROM {_parquet(each.files)}"  # noqa: S608
                row = db.execute(sql).fetchone()
                found.append(f"{each.rows}/{row[0] if row else ''}")
        else:
            found.append("0")
    return " ".join(found)


def subtract(keys: Path, others: Sequence[Path], columns: Sequence[SourceColumn], path: Path) -> Staged:
    """Write the keys that are in none of the other files.

    Args:
        keys: A Parquet file.
        others: Other Parquet files, which may have more columns.
        columns: The columns of the key.
        path: The file with the result.
    """
    staged = Staged(path)
    path.unlink(missing_ok=True)
    # The raw table may store a key in a wider type.
    casts = ", ".join(f"CAST({identifier(each.name)} AS {each.kind}) AS {identifier(each.name)}" for each in columns)
    sql = " EXCEPT ".join(f"SELECT {casts} FROM {_parquet([file])}" for file in (keys, *others))  # noqa: S608
    with _duckdb(path.parent) as db:
        row = db.execute(f"COPY ({sql}) TO {literal(str(path))} (FORMAT parquet)").fetchone()
    staged.rows = row[0] if row else 0
    return staged


@contextmanager
def _duckdb(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")  # of casts between times with and without a zone
        db.execute(f"SET memory_limit = '{_MEMORY}'")
        db.execute("SET threads = 2")
        db.execute("SET preserve_insertion_order = false")
        db.execute("SET enable_progress_bar = false")
        db.execute(f"SET temp_directory = {literal(str(folder / 'spilled'))}")
        yield db


def _parquet(files: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(literal(str(file)) for file in files)}])"
