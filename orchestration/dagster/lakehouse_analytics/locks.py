"""One writer a table: slots on the Dagster instance that dbt's builds and upkeep share.

Dagster's pools belong to ops, and one op writes many tables; so slots are taken from inside the run, in the tables
that pools use: they stand under Deployment → Concurrency. A slot is a lease that its run renews: who was killed loses
it after a minute, whether or not a daemon runs that notices.
Not through `claim_concurrency_slot`, which reads and then writes in two transactions: on SQLite 42 of 60 slots of
limit 1 went to several of 4 processes that asked at once, and it asks ten times a table.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from lakehouse_analytics.dbt.relation import Relation

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.sql import ColumnElement

PREFIX = "iceberg/"
#: A run that has not renewed its slots, or its place in line, for so long is dead.
LEASE = timedelta(seconds=60)
#: Seconds between two renewals.
BEAT = 10.0
#: Holder of a slot whose limit a person has set to 0: nobody may write.
CLOSED = ""
_SOON, _LATER = 0.5, 5.0
_LOGGER = logging.getLogger(__name__)


class TablesBusyError(RuntimeError):
    """Somebody else is writing some of the tables. `holders` says who, by slot."""

    def __init__(self, message: str, holders: Mapping[str, str]) -> None:
        super().__init__(message)
        self.holders = holders


def slot_of(relation: Relation) -> str:
    """The slot of a table: `iceberg/<catalog>.<schema>.<table>`."""
    return f"{PREFIX}{relation.catalog}.{relation.schema}.{relation.name}"


class Writers:
    """The slots of one step of one run.

    Attributes:
        instance: Where the slots are kept: SQLite for one machine, PostgreSQL or MySQL for several.
        run_id: The run.
        step_key: The step; two steps of a run exclude each other like two runs.
    """

    def __init__(self, instance: dg.DagsterInstance, run_id: str, step_key: str) -> None:
        from lakehouse_analytics._dagster_internals import SqlEventLogStorage

        storage = instance.event_log_storage
        if not isinstance(storage, SqlEventLogStorage):
            raise TypeError(
                f"Dagster's event log is a {type(storage).__name__}, which cannot keep one writer a table: "
                "use SQLite, PostgreSQL or MySQL in dagster.yaml."
            )
        self._storage = storage
        self.instance, self.run_id, self.step_key = instance, run_id, step_key
        self._dead: set[str] = set()

    @contextmanager
    def writing(
        self,
        slots: Collection[str],
        *,
        wait: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
        bury: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Iterator[None]:
        """Hold all the slots, or none.

        Who waits stands in line, and who does not wait (upkeep) passes by a table that somebody waits for. Deadlock
        is impossible, because nothing is held while waiting.

        Args:
            slots: Of the tables to write, see `slot_of`.
            wait: Seconds to wait for those that are taken.
            say: Told once who holds them, and again when that changes.
            stop: Set by another thread when it is no use to wait any longer.
            bury: Called with the id of each dead run whose slots were taken over: its last query may still be running.

        Raises:
            TablesBusyError: some are taken still after `wait` seconds.
        """
        wanted = sorted(set(slots))
        deadline, delay, told = time.monotonic() + wait, _SOON, {}  # type: float, float, Mapping[str, str]
        try:
            while taken := self._exchange(wanted, queue=wait > 0):
                left = deadline - time.monotonic()
                if left <= 0 or (stop and stop.is_set()):
                    raise TablesBusyError(self._explain(taken, f"waited {wait:g} s" if wait else ""), taken)
                if taken != told:
                    say(self._explain(taken, f"waiting up to {left:.0f} s more"))
                    told = taken
                (stop or threading.Event()).wait(min(delay, left))
                delay = min(delay * 2, _LATER)
            with self._renewed(wanted):
                for run_id in self._dead:
                    bury(run_id)
                yield
        finally:
            self._release(wanted)

    def _exchange(self, slots: list[str], *, queue: bool) -> Mapping[str, str]:
        """Take all slots in one transaction, or none: then say who has them."""
        from sqlalchemy.exc import IntegrityError

        for _ in range(3):
            # Two runs made the slot of a new table at once: the second sees it next time.
            with suppress(IntegrityError), self._storage.index_transaction() as connection:
                return self._exchanged(connection, slots, queue=queue)
        with self._storage.index_transaction() as connection:
            return self._exchanged(connection, slots, queue=queue)

    def _exchanged(self, connection: Connection, wanted: list[str], *, queue: bool) -> Mapping[str, str]:
        from sqlalchemy import func, select

        from lakehouse_analytics._dagster_internals import (
            ConcurrencyLimitsTable,
            ConcurrencySlotsTable,
            PendingStepsTable,
        )

        slots, pending, limits = ConcurrencySlotsTable.c, PendingStepsTable.c, ConcurrencyLimitsTable.c
        # First a write: with it SQLite takes its lock, and what is read below stays true. PostgreSQL locks the rows,
        # always in the same order.
        self._leave_queue(connection, wanted)
        rows = connection.execute(
            select(slots.concurrency_key, slots.id, slots.run_id, slots.step_key)
            .where(slots.concurrency_key.in_(wanted), slots.deleted.is_(False))
            .order_by(slots.concurrency_key, slots.id)
            .with_for_update()
        ).fetchall()
        known = connection.execute(select(limits.concurrency_key).where(limits.concurrency_key.in_(wanted))).scalars()
        there = {row[0] for row in rows}
        now = _now()
        others = connection.execute(
            select(pending.concurrency_key, pending.run_id, pending.step_key, pending.assigned_timestamp).where(
                pending.concurrency_key.in_(wanted),
                func.coalesce(pending.assigned_timestamp, pending.create_timestamp) > now - LEASE,
            )
        ).fetchall()
        alive = {tuple(row[:3]) for row in others if row[3]}
        holders = {str(row[0]): tuple(row[2:4]) for row in rows if row[2] and tuple(row[2:4]) != self._me}
        taken = {key: str(holder[0]) for key, holder in holders.items() if (key, *holder) in alive}
        taken |= dict.fromkeys({*known} - there, CLOSED)
        if not queue:
            taken = {str(row[0]): str(row[1]) for row in others if row[1] != self.run_id} | taken
        mine = {"run_id": self.run_id, "step_key": self.step_key}
        if not taken:
            self._dead |= {str(run_id) for run_id, _ in holders.values()} - {self.run_id}
            for key, (run_id, step_key) in holders.items():
                connection.execute(PendingStepsTable.delete().where(_places([key], run_id, step_key)))
            ids = {row[0]: row[1] for row in rows}
            connection.execute(ConcurrencySlotsTable.update().where(slots.id.in_([*ids.values()])).values(**mine))
            if new := [key for key in wanted if key not in ids]:
                connection.execute(
                    ConcurrencyLimitsTable.insert(),
                    [{"concurrency_key": key, "limit": 1, "using_default_limit": False} for key in new],
                )
                connection.execute(
                    ConcurrencySlotsTable.insert(), [{"concurrency_key": key, "deleted": False, **mine} for key in new]
                )
        if wanted and (queue or not taken):
            # Run monitoring finds the slots of dead runs by these rows; unassigned ones are who waits.
            since = None if taken else now
            entries = [{"concurrency_key": key, "priority": 0, "create_timestamp": now, **mine} for key in wanted]
            connection.execute(PendingStepsTable.insert().values(assigned_timestamp=since), entries)
        return taken

    @property
    def _me(self) -> tuple[str, str]:
        return self.run_id, self.step_key

    def _leave_queue(self, connection: Connection, wanted: list[str]) -> None:
        from lakehouse_analytics._dagster_internals import PendingStepsTable

        connection.execute(PendingStepsTable.delete().where(_places(wanted, *self._me)))

    def _release(self, wanted: list[str]) -> None:
        from lakehouse_analytics._dagster_internals import ConcurrencySlotsTable

        slots = ConcurrencySlotsTable.c
        with self._storage.index_transaction() as connection:
            self._leave_queue(connection, wanted)
            connection.execute(
                ConcurrencySlotsTable.update()
                .where(slots.concurrency_key.in_(wanted), slots.run_id == self.run_id, slots.step_key == self.step_key)
                .values(run_id=None, step_key=None)
            )

    @contextmanager
    def _renewed(self, wanted: list[str]) -> Iterator[None]:
        """Say every few seconds that this run lives. Of an instance in memory nobody else knows."""
        if self.instance.is_ephemeral:
            yield
            return
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT):
                try:
                    self._renew(wanted)
                except Exception as error:  # the next one may succeed
                    _LOGGER.warning("The slots of run %s could not be renewed: %s", self.run_id, error)

        thread = threading.Thread(target=beat, name="writer-slots", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _renew(self, wanted: list[str]) -> None:
        from lakehouse_analytics._dagster_internals import PendingStepsTable

        with self._storage.index_transaction() as connection:
            mine = _places(wanted, *self._me)
            connection.execute(PendingStepsTable.update().where(mine).values(assigned_timestamp=_now()))

    def _explain(self, taken: Mapping[str, str], more: str) -> str:
        by_run: dict[str, list[str]] = {}
        for slot, run_id in sorted(taken.items()):
            by_run.setdefault(run_id, []).append(slot.removeprefix(PREFIX))
        parts = []
        for run_id, tables in by_run.items():
            named = ", ".join(tables[:3]) + (f" and {len(tables) - 3} more" if len(tables) > 3 else "")
            run = self.instance.get_run_by_id(run_id) if run_id else None
            who = f"run {run_id[:8]}" + (f" ({run.job_name})" if run else "")
            why = f"in use by {who}" if run_id else "closed (limit 0 under Deployment → Concurrency)"
            parts.append(f"{named}: {why}")
        return "; ".join(parts) + (f" ({more})" if more else "")


def _now() -> datetime:
    """As these tables keep times: in UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


def _places(slots: Collection[str], run_id: object, step_key: object) -> ColumnElement[bool]:
    """A step's rows in Dagster's table of who stands in line, holders included."""
    from sqlalchemy import and_

    from lakehouse_analytics._dagster_internals import PendingStepsTable

    pending = PendingStepsTable.c
    return and_(pending.concurrency_key.in_(slots), pending.run_id == run_id, pending.step_key == step_key)
