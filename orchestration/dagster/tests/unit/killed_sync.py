"""A sync in a process of its own, which may be killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import Any

from lakehouse_analytics.arrivals.raw_tables.base import Change, Outcome, TableState
from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
from source_databases import SourceDatabase, Sync

#: Where a sync is killed: a number of seconds after its start, or beside its only commit.
Kill = float | str | None

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["killed_sync", "pyarrow.parquet", "duckdb", "pymysql", "adbc_driver_postgresql.dbapi", "numpy", "duckdb.sqltypes"]
)


class Dying(DuckDBTable):
    """A raw table whose process is killed."""

    when = "never"

    def apply(self, change: Change, before: TableState) -> Outcome:
        """See `RawTable`."""
        if self.when == "before the commit":
            _die()
        outcome = super().apply(change, before)
        if self.when == "after the commit":
            _die()
        return outcome


@dataclass
class DyingSync(Sync):
    """A sync of such a table."""

    @property
    def raw(self) -> Dying:
        """The raw table."""
        return Dying(self.folder / self.file, 30, "raw", "t")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(sync: DyingSync, contract: dict[str, Any], kill: Kill) -> None:
    if isinstance(kill, str):
        Dying.when = kill
    elif kill is not None:
        timer = threading.Timer(kill, _die)
        timer.daemon = True
        timer.start()
    sync(**contract)


def run(sync: Sync, contract: dict[str, Any], kill: Kill) -> bool:
    """Sync in another process; return whether it was killed."""
    source = SourceDatabase(replace(sync.source.server, process=None), sync.source.name)
    dying = DyingSync(source, sync.folder, sync.table, sync.file)
    process = _PROCESSES.Process(target=_run, args=(dying, contract, kill))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
