"""Row counts from the metadata of Iceberg tables, without reading data and without one query per table.

The summary of a snapshot may have totals (Iceberg table specification, appendix F, "Optional Snapshot Summary Fields"):
`total-records` counts the rows of its data files, including those that delete files remove. The summary has the number
of deletes, but not of the rows that they remove: a position may be deleted twice, and an equality delete removes any
number of rows. So the metadata is used only for tables without delete files. The rows of other tables are counted by a
query in Trino.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.iceberg.catalog import VARIABLE, CatalogError, open_catalog, reason
from lakehouse_analytics.iceberg.metadata_file import read_json

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table.metadata import TableMetadata

    FetchAll = Callable[[str], Sequence[Sequence[Any]]]

#: Each thread waits for one response of the catalog and one file, then runs Python code: 16 threads were not faster
#: than 8.
THREADS = 8
#: All of these must be present and zero. The number of files is checked, too, because a writer that appends whole
#: manifests may leave the other two unchanged (Iceberg's `SnapshotSummary` calls them untrusted in this case).
_NO_DELETES = ("total-delete-files", "total-position-deletes", "total-equality-deletes")


@dataclass(frozen=True)
class Current:
    """The current state of a table.

    Attributes:
        snapshot: Id of the current snapshot; None if there is none yet.
        rows: Number of rows; None if the metadata does not have the exact number.
        version: What changes whenever the rows or the columns change, and not when files are only compacted.
    """

    snapshot: int | None
    rows: int | None
    version: str


class MetadataCounts:
    """Counts rows in one Iceberg catalog, which must be the catalog that Trino uses. This is verified once."""

    def __init__(self, catalog: str, *, database: str, fetch_all: FetchAll) -> None:
        """Create a counter for a catalog.

        Args:
            catalog: Name of the catalog in pyiceberg's configuration.
            database: Name of the same catalog in Trino.
            fetch_all: Runs a query in Trino. It is called once, to verify that both names refer to the same catalog.
        """
        self._name, self._database, self._fetch_all = catalog, database, fetch_all
        self._catalog: Catalog | None = None
        self._same = False

    def rows(self, relations: Collection[Relation]) -> dict[Relation, int]:
        """Return the number of rows of the tables for which the metadata has the exact number.

        Args:
            relations: Tables and views, as named in Trino. Those of other catalogs are ignored.

        Returns:
            The number of rows by relation. The caller must count the rest: views, tables with delete files, and tables
            that are not in the catalog.

        Raises:
            CatalogError: The catalog cannot be read, or is not the one that Trino uses.
        """
        found = self._current(relations)
        return {relation: current.rows for relation, current in found.items() if current.rows is not None}

    def versions(self, relations: Collection[Relation]) -> dict[Relation, str]:
        """Return what identifies the contents of tables; see `Current`.

        Args:
            relations: Tables and views, as named in Trino. Those that are no tables of the catalog are ignored.

        Raises:
            CatalogError: The catalog cannot be read, or is not the one that Trino uses.
        """
        return {relation: current.version for relation, current in self._current(relations).items()}

    def _current(self, relations: Collection[Relation]) -> dict[Relation, Current]:
        here = [relation for relation in relations if relation.catalog.lower() == self._database.lower()]
        if not here:
            return {}
        opened = self._catalog = self._catalog or open_catalog(self._name)
        try:
            found = _look_up(self._name, opened, here)
        finally:
            opened.close()  # closes idle connections; the catalog opens new ones when it is used again
        self._same = self._same or _same_catalog(self._name, found, self._fetch_all)
        return found if self._same else {}


def exact_rows(summary: Mapping[str, Any] | None) -> int | None:
    """Return the number of rows from a snapshot's summary; None if the summary does not have the exact number."""
    if summary is None or any(summary.get(key) != "0" for key in _NO_DELETES):
        return None
    total = str(summary.get("total-records", ""))
    return int(total) if total.isascii() and total.isdecimal() else None


def _look_up(name: str, catalog: Catalog, relations: Sequence[Relation]) -> dict[Relation, Current]:
    """Read the metadata of each table. Tables that cannot be read are omitted, unless all of them fail."""
    found: dict[Relation, Current] = {}
    failures: list[Exception] = []
    load = _loader(catalog, relations)
    # Hive's client has one connection, which threads cannot share.
    threads = 1 if type(catalog).__name__ == "HiveCatalog" else THREADS
    with ThreadPoolExecutor(threads, thread_name_prefix="iceberg-metadata") as pool:
        for relation, current in zip(relations, pool.map(lambda one: _current(load, one), relations), strict=True):
            if isinstance(current, Exception):
                failures.append(current)
            elif current:
                found[relation] = current
    if failures and not found:
        raise CatalogError(
            f"{VARIABLE} is {name}, and none of {len(relations)} tables could be read from that Iceberg catalog: "
            f"{reason(name, failures[0])}. Check its address, its log-in and its storage, or unset {VARIABLE}."
        )
    return found


def _loader(catalog: Catalog, relations: Collection[Relation]) -> Callable[[tuple[str, str]], TableMetadata]:
    """Return a function that reads a table's metadata.

    For a SQL catalog, one query returns the locations of all tables, which halves the work.
    """
    if type(catalog).__name__ != "SqlCatalog":
        return lambda name: catalog.load_table(name).metadata
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from pyiceberg.exceptions import NoSuchTableError
    from pyiceberg.io import load_file_io
    from pyiceberg.serializers import FromInputFile
    from sqlalchemy import select

    assert isinstance(catalog, SqlCatalog)  # noqa: S101  # by its name
    columns = IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location
    schemas = {relation.schema.lower() for relation in relations}
    wanted = IcebergTables.catalog_name == catalog.name, IcebergTables.table_namespace.in_(schemas)
    with catalog.engine.connect() as connection:
        rows = connection.execute(select(*columns).where(*wanted)).fetchall()
    places = {(str(schema), str(table)): str(place) for schema, table, place in rows if place}
    files = load_file_io(dict(catalog.properties), next(iter(places.values()), None))

    def load(name: tuple[str, str]) -> TableMetadata:
        if name not in places:
            raise NoSuchTableError(".".join(name))
        try:
            return FromInputFile.table_metadata(files.new_input(places[name]))
        except Exception:
            if "view-uuid" in read_json(files, places[name]):  # views are listed, too
                raise NoSuchTableError(".".join(name)) from None
            raise

    return load


def _current(load: Callable[[tuple[str, str]], TableMetadata], relation: Relation) -> Current | Exception | None:
    from pyiceberg.exceptions import NoSuchTableError

    try:
        # Trino stores names in lower case.
        metadata = load((relation.schema.lower(), relation.name.lower()))
    except NoSuchTableError:
        return None  # a view, or a table of another catalog
    except Exception as error:
        return error
    snapshot = metadata.current_snapshot_id
    if snapshot is None:
        # A table without a snapshot has no data files: it was only created (Iceberg table specification,
        # `current-snapshot-id`).
        return Current(None, 0, _version(metadata))
    summaries = (one.summary for one in metadata.snapshots if one.snapshot_id == snapshot)
    return Current(snapshot, exact_rows(next(summaries, None)), _version(metadata))


def _version(metadata: TableMetadata) -> str:
    """Return the table, its columns, and the newest snapshot that did more than to rewrite files.

    Source: Iceberg table specification, "Snapshots": the operation `replace` does not change the table's data.
    """
    from pyiceberg.table.snapshots import Operation

    snapshots = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    current = metadata.current_snapshot_id
    while current is not None and (known := snapshots.get(current)) and known.summary:
        if known.summary.operation != Operation.REPLACE or known.parent_snapshot_id is None:
            break
        current = known.parent_snapshot_id
    return f"{metadata.table_uuid}-{metadata.current_schema_id}-{current}"


def _same_catalog(name: str, found: Mapping[Relation, Current], fetch_all: FetchAll) -> bool:
    """Return whether Trino has the same current snapshot for one of the tables; False if no table has a snapshot.

    Raises:
        CatalogError: Trino has another snapshot. Snapshot ids are random, so these are different catalogs, or one of
            them is not up to date.
    """
    for relation, current in found.items():
        if current.snapshot is not None:
            refs = relation.metadata("refs")
            [*answer] = fetch_all(f"select snapshot_id from {refs} where name = 'main'")  # noqa: S608  # quoted
            if [tuple(row) for row in answer] == [(current.snapshot,)]:
                return True
            raise CatalogError(
                f"{VARIABLE} is {name}, but that is not the catalog that Trino calls {relation.catalog}: the current "
                f"snapshot of {relation} is another one there. Point both at the same catalog, or unset {VARIABLE}."
            )
    return False
