"""Airbyte's connections, and the mapping of source tables to them. Pure functions: no requests, no Dagster."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.common.text import did_you_mean
from lakehouse_analytics.dbt.graph import Key

#: Statuses of connections that do not sync: often the predecessor of one that does.
INACTIVE = ("inactive", "deprecated")


@dataclass(frozen=True)
class Connection:
    """A connection.

    Attributes:
        id: Id in lower case.
        name: Name as in Airbyte's UI.
        workspace: Id of its workspace.
        status: Status in lower case.
        tags: Names of its tags.
        prefix: Prefix of the tables that it writes.
        namespace, namespace_format: What determines the schema: the source, the destination, or this format.
        destination: Id of the destination that it writes to; empty if Airbyte does not report it.
        streams: Namespace and name of each stream that it syncs; None if Airbyte does not list them.
    """

    id: str
    name: str
    workspace: str = ""
    status: str = "active"
    tags: tuple[str, ...] = ()
    prefix: str = ""
    namespace: str = "destination"
    namespace_format: str = ""
    destination: str = ""
    streams: tuple[tuple[str, str], ...] | None = None

    def table_of(self, stream: tuple[str, str]) -> tuple[str | None, str]:
        """Return the schema and table of a stream; the schema is None if only the destination knows it."""
        namespace, name = stream
        table = f"{self.prefix}{name}"
        if self.namespace == "source":
            return namespace or None, table
        if self.namespace == "custom_format":
            return self.namespace_format.replace("${SOURCE_NAMESPACE}", namespace) or None, table
        return None, table

    @cached_property
    def streams_by_table(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Streams by each name, in lower case, of a table that they may be written to; see `table_names`."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for stream in self.streams or ():
            for name in table_names(self.table_of(stream)[1]):
                found[name].append(stream)
        return dict(found)


@dataclass(frozen=True)
class SourceTable:
    """A table of a dbt source, with its contract for Airbyte.

    Attributes:
        key: Asset key.
        schema, table: Its schema and name in the database.
        connection: Id or exact name of the connection; None if the contract does not name one.
        stream: Name of the stream; None if the contract does not name one.
    """

    key: Key
    schema: str
    table: str
    connection: str | None = None
    stream: str | None = None


@dataclass(frozen=True)
class ConnectionMapping:
    """Which connection fills which source tables.

    Attributes:
        tables_by_connection: Source tables by the id of the connection that fills them.
        problems: Messages about contracts that do not match the connections, and about streams that share a table.
        unmapped_connections: Connections that fill no source table.
        unmapped_streams: Streams that fill no source table, of connections that fill others, by the connection's id.
        unmapped_tables: Source tables without a known connection.
    """

    tables_by_connection: Mapping[str, Sequence[SourceTable]]
    problems: Sequence[str] = ()
    unmapped_connections: Sequence[Connection] = field(default_factory=tuple)
    unmapped_streams: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unmapped_tables: Sequence[SourceTable] = ()

    @property
    def suspicious_tables(self) -> list[SourceTable]:
        """Unmapped tables in a dbt source or a schema with mapped ones: Airbyte probably should fill these, too."""
        mapped = [table for tables in self.tables_by_connection.values() for table in tables]
        near = {table.key[:-1] for table in mapped} | {table.schema.lower() for table in mapped}
        return [table for table in self.unmapped_tables if {table.key[:-1], table.schema.lower()} & near]


def parse_connection(row: object) -> Connection | None:
    """Parse one element of `data`; None if it has no id."""
    if not isinstance(row, Mapping) or not isinstance(row.get("connectionId"), str) or not row["connectionId"]:
        return None
    configurations, tags = row.get("configurations"), row.get("tags")
    configured = configurations.get("streams") if isinstance(configurations, Mapping) else None
    streams = (
        [s for s in configured if isinstance(s, Mapping) and s.get("name")] if isinstance(configured, list) else None
    )
    named = [tag for tag in tags if isinstance(tag, Mapping) and tag.get("name")] if isinstance(tags, list) else []
    return Connection(
        id=row["connectionId"].lower(),
        name=str(row.get("name") or ""),
        workspace=str(row.get("workspaceId") or ""),
        status=str(row.get("status") or "").lower(),
        tags=tuple(str(tag["name"]) for tag in named),
        prefix=str(row.get("prefix") or ""),
        namespace=str(row.get("namespaceDefinition") or "destination").lower(),
        namespace_format=str(row.get("namespaceFormat") or ""),
        destination=str(row.get("destinationId") or ""),
        streams=None if streams is None else tuple((str(s.get("namespace") or ""), str(s["name"])) for s in streams),
    )


def is_included(connection: Connection, include: Collection[str], exclude: Collection[str]) -> bool:
    """Return whether the filters include a connection. `exclude` takes precedence.

    Args:
        connection: The connection.
        include, exclude: Ids, exact names or `tag:<name>`.
    """
    names = {connection.name, *(f"tag:{tag}" for tag in connection.tags)}

    def matches(words: Collection[str]) -> bool:
        return bool(names & {*words}) or connection.id in {word.lower() for word in words}

    return not matches(exclude) and (not include or matches(include))


class UnknownConnectionError(ValueError):
    """Airbyte has no connection with an id or name, or several. The message suggests the nearest name."""


def find_connection(id_or_name: str, connections: Collection[Connection]) -> Connection:
    """Return the connection with an id or an exact name.

    Raises:
        UnknownConnectionError: There is no such connection, or several connections have the name.
    """
    by_id = [connection for connection in connections if connection.id == id_or_name.lower()]
    found = by_id or [connection for connection in connections if connection.name == id_or_name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(sorted(connection.id for connection in found))
        raise UnknownConnectionError(
            f"{id_or_name!r} is the name of several connections: use the id of one of them ({ids})"
        )
    hint = did_you_mean(id_or_name, (connection.name for connection in connections), quoted=repr)
    raise UnknownConnectionError(f"Airbyte has no connection with the id or name {id_or_name!r}{hint}")


def map_connections(
    tables: Iterable[SourceTable], connections: Collection[Connection], ignored: Iterable[Connection] = ()
) -> ConnectionMapping:
    """Find the connection of each table: the one named by its contract, else the only one that writes the table.

    Args:
        tables: The dbt project's source tables.
        connections: The connections that the filters include.
        ignored: The other connections. They fill no table; a contract that names one is a problem.
    """
    return _Mapper(connections, ignored).map(tables)


class _Mapper:
    """Maps source tables to connections."""

    def __init__(self, connections: Collection[Connection], ignored: Iterable[Connection]) -> None:
        self._connections = connections
        self._ignored = {word for connection in ignored for word in (connection.id, connection.name)}
        self._candidates = _candidates(connections)
        self._mapped: dict[str, list[SourceTable]] = defaultdict(list)
        self._problems: list[str] = []

    def map(self, tables: Iterable[SourceTable]) -> ConnectionMapping:
        named: dict[str, list[SourceTable]] = defaultdict(list)
        unnamed: list[SourceTable] = []
        for table in tables:
            (unnamed if table.connection is None else named[table.connection]).append(table)
        for id_or_name, its_tables in named.items():
            self._map_named(id_or_name, its_tables)
        unmapped_tables: list[SourceTable] = []
        for table in unnamed:
            if not self._map_unnamed(table):
                unmapped_tables.append(table)
        mapped = [(c, self._mapped[c.id]) for c in self._connections if c.id in self._mapped]
        for connection, filled in mapped:
            for table in filled:
                candidates = self._candidates.get(table.table.lower(), ())
                self._problems += _shared(table, connection)
                self._problems += _shared_with_others(table, connection, candidates)
        return ConnectionMapping(
            tables_by_connection=dict(self._mapped),
            problems=self._problems,
            unmapped_connections=[c for c in self._connections if c.id not in self._mapped],
            unmapped_streams={c.id: streams for c, filled in mapped if (streams := _unmapped_streams(c, filled))},
            unmapped_tables=unmapped_tables,
        )

    def _map_named(self, id_or_name: str, tables: Sequence[SourceTable]) -> None:
        """Map tables whose contracts name a connection."""
        try:
            connection = find_connection(id_or_name, self._connections)
        except UnknownConnectionError as error:
            why = str(error)
            if {id_or_name, id_or_name.lower()} & self._ignored:
                why = f"LAKEHOUSE_AIRBYTE_INCLUDE or LAKEHOUSE_AIRBYTE_EXCLUDE leaves out {id_or_name!r}"
            names = ", ".join(map(_name, tables))
            self._problems.append(f"meta.lakehouse.airbyte.connection of source {names}: {why}")
            return
        self._problems += [problem for table in tables if (problem := _wrong_stream(table, connection))]
        self._mapped[connection.id] += tables

    def _map_unnamed(self, table: SourceTable) -> bool:
        """Map a table whose contract names no connection; return False if no connection writes it."""
        candidates = self._candidates.get(table.table.lower(), ())
        filling = _filled_by(candidates, table)
        if len(filling) == 1:
            self._mapped[filling[0].id].append(table)
        self._problems += _ambiguous(table, candidates, filling)
        return bool(filling)


def _candidates(connections: Iterable[Connection]) -> Mapping[str, Sequence[Connection]]:
    """Return the active connections by the names of the tables that their streams may be written to."""
    found: dict[str, list[Connection]] = defaultdict(list)
    for connection in connections:
        if connection.status not in INACTIVE:
            for name in connection.streams_by_table:
                found[name].append(connection)
    return dict(found)


def _filled_by(connections: Sequence[Connection], table: SourceTable) -> list[Connection]:
    """Return the connections with a stream that is written to a table: under its own name, or else renamed."""
    name = table.table.lower()
    exact = [c for c in connections if any(_writes(c, stream, table) for stream in c.streams_by_table.get(name, ()))]
    return exact or [c for c in connections if _streams_of(c, table)]


def _ambiguous(table: SourceTable, connections: Sequence[Connection], filling: Sequence[Connection]) -> list[str]:
    """Return a message if several connections may write a table whose contract names no connection."""
    streams = [(connection, stream) for connection in connections for stream in _streams_of(connection, table)]
    if len({connection.id for connection, _ in streams}) < 2:
        return []
    message = _collision(table, streams, "meta.lakehouse.airbyte.connection")
    if len(filling) == 1:
        message += f". Until then, connection {filling[0].name!r} is used, whose stream has the name of the table"
    return [message]


def _shared_with_others(table: SourceTable, connection: Connection, connections: Sequence[Connection]) -> list[str]:
    """Return a message if other connections write the same table as the connection that its contract names.

    A contract names a connection to distinguish tables with the same name. So only certain collisions count: the same
    destination, and the same schema.
    """
    inactive = connection.status in INACTIVE
    if table.connection is None or table.stream is not None or not connection.destination or inactive:
        return []
    own = [(connection, stream) for stream in _streams_of(connection, table, strict=False)]
    schemas = {_schema(connection, stream) for _, stream in own}
    others = [
        (other, stream)
        for other in connections
        if other.id != connection.id and other.destination == connection.destination
        for stream in _streams_of(other, table, strict=False)
        if _schema(other, stream) in schemas
    ]
    return [_collision(table, [*own, *others], "meta.lakehouse.airbyte.stream")] if others else []


def _collision(table: SourceTable, streams: Iterable[tuple[Connection, tuple[str, str]]], key: str) -> str:
    named = ", ".join(
        f"{'.'.join(filter(None, stream))!r} of connection {connection.name!r} ({connection.id})"
        for connection, stream in streams
    )
    return (
        f"source {_name(table)}: streams of several connections may be written to this table ({named}), and each sync "
        "may replace the rows of another; give them different prefixes or namespaces in Airbyte, or name the one that "
        f"fills it in {key}"
    )


def _wrong_stream(table: SourceTable, connection: Connection) -> str | None:
    """Return a message if the connection that a contract names does not have the stream of the table."""
    if connection.streams is None:
        return None
    names = [name for _, name in connection.streams]
    if table.stream is None:
        if _streams_of(connection, table, strict=False):
            return None
        hint = did_you_mean(table.table, names, quoted=repr)
        return (
            f"source {_name(table)}: no stream of connection {connection.name!r} is written to a table "
            f"{table.table!r}; set meta.lakehouse.airbyte.stream to the stream that fills it, or name another "
            f"connection{hint}"
        )
    if table.stream in names:
        return None
    hint = did_you_mean(table.stream, names, quoted=repr)
    return (
        f"source {_name(table)}: meta.lakehouse.airbyte.stream is {table.stream!r}, but connection "
        f"{connection.name!r} does not sync such a stream{hint}"
    )


def _shared(table: SourceTable, connection: Connection) -> list[str]:
    """Return a message if several streams of its connection may be written to a table."""
    schemas = [_schema(connection, stream) for stream in _streams_of(connection, table)]
    if table.stream is not None or len(schemas) == len({*schemas}):
        return []
    streams = ", ".join(repr(".".join(filter(None, stream))) for stream in _streams_of(connection, table))
    return [
        f"source {_name(table)}: several streams of connection {connection.name!r} may be written to this table "
        f"({streams}), and each sync may replace the rows of another; give them different prefixes or namespaces in "
        "Airbyte, or name the one that fills it in meta.lakehouse.airbyte.stream"
    ]


def _schema(connection: Connection, stream: tuple[str, str]) -> str:
    """Return the schema of a stream in lower case; empty if only the destination knows it."""
    return (connection.table_of(stream)[0] or "").lower()


def _unmapped_streams(connection: Connection, tables: Sequence[SourceTable]) -> list[str]:
    """Return the streams of a connection that fill none of its tables."""
    named = {table.stream for table in tables if table.stream}
    others = [table for table in tables if not table.stream]
    used = {stream for table in others for stream in _streams_of(connection, table, strict=table.connection is None)}
    return [stream[1] for stream in connection.streams or () if stream not in used and stream[1] not in named]


def _streams_of(connection: Connection, table: SourceTable, *, strict: bool = True) -> list[tuple[str, str]]:
    """Return the streams that may be written to a table.

    If not `strict`, schemas are ignored, as for contracts that name the connection.
    """
    streams = connection.streams_by_table.get(table.table.lower(), ())
    return [stream for stream in streams if _writes(connection, stream, table, table_names, strict=strict)]


def table_names(stream: str) -> set[str]:
    """Return the names, in lower case, of the tables that a stream may be written to.

    Some destinations keep the name. S3 Data Lake with Glue, among others, replaces characters that are not allowed in
    table names: each by an underscore, or as Airbyte's `Names.toAlphanumericAndUnderscore` does, which first removes
    accents and replaces consecutive whitespace by one underscore. Source: airbytehq/airbyte,
    io.airbyte.commons.text.Names, and issue 52690.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", stream) if not unicodedata.category(c).startswith("M"))
    spaced = re.sub(r"\s+", "_", plain)
    return {stream.lower(), *(re.sub("[^a-z0-9_]", "_", text.lower()) for text in (stream, spaced))}


def _own_name(stream: str) -> set[str]:
    return {stream.lower()}


def _writes(
    connection: Connection,
    stream: tuple[str, str],
    table: SourceTable,
    names: Callable[[str], set[str]] = _own_name,
    *,
    strict: bool = True,
) -> bool:
    schema, name = connection.table_of(stream)
    # A destination may change the case of names. If only the destination knows the schema, compare only the table's
    # name.
    fits = schema is None or not strict or table.schema.lower() in names(schema)
    return fits and table.table.lower() in names(name)


def _name(table: SourceTable) -> str:
    return ".".join(table.key)
