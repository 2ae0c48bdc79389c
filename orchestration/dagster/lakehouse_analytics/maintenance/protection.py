"""Tables whose files must not be deleted, because something else may still read them.

Every statement of maintenance passes through `Protected.execute`, which asks the table before files of it are deleted.
A table whose state cannot be read counts as protected.

Sources: Iceberg's table properties `gc.enabled` and `write.*` (https://iceberg.apache.org/docs/latest/configuration/),
its references (table specification, "Snapshot References"), and Trino's metadata tables
(https://trino.io/docs/476/connector/iceberg.html#metadata-tables).
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.maintenance.plan import Statement

Fetch = Callable[[str], list[tuple[Any, ...]]]
#: Tables of one statement, and statements at a time.
CHUNK = 10
THREADS = 4
#: Seconds after which the tables of a catalog are read again. Tables may be registered during a run.
CATALOG_LASTS = 600.0
#: Table properties that name a folder for new files.
WRITE_PATHS = (
    "write.data.path",
    "write.metadata.path",
    "write.object-storage.path",
    "write.folder-storage.path",
)
#: Errors of Trino that say that there is no Iceberg table: it was dropped meanwhile, or it is a table of Hive.
_NO_TABLE = frozenset({"TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND", "UNSUPPORTED_TABLE_TYPE"})
#: Schemes of one object store, in which writers name the same file.
_SAME_STORE = ("s3", "s3a", "s3n")
#: Names that a message lists.
_MOST_NAMES = 3


class ProtectedError(RuntimeError):
    """A statement was not run, because it would delete files that something else may need.

    Attributes:
        unreadable: Whether that is so only because the state of a table could not be read.
    """

    def __init__(self, statement: Statement, reasons: Sequence[str], *, unreadable: bool) -> None:
        self.statement, self.reason, self.unreadable = statement, "; ".join(reasons), unreadable
        super().__init__(f"The files of {statement.relation} are kept: {self.reason}.")


class Result(Protocol):
    """A finished statement."""

    @property
    def query_id(self) -> str:
        """The query's ID in Trino."""


class Engine(Protocol):
    """Trino."""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of one statement."""

    def execute(self, sql: str) -> Result:
        """Run one statement to its end."""


@dataclass(frozen=True)
class Files:
    """Where a table keeps files, as its metadata say.

    Attributes:
        location: The table's location, or None if it has none.
        properties: Its table properties.
        references: Branches and tags other than `main`: name → `branch` or `tag`.
        metadata: Folders of metadata files: of the metadata log, and of the manifest lists of all snapshots.
        outside: A current data file outside `location`, for example; None if there is no such file.
        snapshots: IDs of all snapshots, where they were requested.
    """

    location: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    metadata: frozenset[str] = frozenset()
    outside: str | None = None
    snapshots: tuple[int, ...] = ()

    @property
    def folders(self) -> Iterator[tuple[str, str]]:
        """Folders that the table claims, each with what names it."""
        if self.location:
            yield "location", self.location
        for name in WRITE_PATHS:
            if value := self.properties.get(name):
                yield name, value
        for folder in sorted(self.metadata):
            yield "metadata", folder


@dataclass(frozen=True)
class Unreadable:
    """Why it is not known which files a table needs."""

    reason: str

    @classmethod
    def of(cls, relation: Relation, error: Exception) -> Unreadable:
        """The state of this table could not be read."""
        line = next(iter(str(error).strip().splitlines()), "").rstrip(".") or type(error).__name__
        return cls(
            f"whether another table needs its files is not known, because the metadata of {relation} could not be "
            f"read: {line}"
        )


class Protected:
    """Runs statements about Iceberg tables, but none that deletes files which something else may need.

    Args:
        engine: Trino.
        clock: Seconds, for the age of what is known about the tables of a catalog.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._clock = engine, clock
        self._catalogs: dict[str, tuple[float, dict[Relation, Files | Unreadable]]] = {}

    def execute(self, statement: Statement) -> str:
        """Run a statement to its end; the table is asked immediately before.

        Returns:
            The query's ID.

        Raises:
            ProtectedError: it would delete files of a protected table; it was not run.
            DatabaseError: Trino cannot be used.
            TrinoError: the statement failed.
        """
        if statement.deletes_files:
            relation = statement.relation
            own = _read([relation], self._engine.fetch_all, history=True).get(relation)
            tables = self._tables(relation.catalog)
            self._check(statement, own or Unreadable(f"{relation} is not an Iceberg table"), tables)
            self._check_history(statement, own)
        return self._engine.execute(statement.sql).query_id

    def foreseen(self, statement: Statement) -> ProtectedError | None:
        """Why `execute` would refuse the statement, as far as was known some minutes ago.

        Raises:
            DatabaseError: Trino cannot be used.
        """
        if not statement.deletes_files:
            return None
        relation = statement.relation
        tables = self._tables(relation.catalog)
        listing = next((of for at, of in tables.items() if at.schema == "system" and isinstance(of, Unreadable)), None)
        own = tables.get(relation) or listing or Unreadable(f"{relation} is not listed as an Iceberg table")
        try:
            self._check(statement, own, tables)
        except ProtectedError as error:
            return error
        return None

    def _check(self, statement: Statement, own: Files | Unreadable, tables: dict[Relation, Files | Unreadable]) -> None:
        if isinstance(own, Unreadable):
            raise ProtectedError(statement, [own.reason], unreadable=True)
        if reasons := [*own_reasons(own)]:
            raise ProtectedError(statement, reasons, unreadable=False)
        relation, location = statement.relation, own.location or ""
        astray: list[Relation] = []
        for other, files in self._others(relation, tables):
            if isinstance(files, Unreadable):
                raise ProtectedError(statement, [files.reason], unreadable=True)
            if found := next(((what, at) for what, at in files.folders if _inside(at, location)), None):
                what, at = found
                reason = f"{other} uses the same files: its {what} is {at}, in this table's location {location}"
                raise ProtectedError(statement, [reason], unreadable=False)
            # Its files may lie in this location: outside its own, or because its own holds this one.
            if files.outside or (files.location and _inside(location, files.location)):
                astray.append(other)
        for start in range(0, len(astray), CHUNK):
            for name, path in self._files_in(statement, astray[start : start + CHUNK], location):
                reason = f"{name} uses the same files: {path}, for example"
                raise ProtectedError(statement, [reason], unreadable=False)

    def _files_in(self, statement: Statement, others: Sequence[Relation], location: str) -> list[tuple[Any, ...]]:
        return self._ask(statement, others[0], _files_in_sql(others, location))

    def _check_history(self, statement: Statement, own: Files | Unreadable | None) -> None:
        """Files of another table may have been rewritten since: an old snapshot that expires would take them along."""
        assert isinstance(own, Files)  # noqa: S101  # checked
        location = own.location or ""
        for start in range(0, len(own.snapshots), CHUNK):
            sql = _old_files_sql(statement.relation, own.snapshots[start : start + CHUNK], location)
            for (path,) in self._ask(statement, statement.relation, sql):
                raise ProtectedError(statement, [_outside(str(path), location)], unreadable=False)

    def _ask(self, statement: Statement, relation: Relation, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._engine.fetch_all(sql)
        except DatabaseError:
            raise
        except Exception as error:
            raise ProtectedError(statement, [Unreadable.of(relation, error).reason], unreadable=True) from None

    def _others(
        self, relation: Relation, tables: dict[Relation, Files | Unreadable]
    ) -> Iterator[tuple[Relation, Files | Unreadable]]:
        for other in [*tables]:
            if other == relation:
                continue
            if isinstance(tables[other], Unreadable) and other.schema != "system":
                # It may have been written or dropped while it was read, as temporary tables of builds are.
                del tables[other]
                tables |= _read([other], self._engine.fetch_all)
            if other in tables:
                yield other, tables[other]

    def _tables(self, catalog: str) -> dict[Relation, Files | Unreadable]:
        stale_at, known = self._catalogs.get(catalog, (0.0, None))
        if known is None or self._clock() > stale_at:
            known = all_files(catalog, self._engine.fetch_all)
            # From the end of the reading on: a catalog that takes longer to read would be read for every statement.
            self._catalogs[catalog] = (self._clock() + CATALOG_LASTS, known)
        return known


def own_reasons(files: Files) -> Iterator[str]:
    """Why a table's files must be kept, as far as the table itself says so."""
    enabled = files.properties.get("gc.enabled", "true")
    if enabled.strip().lower() != "true":
        yield (
            f"its table property gc.enabled is {enabled}, which means that other branches or tables may need its files "
            "(Nessie sets it on every table)"
        )
    elif nessie := next((name for name in sorted(files.properties) if name.startswith("nessie.")), None):
        # Trino's own client of Nessie leaves gc.enabled out, and then expires snapshots, too.
        yield f"its table property {nessie} shows that Nessie keeps it, where other branches may need its files"
    if files.references:
        yield f"it has {_listed(files.references)}"
    if files.location is None:
        yield "its location is not known"
        return
    for what, folder in files.folders:
        if not _inside(folder, files.location):
            yield (
                f"it keeps metadata files in {folder}, outside its location {files.location}"
                if what == "metadata"
                else f"its table property {what} is {folder}, outside its location {files.location}"
            )
    if files.outside:
        yield _outside(files.outside, files.location)


def all_files(catalog: str, fetch: Fetch) -> dict[Relation, Files | Unreadable]:
    """Where each Iceberg table of a catalog keeps files, or why that is not known.

    Args:
        catalog: Trino's name of it.
        fetch: Runs one statement; called from several threads.

    Raises:
        DatabaseError: Trino cannot be used.
    """
    listing = Relation(catalog, "system", "iceberg_tables")
    try:
        rows = fetch(f"SELECT table_schema, table_name FROM {listing}")  # noqa: S608  # quoted
    except DatabaseError:
        raise
    except Exception as error:
        return {listing: Unreadable.of(listing, error)}
    relations = sorted((Relation(catalog, str(schema), str(name)) for schema, name in rows), key=str)
    chunks = [relations[start : start + CHUNK] for start in range(0, len(relations), CHUNK)]
    found: dict[Relation, Files | Unreadable] = {}
    threads = ThreadPoolExecutor(THREADS)
    try:
        for part in threads.map(lambda chunk: _read(chunk, fetch), chunks):
            found |= part
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # a run that is stopped does not wait for queued statements
    return found


def _read(relations: Sequence[Relation], fetch: Fetch, *, history: bool = False) -> dict[Relation, Files | Unreadable]:
    try:
        rows = fetch(_files_sql(relations, history=history))
    except DatabaseError:
        raise
    except Exception as error:
        if len(relations) > 1:  # one statement for all; only where it fails, one a table to find out which it was
            return {name: files for one in relations for name, files in _read([one], fetch, history=history).items()}
        return {} if _name_of(error) in _NO_TABLE else {relations[0]: Unreadable.of(relations[0], error)}
    by_table: dict[int, list[tuple[str, str, str | None]]] = defaultdict(list)
    for place, kind, name, value in rows:
        by_table[place].append((kind, name, value))
    return {relation: _files(by_table[place]) for place, relation in enumerate(relations)}


def _name_of(error: Exception) -> str | None:
    return getattr(getattr(error, "failure", None), "name", None)


def _files(rows: Iterable[tuple[str, str, str | None]]) -> Files:
    of: dict[str, dict[str, str]] = defaultdict(dict)
    for kind, name, value in rows:
        of[kind][name] = value or ""
    properties = of["property"]
    return Files(
        location=properties.get("location") or None,
        properties=properties,
        references={name: kind.lower() for name, kind in of["reference"].items() if name != "main"},
        metadata=frozenset(of["metadata"]),
        outside=next(iter(of["outside"]), None),
        snapshots=tuple(map(int, of["version"])),
    )


def _files_sql(relations: Sequence[Relation], *, history: bool) -> str:
    """What `Files` has of some tables; `snapshots` with `history` only."""
    folder = "regexp_replace({}, '/[^/]*$')".format
    selects = []
    for place, relation in enumerate(relations):
        of = relation.metadata
        inside = f"(SELECT max({_path_sql('value')}) || '/' FROM {of('properties')} WHERE key = 'location')"  # noqa: S608
        selects += [  # names come from the manifest or from the catalog, and are quoted
            f"SELECT {place}, 'property', key, value FROM {of('properties')}",  # noqa: S608
            f"SELECT {place}, 'reference', name, type FROM {of('refs')}",  # noqa: S608
            f"SELECT {place}, 'metadata', {folder('file')}, NULL FROM {of('metadata_log_entries')}",  # noqa: S608
            f"SELECT {place}, 'metadata', {folder('manifest_list')}, NULL FROM {of('snapshots')}",  # noqa: S608
            f"SELECT {place}, 'outside', min(file_path), NULL FROM {of('files')} "  # noqa: S608
            f"WHERE NOT starts_with({_path_sql('file_path')}, {inside}) HAVING count(*) > 0",
        ]
        if history:
            selects.append(f"SELECT {place}, 'version', cast(snapshot_id AS varchar), NULL FROM {of('snapshots')}")  # noqa: S608
    return "\nUNION ALL\n".join(selects)


def _old_files_sql(relation: Relation, snapshots: Sequence[int], location: str) -> str:
    """A data file outside the location, for each snapshot that has one.

    Trino compares `"$path"` with constants while it plans, so that it opens no data file in the location. On Trino 476
    `$all_entries` fails on files without a sort order, such as those that pyiceberg writes.
    """
    scheme, separator, rest = location.rstrip("/").partition("://")
    schemes = _SAME_STORE if scheme in _SAME_STORE else (scheme,)
    folders = [f"{each}{separator}{rest}" for each in schemes]
    # The character after a slash is 0.
    outside = " AND ".join(
        f'("$path" < {literal(folder + "/")} OR "$path" >= {literal(folder + "0")})' for folder in folders
    )
    return "\nUNION ALL\n".join(
        f'SELECT min("$path") FROM {relation} FOR VERSION AS OF {snapshot} WHERE {outside} HAVING count(*) > 0'  # noqa: S608
        for snapshot in snapshots
    )


def _files_in_sql(relations: Sequence[Relation], location: str) -> str:
    """Current files of some tables that lie in a location."""
    return "\nUNION ALL\n".join(
        f"SELECT {literal(str(relation))}, min(file_path) FROM {relation.metadata('files')} "  # noqa: S608  # quoted
        f"WHERE starts_with({_path_sql('file_path')}, {literal(_path(location))}) HAVING count(*) > 0"
        for relation in relations
    )


def _path(location: str) -> str:
    """A folder's path for comparisons, with a slash at its end and without the scheme: s3, s3a and s3n are the same."""
    return re.sub("/+", "/", re.sub(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:)?/*", "", location)).rstrip("/") + "/"


def _path_sql(column: str) -> str:
    """The same of a column in Trino's SQL, without the slash at the end."""
    stripped = f"regexp_replace({column}, '^([A-Za-z][A-Za-z0-9+.-]*:)?/*')"
    return f"regexp_replace(regexp_replace({stripped}, '/+', '/'), '/$')"


def _inside(folder: str, location: str) -> bool:
    return _path(folder).startswith(_path(location))


def _outside(path: str, location: str) -> str:
    return f"it has files outside its location {location}, which another table may use: {path}, for example"


def _listed(references: Mapping[str, str]) -> str:
    names = [f"the {kind} {name}" for name, kind in sorted(references.items())]
    more = len(names) - _MOST_NAMES
    return " and ".join([*names[:_MOST_NAMES], *([f"{more} more"] if more > 0 else [])])
