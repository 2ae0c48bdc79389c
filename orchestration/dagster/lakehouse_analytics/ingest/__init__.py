"""`lakehouse ingest`: an Airbyte connector from PyPI, read over the Airbyte protocol into raw tables.

They are in the DuckDB file, or in Iceberg where the engine is Trino. Light to import: neither Dagster nor DuckDB nor
pyiceberg is loaded before a sync runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.report import IngestReport, StreamReport

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings

__all__ = ["IngestError", "IngestReport", "StreamReport", "run_ingest"]


def run_ingest(
    settings: Settings,
    *,
    config_path: Path | None = None,
    count: int | None = None,
    seed: int | None = None,
    progress: Callable[[str], None] = print,
) -> IngestReport:
    """Sync one connection: every stream of its file, all or nothing.

    In DuckDB that is one transaction. In Iceberg each table changes in one commit; a sync that dies between two of them
    keeps its old state, and the next one does them again without doubling a row.

    Args:
        settings: reads `env`, `connectors_dir`, and `duckdb_path` with `duckdb_lock_timeout` (seconds) or
            `iceberg_catalog`.
        config_path: the connection's YAML file; default `connectors/faker.yaml` of the checkout.
        count: replaces `count` in the connector's config; only for a connector that has the key.
        seed: likewise.
        progress: takes one line at a time, without secrets.

    Raises:
        IngestError: the sync did not happen; its state is as it was, and what it says of the tables holds. One line,
            fit to show.
    """
    from lakehouse_analytics.ingest.sync import sync

    overrides = {key: value for key, value in (("count", count), ("seed", seed)) if value is not None}
    return sync(settings, config_path, overrides, progress)
