"""A sync in a process of its own, which may be killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lakehouse_analytics.arrivals.raw_tables.base import Change, Outcome, RawTable, TableState
from source_databases import SourceDatabase, Sync

#: Where a sync is killed: a number of seconds after its start, or beside its only commit.
Kill = float | str | None

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [
        "killed_sync",
        "pyarrow.parquet",
        "duckdb",
        "pymysql",
        "adbc_driver_postgresql.dbapi",
        "numpy",
        "duckdb.sqltypes",
        "pyiceberg.catalog.sql",
        "pyiceberg.io.pyarrow",
    ]
)


@dataclass(frozen=True)
class Dying:
    """A raw table whose process is killed."""

    table: RawTable
    when: str

    def apply(self, change: Change, before: TableState) -> Outcome:
        """See `RawTable`."""
        if self.when == "before the commit":
            _die()
        outcome = self.table.apply(change, before)
        if self.when == "after the commit":
            _die()
        return outcome

    def read(self) -> TableState:
        """See `RawTable`."""
        return self.table.read()

    def query(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """See `RawTable`."""
        return self.table.query(sql)

    def keys_to(self, columns: Sequence[str], path: Path) -> None:
        """See `RawTable`."""
        self.table.keys_to(columns, path)


@dataclass
class DyingSync(Sync):
    """A sync of such a table."""

    when: str = "never"

    @property
    def raw(self) -> RawTable:
        """The raw table."""
        return Dying(super().raw, self.when)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(sync: DyingSync, contract: dict[str, Any], kill: Kill, catalog: dict[str, str]) -> None:
    os.environ.update(catalog)  # the server that forks has those of its start
    if isinstance(kill, str):
        sync.when = kill
    elif kill is not None:
        timer = threading.Timer(kill, _die)
        timer.daemon = True
        timer.start()
    sync(**contract)


def run(sync: Sync, contract: dict[str, Any], kill: Kill) -> bool:
    """Sync in another process; return whether it was killed."""
    source = SourceDatabase(replace(sync.source.server, process=None), sync.source.name)
    dying = DyingSync(source, sync.folder, sync.table, sync.file, sync.catalog, sync.clickhouse)
    catalog = {name: value for name, value in os.environ.items() if name.startswith("PYICEBERG_")}
    process = _PROCESSES.Process(target=_run, args=(dying, contract, kill, catalog))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
