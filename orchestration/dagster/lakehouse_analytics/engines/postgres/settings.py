"""Settings of PostgreSQL. The address and the log-in are those of dbt's profile."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PostgresSettings(BaseModel):
    """The part of `Settings` that is PostgreSQL's."""

    postgres_start_timeout: float = Field(
        120.0, ge=0, description="Seconds to wait for a PostgreSQL that is down or starting."
    )
