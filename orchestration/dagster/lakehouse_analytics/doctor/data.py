"""The probes of the data: access to the engine, and the schemas that dbt reads and writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from lakehouse_analytics.dbt.profile import Profile, ProfileError
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import FailedError, Finding, ProbeContext, failed, fine, unchecked
from lakehouse_analytics.engines.duckdb import database_of

if TYPE_CHECKING:
    from lakehouse_analytics.dbt.graph import Graph
    from lakehouse_analytics.dbt.nodes import Node

Schemas = Mapping[str, set[str]]


def engine(context: ProbeContext) -> Finding:
    """Open DuckDB's file, or connect to the server and log in."""
    if context.engine_type.name == "trino":
        from lakehouse_analytics.doctor import coordinator

        server = coordinator.probe_server(context)
        version = coordinator.server_version(server)
        coordinator.fetch_rows(server, "select 1")
        return fine(
            f"Trino {version} at {server.address} accepts {server.user} ({_describe_authentication(server.auth)})"
        )
    profile = _profile(context)
    if context.engine_type.name != "duckdb":
        [[answer]] = _fetch_all(context, "select version()")
        return fine(f"{answer} answers" + (f", as configured in {profile.where}" if profile else ""))
    if profile and profile.database_file is None:
        return unchecked(
            f"not checked: {profile.where} names a database that is not a local file",
            "Check with dbt that it can be reached: `dbt debug`.",
        )
    [[duckdb]] = _duckdb(context, "select version()")
    return fine(f"DuckDB {duckdb} opens {context.settings.duckdb_path}")


def catalog(context: ProbeContext) -> Finding:
    """Check that the schemas of the project's sources exist. Those of its layers are created by the first build."""
    read, written = _sources(context.graph), _layers(context.graph)
    there = {database: _existing_schemas(context, database) for database in {*read, *written}}
    missing = {database: _missing(schemas, there[database]) for database, schemas in read.items()}
    words = []
    for database in sorted(there):
        found = there[database]
        if found is None:
            words.append(f"not checked: {database} is another database, which dbt attaches")
            continue
        here = sorted((read.get(database, set()) | written.get(database, set())) & found)
        words.append(f"{database} has {', '.join(here) or 'none of the schemas yet'}")
        if later := _missing(written.get(database, set()) - read.get(database, set()), found):
            words.append(f"not there yet, dbt's first build creates them: {', '.join(later)}")
    if any(missing.values()):
        of = [f"{database}.{schema}" for database, schemas in sorted(missing.items()) for schema in schemas]
        return failed(
            "\n".join([f"schemas of dbt's sources are missing: {', '.join(of)}", *words]),
            fixes.fill_sources(fixes.here(), ingest=context.engine_type.raw_tables is not None),
        )
    if there and all(found is None for found in there.values()):
        return unchecked("\n".join(words), "Check in the database itself that dbt's sources are there.")
    return fine("\n".join(words) or "the project has neither sources nor tables")


def _profile(context: ProbeContext) -> Profile | None:
    """Return dbt's profile, or None if it cannot be read."""
    with suppress(ProfileError):
        return context.settings.profile
    return None


def _existing_schemas(context: ProbeContext, database: str) -> set[str] | None:
    """Return the schemas of a database, or None if only dbt can connect to it."""
    from lakehouse_analytics.common.sql import identifier

    if context.engine_type.name == "trino":
        from lakehouse_analytics.doctor import coordinator

        rows = coordinator.fetch_rows(coordinator.probe_server(context), f"show schemas from {identifier(database)}")
        return {str(name).lower() for (name,) in rows}
    if context.engine_type.name != "duckdb":
        profile = _profile(context)
        if profile and database != profile.database:
            return None
        rows = _fetch_all(context, "select schema_name from information_schema.schemata")
        return {str(name).lower() for (name,) in rows}
    if database.lower() != database_of(str(context.settings.duckdb_path)).lower():
        return None
    rows = _duckdb(context, "select schema_name from duckdb_schemas() where database_name = current_database()")
    return {str(name).lower() for (name,) in rows}


def _missing(wanted: Collection[str], found: set[str] | None) -> list[str]:
    return [] if found is None else sorted({*wanted} - found)


def _sources(graph: Graph) -> Schemas:
    # For a source with an external location, dbt-duckdb reads files instead of a table.
    return _by_database(
        source.node
        for source in graph.sources.values()
        if "external_location" not in str(source.node.meta) and not source.contract.copied_to
    )


def _layers(graph: Graph) -> Schemas:
    return _by_database(table.node for table in graph.tables.values())


def _by_database(nodes: Iterator[Node]) -> Schemas:
    found: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        found[str(node.database)].add(node.schema.lower())
    return found


def _fetch_all(context: ProbeContext, sql: str) -> list[tuple[object, ...]]:
    """Run a query with the engine's resource, which reads its address from dbt's profile."""
    from lakehouse_analytics.engines.base import DatabaseError, Queried

    engine = context.engine_type.resource(context.settings)
    if not isinstance(engine, Queried):
        raise FailedError(f"{context.engine_type.title} cannot be queried by doctor", "Leave it out (--skip engine).")
    try:
        return [tuple(row) for row in engine.fetch_all(sql)]
    except DatabaseError as error:
        raise FailedError(str(error), fixes.correct_profile(fixes.here())) from None


def _duckdb(context: ProbeContext, sql: str) -> list[tuple[object, ...]]:
    from lakehouse_analytics.engines.base import DatabaseError
    from lakehouse_analytics.engines.duckdb.database import connect

    path = context.settings.duckdb_path
    if not path.exists():
        raise FailedError(f"{path} does not exist yet", fixes.fill_duckdb(fixes.here()))
    try:
        with connect(path, timeout=min(context.settings.duckdb_lock_timeout, context.patience)) as connection:
            return connection.execute(sql).fetchall()
    except DatabaseError as error:
        message, _, fix = str(error).partition(". ")
        raise FailedError(message, fix or "Set LAKEHOUSE_DUCKDB_PATH to a file of DuckDB.") from None


def _describe_authentication(auth: str) -> str:
    return {"none": "no log-in"}.get(auth, f"log-in by {auth}")
