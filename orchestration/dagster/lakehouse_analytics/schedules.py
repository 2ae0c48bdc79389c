"""Schedules."""

from __future__ import annotations

import dagster as dg


def daily_refresh(cron: str, timezone: str) -> dg.ScheduleDefinition:
    """`full_refresh` once a day. Off until somebody turns it on: a laptop should sleep at night."""
    return dg.ScheduleDefinition(
        name="daily_refresh",
        job_name="full_refresh",
        cron_schedule=cron,
        execution_timezone=timezone,
        description=f"Every layer, at {cron} in {timezone}.",
    )
