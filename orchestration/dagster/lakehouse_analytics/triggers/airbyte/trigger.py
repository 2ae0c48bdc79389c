"""The Airbyte trigger requests a run of the bronze models that read a table when a sync of it ends."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte.checks import sync_checks
from lakehouse_analytics.triggers.airbyte.sensor import airbyte_sync_sensor
from lakehouse_analytics.triggers.airbyte.sync_job import sync_job
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace, airbyte_workspace


@dataclass(frozen=True)
class AirbyteTrigger:
    """The trigger of one Airbyte server."""

    workspace: AirbyteWorkspace

    @property
    def guard(self) -> AirbyteWorkspace:
        """Finds out whether syncs are running, for maintenance."""
        return self.workspace

    def definitions(self) -> dg.Definitions:
        """Return the sensor `airbyte_sync_sensor`, the job `airbyte_sync`, and the checks of source tables."""
        return dg.Definitions(
            asset_checks=sync_checks(self.workspace),
            jobs=[sync_job(self.workspace)],
            sensors=[airbyte_sync_sensor(self.workspace)],
        )


def airbyte_trigger(settings: Settings, graph: Graph) -> AirbyteTrigger | None:
    """Return the trigger; None if LAKEHOUSE_AIRBYTE_URL is not set."""
    workspace = airbyte_workspace(settings, graph)
    return AirbyteTrigger(workspace) if workspace else None
