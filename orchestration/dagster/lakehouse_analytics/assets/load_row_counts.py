"""Row-count rules of sources that the lakehouse loads itself: `rows` in their contract, evaluated after each load."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from lakehouse_analytics.checks.history import history_of
from lakehouse_analytics.checks.row_count_results import Subject, outcomes_of
from lakehouse_analytics.common.names import DRIFT, ROW_COUNT
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.settings import Settings

_HOW_TO_ACCEPT = "to accept this count as the new level, launch a load with accept_row_count: true in the run's config"


def row_count_specs(source: Source) -> list[dg.AssetCheckSpec]:
    """Return the checks of a source; an empty list if its contract has no `rows`.

    They do not block in Dagster's sense, which would retry the load. The load fails instead, after its commit.
    """
    rules = source.contract.rows
    if rules is None:
        return []
    texts = {ROW_COUNT: "Rows after a load against meta.lakehouse.rows: not_empty, min, max, max_drop."}
    if rules.drift:
        texts[DRIFT] = "Rows after a load against this check's own history: median and MAD, weekday-aware."
    return [dg.AssetCheckSpec(name, asset=asset_key(source), description=text) for name, text in texts.items()]


def row_count_checks(
    source: Source, rows: int, instance: dg.DagsterInstance, settings: Settings, *, accepted: bool
) -> Iterator[dg.AssetCheckResult]:
    """Yield the results of the checks of a source.

    Args:
        source: The source.
        rows: Number of rows of the table after the load.
        instance: The instance, which has the earlier counts.
        settings: The settings.
        accepted: Whether an operator accepts this count as the new level.
    """
    rules, key = source.contract.rows, asset_key(source)
    if rules is None:
        return
    subject = Subject(key, source.node.full_name, rules, _HOW_TO_ACCEPT)
    now, zone = datetime.now(UTC), ZoneInfo(settings.timezone)
    outcomes = outcomes_of(subject, rows, history_of(instance), now=now, zone=zone, accepted=accepted)
    for name, outcome in outcomes.items():
        yield dg.AssetCheckResult(asset_key=key, check_name=name, **outcome)
