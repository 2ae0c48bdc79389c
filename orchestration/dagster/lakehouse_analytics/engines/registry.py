"""The engines that dbt can build in. A new one is a folder beside this file and a line here: docs/add-an-engine.md."""

from __future__ import annotations

from collections.abc import Mapping

from lakehouse_analytics.common.names import joined
from lakehouse_analytics.engines.duckdb import DuckDB
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.postgres import Postgres
from lakehouse_analytics.engines.trino import Trino


class UnsupportedEngineError(ValueError):
    """dbt's adapter is none that this code location knows. The message names it, and those that it knows."""


#: By dbt's name of the adapter.
ENGINES: Mapping[str, EngineType] = {engine.name: engine for engine in (DuckDB(), Trino(), Postgres())}


def engine_type(adapter: str) -> EngineType:
    """The engine of a dbt adapter.

    Raises:
        UnsupportedEngineError: there is none of this name.
    """
    if adapter not in ENGINES:
        raise UnsupportedEngineError(f"dbt's adapter is {adapter}; this version runs on {joined([*ENGINES])}.")
    return ENGINES[adapter]
