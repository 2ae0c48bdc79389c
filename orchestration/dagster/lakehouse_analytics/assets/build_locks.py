"""The locks on the tables that a build writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self

import dagster as dg

from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.dbt.relation import relation_of
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.locks import TableLock, TableLockLostError, TableLocks, lock_name


class BuildLocks:
    """Locks tables against other runs and maintenance, and stops the build if a lock is lost.

    A context manager: leaving it releases the locks.
    """

    def __init__(self, context: dg.AssetExecutionContext, engine: Engine, run: Run, *, max_wait: float) -> None:
        """
        Args:
            context: The context of the op.
            engine: Kills the queries of runs that have lost their locks.
            run: The run to stop if a lock is lost.
            max_wait: Maximum seconds to wait for a table.
        """
        self._run_id, self._engine, self._run, self._max_wait = context.run.run_id, engine, run, max_wait
        step = context.op_execution_context.op_def.name
        self._locks = TableLocks(context.instance, self._run_id, step, on_lost=self._stop_writing)

    def __enter__(self) -> Self:
        """Return the locks. Nothing is opened before the first lock."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release all locks."""
        self._locks.close()

    @contextmanager
    def lock(self, table: Table, log: Callable[[str], None], stop: threading.Event) -> Iterator[None]:
        """Lock a table for as long as the block runs. See `TableLocks.locked`.

        Raises:
            TableBusyError: Another run still holds the lock after the maximum wait, or a person has closed the table.
            TableLockLostError: Another run has locked a table of this build.
        """
        self._refuse_after_loss()
        with self._locks.locked(
            lock_name(relation_of(table.node)),
            wait=self._max_wait,
            log=log,
            on_stale_holder=self._engine.kill_queries,
            stop=stop,
        ):
            self._refuse_after_loss()  # the build may have been stopped while this waited
            yield

    def hold(self, name: str) -> AbstractContextManager[TableLock]:
        """Hold a lock for as long as the block runs, without waiting for it.

        Args:
            name: The name of the lock, which need not be that of a table.

        Raises:
            TableBusyError: Another run holds the lock.
        """
        return self._locks.locked(name, on_stale_holder=self._engine.kill_queries)

    def _refuse_after_loss(self) -> None:
        if self._run.stopped:
            raise TableLockLostError("the build was stopped, because it has lost the lock of a table")

    def _stop_writing(self, reason: str) -> None:
        """Stop the build, because another run writes a table that this one had locked."""
        self._run.stop(reason)
        self._engine.kill_queries(self._run_id)
