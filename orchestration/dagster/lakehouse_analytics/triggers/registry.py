"""Every trigger of the code location. To add one, write a folder beside this file and add a line to `TRIGGERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.trigger import airbyte_trigger
from lakehouse_analytics.triggers.base import LoadGuard, Trigger

#: Each makes a trigger, or None if the settings do not configure it. None of them does network requests.
TRIGGERS: Sequence[Callable[[Settings, Graph], Trigger | None]] = (airbyte_trigger,)


def configured_triggers(settings: Settings, graph: Graph) -> list[Trigger]:
    """The triggers that the settings configure."""
    return [trigger for make in TRIGGERS if (trigger := make(settings, graph))]


def guard_of(triggers: Iterable[Trigger]) -> LoadGuard | None:
    """Tells maintenance about running loads; None if no trigger can tell."""
    return next((trigger.guard for trigger in triggers if trigger.guard), None)
