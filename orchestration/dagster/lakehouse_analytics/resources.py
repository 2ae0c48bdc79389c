"""Resources that the user's own assets may require: `dbt`, `airbyte`, and one per engine (docs/python.md).

All exist on every engine, so that one `defs` folder loads everywhere. One that the environment does not configure
says so when an asset requires it in a run. Nothing of dbt, DuckDB or Trino is imported before that.
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
    """The class of an engine's resource, for annotations; imported with its client on first use."""
    for engine in ENGINES:
        if name in __all__ and name.removesuffix("Resource").lower() == engine:
            return resolve_name(f"lakehouse_analytics.engines.{engine}.resource:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def resources(settings: Settings, runner: DbtRunner, engine: Engine, adapter: str) -> dict[str, Any]:
    """The resources of one environment, by key.

    Args:
        settings: The environment.
        runner: Runs dbt for the project, the profile and the target.
        engine: Where the tables are.
        adapter: dbt's name of it.
    """
    return {
        "dbt": _lazy(lambda: _dbt(runner), "dagster_dbt.DbtCliResource of the lakehouse's project and target."),
        **{
            name: engine
            if name == adapter
            else _absent(name, f"dbt's adapter is {adapter}", f"a target of type {name}")
            for name in ENGINES
        },
        "airbyte": _lazy(lambda: _airbyte(settings), "Client of the public API of the Airbyte that the settings name.")
        if settings.airbyte_url
        else _absent("airbyte", "LAKEHOUSE_AIRBYTE_URL is not set", "the address of Airbyte's public API"),
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


def _absent(key: str, reason: str, needed: str) -> dg.ResourceDefinition:
    def resource(_: dg.InitResourceContext) -> None:
        raise dg.Failure(
            f"The resource {key} does not exist here, because {reason}. It needs {needed}.", allow_retries=False
        )

    return dg.ResourceDefinition(resource_fn=resource, description=f"Not configured: {reason}.")
