"""Short-lived connections to the DuckDB file, with errors that say what to do. This module does not import Dagster.

A writer excludes all other processes, readers included, so connections are kept short.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.base import DatabaseError

if TYPE_CHECKING:
    import duckdb

_HOLDER = re.compile(r"Conflicting lock is held in (?P<who>.*?\(PID \d+\)[^.]*)")  # codespell:ignore held
VARIABLE = "LAKEHOUSE_DUCKDB_PATH"


@contextmanager
def connect(
    path: Path, *, read_only: bool = True, timeout: float = 60.0, log: Callable[[str], None] | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database file, waiting while another process holds it.

    Args:
        path: The DuckDB file. It is created, with its folder, unless `read_only`.
        read_only: Readers exclude writers but not each other.
        timeout: Seconds to wait for the lock.
        log: Called once with a message that names the holder if the file is locked.

    Raises:
        DatabaseError: The file is missing, not writable, not a DuckDB file, or locked for longer than `timeout`. The
            message names the holder of the lock if DuckDB knows it.
    """
    import duckdb

    if read_only and not path.is_file():
        raise DatabaseError(f"{path} does not exist: run `lakehouse ingest` first, or set {VARIABLE}.")
    if not read_only:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"{path.parent} cannot be created ({error.strerror}): set {VARIABLE}.") from None
    deadline = time.monotonic() + timeout
    delay = 0.05
    waits = False
    while True:
        try:
            connection = duckdb.connect(str(path), read_only=read_only)
            break
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise DatabaseError(f"{path} cannot be opened: {_first_line(error)}. Check {VARIABLE}.") from None
            if time.monotonic() >= deadline:
                raise DatabaseError(_locked(path, error, timeout)) from None
            if log and not waits:
                log(f"{path} is locked by {_holder(error)}; waiting for up to {timeout:g} s")
            waits = True
        except duckdb.Error as error:
            raise DatabaseError(f"{path} cannot be opened: {_first_line(error)}. Check {VARIABLE}.") from None
        time.sleep(delay)
        delay = min(delay * 2, 1.0)
    try:
        yield connection
    finally:
        connection.close()


def _locked(path: Path, error: Exception, timeout: float) -> str:
    return (
        f"{path} is locked by {_holder(error)}; waited {timeout:g} s. Close that program (a DuckDB shell, a BI tool, "
        "another run), or set LAKEHOUSE_DUCKDB_LOCK_TIMEOUT higher."
    )


def _holder(error: Exception) -> str:
    holder = _HOLDER.search(str(error))
    return holder["who"].strip() if holder else "a process DuckDB cannot name"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def qualified(db: duckdb.DuckDBPyConnection, *names: str) -> str:
    """Return the quoted name of a schema or a table of the connection's own file, with the name of the database.

    Without it, a schema with the name of the file is ambiguous.
    """
    row = db.execute("SELECT current_database()").fetchone()
    assert row  # noqa: S101  # there is one
    return ".".join(map(identifier, (row[0], *names)))
