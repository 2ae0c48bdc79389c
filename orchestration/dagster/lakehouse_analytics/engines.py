"""Which resources a target needs, from the adapter its manifest was made with."""

from __future__ import annotations

from lakehouse_analytics.dbt_profile import Profile, ProfileError, database_of
from lakehouse_analytics.dbt_project import DbtProject
from lakehouse_analytics.graph import Graph
from lakehouse_analytics.resources.dbt import DbtRunner
from lakehouse_analytics.resources.duckdb import DuckDBResource
from lakehouse_analytics.resources.trino import TrinoResource
from lakehouse_analytics.settings import Settings, SettingsError

#: One writer at a time, across dbt and checks: DuckDB allows no other.
DUCKDB_POOL = "duckdb"


def dbt_runner(settings: Settings, project: DbtProject) -> DbtRunner:
    """dbt for this target. It and the row counts must ask the same database."""
    return DbtRunner(
        project_dir=str(project.project_dir),
        profiles_dir=str(project.profiles_dir),
        target=project.target,
        target_path=str(project.target_path),
        environment=settings.dbt_environment(),
        # Where the machine sets this variable, it overrides the profile's `cert`.
        database_environment={"REQUESTS_CA_BUNDLE": str(settings.trino_ca_bundle)} if settings.trino_ca_bundle else {},
    )


def engine(settings: Settings, graph: Graph) -> DuckDBResource | TrinoResource:
    """Where row counts are asked.

    Raises:
        SettingsError: the adapter is not supported, or LAKEHOUSE_DUCKDB_PATH has another name than the profile's
            database.
    """
    if graph.adapter == "trino":
        return TrinoResource.of(settings)
    if graph.adapter != "duckdb":
        raise SettingsError(f"dbt's adapter is {graph.adapter}; this version runs on duckdb and trino.")
    path = settings.duckdb_path
    profile = profile_of(settings)
    known = {database_of(str(path)), *(profile.attached if profile else ())}
    others = {str(table.node["database"]) for table in graph.tables.values()} - known
    if others:
        where = profile.where if profile else "dbt's profile"
        raise SettingsError(
            f"LAKEHOUSE_DUCKDB_PATH is {path}, whose database is {database_of(str(path))}, but models are built in "
            f"{', '.join(sorted(others))}: set it to the file of the profile, or attach that database in {where}."
        )
    return DuckDBResource(
        path=str(path), lock_timeout=settings.duckdb_lock_timeout, search_path=str(settings.dbt_project_dir)
    )


def profile_of(settings: Settings) -> Profile | None:
    """dbt's profile, where it can be read."""
    try:
        return settings.profile
    except ProfileError:
        return None


def pool(graph: Graph) -> str | None:
    """The concurrency pool of everything that writes."""
    return DUCKDB_POOL if graph.adapter == "duckdb" else None
