"""All triggers of the code location. To add one, write a folder beside this file and add a line to `TRIGGERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.trigger import airbyte_trigger
from lakehouse_analytics.triggers.arrivals.trigger import arrival_trigger
from lakehouse_analytics.triggers.base import LoadGuard, Trigger

#: Each creates a trigger, or returns None if the settings do not configure it. None of them sends network requests.
TRIGGERS: Sequence[Callable[[Settings, Graph], Trigger | None]] = (airbyte_trigger, arrival_trigger)


def configured_triggers(settings: Settings, graph: Graph) -> list[Trigger]:
    """Return the triggers that the settings configure."""
    return [trigger for make in TRIGGERS if (trigger := make(settings, graph))]


def guard_of(triggers: Iterable[Trigger]) -> LoadGuard | None:
    """Return the guard that finds out whether loads are running; None if no trigger has one."""
    return next((trigger.guard for trigger in triggers if trigger.guard), None)
