"""Small projects with windows of time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.partitions.definitions import GrainPartitions, grain_partitions
from manifests import Manifest

WINDOWED: dict[str, Any] = {
    "materialized": "incremental",
    "incremental_strategy": "replace_window",
    "event_time": "at",
    "begin": "2026-01-01",
}


def windowed(m: Manifest, name: str, *parents: str, grain: str, **more: Any) -> str:
    """A model with windows; `lakehouse` adds to its contract, the rest to its config."""
    lakehouse = {"partition": grain, "layer": "silver", **more.pop("lakehouse", {})}
    return m.model(name, *parents, lakehouse=lakehouse, **{**WINDOWED, **more})


def ladder(begin: str = "2026-01-01") -> Manifest:
    """shop.orders → raw_orders (whole) → hours → days → weeks and months → report (whole)."""
    m = Manifest()
    orders = m.source("shop", "orders")
    whole = m.model("raw_orders", orders, folder="bronze")
    hours = windowed(m, "hours", whole, grain="hourly", begin=begin)
    days = windowed(m, "days", hours, grain="daily", begin=begin)
    weeks = windowed(m, "weeks", days, grain="weekly", begin=begin)
    months = windowed(m, "months", days, grain="monthly", begin=begin)
    m.model("report", weeks, months, folder="metrics")
    return m


NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


def at(moment: dt.datetime) -> dg.PartitionLoadingContext:
    """Dagster's clock, for the partitions that exist."""
    return dg.partition_loading_context(effective_dt=moment)


def calendar(grain: Grain, begin: str, zone: str = "UTC", end_offset: int = 0) -> GrainPartitions:
    """The partitions of a grain whose only model begins then."""
    m = Manifest()
    windowed(m, "m", grain=grain, begin=begin)
    return grain_partitions(m.graph(), zone, end_offset=end_offset)[grain]
