"""The state of many Iceberg tables from Trino's metadata tables, in few statements. Pure: SQL out, rows in.

Two statements for each `CHUNK` tables: snapshots, references and manifests; then files, partition by partition.
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
from lakehouse_analytics.engines.trino.temp_relations import stale_temporaries
from lakehouse_analytics.maintenance.plan import Snapshot, State
from lakehouse_analytics.maintenance.policy import MaintainedTable

Fetch = Callable[[str], list[tuple[Any, ...]]]
#: Tables of one statement, and statements at a time. Trino plans a statement's tables one after the other: 30 tables
#: took 13.8 s in one statement and 5.4 s so; a statement a table 9.8 s. Its limit of 150 stages is far.
CHUNK = 10
THREADS = 4
#: How a query names what is a table to Trino, and what is not.
_KINDS = {"BASE TABLE": "table", "VIEW": "view"}


@dataclass(frozen=True)
class Measured:
    """What could be measured, and why the rest could not."""

    states: Mapping[str, State] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


def measure(tables: Sequence[MaintainedTable], fetch: Fetch) -> Measured:
    """The state of each table, by unique id. A table that cannot be read costs the others nothing but time.

    Args:
        tables: Those to measure.
        fetch: Runs one statement; called from several threads.

    Raises:
        DatabaseError: the engine cannot be used, whatever is asked.
    """
    chunks = [tables[start : start + CHUNK] for start in range(0, len(tables), CHUNK)]
    with ThreadPoolExecutor(THREADS) as threads:
        return _together(threads.map(lambda chunk: _measured(chunk, fetch), chunks))


def existing(tables: Sequence[MaintainedTable], fetch: Fetch) -> dict[Relation, str]:
    """Every relation in the tables' schemas, and whether it is a `table` or a `view`."""
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
    """Temporary relations that dead builds of one model left in its schema."""
    of_table = {
        relation.name: (relation, kind)
        for relation, kind in relations.items()
        if relation.schema == table.relation.schema and relation.name.startswith(f"{table.relation.name}__dbt_tmp")
    }
    return tuple(of_table[name] for name in sorted(stale_temporaries(of_table, now=now, older_than=older_than)))


def partitions_sql(relation: Relation) -> str:
    """Every partition, by the name that a `WHERE "$partition"` takes."""
    return f'SELECT DISTINCT "$partition" FROM {relation} ORDER BY 1'  # noqa: S608  # quoted


def _measured(tables: Sequence[MaintainedTable], fetch: Fetch) -> Measured:
    try:
        histories = _histories(tables, fetch(_history_sql(tables)))
        partitioned = {unique_id for unique_id, history in histories.items() if history.partitioned}
        files = dict(_files(tables, fetch(_files_sql(tables, partitioned))))
        return Measured({t.unique_id: replace(histories[t.unique_id].state, **files[t.unique_id]) for t in tables})
    except DatabaseError:
        raise
    except Exception as error:
        if len(tables) == 1:
            return Measured(errors={tables[0].unique_id: str(error).strip()})
    # One statement for all; only where it fails, one a table to find out which it was.
    return _together(_measured([table], fetch) for table in tables)


def _together(parts: Iterable[Measured]) -> Measured:
    all_of = [*parts]
    return Measured(
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
    for place, table in enumerate(tables):
        of = table.relation.metadata
        changed = " + ".join(
            f"coalesce(try_cast(element_at(summary, '{entry}') AS bigint), 0)"
            for entry in ("added-records", "deleted-records", "added-position-deletes", "added-equality-deletes")
        )
        selects += [  # names come from the manifest, and are quoted
            f"SELECT {place}, 'snapshot', snapshot_id, committed_at, "  # noqa: S608
            f"CASE operation WHEN 'replace' THEN 0 ELSE {changed} END FROM {of('snapshots')}",
            f"SELECT {place}, 'reference', snapshot_id, NULL, 0 FROM {of('refs')}",  # noqa: S608
            f"SELECT {place}, 'manifest', length, NULL, cardinality(partition_summaries) FROM {of('manifests')}",  # noqa: S608
        ]
    # A table that was never written has no rows in any of them.
    return "\nUNION ALL\n".join([*selects, "SELECT -1, 'clock', 0, current_timestamp(3), 0"])


def _histories(tables: Sequence[MaintainedTable], rows: Iterable[tuple[Any, ...]]) -> dict[str, _History]:
    by_table: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        by_table[row[0]].append(row[1:])
    now = _utc(by_table.pop(-1)[0][2])
    return {table.unique_id: _history(by_table[place], now) for place, table in enumerate(tables)}


def _history(rows: Iterable[tuple[Any, ...]], now: datetime) -> _History:
    of: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for kind, *values in rows:
        of[kind].append(tuple(values))
    snapshots = sorted((Snapshot(id_, _utc(at), changed) for id_, at, changed in of["snapshot"]), key=_when)
    manifests = of["manifest"]
    state = State(
        now=now,
        manifests=len(manifests),
        manifest_bytes=sum(length for length, *_ in manifests),
        snapshots=tuple(snapshots),
        referenced=frozenset(id_ for id_, *_ in of["reference"]),
    )
    return _History(state, any(fields for _, _, fields in manifests))


def _when(snapshot: Snapshot) -> tuple[datetime, int]:
    return snapshot.at, snapshot.id


def _files_sql(tables: Sequence[MaintainedTable], partitioned: set[str]) -> str:
    selects = []
    for place, table in enumerate(tables):
        small = f"content = 0 AND file_size_in_bytes < {table.policy.small_file_bytes}"
        # The column is there for partitioned tables only.
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
        selects.append(f"SELECT {place}, {sums} FROM ({groups})")  # noqa: S608
    return "\nUNION ALL\n".join(selects)


#: Fields of the state that come from `$files`, and what they sum over its partitions.
_COLUMNS = {
    "data_files": "files",
    "data_bytes": "bytes",
    "small_files": "small",
    "mergeable": "cast(small - merged AS bigint)",
    "ragged": "CASE WHEN small > merged OR deletes > 0 THEN 1 ELSE 0 END",
    "delete_files": "deletes",
    "delete_bytes": "delete_bytes",
    "rows": "row_count",
    "deleted_rows": "deleted",
}


def _files(tables: Sequence[MaintainedTable], rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, *values in rows:
        yield tables[place].unique_id, dict(zip(_COLUMNS, values, strict=True))


def _utc(value: Any) -> datetime:
    return datetime.fromisoformat(str(value)).astimezone(UTC)
