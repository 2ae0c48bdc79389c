"""A run's process, for tests that kill it. Forked from one that has imported Dagster, which takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import dagster as dg
from lakehouse_analytics.locks import TableBusyError, TableLocks

PRELOADED = ["dagster", "dagster_postgres", "lakehouse_analytics.locks.files", "lakehouse_analytics.locks.postgres"]


@dataclass
class RunProcess:
    """A process and the pipe to it."""

    process: BaseProcess
    pipe: Connection

    def lock(self, *tables: str) -> None:
        """Let it try to lock tables."""
        self.pipe.send(tables)

    def answer(self) -> str:
        """`won` or `lost`. It keeps what it has won until `release`."""
        assert self.pipe.poll(60), "no answer"
        return str(self.pipe.recv())

    def release(self) -> None:
        """Let it release what it has."""
        self.pipe.send(())
        assert self.answer() == "released"

    def kill(self) -> None:
        """Kill it as the kernel does when memory is short."""
        self.process.kill()
        self.process.join()


@contextmanager
def run_process(root: str, run_id: str) -> Iterator[RunProcess]:
    """A process of a run of the instance in a folder, for as long as the block runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(root, run_id, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield RunProcess(process, ours)
    finally:
        process.kill()
        process.join()


def _run(root: str, run_id: str, pipe: Connection) -> None:
    with dg.DagsterInstance.from_config(root) as instance, TableLocks(instance, run_id, "build") as locks:
        while True:
            try:
                with ExitStack() as locked:
                    for table in pipe.recv():
                        locked.enter_context(locks.locked(table))
                    pipe.send("won")
                    pipe.recv()
            except TableBusyError:
                pipe.send("lost")
                pipe.recv()
            pipe.send("released")
