"""Versions of tables in PostgreSQL: a hash of their contents, because PostgreSQL has no snapshots."""

from __future__ import annotations

from collections.abc import Collection

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import VIEW
from lakehouse_analytics.engines.comparison import Comparison
from lakehouse_analytics.engines.content_hash import content_hash


def table_versions(session: Comparison, relations: Collection[Relation]) -> dict[Relation, str]:
    """Return a hash of the rows and columns of each table, and of the definition of each view.

    Args:
        session: An open session.
        relations: Tables and views. Those that do not exist are missing from the result.

    Raises:
        DatabaseError: A query failed.
    """
    if not relations:
        return {}
    schemas = ", ".join(sorted({literal(relation.schema) for relation in relations}))
    rows = session.fetch_all(
        "select nspname, relname, case when relkind = 'v' then pg_get_viewdef(c.oid) end "  # noqa: S608  # quoted
        "from pg_class as c join pg_namespace as n on n.oid = c.relnamespace "
        f"where relkind in ('r', 'p', 'v', 'm') and nspname in ({schemas})"
    )
    there = {(str(schema), str(name)): definition for schema, name, definition in rows}
    found = {}
    for relation in relations:
        if (relation.schema, relation.name) not in there:
            continue
        definition = there[relation.schema, relation.name]
        if definition is None:
            source = session.now(relation)
            columns = session.columns(source)
            if "json" in columns.values():  # of which texts with the same meaning have the same hash
                continue
            found[relation] = f"{content_hash(session, source)}-{digest(*columns)}"  # also the order of the columns
        else:
            found[relation] = VIEW + digest(str(definition))
    return found
