"""Reads whole tables of the DuckDB file in Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.engines.base import BATCH_ROWS, DatabaseError, TableReader
from lakehouse_analytics.engines.duckdb.database import connect

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def read_table(path: Path, name: str, *, timeout: float) -> Iterator[TableReader]:
    """Read a table while the block runs. No other process can write the file in the meantime.

    Args:
        path: The DuckDB file.
        name: The quoted name of the table.
        timeout: Seconds to wait while another process has locked the file.

    Raises:
        DatabaseError: The file cannot be opened, or has no such table.
    """
    import duckdb

    with connect(path, timeout=timeout) as connection:
        try:
            connection.execute("set TimeZone = 'UTC'")
            [(rows,)] = connection.execute(f"select count(*) from {name}").fetchall()  # noqa: S608
            reader = connection.sql(f"select * from {name}").to_arrow_reader(BATCH_ROWS)  # noqa: S608
        except duckdb.Error as error:
            raise DatabaseError(f"{name} cannot be read from {path}: {_first_line(error)}.") from None
        yield TableReader(reader.schema, int(rows), _batches(reader, f"{name} of {path}"))


def _batches(reader: pa.RecordBatchReader, what: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except Exception as error:
        raise DatabaseError(f"{what} cannot be read: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
