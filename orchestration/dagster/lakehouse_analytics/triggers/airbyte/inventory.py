"""The connections as they were when last asked for: few requests, and never wrong for long."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from lakehouse_analytics.triggers.airbyte.client import Airbyte
from lakehouse_analytics.triggers.airbyte.connections import (
    Connection,
    Fills,
    SourceTable,
    is_wanted,
    map_connections,
    meant,
)

#: Seconds for which an answer holds.
LIFE = 900.0


@dataclass(frozen=True)
class Known:
    """What is known of the connections.

    Attributes:
        connections: All of them, by id.
        ignored: Ids of those that a filter leaves out.
        fills: Which of the others fill which tables.
    """

    connections: Mapping[str, Connection]
    ignored: Collection[str]
    fills: Fills

    def name(self, connection: str) -> str:
        """A connection's name, or its id."""
        known = self.connections.get(connection)
        return (known and known.name) or connection

    def meant(self, connection: str) -> Connection:
        """The connection of an id or an exact name.

        Raises:
            UnknownConnectionError: there is none, or there are several of that name.
        """
        return meant(connection, self.connections.values())


class Inventory:
    """Asks for connections when it has to.

    Args:
        airbyte: Where they are.
        tables: The tables of the dbt project's sources.
        include, exclude: Connections to listen to, and those not to: ids, exact names, `tag:<name>`.
    """

    def __init__(
        self,
        airbyte: Airbyte,
        tables: Iterable[SourceTable],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._airbyte, self._tables = airbyte, list(tables)
        self._include, self._exclude = include, exclude
        self._clock, self._lock = clock, Lock()
        self._known: Known | None = None
        self._asked = 0.0
        self._missing: set[str] = set()

    def known(self, needed: Collection[str] = (), *, deadline: float | None = None) -> Known:
        """What is known; asked anew where it is old, or a needed connection is not in it.

        Raises:
            AirbyteError: it has to be asked for, and there is no answer.
        """
        with self._lock:
            old = self._clock() - self._asked > LIFE
            # One that is new since; those that are known not to be there cost a request once.
            if self._known is None or old or {*needed} - self._known.connections.keys() - self._missing:
                self._known = self._ask(deadline)
                self._asked = self._clock()
                self._missing = {*needed} - self._known.connections.keys() | (set() if old else self._missing)
            return self._known

    def _ask(self, deadline: float | None) -> Known:
        connections = self._airbyte.connections(deadline=deadline)
        wanted = [c for c in connections if is_wanted(c, self._include, self._exclude)]
        ignored = [c for c in connections if c not in wanted]
        return Known(
            connections={connection.id: connection for connection in connections},
            ignored={connection.id for connection in ignored},
            fills=map_connections(self._tables, wanted, ignored),
        )
