"""Cron expressions, as Dagster's schedules interpret them."""

from __future__ import annotations

from datetime import datetime, timedelta


def is_cron(text: str) -> bool:
    """Return whether Dagster accepts a text as a cron expression, including names such as `@daily`."""
    from lakehouse_analytics._dagster_internals import is_valid_cron_string

    return is_valid_cron_string(text)


def smallest_interval(text: str) -> timedelta:
    """Return the shortest time between two ticks of a valid cron expression."""
    from lakehouse_analytics._dagster_internals import get_smallest_cron_interval

    return get_smallest_cron_interval(text)


def next_tick(cron: str, timezone: str, at: datetime) -> datetime:
    """Return the first tick at or after a time, which needs a time zone."""
    from lakehouse_analytics._dagster_internals import schedule_execution_time_iterator

    return next(schedule_execution_time_iterator(at.timestamp(), cron, timezone))
