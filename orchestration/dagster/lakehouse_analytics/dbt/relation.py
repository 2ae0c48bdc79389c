"""The full name of a table, as Trino and Iceberg know it."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse_analytics.common.sql import identifier
from lakehouse_analytics.dbt.nodes import Node


@dataclass(frozen=True)
class Relation:
    """A table's full name."""

    catalog: str
    schema: str
    name: str

    def __str__(self) -> str:
        """Quoted for Trino."""
        return ".".join(map(identifier, (self.catalog, self.schema, self.name)))

    def metadata(self, table: str) -> str:
        """One of Iceberg's metadata tables, quoted: `files`, `snapshots`, `manifests`, `refs`."""
        return str(Relation(self.catalog, self.schema, f"{self.name}${table}"))


def relation_of(node: Node) -> Relation:
    """The table of a dbt model, seed, snapshot or source, as Trino names it."""
    # Trino folds names to lower case, quoted or not.
    return Relation(*(str(part).lower() for part in (node.database, node.schema, node.table_name)))
