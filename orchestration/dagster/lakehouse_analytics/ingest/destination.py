"""The destinations of a sync: the DuckDB file of this machine, or an Iceberg catalog."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lakehouse_analytics.ingest.config import Connection
from lakehouse_analytics.ingest.errors import IngestError
from lakehouse_analytics.ingest.plan import Plan
from lakehouse_analytics.ingest.protocol import StreamKey
from lakehouse_analytics.ingest.staging import Staging
from lakehouse_analytics.ingest.state import StoredState

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


class Destination(Protocol):
    """Raw tables and the stored state of their sources. Methods raise only IngestError, not errors of libraries."""

    def stage(self, connection: Connection) -> AbstractContextManager[Path]:
        """Provide a private folder for the connector's output, which is removed afterwards.

        Raises:
            IngestError: The folder cannot be written, or another process on this machine is syncing the source.
        """

    def read(self, connection: Connection) -> StoredState:
        """Return the stored state of the source; empty before its first sync."""

    def load(self, connection: Connection, plan: Plan, staging: Staging, known: StoredState) -> dict[StreamKey, int]:
        """Write the staged rows, then the state.

        Returns:
            Number of rows in each stream's table.
        """


def of(settings: Settings) -> Destination:
    """Return the destination that the settings select.

    Raises:
        IngestError: Ingest does not support the engine, or LAKEHOUSE_ICEBERG_CATALOG is not set.
    """
    engine = settings.engine_type
    if engine.raw_tables is None:
        raise IngestError(
            f"dbt's target {settings.target} is on {engine.title}; `lakehouse ingest` writes to DuckDB and Iceberg: "
            f"load the raw tables with an Airbyte connection to {engine.title}; docs/engines.md"
        )
    if engine.raw_tables == "duckdb_file":
        from lakehouse_analytics.ingest.duckdb_file import DuckDBFile

        return DuckDBFile(settings.duckdb_path.absolute(), settings.duckdb_lock_timeout)
    if not settings.iceberg_catalog:
        raise IngestError(
            f"LAKEHOUSE_ICEBERG_CATALOG is not set, but target {settings.target} has its raw data in Iceberg tables: "
            "set it to the pyiceberg catalog that has Trino's tables (PYICEBERG_CATALOG__<NAME>__*); docs/ingest.md"
        )
    from lakehouse_analytics.ingest.iceberg_catalog import IcebergCatalog

    return IcebergCatalog(settings.iceberg_catalog)
