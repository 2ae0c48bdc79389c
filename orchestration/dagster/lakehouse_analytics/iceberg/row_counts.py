"""Row counts from the metadata of Iceberg tables, without reading data and without a query a table.

The summary of a snapshot may say what the snapshot holds (Iceberg table specification, appendix F, "Optional Snapshot
Summary Fields"): `total-records` counts the rows of its data files, those too that delete files take away.
Delete files say how many deletes they hold, never how many rows these remove: a position may be deleted
twice, and an equality delete removes any number of rows. So a count is taken only where there is no delete file at
all; of every other table Trino is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.iceberg.catalog import VARIABLE, CatalogError, open_catalog, reason

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table.metadata import TableMetadata

    FetchAll = Callable[[str], Sequence[Sequence[Any]]]

#: Each waits for one answer of the catalog and one file; what they do with it is Python: 16 were no faster than 8.
THREADS = 8
#: All must be there and be zero. Files, too: a writer that appends whole manifests may leave the two counts of deletes
#: as they were (Iceberg's `SnapshotSummary` calls them untrusted then).
_NO_DELETES = ("total-delete-files", "total-position-deletes", "total-equality-deletes")


@dataclass(frozen=True)
class Current:
    """A table's current snapshot (None: it has never had one) and its rows (None: the metadata cannot tell)."""

    snapshot: int | None
    rows: int | None


class MetadataCounts:
    """Counts rows in one Iceberg catalog. Once it is known to be Trino's own it is not compared again."""

    def __init__(self, catalog: str, *, database: str, fetch_all: FetchAll) -> None:
        """
        Args:
            catalog: Its name in pyiceberg's configuration.
            database: The name of the same catalog in Trino.
            fetch_all: Asks Trino; it is asked once, whether both names mean the same catalog.
        """
        self._name, self._database, self._fetch_all = catalog, database, fetch_all
        self._catalog: Catalog | None = None
        self._same = False

    def rows(self, relations: Collection[Relation]) -> dict[Relation, int]:
        """Count the rows of the tables whose metadata tells exactly.

        Args:
            relations: Tables and views, as Trino names them; those of other catalogs are left out.

        Returns:
            Rows by relation. Whatever is not in it, the caller must count: views, tables with delete files, tables
            that the catalog does not know.

        Raises:
            CatalogError: the catalog cannot be read, or is not the one that Trino reads.
        """
        here = [relation for relation in relations if relation.catalog.lower() == self._database.lower()]
        if not here:
            return {}
        opened = self._catalog = self._catalog or open_catalog(self._name)
        try:
            found = _look_up(self._name, opened, here)
        finally:
            opened.close()  # idle connections; the catalog opens new ones when it is used again
        self._same = self._same or _same_catalog(self._name, found, self._fetch_all)
        if not self._same:
            return {}
        return {relation: current.rows for relation, current in found.items() if current.rows is not None}


def exact_rows(summary: Mapping[str, Any] | None) -> int | None:
    """The rows of a snapshot, from its summary; None where that cannot tell exactly."""
    if summary is None or any(summary.get(key) != "0" for key in _NO_DELETES):
        return None
    total = str(summary.get("total-records", ""))
    return int(total) if total.isascii() and total.isdecimal() else None


def _look_up(name: str, catalog: Catalog, relations: Sequence[Relation]) -> dict[Relation, Current]:
    """What each table's metadata says; tables that cannot be read are left out, unless all of them fail."""
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
    """How a table's metadata is read. A SQL catalog tells with one query where all of them are: half the work."""
    if type(catalog).__name__ != "SqlCatalog":
        return lambda name: catalog.load_table(name).metadata
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from pyiceberg.exceptions import NoSuchTableError
    from pyiceberg.io import load_file_io
    from pyiceberg.serializers import FromInputFile
    from sqlalchemy import select

    assert isinstance(catalog, SqlCatalog)  # noqa: S101  # as its name says
    columns = IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location
    schemas = {relation.schema.lower() for relation in relations}
    wanted = IcebergTables.catalog_name == catalog.name, IcebergTables.table_namespace.in_(schemas)
    with catalog.engine.connect() as connection:
        rows = connection.execute(select(*columns).where(*wanted)).fetchall()
    # A view is here, too. Its metadata are no table's: what cannot be read is asked by a query.
    places = {(str(schema), str(table)): str(place) for schema, table, place in rows if place}
    files = load_file_io(dict(catalog.properties), next(iter(places.values()), None))

    def load(name: tuple[str, str]) -> TableMetadata:
        if name not in places:
            raise NoSuchTableError(".".join(name))
        return FromInputFile.table_metadata(files.new_input(places[name]))

    return load


def _current(load: Callable[[tuple[str, str]], TableMetadata], relation: Relation) -> Current | Exception | None:
    from pyiceberg.exceptions import NoSuchTableError

    try:
        # Trino keeps names in lower case.
        metadata = load((relation.schema.lower(), relation.name.lower()))
    except NoSuchTableError:
        return None  # a view, or another catalog's
    except Exception as error:
        return error
    snapshot = metadata.current_snapshot_id
    if snapshot is None:
        # No snapshot is no data file: a table as it was created (Iceberg table specification, `current-snapshot-id`).
        return Current(None, 0)
    summaries = (one.summary for one in metadata.snapshots if one.snapshot_id == snapshot)
    return Current(snapshot, exact_rows(next(summaries, None)))


def _same_catalog(name: str, found: Mapping[Relation, Current], fetch_all: FetchAll) -> bool:
    """Whether Trino has the same current snapshot of one of the tables; False where none has a snapshot.

    Raises:
        CatalogError: it has another. Snapshots have random numbers, so the catalogs are not the same one, or
            one of them lags behind.
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
