"""Settings of PostgreSQL. The address and the credentials are in dbt's profile."""

from __future__ import annotations

from pydantic import BaseModel, Field


class PostgresSettings(BaseModel):
    """The part of `Settings` about PostgreSQL."""

    postgres_start_timeout: float = Field(
        120.0, ge=0, description="Seconds to wait for a PostgreSQL server that is down or starting."
    )
