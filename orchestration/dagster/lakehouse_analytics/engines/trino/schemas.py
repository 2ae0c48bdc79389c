"""Creates and drops schemas of a Trino catalog. Each statement is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.schema_session import InformationSchema
from lakehouse_analytics.engines.trino.client import execute
from lakehouse_analytics.engines.trino.session import TrinoError, TrinoServer


class TrinoSchemas(InformationSchema):
    """Statements on a Trino catalog, each with its own connection. See `SchemaSession`.

    Args:
        server: The coordinator.
        client_tags: Tags of the queries.
    """

    longest_name: int | None = 128  # of Hive's metastore; Glue's is 255

    def __init__(self, server: TrinoServer, client_tags: Sequence[str] = ()) -> None:
        self._server, self._client_tags = server, client_tags
        self.database = str(server.catalog)

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement, and return all its rows."""
        try:
            return execute(self._server, sql, self._client_tags).rows
        except TrinoError as error:
            raise DatabaseError(str(error)) from None

    def schemas(self) -> set[str]:
        """Return the names of all schemas of the catalog."""
        return {str(name) for (name,) in self.fetch_all(f"show schemas from {identifier(self.database)}")}
