"""Everything that listens to Airbyte, where one is named."""

import dagster as dg

from lakehouse_analytics.triggers.airbyte.checks import sync_checks
from lakehouse_analytics.triggers.airbyte.sensor import airbyte_sync_sensor
from lakehouse_analytics.triggers.airbyte.sync_job import sync_job
from lakehouse_analytics.triggers.airbyte.workspace import Listening


def sync_definitions(listening: Listening | None) -> dg.Definitions:
    """Sensor, checks of the sources and job; nothing where no Airbyte is named."""
    if listening is None:
        return dg.Definitions()
    return dg.Definitions(
        asset_checks=sync_checks(listening), jobs=[sync_job(listening)], sensors=[airbyte_sync_sensor(listening)]
    )
