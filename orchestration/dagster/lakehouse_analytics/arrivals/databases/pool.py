"""Connections that stay open between the syncs of a process, such as those of the tables of one run.

SQLAlchemy's pools keep idle connections for as long as the process lives. These are closed after a minute, because a
run may go on to build for hours.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from lakehouse_analytics.arrivals.connections import Connection
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError

Driver = TypeVar("Driver")

#: Maximum number of open connections per name of a connection and process.
SIZE = 4
#: Seconds after which a connection that is not in use is closed.
IDLE = 60.0


@dataclass(frozen=True)
class Sessions(Generic[Driver]):
    """What a pool does with the connections of a driver.

    Attributes:
        open: Opens one.
        check: Raises an exception if a connection is not usable any more, within seconds.
        reset: Ends the transaction. Raises an exception if the connection cannot be used again.
        close: Closes it, in whatever state it is.
    """

    open: Callable[[Connection], Driver]
    check: Callable[[Driver], object]
    reset: Callable[[Driver], object]
    close: Callable[[Driver], object]


@dataclass
class _Pool(Generic[Driver]):
    """The connections to one address. `_lock` protects the fields that change.

    Attributes:
        url: The address.
        sessions: What is done with its connections.
        slots: One per connection that may be in use.
        idle: Connections that are not in use, and since when, the oldest first.
        is_retired: Another pool has replaced this one, so connections are closed after use.
    """

    url: str = field(repr=False)
    sessions: Sessions[Driver]
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(SIZE))
    idle: list[tuple[float, Driver]] = field(default_factory=list)
    is_retired: bool = False

    def take(self) -> Driver | None:
        """Return a connection that is idle and usable; None if there is none."""
        while True:
            with _lock:
                if not self.idle:
                    return None
                _, driver = self.idle.pop()
            try:
                self.sessions.check(driver)
            except Exception:  # of any driver: the server has closed the connection
                self.close(driver)
            except BaseException:
                self.close(driver)
                raise
            else:
                return driver

    def keep(self, driver: Driver) -> bool:
        """Store a connection that is no longer in use; return whether the pool has it now."""
        with _lock:
            if not self.is_retired:
                self.idle.append((time.monotonic(), driver))
                _start_timer()
            return not self.is_retired

    def close(self, driver: Driver) -> None:
        """Close a connection. Errors do not matter, because it is not used again."""
        with suppress(Exception):
            self.sessions.close(driver)

    def close_idle(self, before: float = float("inf")) -> None:
        """Close the connections that have been idle since a time. `_lock` is locked."""
        expired = [driver for since, driver in self.idle if since <= before]
        self.idle = self.idle[len(expired) :]
        for driver in expired:
            self.close(driver)


_lock = threading.Lock()
_pools: dict[str, _Pool[Any]] = {}
_timer: threading.Timer | None = None


@contextmanager
def pooled(connection: Connection, sessions: Sessions[Driver], timeout: timedelta) -> Iterator[Driver]:
    """Use a connection of the pool. After an error, it is closed.

    Args:
        connection: The database.
        sessions: What is done with its connections.
        timeout: How long to wait while all connections are in use.

    Raises:
        ArrivalError: All connections were in use for the duration of `timeout`.
    """
    pool = _pool_of(connection, sessions)
    if not pool.slots.acquire(timeout=timeout.total_seconds()):
        raise ArrivalError(
            f"{connection.redacted}: all {SIZE} connections of this process were in use for {timeout}. Run fewer "
            "syncs of this database at once"
        )
    try:
        driver = pool.take() or sessions.open(connection)
        is_kept = False
        try:
            yield driver
            with suppress(Exception):  # the rows have been read
                sessions.reset(driver)
                is_kept = pool.keep(driver)
        finally:
            if not is_kept:
                pool.close(driver)
    finally:
        pool.slots.release()


def close_idle() -> None:
    """Close all connections that are not in use."""
    global _timer  # noqa: PLW0603  # one thread for all pools
    with _lock:
        if _timer:
            _timer.cancel()
            _timer = None
        for pool in _pools.values():
            pool.close_idle()


def _pool_of(connection: Connection, sessions: Sessions[Driver]) -> _Pool[Driver]:
    """Return the pool of a connection. A changed address, such as another password, has a new one."""
    with _lock:
        found = _pools.get(connection.name)
        if found and found.url == connection.url:
            return found
        if found:
            found.is_retired = True
            found.close_idle()
        pool = _pools[connection.name] = _Pool(connection.url, sessions)
        return pool


def _start_timer() -> None:
    """Start the thread that closes idle connections, if there are any. `_lock` is locked."""
    global _timer  # noqa: PLW0603
    oldest = min((pool.idle[0][0] for pool in _pools.values() if pool.idle), default=None)
    if _timer is None and oldest is not None:
        _timer = threading.Timer(max(0.0, oldest + IDLE - time.monotonic()), _close_expired)
        _timer.daemon = True
        _timer.start()


def _close_expired() -> None:
    global _timer  # noqa: PLW0603
    with _lock:
        for pool in _pools.values():
            pool.close_idle(time.monotonic() - IDLE)
        _timer = None
        _start_timer()


# A connection that two processes use, or that one of them closes, is broken for both. Therefore, idle connections are
# closed before a fork, and the child begins without those that are in use.
def _before_fork() -> None:
    _lock.acquire()
    for pool in _pools.values():
        pool.close_idle()


def _after_fork_in_child() -> None:
    global _timer  # noqa: PLW0603
    _pools.clear()
    _timer = None
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
atexit.register(close_idle)
