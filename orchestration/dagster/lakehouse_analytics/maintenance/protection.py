"""Prevents maintenance from deleting files that something else may still read.

Every maintenance statement is executed by `Protected.execute`, which checks the table immediately before a statement
that deletes files. A table whose state cannot be read counts as protected.

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

from lakehouse_analytics.common.names import some
from lakehouse_analytics.common.sql import literal
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.maintenance.plan import Statement

Fetch = Callable[[str], list[tuple[Any, ...]]]
#: Tables per statement, and statements that run at the same time.
CHUNK = 10
THREADS = 4
#: Seconds after which the tables of a catalog are read again, because tables may be registered during a run.
CATALOG_MAX_AGE = 600.0
#: Table properties that name a folder for new files.
WRITE_PATHS = (
    "write.data.path",
    "write.metadata.path",
    "write.object-storage.path",
    "write.folder-storage.path",
)
#: Errors of Trino for a relation that is not an Iceberg table: it was dropped in the meantime, or is a Hive table.
_NO_TABLE = frozenset({"TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND", "UNSUPPORTED_TABLE_TYPE"})
#: Equivalent schemes. Writers may use any of them for the same file.
_SAME_STORE = ("s3", "s3a", "s3n")
#: Maximum number of names in a message.
_MAX_NAMES = 3


class ProtectedError(RuntimeError):
    """A statement was not executed, because it could delete files that something else needs.

    Attributes:
        unreadable: Whether the only reason is that the state of a table could not be read.
    """

    def __init__(self, statement: Statement, reasons: Sequence[str], *, unreadable: bool) -> None:
        self.statement, self.reason, self.unreadable = statement, "; ".join(reasons), unreadable
        super().__init__(f"The files of {statement.relation} are kept: {self.reason}.")


class Result(Protocol):
    """The result of a statement."""

    @property
    def query_id(self) -> str:
        """The query's id in Trino."""


class Engine(Protocol):
    """The interface to Trino."""

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""

    def execute(self, sql: str) -> Result:
        """Run a statement and wait for its end."""


@dataclass(frozen=True)
class Files:
    """The locations of a table's files, according to its metadata.

    Attributes:
        location: The table's location; None if it has none.
        properties: Its table properties.
        references: Branches and tags other than `main`: name to `branch` or `tag`.
        metadata: Folders of metadata files, from the metadata log and the manifest lists of all snapshots.
        outside: Path of one current data file outside `location`; None if there is no such file.
        snapshots: Ids of all snapshots, if they were requested.
    """

    location: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    metadata: frozenset[str] = frozenset()
    outside: str | None = None
    snapshots: tuple[int, ...] = ()

    @property
    def folders(self) -> Iterator[tuple[str, str]]:
        """Folders that the table claims, each with the property or metadata that names it."""
        if self.location:
            yield "location", self.location
        for name in WRITE_PATHS:
            if value := self.properties.get(name):
                yield name, value
        for folder in sorted(self.metadata):
            yield "metadata", folder


@dataclass(frozen=True)
class Unreadable:
    """The reason why the files that a table needs are unknown."""

    reason: str

    @classmethod
    def of(cls, relation: Relation, error: Exception) -> Unreadable:
        """Return the reason for a table whose metadata could not be read."""
        line = next(iter(str(error).strip().splitlines()), "").rstrip(".") or type(error).__name__
        return cls(
            f"whether another table needs its files is unknown, because the metadata of {relation} could not be "
            f"read: {line}"
        )


class Protected:
    """Executes statements for Iceberg tables, except those that delete files which something else may need.

    Args:
        engine: Trino.
        clock: Returns seconds, for the age of the cached state of a catalog.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._clock = engine, clock
        self._catalogs: dict[str, tuple[float, dict[Relation, Files | Unreadable]]] = {}

    def execute(self, statement: Statement) -> str:
        """Check the table, then run the statement and wait for its end.

        Returns:
            The query's id.

        Raises:
            ProtectedError: The statement would delete files of a protected table. It was not executed.
            DatabaseError: Trino cannot be used.
            TrinoError: The statement failed.
        """
        if statement.deletes_files:
            relation = statement.relation
            own = _read([relation], self._engine.fetch_all, history=True).get(relation)
            tables = self._tables(relation.catalog)
            self._check(statement, own or Unreadable(f"{relation} is not an Iceberg table"), tables)
            self._check_history(statement, own)
        return self._engine.execute(statement.sql).query_id

    def expected_refusal(self, statement: Statement) -> ProtectedError | None:
        """Return the error that `execute` would raise, or None, according to the cached state.

        The state is some minutes old.

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
        possibly_inside: list[Relation] = []
        for other, files in self._others(relation, tables):
            if isinstance(files, Unreadable):
                raise ProtectedError(statement, [files.reason], unreadable=True)
            if found := next(((what, at) for what, at in files.folders if _inside(at, location)), None):
                what, at = found
                reason = f"{other} uses the same files: its {what} is {at}, in this table's location {location}"
                raise ProtectedError(statement, [reason], unreadable=False)
            # It may have files in this location: if it has any outside its own, or if its location contains this one.
            if files.outside or (files.location and _inside(location, files.location)):
                possibly_inside.append(other)
        for start in range(0, len(possibly_inside), CHUNK):
            for name, path in self._files_of_others(statement, possibly_inside[start : start + CHUNK], location):
                reason = f"{name} uses the same files: {path}, for example"
                raise ProtectedError(statement, [reason], unreadable=False)

    def _files_of_others(
        self, statement: Statement, others: Sequence[Relation], location: str
    ) -> list[tuple[Any, ...]]:
        return self._fetch(statement, others[0], _files_in_sql(others, location))

    def _check_history(self, statement: Statement, own: Files | Unreadable | None) -> None:
        """Check the snapshots. A current state without files of other tables may have expired ones with such files."""
        assert isinstance(own, Files)  # noqa: S101  # checked
        location = own.location or ""
        for start in range(0, len(own.snapshots), CHUNK):
            sql = _old_files_sql(statement.relation, own.snapshots[start : start + CHUNK], location)
            for (path,) in self._fetch(statement, statement.relation, sql):
                raise ProtectedError(statement, [_outside(str(path), location)], unreadable=False)

    def _fetch(self, statement: Statement, relation: Relation, sql: str) -> list[tuple[Any, ...]]:
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
                # It may have been written or dropped while it was read, as the temporary tables of builds are.
                del tables[other]
                tables |= _read([other], self._engine.fetch_all)
            if other in tables:
                yield other, tables[other]

    def _tables(self, catalog: str) -> dict[Relation, Files | Unreadable]:
        stale_at, known = self._catalogs.get(catalog, (0.0, None))
        if known is None or self._clock() > stale_at:
            known = all_files(catalog, self._engine.fetch_all)
            # Count from now. If reading took longer than the maximum age, the catalog would be read for every
            # statement.
            self._catalogs[catalog] = (self._clock() + CATALOG_MAX_AGE, known)
        return known


def own_reasons(files: Files) -> Iterator[str]:
    """Yield the reasons to keep a table's files that the table's own metadata gives."""
    enabled = files.properties.get("gc.enabled", "true")
    if enabled.strip().lower() != "true":
        yield (
            f"its table property gc.enabled is {enabled}, which means that other branches or tables may need its files "
            "(Nessie sets it on every table)"
        )
    elif nessie := next((name for name in sorted(files.properties) if name.startswith("nessie.")), None):
        # Trino's Nessie client ignores the missing gc.enabled, and expires snapshots.
        yield f"its table property {nessie} means that it is in Nessie, where other branches may need its files"
    if files.references:
        yield f"it has {_join_references(files.references)}"
    if files.location is None:
        yield "its location is unknown"
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
    """Return the locations of the files of each Iceberg table of a catalog, or why they are unknown.

    Args:
        catalog: Name of the catalog in Trino.
        fetch: Runs a statement. Called from several threads.

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
        threads.shutdown(wait=False, cancel_futures=True)  # a terminated run does not wait for queued statements
    return found


def _read(relations: Sequence[Relation], fetch: Fetch, *, history: bool = False) -> dict[Relation, Files | Unreadable]:
    try:
        rows = fetch(_files_sql(relations, history=history))
    except DatabaseError:
        raise
    except Exception as error:
        if len(relations) > 1:  # read them together; if that fails, one by one to find the table that failed
            return {name: files for one in relations for name, files in _read([one], fetch, history=history).items()}
        return {} if _error_name(error) in _NO_TABLE else {relations[0]: Unreadable.of(relations[0], error)}
    by_table: dict[int, list[tuple[str, str, str | None]]] = defaultdict(list)
    for place, kind, name, value in rows:
        by_table[place].append((kind, name, value))
    return {relation: _files(by_table[place]) for place, relation in enumerate(relations)}


def _error_name(error: Exception) -> str | None:
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
    """Return the query for the fields of `Files`; `snapshots` only with `history`."""
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
    """Return the query for one data file outside the location, for each snapshot that has such a file.

    Trino compares `"$path"` with constants during planning, so it opens no data file in the location. In Trino 476,
    `$all_entries` fails on files without a sort order, such as those written by pyiceberg.
    """
    scheme, separator, rest = location.rstrip("/").partition("://")
    schemes = _SAME_STORE if scheme in _SAME_STORE else (scheme,)
    folders = [f"{each}{separator}{rest}" for each in schemes]
    # 0 is the character after the slash.
    outside = " AND ".join(
        f'("$path" < {literal(folder + "/")} OR "$path" >= {literal(folder + "0")})' for folder in folders
    )
    return "\nUNION ALL\n".join(
        f'SELECT min("$path") FROM {relation} FOR VERSION AS OF {snapshot} WHERE {outside} HAVING count(*) > 0'  # noqa: S608
        for snapshot in snapshots
    )


def _files_in_sql(relations: Sequence[Relation], location: str) -> str:
    """Return the query for current files of some tables in a location."""
    return "\nUNION ALL\n".join(
        f"SELECT {literal(str(relation))}, min(file_path) FROM {relation.metadata('files')} "  # noqa: S608  # quoted
        f"WHERE starts_with({_path_sql('file_path')}, {literal(_path(location))}) HAVING count(*) > 0"
        for relation in relations
    )


def _path(location: str) -> str:
    """Return a folder's path for comparisons.

    It has no scheme, because s3, s3a and s3n are equivalent, and a slash at the end.
    """
    return re.sub("/+", "/", re.sub(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:)?/*", "", location)).rstrip("/") + "/"


def _path_sql(column: str) -> str:
    """Return the SQL expression that does the same for a column, but without the slash."""
    stripped = f"regexp_replace({column}, '^([A-Za-z][A-Za-z0-9+.-]*:)?/*')"
    return f"regexp_replace(regexp_replace({stripped}, '/+', '/'), '/$')"


def _inside(folder: str, location: str) -> bool:
    return _path(folder).startswith(_path(location))


def _outside(path: str, location: str) -> str:
    return f"it has files outside its location {location}, which another table may use: {path}, for example"


def _join_references(references: Mapping[str, str]) -> str:
    names = [f"the {kind} {name}" for name, kind in sorted(references.items())]
    return some(names, _MAX_NAMES, between=" and ")
