"""A cached snapshot of Airbyte's connections, at most 15 minutes old, to save requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from lakehouse_analytics.triggers.airbyte.client import Airbyte
from lakehouse_analytics.triggers.airbyte.connections import (
    Connection,
    ConnectionMapping,
    SourceTable,
    find_connection,
    is_included,
    map_connections,
)

#: Seconds after which the connections are listed again.
MAX_AGE = 900.0


@dataclass(frozen=True)
class ConnectionSnapshot:
    """The connections at one point in time.

    Attributes:
        connections: All connections, by id.
        ignored: Ids of the connections that LAKEHOUSE_AIRBYTE_INCLUDE and LAKEHOUSE_AIRBYTE_EXCLUDE exclude.
        mapping: Which of the others fill which source tables.
    """

    connections: Mapping[str, Connection]
    ignored: Collection[str]
    mapping: ConnectionMapping

    def name(self, connection: str) -> str:
        """Return the name of a connection, or its id if it has none."""
        found = self.connections.get(connection)
        return (found and found.name) or connection

    def find(self, id_or_name: str) -> Connection:
        """Return the connection with an id or an exact name.

        Raises:
            UnknownConnectionError: There is no such connection, or several connections have the name.
        """
        return find_connection(id_or_name, self.connections.values())


class ConnectionCache:
    """Caches the list of connections. May be used by several threads.

    Args:
        airbyte: The client.
        tables: The tables of the dbt project's sources.
        include, exclude: Ids, exact names or `tag:<name>` of connections.
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
        self._snapshot: ConnectionSnapshot | None = None
        self._fetched = 0.0
        self._missing: set[str] = set()

    def snapshot(self, required: Collection[str] = (), *, deadline: float | None = None) -> ConnectionSnapshot:
        """Return the cached snapshot, or a new one if it is too old or does not have a required connection.

        Args:
            required: Ids of connections.
            deadline: Reading of the clock at which requests give up.

        Raises:
            AirbyteError: The connections have to be listed, but Airbyte gives no valid response.
        """
        with self._lock:
            expired = self._clock() - self._fetched > MAX_AGE
            # A connection may have been created since. Search only once for one that does not exist.
            if self._snapshot is None or expired or {*required} - self._snapshot.connections.keys() - self._missing:
                self._snapshot = self._fetch(deadline)
                self._fetched = self._clock()
                absent = {*required} - self._snapshot.connections.keys()
                self._missing = absent | (set() if expired else self._missing)
            return self._snapshot

    def _fetch(self, deadline: float | None) -> ConnectionSnapshot:
        connections = self._airbyte.connections(deadline=deadline)
        included = [c for c in connections if is_included(c, self._include, self._exclude)]
        ignored = [c for c in connections if c not in included]
        return ConnectionSnapshot(
            connections={connection.id: connection for connection in connections},
            ignored={connection.id for connection in ignored},
            mapping=map_connections(self._tables, included, ignored),
        )
