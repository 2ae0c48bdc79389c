"""Versions of tables in DuckDB: a hash of their contents, because DuckDB has no snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import FetchAll


def table_versions(fetch_all: FetchAll, relations: Collection[Relation]) -> dict[Relation, str]:
    """Return a hash of the rows and columns of each table, and of the definition of each view.

    DuckDB's `hash` may differ between its versions, and then all tables are seen as changed.

    Args:
        fetch_all: Runs a query.
        relations: Tables and views. Those that do not exist are missing from the result.

    Raises:
        DatabaseError: A query failed.
    """
    if not relations:
        return {}
    schemas = ", ".join(sorted({literal(relation.schema.lower()) for relation in relations}))
    rows = fetch_all(
        "select c.database_name, c.schema_name, c.table_name, v.sql, "  # noqa: S608  # quoted
        "string_agg(c.column_name || ' ' || c.data_type, ',' order by c.column_index), version() "
        "from duckdb_columns() as c left join duckdb_views() as v on v.database_name = c.database_name "
        "and v.schema_name = c.schema_name and v.view_name = c.table_name "
        f"where lower(c.schema_name) in ({schemas}) group by all"
    )
    there = {tuple(str(part).lower() for part in row[:3]): [str(part or "") for part in row[3:]] for row in rows}
    found = {}
    for relation in relations:
        known = there.get((relation.catalog.lower(), relation.schema.lower(), relation.name.lower()))
        if known is None:
            continue
        view, columns, release = known
        parts = ["view", view] if view else ["table", release, *_contents(fetch_all, relation)]
        found[relation] = hashlib.sha256("\n".join([columns, *parts]).encode()).hexdigest()[:16]
    return found


def _contents(fetch_all: FetchAll, relation: Relation) -> list[str]:
    """Return the number of rows and the sum of their hashes, which does not depend on their order."""
    hashed = 'cast(coalesce(sum(cast(hash("row of it") as hugeint)), 0) as varchar)'
    [row] = fetch_all(f'select cast(count(*) as varchar), {hashed} from {relation} as "row of it"')  # noqa: S608  # quoted
    return [str(part) for part in row]
