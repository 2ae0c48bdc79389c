"""All probes, in the order of the report."""

from __future__ import annotations

from lakehouse_analytics.doctor import (
    airbyte,
    arrivals,
    clock,
    data,
    exports,
    instance,
    limits,
    project,
    trino,
    warehouse,
    webhook,
)
from lakehouse_analytics.doctor.probe import Probe

PROBES = (
    Probe("settings", project.settings),
    Probe("manifest", project.manifest, needs=("settings",)),
    Probe("location", project.location, needs=("settings", "manifest")),
    # After the manifest, which determines the engine.
    Probe("engine", data.engine, needs=("settings",), after=("manifest",), imports=lambda: ("dagster", "trino.dbapi")),
    Probe("catalog", data.catalog, needs=("settings", "manifest", "engine")),
    Probe("version", trino.version, needs=("settings", "engine"), after=("manifest",)),
    Probe("rights", trino.rights, needs=("manifest", "engine")),
    Probe("maintenance", trino.maintenance, needs=("manifest", "engine")),
    Probe(
        "warehouse",
        warehouse.warehouse,
        needs=("settings",),
        timeout_advice=warehouse.CHECK_ENDPOINT,
        imports=warehouse.imports,
    ),
    Probe("airbyte", airbyte.airbyte, needs=("settings",), after=("manifest",), imports=lambda: ("dagster",)),
    Probe("arrivals", arrivals.arrivals, needs=("settings", "manifest"), timeout_advice=arrivals.CHECK_PLACES),
    Probe("exports", exports.exports, needs=("settings", "manifest"), timeout_advice=exports.CHECK_CONNECTIONS),
    Probe("webhook", webhook.webhook, needs=("settings", "manifest")),
    Probe("storage", instance.storage, timeout_advice=instance.CHECK_STORAGE, imports=lambda: instance.IMPORTS),
    Probe("queue", limits.queue, needs=("storage",)),
    Probe("limits", limits.limits, needs=("manifest", "storage", "queue")),
    Probe("daemons", instance.daemons, needs=("storage",)),
    Probe("schedules", instance.schedules, needs=("settings", "location", "storage")),
    Probe("sensors", instance.sensors, needs=("settings", "location", "storage")),
    Probe("clock", clock.clock, needs=("settings",), after=("engine", "airbyte")),
)
NAMES = tuple(probe.name for probe in PROBES)
#: Former names, which `--skip` still takes.
RENAMED = {"upkeep": "maintenance"}
