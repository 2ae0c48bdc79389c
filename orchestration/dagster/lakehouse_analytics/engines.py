"""Which resources a target needs, from the adapter its manifest was made with."""

from __future__ import annotations

import json

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
        environment={
            "LAKEHOUSE_DUCKDB_PATH": str(settings.duckdb_path),
            "LAKEHOUSE_TIMEZONE": settings.timezone,
            **({"LAKEHOUSE_DBT_THREADS": str(settings.dbt_threads)} if settings.dbt_threads else {}),
            **_trino_variables(settings),
        },
        # Where the machine sets this variable, it overrides the profile's `cert`.
        database_environment={"REQUESTS_CA_BUNDLE": str(settings.trino_ca_bundle)} if settings.trino_ca_bundle else {},
    )


def _trino_variables(settings: Settings) -> dict[str, str]:
    """What `profiles.yml` reads, defaults included. Secrets are left in this process's environment, which dbt inherits:
    what a resource is made of is shown in Dagster's UI."""
    values = {
        "HOST": settings.trino_host,
        "PORT": settings.trino_port,
        "HTTP_SCHEME": settings.trino_http_scheme,
        "USER": settings.trino_user,
        "CATALOG": settings.trino_catalog,
        "CLIENT_CERTIFICATE": settings.trino_client_certificate,
        "CLIENT_KEY": settings.trino_client_key,
        "CA_BUNDLE": settings.trino_ca_bundle,
        "SESSION_PROPERTIES": json.dumps(settings.trino_session_properties),
    }
    return {f"LAKEHOUSE_TRINO_{name}": str(value) for name, value in values.items() if value is not None}


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
    databases = {str(table.node["database"]) for table in graph.tables.values()}
    if databases - {path.stem}:
        raise SettingsError(
            f"LAKEHOUSE_DUCKDB_PATH is {path}, but dbt's profile uses the database "
            f"{', '.join(sorted(databases))}: set it to the file of the profile."
        )
    return DuckDBResource(path=str(path), lock_timeout=settings.duckdb_lock_timeout)


def pool(graph: Graph) -> str | None:
    """The concurrency pool of everything that writes."""
    return DUCKDB_POOL if graph.adapter == "duckdb" else None
