"""Connections of Airbyte, and which source tables each of them fills. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lakehouse_analytics.common.text import did_you_mean
from lakehouse_analytics.dbt.graph import Key

#: Statuses of connections that sync nothing: often the predecessor of one that does.
RESTING = ("inactive", "deprecated")


@dataclass(frozen=True)
class Connection:
    """One connection.

    Attributes:
        destination: Id of the destination that it writes to; empty where Airbyte does not say.
        streams: Namespace and name of each stream that it syncs; None where Airbyte does not list them.
        namespace, namespace_format: Who decides on the schema: the source, the destination, or this format.
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
        """Schema, None where only the destination knows it, and table of a stream."""
        namespace, name = stream
        table = f"{self.prefix}{name}"
        if self.namespace == "source":
            return namespace or None, table
        if self.namespace == "custom_format":
            return self.namespace_format.replace("${SOURCE_NAMESPACE}", namespace) or None, table
        return None, table

    @cached_property
    def by_table(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Streams by each name of a table that they may land in, in lower case; see `landing_names`."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for stream in self.streams or ():
            for name in landing_names(self.table_of(stream)[1]):
                found[name].append(stream)
        return dict(found)


@dataclass(frozen=True)
class SourceTable:
    """A table of a dbt source, and what its contract says of Airbyte.

    Attributes:
        wanted: Id or exact name of the connection; None where nothing is said.
        stream: The stream's name, where it is said.
    """

    key: Key
    schema: str
    table: str
    wanted: str | None = None
    stream: str | None = None


@dataclass(frozen=True)
class Fills:
    """Which connection fills which tables.

    Attributes:
        tables: By the connection's id.
        problems: Contracts that do not fit the connections, and streams that share a table, in words.
        unmapped: Connections that fill no table of a dbt source.
        unused: Streams that fill no table, of connections that fill others, by the connection's id.
        unfilled: Tables that no connection is known to fill.
    """

    tables: Mapping[str, Sequence[SourceTable]]
    problems: Sequence[str] = ()
    unmapped: Sequence[Connection] = field(default_factory=tuple)
    unused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unfilled: Sequence[SourceTable] = ()

    @property
    def left_out(self) -> list[SourceTable]:
        """Unfilled tables beside filled ones, in a dbt source or a schema: Airbyte probably should fill these, too."""
        filled = [table for tables in self.tables.values() for table in tables]
        beside = {table.key[:-1] for table in filled} | {table.schema.lower() for table in filled}
        return [table for table in self.unfilled if {table.key[:-1], table.schema.lower()} & beside]


def connection_of(row: object) -> Connection | None:
    """Read one element of `data`; None of what has no id."""
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


def is_wanted(connection: Connection, include: Collection[str], exclude: Collection[str]) -> bool:
    """Whether a connection is listened to: by id, exact name or `tag:<name>`; `exclude` wins."""
    known = {connection.name, *(f"tag:{tag}" for tag in connection.tags)}

    def meant(words: Collection[str]) -> bool:
        return bool(known & {*words}) or connection.id in {word.lower() for word in words}

    return not meant(exclude) and (not include or meant(include))


class UnknownConnectionError(ValueError):
    """Airbyte has no such connection, or several. The message says which are near."""


def meant(wanted: str, connections: Collection[Connection]) -> Connection:
    """The connection of an id or an exact name.

    Raises:
        UnknownConnectionError: there is none, or there are several of that name.
    """
    by_id = [connection for connection in connections if connection.id == wanted.lower()]
    named = by_id or [connection for connection in connections if connection.name == wanted]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(sorted(connection.id for connection in named))
        raise UnknownConnectionError(
            f"{wanted!r} is the name of several connections: use the id of one of them ({ids})"
        )
    hint = did_you_mean(wanted, (connection.name for connection in connections), quoted=repr)
    raise UnknownConnectionError(f"Airbyte has no connection of the id or name {wanted!r}{hint}")


def map_connections(
    tables: Iterable[SourceTable], connections: Collection[Connection], ignored: Iterable[Connection] = ()
) -> Fills:
    """Find the connection of each table: the one its contract names, else the only one whose streams land there.

    Args:
        tables: Of the dbt project's sources.
        connections: Those that are listened to.
        ignored: The others: they fill nothing, and whoever names one is told so.
    """
    left_out = {word for connection in ignored for word in (connection.id, connection.name)}
    found: dict[str, list[SourceTable]] = defaultdict(list)
    wanted: dict[str, list[SourceTable]] = defaultdict(list)
    problems: list[str] = []
    silent: list[SourceTable] = []
    for table in tables:
        (silent if table.wanted is None else wanted[table.wanted]).append(table)
    for name, of in wanted.items():
        try:
            connection = meant(name, connections)
        except UnknownConnectionError as error:
            why = str(error)
            if {name, name.lower()} & left_out:
                why = f"LAKEHOUSE_AIRBYTE_INCLUDE or LAKEHOUSE_AIRBYTE_EXCLUDE leaves out {name!r}"
            problems.append(f"meta.lakehouse.airbyte.connection of source {', '.join(map(_words, of))}: {why}")
            continue
        problems += [wrong for table in of if (wrong := _wrong_stream(table, connection))]
        found[connection.id] += of
    candidates = _candidates(connections)
    unfilled: list[SourceTable] = []
    for table in silent:
        near = candidates.get(table.table.lower(), ())
        landing = _landing(near, table)
        if len(landing) == 1:
            found[landing[0].id].append(table)
        elif not landing:
            unfilled.append(table)
        problems += _several(table, near, landing)
    unmapped = [connection for connection in connections if connection.id not in found]
    of_mapped = [(connection, found[connection.id]) for connection in connections if connection.id in found]
    for connection, filled in of_mapped:
        for table in filled:
            problems += _shared(table, connection)
            problems += _shared_with_others(table, connection, candidates.get(table.table.lower(), ()))
    unused = {connection.id: names for connection, filled in of_mapped if (names := _unused(connection, filled))}
    return Fills(dict(found), problems, unmapped, unused, unfilled)


def _candidates(connections: Iterable[Connection]) -> Mapping[str, Sequence[Connection]]:
    """Connections by each name of a table that a stream of theirs may land in; not those that sync nothing."""
    found: dict[str, list[Connection]] = defaultdict(list)
    for connection in connections:
        if connection.status not in RESTING:
            for name in connection.by_table:
                found[name].append(connection)
    return dict(found)


def _landing(connections: Sequence[Connection], table: SourceTable) -> list[Connection]:
    """The connections of which a stream lands in a table: under its own name, or else renamed."""
    name = table.table.lower()
    exact = [c for c in connections if any(_lands(c, stream, table) for stream in c.by_table.get(name, ()))]
    return exact or [c for c in connections if _streams_of(c, table)]


def _several(table: SourceTable, connections: Sequence[Connection], taken: Sequence[Connection]) -> list[str]:
    """What is wrong with a table that names no connection, if streams of several may land there."""
    streams = [(connection, stream) for connection in connections for stream in _streams_of(connection, table)]
    if len({connection.id for connection, _ in streams}) < 2:
        return []
    said = _colliding(table, streams, "meta.lakehouse.airbyte.connection")
    if len(taken) == 1:
        said += f". Until then, connection {taken[0].name!r} is taken, whose stream has the name of the table"
    return [said]


def _shared_with_others(table: SourceTable, connection: Connection, connections: Sequence[Connection]) -> list[str]:
    """What is wrong with a table whose contract names a connection, if others write the same table.

    A connection is named to tell tables of one name apart. So only what is certain counts: the same destination, and
    the same schema.
    """
    if table.wanted is None or table.stream is not None or not connection.destination or connection.status in RESTING:
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
    return [_colliding(table, [*own, *others], "meta.lakehouse.airbyte.stream")] if others else []


def _colliding(table: SourceTable, streams: Iterable[tuple[Connection, tuple[str, str]]], key: str) -> str:
    named = ", ".join(
        f"{'.'.join(filter(None, stream))!r} of connection {connection.name!r} ({connection.id})"
        for connection, stream in streams
    )
    return (
        f"source {_words(table)}: streams of several connections may land in this table ({named}), and each sync may "
        "replace the rows of another; give them different prefixes or namespaces in Airbyte, or name the one that "
        f"fills it in {key}"
    )


def _wrong_stream(table: SourceTable, connection: Connection) -> str | None:
    """What is wrong with a table whose contract names a connection, if anything is."""
    if connection.streams is None:
        return None
    names = [name for _, name in connection.streams]
    if table.stream is None:
        if _streams_of(connection, table, strict=False):
            return None
        hint = did_you_mean(table.table, names, quoted=repr)
        return (
            f"source {_words(table)}: no stream of connection {connection.name!r} lands in a table {table.table!r}; "
            f"set meta.lakehouse.airbyte.stream to the stream that fills it, or name another connection{hint}"
        )
    if table.stream in names:
        return None
    hint = did_you_mean(table.stream, names, quoted=repr)
    return (
        f"source {_words(table)}: meta.lakehouse.airbyte.stream is {table.stream!r}, and connection "
        f"{connection.name!r} does not sync such a stream{hint}"
    )


def _shared(table: SourceTable, connection: Connection) -> list[str]:
    """What is wrong with a table that several streams of its connection may fill."""
    schemas = [_schema(connection, stream) for stream in _streams_of(connection, table)]
    if table.stream is not None or len(schemas) == len({*schemas}):
        return []
    streams = ", ".join(repr(".".join(filter(None, stream))) for stream in _streams_of(connection, table))
    return [
        f"source {_words(table)}: several streams of connection {connection.name!r} may land in this table "
        f"({streams}), and each sync may replace the rows of another; give them different prefixes or namespaces in "
        "Airbyte, or name the one that fills it in meta.lakehouse.airbyte.stream"
    ]


def _schema(connection: Connection, stream: tuple[str, str]) -> str:
    """The schema of a stream in lower case; empty where only the destination knows it."""
    return (connection.table_of(stream)[0] or "").lower()


def _unused(connection: Connection, tables: Sequence[SourceTable]) -> list[str]:
    """Streams of a connection that fill none of its tables."""
    named = {table.stream for table in tables if table.stream}
    silent = [table for table in tables if not table.stream]
    used = {stream for table in silent for stream in _streams_of(connection, table, strict=table.wanted is None)}
    return [stream[1] for stream in connection.streams or () if stream not in used and stream[1] not in named]


def _streams_of(connection: Connection, table: SourceTable, *, strict: bool = True) -> list[tuple[str, str]]:
    """Streams that may land in a table. Not `strict`: in whatever schema, for a contract has named the connection."""
    streams = connection.by_table.get(table.table.lower(), ())
    return [stream for stream in streams if _lands(connection, stream, table, landing_names, strict=strict)]


def landing_names(name: str) -> set[str]:
    """Names in lower case of the tables that a stream may land in.

    Some destinations keep a name. S3 Data Lake with Glue, and others, replace characters that are not allowed there:
    each by an underscore, or as Airbyte's `Names.toAlphanumericAndUnderscore` does, which drops accents first and takes
    blanks together. Source: airbytehq/airbyte, io.airbyte.commons.text.Names, and issue 52690.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.category(c).startswith("M"))
    spaced = re.sub(r"\s+", "_", plain)
    return {name.lower(), *(re.sub("[^a-z0-9_]", "_", text.lower()) for text in (name, spaced))}


def _own_name(name: str) -> set[str]:
    return {name.lower()}


def _lands(
    connection: Connection,
    stream: tuple[str, str],
    table: SourceTable,
    names: Callable[[str], set[str]] = _own_name,
    *,
    strict: bool = True,
) -> bool:
    schema, name = connection.table_of(stream)
    # A destination may fold names; where it alone knows the schema, the table's name has to do.
    fits = schema is None or not strict or table.schema.lower() in names(schema)
    return fits and table.table.lower() in names(name)


def _words(table: SourceTable) -> str:
    return ".".join(table.key)
