"""The definitions of views in Trino."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import VIEW, FetchAll


def view_versions(fetch_all: FetchAll, relations: Collection[Relation]) -> dict[Relation, str]:
    """Return a hash of the definition of each view, with one query per catalog.

    Args:
        fetch_all: Runs a query.
        relations: Views; others are ignored.

    Raises:
        DatabaseError: A query failed.
    """
    catalogs: dict[str, set[Relation]] = defaultdict(set)
    for relation in relations:
        catalogs[relation.catalog].add(relation)
    found = {}
    for catalog, wanted in catalogs.items():
        schemas = ", ".join(sorted(literal(relation.schema) for relation in wanted))
        rows = fetch_all(
            "select table_schema, table_name, view_definition "  # noqa: S608  # quoted
            f"from {identifier(catalog)}.information_schema.views where table_schema in ({schemas})"
        )
        for schema, name, definition in rows:
            relation = Relation(catalog, str(schema), str(name))
            if relation in wanted:
                found[relation] = VIEW + digest(str(definition))
    return found
