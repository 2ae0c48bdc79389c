"""Settings of DuckDB."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from lakehouse_analytics.common.environment import absolute, repository_root


class DuckDBSettings(BaseModel):
    """The part of `Settings` about DuckDB."""

    duckdb_path: Path = Field(
        default_factory=lambda: repository_root() / ".data" / "lakehouse.duckdb",
        description="File of the embedded DuckDB. Default: the file in dbt's profile.",
    )
    duckdb_lock_timeout: float = Field(
        60.0, ge=0, description="Seconds to wait for a DuckDB file that another process has locked."
    )

    _duckdb_paths = field_validator("duckdb_path")(absolute)
