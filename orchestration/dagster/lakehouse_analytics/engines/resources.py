"""The resources of the code location that a target needs."""

from __future__ import annotations

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.settings import Settings


def dbt_runner(settings: Settings, project: DbtProject) -> DbtRunner:
    """dbt for this target."""
    return DbtRunner(
        project_dir=str(project.project_dir),
        profiles_dir=str(project.profiles_dir),
        target=project.target,
        target_path=str(project.target_path),
        environment=settings.dbt_environment(),
        database_environment=settings.engine_type.process_environment(settings),
    )


def engine(settings: Settings, graph: Graph) -> Engine:
    """The database that dbt builds in."""
    return graph.engine.resource(settings)
