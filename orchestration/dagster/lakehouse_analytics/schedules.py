"""Schedules."""

from __future__ import annotations

import dagster as dg

from lakehouse_analytics.jobs import MAINTENANCE
from lakehouse_analytics.settings import Settings


def build_schedules(settings: Settings, *, upkeep: bool) -> list[dg.ScheduleDefinition]:
    """`daily_refresh`, and `iceberg_maintenance` where there is something to look after.

    Off until somebody turns them on: a laptop should sleep at night.
    """
    found = [_schedule("daily_refresh", "full_refresh", settings.daily_refresh_cron, settings.timezone, "Every layer")]
    if upkeep:
        what = "Upkeep of every Iceberg table"
        found.append(_schedule(MAINTENANCE, MAINTENANCE, settings.maintenance_cron, settings.timezone, what))
    return found


def _schedule(name: str, job: str, cron: str, timezone: str, what: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        description=f"{what}, at {cron} in {timezone}.",
    )
