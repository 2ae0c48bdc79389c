"""The full name of a table, as Trino and Iceberg know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse_analytics.common.sql import identifier


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


def relation_of(node: Mapping[str, Any]) -> Relation:
    """The table of a dbt model, seed, snapshot or source, as Trino names it."""
    name = node.get("identifier") or node.get("alias") or node["name"]
    # Trino folds names to lower case, quoted or not.
    return Relation(*(str(part).lower() for part in (node["database"], node["schema"], name)))
