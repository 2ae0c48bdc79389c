"""The probes of Trino: its version, privileges and retention limits, which otherwise only a nightly run would reveal.

The probes write nothing. They check privileges by `EXPLAIN (TYPE VALIDATE)`, which checks access without running the
statement.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from lakehouse_analytics.common import durations
from lakehouse_analytics.common.names import some
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.coordinator import (
    DeniedError,
    NotCheckedError,
    fetch_rows,
    probe_server,
    server_version,
)
from lakehouse_analytics.doctor.probe import FailedError, Finding, ProbeContext, failed, fine, skipped, unchecked

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.graph import Source, Table
    from lakehouse_analytics.dbt.relation import Relation
    from lakehouse_analytics.engines.trino.session import TrinoServer
    from lakehouse_analytics.maintenance.policy import MaintainedTable

#: The oldest version of Trino that the tests run on. docs/engines.md names it, too.
MINIMUM_VERSION = 476
GRANTS = "docs/engines.md (What the user may do) lists every right, and infrastructure/trino/ has a file of rules."
#: Maximum number of tables whose properties one statement reads.
CHUNK = 50


def version(context: ProbeContext) -> Finding:
    """Check that Trino's version is supported."""
    if context.engine_type.name != "trino":
        return skipped(f"the engine is {context.engine_type.title}")
    found = server_version(probe_server(context))
    number = re.match(r"\d+", found)
    if number is None:
        return unchecked(f"not checked: Trino's version is {found}; {MINIMUM_VERSION} or newer is needed")
    if int(number[0]) < MINIMUM_VERSION:
        return failed(
            f"Trino {found} is older than {MINIMUM_VERSION}, the oldest version that this code location is tested with",
            f"Have Trino upgraded to {MINIMUM_VERSION} or newer.",
        )
    return fine(f"Trino {found}; {MINIMUM_VERSION} or newer is needed")


@dataclass(frozen=True)
class _Right:
    """A privilege that builds or maintenance need, with a statement that requires it."""

    what: str
    needed_for: str
    sql: str


def rights(context: ProbeContext) -> Finding:
    """Check the privileges that builds, checks and maintenance need, on one table of each schema."""
    if context.engine_type.name != "trino":
        return skipped(f"the engine is {context.engine_type.title}")
    server = probe_server(context)
    deadline = time.monotonic() + context.patience
    examples, unbuilt = _examples(context, server)
    denied: list[str] = []
    broken: list[str] = []
    allowed, untested = 0, 0
    reading = [*_system_rights(), *_reading_rights(examples)]
    if _all_readable(server, reading):
        allowed, reading = len(reading), []
    for right in [*reading, *_writing_rights(examples, _analyzed(context))]:
        if time.monotonic() > deadline:
            untested += 1
            continue
        try:
            fetch_rows(server, _validate(right.sql))
            allowed += 1
        except DeniedError as error:
            reason = error.finding.message.partition("Access Denied: ")[2] or error.finding.message
            denied.append(f"{right.what} ({right.needed_for}): {reason}")
        except NotCheckedError:
            raise
        except FailedError as error:
            broken.append(f"not checked: {right.what}: {error.finding.message}")
    # Trino hides a table from users without any privilege on it, and no build creates a source.
    sources = {(relation.catalog, relation.schema) for relation in _relations(_sources(context))}
    denied += [
        f"select on {catalog}.{schema}: no table of dbt's sources is there, or {server.user} has no right on any"
        for catalog, schema in sorted(unbuilt & sources)
    ]
    unbuilt -= sources
    denied += _kill_rights(server)
    words = [f"{server.user} has {allowed} of {allowed + len(denied)} rights that were checked"] if denied else []
    if unbuilt:
        named = ", ".join(f"{catalog}.{schema}" for catalog, schema in sorted(unbuilt))
        words.append(f"not checked, because {server.user} sees no table of the project there yet: {named}")
    words += broken
    if untested:
        words.append(f"not checked for lack of time: {untested} rights; --timeout sets a longer limit")
    if denied:
        return failed("\n".join([*denied, *words]), f"Grant {server.user} the missing rights: {GRANTS}")
    if not allowed or untested or broken or unbuilt:
        return unchecked("\n".join(words) or "not checked: the project has no tables")
    return fine("\n".join([f"{server.user} has all {allowed} rights that were checked", *words]))


def maintenance(context: ProbeContext) -> Finding:
    """Check that Trino permits maintenance the retention of the contracts, and report tables whose files must stay."""
    from lakehouse_analytics.contract.models import ContractError
    from lakehouse_analytics.maintenance.policy import maintained_tables

    if context.engine_type.name != "trino":
        return skipped(f"the engine is {context.engine_type.title}")
    longest = timedelta(seconds=context.settings.max_runtime)
    try:
        tables = maintained_tables(context.graph, floor=context.settings.maintenance_floor, longest_write=longest)
    except ContractError as error:
        return failed(str(error), fixes.correct_contracts(fixes.here()))
    if not tables:
        return skipped("the project has no tables to maintain")
    server = probe_server(context)
    floors = _minimum_retention(server)
    problems, advice = too_short(tables, floors)
    catalogs = sorted({table.relation.catalog for table in tables})
    unknown = [catalog for catalog in catalogs if catalog not in floors]
    words = [
        f"{catalog}: snapshots may be expired after {_days(floors[catalog].get(EXPIRE))}, "
        f"orphan files removed after {_days(floors[catalog].get(ORPHANS))}"
        for catalog in catalogs
        if catalog in floors
    ]
    if unknown:
        words.append(f"not checked: Trino does not report the minimum retention of {', '.join(unknown)}")
    words += _without_deletion(server, tables)
    if problems:
        return failed("\n".join([*problems, *words]), "\n".join(advice))
    return unchecked("\n".join(words)) if len(unknown) == len(catalogs) else fine("\n".join(words))


# --- Rights


def _validate(sql: str) -> str:
    return f"explain (type validate) {sql}"


def _system_rights() -> Iterator[_Right]:
    yield _Right(
        "select on system.metadata.materialized_views",
        "dbt looks there before each build",
        "select * from system.metadata.materialized_views",
    )


def _reading_rights(examples: Mapping[Relation, bool]) -> Iterator[_Right]:
    """Yield the privileges for reading."""
    from lakehouse_analytics.dbt.relation import Relation

    for catalog in sorted({table.catalog for table in examples}):
        listing = Relation(catalog, "system", "iceberg_tables")
        what = f"select on {catalog}.system.iceberg_tables"
        yield _reading(what, "maintenance reads every table of the catalog before it deletes files", str(listing))
    for table in examples:
        where = f"{table.catalog}.{table.schema}"
        yield _reading(f"select on {where}", "models, tests and row counts read it", str(table))
        for name in ("snapshots", "files", "manifests", "refs", "properties", "metadata_log_entries"):
            metadata = f'select on {where}."{table.name}${name}"'
            yield _reading(metadata, "maintenance measures tables by it", table.metadata(name))


def _reading(what: str, needed_for: str, relation: str) -> _Right:
    return _Right(what, needed_for, f"select * from {relation}")  # noqa: S608  # quoted


def _all_readable(server: TrinoServer, reading: Iterable[_Right]) -> bool:
    """Return whether one statement may read everything.

    On most clusters it may, and dozens of statements take longer.
    """
    relations = [f"(select 1 from ({right.sql}) limit 1)" for right in reading]  # noqa: S608
    try:
        fetch_rows(server, _validate(f"select 1 where exists {' and exists '.join(relations)}"))
    except NotCheckedError:
        raise
    except FailedError:
        return False
    return True


def _writing_rights(examples: Mapping[Relation, bool], analyzed: Collection[Relation]) -> Iterator[_Right]:
    """Yield the privileges for changing tables.

    Args:
        examples: Tables, and whether dbt writes them.
        analyzed: The tables that maintenance analyzes.
    """
    for table, written in examples.items():
        where = f"{table.catalog}.{table.schema}"
        if written:
            rows = f"select * from {table} where false"  # noqa: S608  # quoted
            view = replace(table, name=f"{table.name}__dbt_tmp")
            incremental = "incremental models"
            yield _Right(
                f"create table on {where}", "dbt replaces tables", f"create or replace table {table} as {rows}"
            )
            yield _Right(f"insert on {where}", incremental, f"insert into {table} {rows}")
            yield _Right(f"delete on {where}", incremental, f"delete from {table} where false")  # noqa: S608
            yield _Right(f"create view on {where}", incremental, f"create or replace view {view} as {rows}")
        if table in analyzed:
            yield _Right(f"analyze on {where}", "maintenance collects statistics", f"analyze {table}")


def _analyzed(context: ProbeContext) -> set[Relation]:
    from lakehouse_analytics.contract.models import ContractError
    from lakehouse_analytics.maintenance.policy import maintained_tables

    longest = timedelta(seconds=context.settings.max_runtime)
    try:
        tables = maintained_tables(context.graph, floor=context.settings.maintenance_floor, longest_write=longest)
    except ContractError:  # another probe reports it
        return set()
    return {table.relation for table in tables if table.policy.analyze}


def _relations(things: Iterable[Table | Source]) -> Iterator[Relation]:
    from lakehouse_analytics.dbt.relation import relation_of

    return (relation_of(thing.node) for thing in things if thing.node.config.materialized != "view")


def _sources(context: ProbeContext) -> list[Source]:
    return [source for source in context.graph.sources.values() if not source.contract.copied_to]


def _examples(context: ProbeContext, server: TrinoServer) -> tuple[dict[Relation, bool], set[tuple[str, str]]]:
    """Return one existing table of each schema, and the schemas without an existing table."""
    from lakehouse_analytics.common.sql import identifier, literal
    from lakehouse_analytics.dbt.relation import Relation

    wanted: dict[tuple[str, str], dict[Relation, bool]] = defaultdict(dict)
    for things, written in ((_sources(context), False), (context.graph.tables.values(), True)):
        for relation in _relations(things):
            wanted[relation.catalog, relation.schema][relation] = written
    there: set[Relation] = set()
    for catalog in {catalog for catalog, _ in wanted}:
        schemas = ", ".join(literal(schema) for of, schema in sorted(wanted) if of == catalog)
        rows = fetch_rows(
            server,
            f"select table_schema, table_name from {identifier(catalog)}.information_schema.tables "  # noqa: S608
            f"where table_type = 'BASE TABLE' and table_schema in ({schemas})",
        )
        there |= {Relation(catalog, str(schema), str(name)) for schema, name in rows}
    examples: dict[Relation, bool] = {}
    unbuilt: set[tuple[str, str]] = set()
    for (catalog, schema), relations in wanted.items():
        built = [relation for relation in relations if relation in there]
        if built:
            examples[built[0]] = relations[built[0]]
        else:
            unbuilt.add((catalog, schema))
    return examples, unbuilt


def _kill_rights(server: TrinoServer) -> list[str]:
    """Return the missing privileges for killing the queries of a run that died.

    The HTTP API needs none; the procedure does.
    """
    from lakehouse_analytics.engines.trino.queries import list_queries
    from lakehouse_analytics.engines.trino.session import TrinoError

    try:
        list_queries(server)
    except TrinoError as error:
        hidden = f"{server.address}/v1/query is not available ({error.failure.name})"
    else:
        return []
    denied = []
    why = f"the queries of a build that died keep running, because {hidden}"
    # There is no such query: Trino checks the privilege before it looks for it.
    kill = "call system.runtime.kill_query('20000101_000000_00000_aaaaa', 'checked by doctor')"
    for what, sql in (
        ("select on system.runtime.queries", "select * from system.runtime.queries where false"),
        ("execute system.runtime.kill_query", kill),
    ):
        try:
            fetch_rows(server, sql)
        except NotCheckedError:
            raise
        except DeniedError:
            denied.append(f"{what}: {why}")
        except FailedError:
            continue  # there is no such query
    return denied


# --- Maintenance

EXPIRE, ORPHANS = "expire_snapshots_min_retention", "remove_orphan_files_min_retention"
#: The catalog's configuration property of each of Trino's session properties.
_CONFIGURED = {
    EXPIRE: "iceberg.expire-snapshots.min-retention",
    ORPHANS: "iceberg.remove-orphan-files.min-retention",
}


def _minimum_retention(server: TrinoServer) -> dict[str, dict[str, timedelta]]:
    """Return the minimum retention of each catalog.

    Trino shows session properties also to users who may not set them.
    """
    from lakehouse_analytics.engines.trino.queries import parse_duration

    found: dict[str, dict[str, timedelta]] = defaultdict(dict)
    for name, value, *_ in fetch_rows(server, "show session like '%retention%'"):
        catalog, _, prop = str(name).rpartition(".")
        if catalog and prop in _CONFIGURED:
            found[catalog][prop] = parse_duration(str(value))
    return dict(found)


def too_short(
    tables: Iterable[MaintainedTable], floors: Mapping[str, Mapping[str, timedelta]]
) -> tuple[list[str], list[str]]:
    """Return the contracts whose retention a catalog rejects, and what to do about each."""
    short: dict[tuple[str, str], list[tuple[timedelta, str]]] = defaultdict(list)
    for table in tables:
        kept = {EXPIRE: ("retain", table.policy.retain), ORPHANS: ("orphans", table.policy.orphans)}
        wanted = {EXPIRE: table.policy.expire_snapshots, ORPHANS: table.policy.remove_orphan_files}
        of = table.relation
        for prop, floor in floors.get(of.catalog, {}).items():
            key, value = kept[prop]
            if wanted[prop] and value < floor:
                short[of.catalog, prop].append((value, f"{of.schema}.{of.name} has {key} {_days(value)}"))
    problems, advice = [], []
    for (catalog, prop), found in sorted(short.items()):
        floor, setting = floors[catalog][prop], _CONFIGURED[prop]
        named = some([text for _, text in found])
        problems.append(f"{catalog} does not delete files younger than {_days(floor)} ({setting}): {named}")
        key = "retain" if prop == EXPIRE else "orphans"
        advice.append(
            f"Set meta.lakehouse.maintenance.{key} to {_days(floor)} or more, or set {setting}="
            f"{_days(min(value for value, _ in found))} in Trino's etc/catalog/{catalog}.properties."
        )
    return problems, advice


def _without_deletion(server: TrinoServer, tables: list[MaintainedTable]) -> list[str]:
    """Report tables with `gc.enabled=false`. Nessie sets it because their files may belong to other branches."""
    from lakehouse_analytics.common.sql import literal
    from lakehouse_analytics.maintenance.state import existing

    there = existing(tables, lambda sql: fetch_rows(server, sql))
    relations = [table.relation for table in tables if there.get(table.relation) == "table"]
    kept: list[str] = []
    unread = 0
    for start in range(0, len(relations), CHUNK):
        chunk = relations[start : start + CHUNK]
        selects = [
            f"select {literal(f'{of.catalog}.{of.schema}.{of.name}')} from {of.metadata('properties')} "  # noqa: S608
            "where key = 'gc.enabled' and lower(value) = 'false'"
            for of in chunk
        ]
        try:
            kept += [str(name) for (name,) in fetch_rows(server, "\nunion all\n".join(selects))]
        except NotCheckedError:
            raise
        except FailedError:
            unread += len(chunk)
    words = []
    if kept:
        words.append(f"gc.enabled is false, so other branches may share the files: {', '.join(sorted(kept))}")
    if unread:
        words.append(f'not checked: gc.enabled of {unread} tables, because their "$properties" cannot be read')
    return words


def _days(time_: timedelta | None) -> str:
    if time_ is None:
        return "an unknown time"
    return durations.exact(time_)
