"""Compares tables of Trino. Iceberg tables are read at one snapshot, so that all statements see the same rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from lakehouse_analytics.common.names import counted
from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.comparison import Comparison, Family, family
from lakehouse_analytics.engines.trino.client import connect, execute
from lakehouse_analytics.engines.trino.session import TrinoError, TrinoServer

#: Types in structures that Trino casts to text, but not to JSON.
_NOT_IN_JSON = re.compile(r"\b(uuid|time\(\d+\)|timestamp\(\d+\) with time zone|char\(\d+\))(?=[,)])")
#: Number of snapshots to list in a message.
_FEW = 3


class TrinoComparison(Comparison):
    """Statements for comparisons, each with its own connection.

    Args:
        server: The coordinator.
        client_tags: Tags of the queries.
    """

    title = "Trino"

    def __init__(self, server: TrinoServer, client_tags: Sequence[str] = ()) -> None:
        self._server, self._client_tags = server, client_tags

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Return all rows of one statement."""
        try:
            return execute(self._server, sql, self._client_tags).rows
        except TrinoError as error:
            raise DatabaseError(str(error)) from None

    def columns(self, source: str) -> dict[str, str]:
        """Return the types of the columns by name."""
        from trino.exceptions import Error

        try:
            with closing(connect(self._server, self._client_tags)) as connection:
                cursor = connection.cursor()
                cursor.execute(f"select * from {source} limit 0")  # noqa: S608
                cursor.fetchall()
                return {str(column[0]): str(column[1]) for column in cursor.description}
        except Error as error:
            raise DatabaseError(f"{source} cannot be read: {getattr(error, 'message', error)}") from None

    def tables(self, catalog: str) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view of a catalog."""
        rows = self.fetch_all(f"select table_schema, table_name from {identifier(catalog)}.information_schema.tables")  # noqa: S608
        return {(str(schema), str(name)) for schema, name in rows}

    def now(self, relation: Relation) -> str:
        """Return the table at its current snapshot; unchanged if it has none, such as a view."""
        try:
            rows = self.fetch_all(f"select snapshot_id from {relation.metadata('refs')} where name = 'main'")  # noqa: S608
        except DatabaseError:
            return str(relation)
        if not rows:
            return str(relation)
        pinned = _at(relation, rows[0][0])
        # A snapshot has the columns of its time: a column that was added since is only in the table.
        return pinned if self.columns(pinned) == self.columns(str(relation)) else str(relation)

    def at_snapshot(self, relation: Relation, snapshot: int) -> str:
        """Return the table at a snapshot."""
        if snapshot not in {found for found, _ in self._snapshots(relation)}:
            raise DatabaseError(f"{_name(relation)} has no snapshot {snapshot}. {self._known(relation)}")
        return _at(relation, snapshot)

    def at_time(self, relation: Relation, time: datetime) -> str:
        """Return the table as it was at a time."""
        moment = time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")
        rows = self.fetch_all(
            f"select snapshot_id from {relation.metadata('history')} "  # noqa: S608
            f"where made_current_at <= timestamp '{moment}' order by made_current_at desc limit 1"
        )
        if not rows:
            raise DatabaseError(f"{_name(relation)} has no snapshot as old as {moment}. {self._known(relation)}")
        snapshot = rows[0][0]
        if snapshot not in {found for found, _ in self._snapshots(relation)}:
            raise DatabaseError(
                f"The snapshot {snapshot} of {_name(relation)}, which was current at {moment}, has expired. "
                f"{self._known(relation)}"
            )
        return _at(relation, snapshot)

    def _snapshots(self, relation: Relation) -> list[tuple[int, datetime]]:
        rows = self.fetch_all(
            f"select snapshot_id, committed_at from {relation.metadata('snapshots')} order by committed_at desc"  # noqa: S608
        )
        return [(int(snapshot), committed) for snapshot, committed in rows]

    def _known(self, relation: Relation) -> str:
        found = self._snapshots(relation)
        listed = ", ".join(f"{snapshot} of {committed:%Y-%m-%dT%H:%M:%SZ}" for snapshot, committed in found[:_FEW])
        return f"It has {counted(len(found), 'snapshot')}, the latest: {listed}." if found else "It has no snapshot."

    def value(self, expression: str, data_type: str) -> str:  # noqa: ARG002
        """Return the value itself: every type of Iceberg can be compared."""
        return expression

    def text(self, expression: str, data_type: str) -> str:
        """Return a value's text. Structures are written as JSON, with sorted keys."""
        if family(data_type) is Family.BINARY:
            return f"lower(to_hex({expression}))"
        if data_type.startswith(("array", "map", "row", "json")):
            readable = _NOT_IN_JSON.sub("varchar", data_type)
            value = expression if readable == data_type else f"cast({expression} as {readable})"
            return f"json_format(cast({value} as json))"
        return f"cast({expression} as varchar)"

    def row_hash(self, text: str) -> str:
        """Return the first 60 bits of a text's MD5."""
        return f"from_base(substr(lower(to_hex(md5(to_utf8({text})))), 1, 15), 16)"


def _at(relation: Relation, snapshot: int) -> str:
    return f"{relation} for version as of {int(snapshot)}"


def _name(relation: Relation) -> str:
    return f"{relation.schema}.{relation.name}"
