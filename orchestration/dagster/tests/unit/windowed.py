"""Small projects with windows of time."""

from __future__ import annotations

from typing import Any

from .manifests import Manifest

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
