"""Creates and drops schemas of a Trino catalog. Each statement is one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.trino.client import execute
from lakehouse_analytics.engines.trino.session import TrinoError, TrinoServer


class TrinoSchemas:
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

    def relations(self, schemas: Collection[str]) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view in some schemas."""
        if not schemas:
            return set()
        rows = self.fetch_all(
            f"select table_schema, table_name from {identifier(self.database)}.information_schema.tables "  # noqa: S608
            f"where table_schema in ({', '.join(map(literal, sorted(schemas)))})"
        )
        return {(str(schema), str(name)) for schema, name in rows}

    def create_schema(self, schema: str, *, if_missing: bool = False) -> None:
        """Create a schema."""
        words = "if not exists " if if_missing else ""
        self.fetch_all(f"create schema {words}{identifier(self.database)}.{identifier(schema)}")

    def drop_schemas(self, schemas: Collection[str]) -> None:
        """Drop schemas with all their tables and views. Trino does not know which views read a table."""
        for schema in sorted(schemas):
            self.fetch_all(f"drop schema if exists {identifier(self.database)}.{identifier(schema)} cascade")
