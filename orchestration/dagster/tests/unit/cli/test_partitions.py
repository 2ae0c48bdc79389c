"""The partitions that a command builds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
from lakehouse_analytics.cli.partitions import WHOLE, first_of_last_month, partition_range

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
DAILY = dg.DailyPartitionsDefinition("2026-01-01")


def test_the_last_month_begins_with_its_first_day() -> None:
    assert first_of_last_month(date(2026, 1, 31)) == date(2025, 12, 1)
    assert first_of_last_month(date(2026, 3, 31)) == date(2026, 2, 1)


def test_ranges() -> None:
    instance = dg.DagsterInstance.ephemeral()
    since = YESTERDAY - timedelta(days=3)
    assert partition_range(None, since, instance) == WHOLE
    assert partition_range(DAILY, since, instance) == (str(since), str(YESTERDAY))
    assert partition_range(DAILY, YESTERDAY + timedelta(days=9), instance) is None
    regions = dg.DynamicPartitionsDefinition(name="region")
    assert partition_range(regions, since, instance) is None
    instance.add_dynamic_partitions("region", ["IT", "DE"])
    assert partition_range(regions, since, instance) == ("IT", "DE")
    both = dg.MultiPartitionsDefinition({"date": DAILY, "region": regions})
    assert partition_range(both, since, instance) == (f"{since}|IT", f"{YESTERDAY}|DE")


def test_a_month_that_began_before_the_first_day_is_left_out() -> None:
    monthly = dg.MonthlyPartitionsDefinition("2020-01-01")
    found = partition_range(monthly, date(2026, 1, 2), dg.DagsterInstance.ephemeral())
    assert found
    assert found[0] == "2026-02-01"
