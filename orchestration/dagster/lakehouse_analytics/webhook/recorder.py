"""Stores reported loads in Dagster's event log, each once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import dagster as dg

from lakehouse_analytics._dagster_internals import SqlEventLogStorage
from lakehouse_analytics.common.text import brief
from lakehouse_analytics.dbt.graph import Key
from lakehouse_analytics.triggers.base import Load
from lakehouse_analytics.triggers.event_log import complete_newest
from lakehouse_analytics.triggers.events import DATA_VERSION, load_materialization

logger = logging.getLogger(__name__)

#: Seconds that a report waits for those before it.
MAX_WAIT = 10.0
#: The advisory lock of PostgreSQL under which loads are stored: "lakehouse" in ASCII, without its last letter.
LOCK = int.from_bytes(b"lakehous")


class StorageError(RuntimeError):
    """Dagster's storage did not answer. Whether the load was stored is unknown; the caller repeats the report."""


class Recorder:
    """Stores loads one after the other, so that two reports with one id are stored once.

    In PostgreSQL, several processes exclude each other, too. In SQLite, there must be only one.

    Args:
        instance: Dagster's instance, which must stay open.
        keys: The sources whose loads are stored.
    """

    def __init__(self, instance: dg.DagsterInstance, keys: Collection[Key]) -> None:
        self._instance, self._keys = instance, [dg.AssetKey(key) for key in keys]
        self._lock = threading.Lock()
        #: Whether the newest event of a source may be stored in part: a process, or its connection, ended meanwhile.
        self._interrupted = True

    def record(self, load: Load, key: Key) -> bool:
        """Store a load unless a load of the same table with the same id is stored already.

        Returns:
            Whether it was stored now.

        Raises:
            StorageError: Dagster's storage did not answer.
        """
        from dagster_postgres.utils import DagsterPostgresException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._one_at_a_time():
                return self._store(load_materialization(load, key))
        except (SQLAlchemyError, DagsterPostgresException, OSError) as error:
            # Dagster's own error only reports the number of attempts. SQL follows the first line.
            reason = error.__cause__ if isinstance(error, DagsterPostgresException) else error
            first = (str(reason).splitlines() or [""])[0]
            logger.error("Dagster's storage does not answer: %s: %s", type(reason).__name__, brief(first, 300))  # noqa: TRY400
            raise StorageError(
                "Dagster's storage does not answer. Repeat the report later, with the same id."
            ) from None

    def _store(self, event: dg.AssetMaterialization) -> bool:
        if self._interrupted:
            complete_newest(self._instance, self._keys)
            self._interrupted = False
        version = (event.tags or {})[DATA_VERSION]
        storage = self._instance.event_log_storage
        if storage.get_event_tags_for_asset(event.asset_key, filter_tags={DATA_VERSION: version}):
            return False
        self._interrupted = True
        self._instance.report_runless_asset_event(event)
        self._interrupted = False
        return True

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=MAX_WAIT):
            raise TimeoutError(f"the previous report has not been stored for {MAX_WAIT:.0f} s")
        try:
            with self._other_processes():
                yield
        finally:
            self._lock.release()

    @contextmanager
    def _other_processes(self) -> Iterator[None]:
        import sqlalchemy as sa

        storage = self._instance.event_log_storage
        # Dagster's storage in SQLite has one connection at a time.
        if storage.is_run_sharded or not isinstance(storage, SqlEventLogStorage):
            yield
            return
        with storage.index_connection() as connection:
            if connection.dialect.name != "postgresql":
                yield
                return
            connection.execute(sa.text(f"set lock_timeout = '{MAX_WAIT:.0f}s'"))
            connection.execute(sa.text("select pg_advisory_lock(:key)"), {"key": LOCK})
            try:
                yield
            finally:
                connection.execute(sa.text("select pg_advisory_unlock(:key)"), {"key": LOCK})
