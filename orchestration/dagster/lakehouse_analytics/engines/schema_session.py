"""What branches that are schemas need from an engine: `branches/schema_catalog.py` is their user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from lakehouse_analytics.common.sql import identifier, literal


class SchemaSession(Protocol):
    """Statements about the schemas of one database."""

    @property
    def database(self) -> str:
        """The database, which Trino calls a catalog."""

    @property
    def longest_name(self) -> int | None:
        """Maximum length of a schema's name in bytes; None if it is not limited."""

    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement, and return all its rows.

        Raises:
            DatabaseError: The statement failed.
        """

    def schemas(self) -> set[str]:
        """Return the names of all schemas of the database."""

    def relations(self, schemas: Collection[str]) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view in some schemas."""

    def create_schema(self, schema: str, *, if_missing: bool = False) -> None:
        """Create a schema.

        Args:
            schema: The name.
            if_missing: Whether nothing is done if it exists.

        Raises:
            DatabaseError: It exists, or cannot be created.
        """

    def drop_schemas(self, schemas: Collection[str]) -> None:
        """Drop schemas with all their tables and views.

        Raises:
            DatabaseError: A view outside of these schemas reads one of their tables, or a statement failed.
        """


class InformationSchema(ABC):
    """The part of a `SchemaSession` that is the same where a catalog has an `information_schema`."""

    database: str

    @abstractmethod
    def fetch_all(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement, and return all its rows."""

    def relations(self, schemas: Collection[str]) -> set[tuple[str, str]]:
        """Return the schema and the name of each table and view in some schemas."""
        if not schemas:
            return set()
        rows = self.fetch_all(
            "select table_schema, table_name from information_schema.tables "  # noqa: S608
            f"where table_catalog = {literal(self.database)} "
            f"and table_schema in ({', '.join(map(literal, sorted(schemas)))})"
        )
        return {(str(schema), str(name)) for schema, name in rows}

    def create_schema(self, schema: str, *, if_missing: bool = False) -> None:
        """Create a schema."""
        words = "if not exists " if if_missing else ""
        self.fetch_all(f"create schema {words}{identifier(self.database)}.{identifier(schema)}")

    def drop_schemas(self, schemas: Collection[str]) -> None:
        """Drop schemas with all their tables and views. The database does not know which views read a table."""
        for schema in sorted(schemas):
            self.fetch_all(f"drop schema if exists {identifier(self.database)}.{identifier(schema)} cascade")


@runtime_checkable
class HasSchemas(Protocol):
    """An engine whose schemas can be created and dropped without dbt."""

    def schema_session(self, *, write: bool) -> AbstractContextManager[SchemaSession]:
        """Open a session. Where the engine can, the block is one transaction, and writers wait for each other.

        Args:
            write: Whether the block changes something.

        Raises:
            DatabaseError: The database cannot be used.
        """
