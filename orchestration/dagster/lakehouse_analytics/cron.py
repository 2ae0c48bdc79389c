"""What a cron expression is: what Dagster's schedules take for one."""

from __future__ import annotations


def is_cron(text: str) -> bool:
    """Whether Dagster accepts the text as a cron expression, names such as `@daily` included."""
    from dagster._utils.schedules import is_valid_cron_string

    return is_valid_cron_string(text)
