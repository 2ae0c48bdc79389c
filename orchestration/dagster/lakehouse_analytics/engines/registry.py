"""All engines. To add one, write a folder beside this file and add a line to `ENGINES`: docs/add-an-engine.md."""

from __future__ import annotations

from collections.abc import Mapping

from lakehouse_analytics.common.names import joined
from lakehouse_analytics.engines.duckdb import DuckDB
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.postgres import Postgres
from lakehouse_analytics.engines.trino import Trino


class UnsupportedEngineError(ValueError):
    """This code location does not support dbt's adapter. The message names the adapter and the supported ones."""


#: The engines, by dbt's name of the adapter.
ENGINES: Mapping[str, EngineType] = {engine.name: engine for engine in (DuckDB(), Trino(), Postgres())}


def engine_type(adapter: str) -> EngineType:
    """Return the engine of a dbt adapter.

    Raises:
        UnsupportedEngineError: There is no engine of this name.
    """
    if adapter not in ENGINES:
        raise UnsupportedEngineError(f"dbt's adapter is {adapter}; this version runs on {joined([*ENGINES])}.")
    return ENGINES[adapter]
