"""Settings of schedules and partitions."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import available_timezones

from pydantic import BaseModel, Field, field_validator

from lakehouse_analytics.common.cron import is_cron
from lakehouse_analytics.common.text import did_you_mean, shortened
from lakehouse_analytics.contract.base import Duration


def valid_cron(value: str) -> str:
    """Return a cron expression unchanged.

    Raises:
        ValueError: The text is not a cron expression.
    """
    if not is_cron(value):
        raise ValueError(f"{shortened(value)} is not a cron expression (for example '0 2 * * *')")
    return value


class ScheduleSettings(BaseModel):
    """The part of `Settings` about schedules and partitions."""

    timezone: str = Field(
        "UTC", description="Time zone of schedules and partitions (an IANA name such as Europe/Berlin)."
    )
    hourly_refresh_cron: str = Field("10 * * * *", description="Cron schedule of `hourly_refresh`.")
    daily_refresh_cron: str = Field("0 2 * * *", description="Cron schedule of `daily_refresh`.")
    weekly_refresh_cron: str = Field("0 4 * * 1", description="Cron schedule of `weekly_refresh`.")
    monthly_refresh_cron: str = Field("0 5 1 * *", description="Cron schedule of `monthly_refresh`.")
    partition_end_offset: int = Field(
        0, ge=0, le=1, description="Set `1` to allow the current hour, day, week or month to be built before it ends."
    )
    catch_up: int = Field(
        7, ge=1, le=1000, description="Maximum number of missed partitions to build after downtime of the daemon."
    )
    after_deadline: Duration = Field(
        timedelta(hours=4), description="How long a schedule waits for its sources before it sends an alert (90m, 4h)."
    )
    max_partitions_per_run: int | None = Field(
        None,
        ge=1,
        description="Maximum number of partitions per run of a backfill. Default: all consecutive partitions in one "
        "run.",
    )

    _refresh_crons = field_validator(
        "hourly_refresh_cron", "daily_refresh_cron", "weekly_refresh_cron", "monthly_refresh_cron"
    )(valid_cron)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            hint = did_you_mean(value, available_timezones())
            raise ValueError(f"{shortened(value)} is not an IANA time zone (for example Europe/Berlin){hint}")
        return value
