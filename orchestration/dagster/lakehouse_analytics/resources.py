"""Resources that the user's own assets may require: `dbt`, `airbyte`, and one per engine (docs/python.md).

All of them are defined on every engine, so that a `defs` folder loads in every environment. If a resource is not
configured in the environment, a run with an asset that requires it fails with a message. dbt, DuckDB and Trino are not
imported before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import Engine
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.client import Airbyte
from lakehouse_analytics.triggers.airbyte.resource import airbyte_of

if TYPE_CHECKING:
    from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
    from lakehouse_analytics.engines.postgres.resource import PostgresResource
    from lakehouse_analytics.engines.trino.resource import TrinoResource

__all__ = ["Airbyte", "DuckDBResource", "PostgresResource", "TrinoResource", "resources"]


def __getattr__(name: str) -> Any:
    """Return the class of an engine's resource, for annotations.

    It is imported, with the engine's client, on first use.
    """
    for engine in ENGINES:
        if name in __all__ and name.removesuffix("Resource").lower() == engine:
            return resolve_name(f"lakehouse_analytics.engines.{engine}.resource:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def resources(settings: Settings, runner: DbtRunner, engine: Engine, adapter: str) -> dict[str, Any]:
    """Return the resources of an environment, by key.

    Args:
        settings: The environment.
        runner: Runs dbt for the project, the profile and the target.
        engine: The engine of the tables.
        adapter: dbt's name of the engine.
    """
    return {
        "dbt": _lazy(lambda: _dbt(runner), "dagster_dbt.DbtCliResource of the lakehouse's project and target."),
        **{
            name: engine
            if name == adapter
            else _not_configured(name, f"dbt's adapter is {adapter}", f"a target of type {name}")
            for name in ENGINES
        },
        "airbyte": _lazy(lambda: _airbyte(settings), "Client of Airbyte's public API, as configured by the settings.")
        if settings.airbyte_url
        else _not_configured("airbyte", "LAKEHOUSE_AIRBYTE_URL is not set", "the address of Airbyte's public API"),
    }


def _dbt(runner: DbtRunner) -> Iterator[Any]:
    from lakehouse_analytics.dbt.cli_resource import dbt_cli

    with dbt_cli(runner) as resource:
        yield resource


def _airbyte(settings: Settings) -> Iterator[Airbyte | None]:
    yield airbyte_of(settings)


def _lazy(make: Callable[[], Iterator[Any]], description: str) -> dg.ResourceDefinition:
    def resource(_: dg.InitResourceContext) -> Iterator[Any]:
        yield from make()

    return dg.ResourceDefinition(resource_fn=resource, description=description)


def _not_configured(key: str, reason: str, needed: str) -> dg.ResourceDefinition:
    def resource(_: dg.InitResourceContext) -> None:
        raise dg.Failure(
            f"The resource {key} does not exist here, because {reason}. It needs {needed}.", allow_retries=False
        )

    return dg.ResourceDefinition(resource_fn=resource, description=f"Not configured: {reason}.")
