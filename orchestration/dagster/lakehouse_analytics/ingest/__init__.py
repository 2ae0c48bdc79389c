"""`lakehouse ingest` reads an Airbyte connector from PyPI over the Airbyte protocol, and writes raw tables.

The tables are in the DuckDB file, or in Iceberg if the engine is Trino. Importing this package is cheap: Dagster,
DuckDB and pyiceberg are not imported before a sync runs.
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
    """Sync a connection: either all of its streams or none.

    In DuckDB, the sync is one transaction. In Iceberg, each table changes in one commit. A sync that dies between two
    of them leaves the stored state unchanged, and the next one repeats the work without duplicate rows.

    Args:
        settings: Reads `env`, `connectors_dir`, and `duckdb_path` with `duckdb_lock_timeout` (seconds) or
            `iceberg_catalog`.
        config_path: The connection's YAML file; by default, `connectors/faker.yaml` of the checkout.
        count: Replaces `count` in the connector's config; only for connectors that have this key.
        seed: Replaces `seed`, likewise.
        progress: Called with one line at a time, without secrets.

    Raises:
        IngestError: The sync failed, and its stored state is unchanged. The message is one line for the user, and says
            what became of the tables.
    """
    from lakehouse_analytics.ingest.sync import sync

    overrides = {key: value for key, value in (("count", count), ("seed", seed)) if value is not None}
    return sync(settings, config_path, overrides, progress)
