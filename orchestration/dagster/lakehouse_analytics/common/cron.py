"""What a cron expression is: what Dagster's schedules take for one."""

from __future__ import annotations

from datetime import datetime, timedelta


def is_cron(text: str) -> bool:
    """Whether Dagster accepts the text as a cron expression, names such as `@daily` included."""
    from lakehouse_analytics._dagster_internals import is_valid_cron_string

    return is_valid_cron_string(text)


def smallest_interval(text: str) -> timedelta:
    """The shortest time between two ticks of a valid cron expression."""
    from lakehouse_analytics._dagster_internals import get_smallest_cron_interval

    return get_smallest_cron_interval(text)


def next_tick(cron: str, timezone: str, at: datetime) -> datetime:
    """The first tick at or after an aware moment."""
    from lakehouse_analytics._dagster_internals import schedule_execution_time_iterator

    return next(schedule_execution_time_iterator(at.timestamp(), cron, timezone))
