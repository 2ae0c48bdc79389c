"""Measures many Iceberg tables with few statements, using Trino's metadata tables.

Each `CHUNK` tables need two statements: one for snapshots, references and manifests, then one for files by partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.trino.temp_relations import stale_temp_relations
from lakehouse_analytics.maintenance.plan import Snapshot, State
from lakehouse_analytics.maintenance.policy import MaintainedTable

Fetch = Callable[[str], list[tuple[Any, ...]]]
#: Tables per statement, and statements that run at the same time. Trino plans the tables of a statement one after the
#: other: for 30 tables, one statement took 13.8 s, one per table 9.8 s, and these numbers 5.4 s. The limit of 150
#: stages per query is far away.
CHUNK = 10
THREADS = 4
#: Types of relations in `information_schema.tables`, and how this package names them.
_KINDS = {"BASE TABLE": "table", "VIEW": "view"}


@dataclass(frozen=True)
class Measurements:
    """The measured states by unique id, and the errors for the tables that could not be measured."""

    states: Mapping[str, State] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


def measure(tables: Sequence[MaintainedTable], fetch: Fetch) -> Measurements:
    """Measure the state of each table, by unique id. A table that cannot be read does not affect the others.

    Args:
        tables: The tables to measure.
        fetch: Runs a statement. Called from several threads.

    Raises:
        DatabaseError: The engine cannot be used at all.
    """
    chunks = [tables[start : start + CHUNK] for start in range(0, len(tables), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        return _merge(threads.map(lambda chunk: _measure_chunk(chunk, fetch), chunks))


def existing(tables: Sequence[MaintainedTable], fetch: Fetch) -> dict[Relation, str]:
    """Return the relations in the tables' schemas, each with its type: `table` or `view`."""
    schemas: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        schemas[table.relation.catalog].add(table.relation.schema)
    return {
        Relation(catalog, schema, name): _KINDS[kind]
        for catalog, names in schemas.items()
        for schema, name, kind in fetch(_listing_sql(catalog, names))
        if kind in _KINDS
    }


def left_behind(
    table: MaintainedTable, relations: Mapping[Relation, str], *, now: datetime, older_than: timedelta
) -> tuple[tuple[Relation, str], ...]:
    """Return the temporary relations that dead builds of a model left in its schema."""
    of_table = {
        relation.name: (relation, kind)
        for relation, kind in relations.items()
        if relation.schema == table.relation.schema and relation.name.startswith(f"{table.relation.name}__dbt_tmp")
    }
    return tuple(of_table[name] for name in sorted(stale_temp_relations(of_table, now=now, older_than=older_than)))


def partitions_sql(relation: Relation) -> str:
    """Return the query for the partitions of a table, in the form that `WHERE "$partition"` takes."""
    return f'SELECT DISTINCT "$partition" FROM {relation} ORDER BY 1'  # noqa: S608  # quoted


def _measure_chunk(tables: Sequence[MaintainedTable], fetch: Fetch) -> Measurements:
    try:
        histories = _histories(tables, fetch(_history_sql(tables)))
        partitioned = {unique_id for unique_id, history in histories.items() if history.partitioned}
        files = dict(_files(tables, fetch(_files_sql(tables, partitioned))))
        return Measurements({t.unique_id: replace(histories[t.unique_id].state, **files[t.unique_id]) for t in tables})
    except DatabaseError:
        raise
    except Exception as error:
        if len(tables) == 1:
            return Measurements(errors={tables[0].unique_id: str(error).strip()})
    # The tables are read together. Only if that fails, read them one by one to find the one that failed.
    return _merge(_measure_chunk([table], fetch) for table in tables)


def _merge(parts: Iterable[Measurements]) -> Measurements:
    all_of = [*parts]
    return Measurements(
        {unique_id: state for part in all_of for unique_id, state in part.states.items()},
        {unique_id: error for part in all_of for unique_id, error in part.errors.items()},
    )


@dataclass(frozen=True)
class _History:
    state: State
    partitioned: bool


def _listing_sql(catalog: str, schemas: Iterable[str]) -> str:
    names = ", ".join(map(literal, sorted(schemas)))
    tables = Relation(catalog, "information_schema", "tables")
    return f"SELECT table_schema, table_name, table_type FROM {tables} WHERE table_schema IN ({names})"  # noqa: S608


def _history_sql(tables: Sequence[MaintainedTable]) -> str:
    selects = []
    for index, table in enumerate(tables):
        of = table.relation.metadata
        changed = " + ".join(
            f"coalesce(try_cast(element_at(summary, '{entry}') AS bigint), 0)"
            for entry in ("added-records", "deleted-records", "added-position-deletes", "added-equality-deletes")
        )
        selects += [  # names come from the manifest, and are quoted
            f"SELECT {index}, 'snapshot', snapshot_id, committed_at, "  # noqa: S608
            f"CASE operation WHEN 'replace' THEN 0 ELSE {changed} END FROM {of('snapshots')}",
            f"SELECT {index}, 'reference', snapshot_id, NULL, 0 FROM {of('refs')}",  # noqa: S608
            f"SELECT {index}, 'manifest', length, NULL, cardinality(partition_summaries) FROM {of('manifests')}",  # noqa: S608
        ]
    # A table without any write has no rows in any of these.
    return "\nUNION ALL\n".join([*selects, "SELECT -1, 'clock', 0, current_timestamp(3), 0"])


def _histories(tables: Sequence[MaintainedTable], rows: Iterable[tuple[Any, ...]]) -> dict[str, _History]:
    by_table: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        by_table[row[0]].append(row[1:])
    now = _utc(by_table.pop(-1)[0][2])
    return {table.unique_id: _history(by_table[index], now) for index, table in enumerate(tables)}


def _history(rows: Iterable[tuple[Any, ...]], now: datetime) -> _History:
    of: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for kind, *values in rows:
        of[kind].append(tuple(values))
    snapshots = sorted((Snapshot(id_, _utc(at), changed) for id_, at, changed in of["snapshot"]), key=_order)
    manifests = of["manifest"]
    state = State(
        now=now,
        manifests=len(manifests),
        manifest_bytes=sum(length for length, *_ in manifests),
        snapshots=tuple(snapshots),
        referenced=frozenset(id_ for id_, *_ in of["reference"]),
    )
    return _History(state, any(fields for _, _, fields in manifests))


def _order(snapshot: Snapshot) -> tuple[datetime, int]:
    return snapshot.at, snapshot.id


def _files_sql(tables: Sequence[MaintainedTable], partitioned: set[str]) -> str:
    selects = []
    for index, table in enumerate(tables):
        small = f"content = 0 AND file_size_in_bytes < {table.policy.small_file_bytes}"
        # Only partitioned tables have this column.
        partition = "partition" if table.unique_id in partitioned else "0"
        groups = (  # names come from the manifest, and are quoted
            f"SELECT {partition} AS place, count_if(content = 0) AS files, "  # noqa: S608
            f"count_if({small}) AS small, "
            f"ceil(coalesce(sum(file_size_in_bytes) FILTER (WHERE {small}), 0) / "
            f"{table.policy.small_file_bytes}e0) AS merged, "
            "coalesce(sum(file_size_in_bytes) FILTER (WHERE content = 0), 0) AS bytes, "
            "coalesce(sum(record_count) FILTER (WHERE content = 0), 0) AS row_count, "
            "count_if(content <> 0) AS deletes, "
            "coalesce(sum(file_size_in_bytes) FILTER (WHERE content <> 0), 0) AS delete_bytes, "
            "coalesce(sum(record_count) FILTER (WHERE content <> 0), 0) AS deleted "
            f"FROM {table.relation.metadata('files')} GROUP BY 1"
        )
        sums = ", ".join(f"coalesce(sum({column}), 0)" for column in _COLUMNS.values())
        selects.append(f"SELECT {index}, {sums} FROM ({groups})")  # noqa: S608
    return "\nUNION ALL\n".join(selects)


#: Fields of the state that come from `$files`, and the expressions that are summed over its partitions.
_COLUMNS = {
    "data_files": "files",
    "data_bytes": "bytes",
    "small_files": "small",
    "mergeable": "cast(small - merged AS bigint)",
    "partitions_to_merge": "CASE WHEN small > merged OR deletes > 0 THEN 1 ELSE 0 END",
    "delete_files": "deletes",
    "delete_bytes": "delete_bytes",
    "rows": "row_count",
    "deleted_rows": "deleted",
}


def _files(tables: Sequence[MaintainedTable], rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, *values in rows:
        yield tables[index].unique_id, dict(zip(_COLUMNS, values, strict=True))


def _utc(value: Any) -> datetime:
    return datetime.fromisoformat(str(value)).astimezone(UTC)
