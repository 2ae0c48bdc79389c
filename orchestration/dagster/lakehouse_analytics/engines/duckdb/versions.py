"""Versions of tables in DuckDB: a hash of their contents, because DuckDB has no snapshots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import VIEW, FetchAll


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
        "select c.database_name, c.schema_name, c.table_name, c.column_name, c.data_type, v.sql, version() "  # noqa: S608
        "from duckdb_columns() as c left join duckdb_views() as v on v.database_name = c.database_name "
        "and v.schema_name = c.schema_name and v.view_name = c.table_name "
        f"where lower(c.schema_name) in ({schemas}) order by c.column_index"
    )
    columns: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    about: dict[tuple[str, ...], tuple[str, str]] = {}
    for row in rows:
        name = tuple(str(part).lower() for part in row[:3])
        columns[name].append((str(row[3]), str(row[4])))
        about[name] = str(row[5] or ""), str(row[6])
    found = {}
    for relation in relations:
        name = (relation.catalog.lower(), relation.schema.lower(), relation.name.lower())
        if name in about:
            view, release = about[name]
            parts = [view] if view else [release, *_contents(fetch_all, relation, columns[name])]
            version = digest(repr(columns[name]), *parts)
            found[relation] = VIEW + version if view else version
    return found


def _contents(fetch_all: FetchAll, relation: Relation, columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return the number of rows and the sum of their hashes, which does not depend on their order."""
    values = ", ".join(_value(identifier(name), kind) for name, kind in columns)
    hashed = f"cast(coalesce(sum(cast(hash({values}) as hugeint)), 0) as varchar)"
    [row] = fetch_all(f"select cast(count(*) as varchar), {hashed} from {relation}")  # noqa: S608  # quoted
    return [str(part) for part in row]


def _value(name: str, kind: str) -> str:
    """Return a value of which different ones have different hashes, unlike an empty list and NULL, or 30 days and a
    month.
    """
    if kind.endswith("]") or kind.startswith(("STRUCT(", "MAP(", "UNION(")):
        return f"cast(to_json({name}) as varchar)"
    return f"cast({name} as varchar)" if kind in ("INTERVAL", "FLOAT", "DOUBLE", "JSON", "VARIANT") else name
