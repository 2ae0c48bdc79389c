"""Full names of tables in Trino and Iceberg."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.dbt.nodes import Node


@dataclass(frozen=True)
class Relation:
    """The full name of a table."""

    catalog: str
    schema: str
    name: str

    def __str__(self) -> str:
        """Return the name, quoted for Trino."""
        return ".".join(map(identifier, (self.catalog, self.schema, self.name)))

    def metadata(self, table: str) -> str:
        """Return the quoted name of one of Iceberg's metadata tables: `files`, `snapshots`, `manifests` or `refs`."""
        return str(Relation(self.catalog, self.schema, f"{self.name}${table}"))


def in_schema(relation_name: str, schema: str) -> str:
    """Return a table's full name, as dbt quotes it with `"`, in another schema."""
    *database, _, name = relation_name.split('"."')
    return '"."'.join([*database, schema, name]) if database else f'"{schema}"."{name}'


def written_relation(node: Node) -> Relation:
    """Return the relation of a dbt model, seed, snapshot or source, as the manifest writes it."""
    return Relation(str(node.database or ""), node.schema, node.table_name)


def relation_of(node: Node) -> Relation:
    """Return the relation of a dbt model, seed, snapshot or source, as Trino names it."""
    # Trino converts names to lower case, even if they are quoted.
    return Relation(*(str(part).lower() for part in (node.database, node.schema, node.table_name)))
