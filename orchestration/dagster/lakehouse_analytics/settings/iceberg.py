"""Settings for the metadata and the maintenance of Iceberg tables."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from lakehouse_analytics.branches.catalog import BranchError, check_name
from lakehouse_analytics.contract.base import Duration
from lakehouse_analytics.settings.schedules import valid_cron


class IcebergSettings(BaseModel):
    """The part of `Settings` about Iceberg tables."""

    iceberg_catalog: str | None = Field(
        None,
        description="Name of the same catalog in pyiceberg's configuration (PYICEBERG_CATALOG__<NAME>__*). Makes row "
        "counts faster.",
    )
    iceberg_row_counts: Literal["metadata", "query"] = Field(
        "metadata",
        description="Source of row counts: `metadata` (Iceberg's, where it is exact) or `query`. Set `query` if "
        "Trino filters rows for its user.",
    )
    publish: Literal["table", "run"] = Field(
        "table",
        description="When readers see what a run has built: each `table` when it is built, or all tables of the `run` "
        "at its end, if their gates passed. `run` needs Trino with a JDBC catalog in PostgreSQL or "
        "with Nessie, and LAKEHOUSE_ICEBERG_CATALOG.",
    )
    branch: str | None = Field(
        None,
        description="Branch of the lakehouse that runs write to, such as `pr_42`, instead of the tables themselves. "
        "The code location then has no sensors, no schedules, no loads and no exports.",
    )
    maintenance_cron: str = Field(
        "30 4 * * *", description="Cron schedule of `iceberg_maintenance`, which maintains the Iceberg tables."
    )
    maintenance_floor: Duration = Field(
        timedelta(days=1),
        description="Minimum retention of snapshots (30m, 26h, 7d). A table's contract cannot go below it.",
    )

    @field_validator("branch")
    @classmethod
    def _branch_name(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                check_name(value)
        except BranchError as error:
            raise ValueError(str(error)) from None
        return value

    _maintenance_cron = field_validator("maintenance_cron")(valid_cron)
