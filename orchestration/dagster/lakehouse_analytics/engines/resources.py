"""The resources that the builds of a dbt target need."""

from __future__ import annotations

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.settings import Settings


def dbt_runner(settings: Settings, project: DbtProject) -> DbtRunner:
    """Return the resource that runs dbt with a project's target."""
    return DbtRunner(
        project_dir=str(project.project_dir),
        profiles_dir=str(project.profiles_dir),
        target=project.target,
        target_path=str(project.target_path),
        environment=settings.dbt_environment(),
        database_environment=settings.engine_type.process_environment(settings),
    )


def engine(settings: Settings, graph: Graph) -> Engine:
    """Return the resource for the database that dbt builds in."""
    return graph.engine.resource(settings)
