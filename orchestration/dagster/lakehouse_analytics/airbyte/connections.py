"""Connections of Airbyte, and which source tables each of them fills. Pure."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lakehouse_analytics.graph import Key

#: Statuses of connections that sync nothing: often the predecessor of one that does.
RESTING = ("inactive", "deprecated")


@dataclass(frozen=True)
class Connection:
    """One connection.

    Attributes:
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
        problems: What contracts ask for and is not there, in words.
        unmapped: Connections that fill no table of a dbt source.
    """

    tables: Mapping[str, Sequence[SourceTable]]
    problems: Sequence[str] = ()
    unmapped: Sequence[Connection] = field(default_factory=tuple)


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
    near = difflib.get_close_matches(wanted, [connection.name for connection in connections], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
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
        problems += [missing for table in of if (missing := _missing_stream(table, connection))]
        found[connection.id] += of
    for table in silent:
        landing = [c for c in connections if c.status not in RESTING and _lands(c, table)]
        if len(landing) == 1:
            found[landing[0].id].append(table)
        elif landing:
            ids = ", ".join(sorted(c.id for c in landing))
            problems.append(
                f"source {_words(table)}: streams of several connections could land there ({ids}); name one in "
                "meta.lakehouse.airbyte.connection"
            )
    unmapped = [connection for connection in connections if connection.id not in found]
    return Fills(dict(found), problems, unmapped)


def _missing_stream(table: SourceTable, connection: Connection) -> str | None:
    if table.stream is None or connection.streams is None:
        return None
    names = [name for _, name in connection.streams]
    if table.stream in names:
        return None
    near = difflib.get_close_matches(table.stream, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"source {_words(table)}: meta.lakehouse.airbyte.stream is {table.stream!r}, and connection "
        f"{connection.name!r} does not sync such a stream{hint}"
    )


def _lands(connection: Connection, table: SourceTable) -> bool:
    for stream in connection.streams or ():
        schema, name = connection.table_of(stream)
        # A destination may fold names; where it alone knows the schema, the table's name has to do.
        if name.lower() == table.table.lower() and (schema is None or schema.lower() == table.schema.lower()):
            return True
    return False


def _words(table: SourceTable) -> str:
    return ".".join(table.key)
