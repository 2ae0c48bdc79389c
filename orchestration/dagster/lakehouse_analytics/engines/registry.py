"""Which resources a target needs, from the adapter its manifest was made with."""

from __future__ import annotations

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.profile import Profile, ProfileError
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.settings import Settings, SettingsError

#: One writer at a time, across dbt and checks: DuckDB allows no other.
DUCKDB_POOL = "duckdb"


def dbt_runner(settings: Settings, project: DbtProject) -> DbtRunner:
    """dbt for this target."""
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
    """What knows the database that dbt builds in.

    Raises:
        SettingsError: the adapter is not supported.
    """
    if graph.adapter == "trino":
        return TrinoResource.of(settings)
    if graph.adapter != "duckdb":
        raise SettingsError(f"dbt's adapter is {graph.adapter}; this version runs on duckdb and trino.")
    profile = profile_of(settings)
    is_file = profile is None or profile.database_file is not None
    return DuckDBResource(
        path=str(settings.duckdb_path) if is_file else None, lock_timeout=settings.duckdb_lock_timeout
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
