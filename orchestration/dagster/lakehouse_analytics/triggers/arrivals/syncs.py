"""The jobs and schedules of sources that are copied from databases."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import dagster as dg

from lakehouse_analytics.common.names import apart
from lakehouse_analytics.contract.arrivals import TableArrival
from lakehouse_analytics.dbt.graph import Source
from lakehouse_analytics.keys import asset_key, max_runtime_tags
from lakehouse_analytics.settings import Settings


def sync_definitions(settings: Settings, sources: Iterable[Source]) -> dg.Definitions:
    """Return a job `<source>_sync` per dbt source, with all its tables, and the schedules of the contracts.

    Tables of a source with the same cron expression have one schedule. It has the name of the job if it is the only
    one, and otherwise also that of its first table. Schedules are stopped until a person turns them on.

    Args:
        settings: The settings.
        sources: Sources that are copied from databases.
    """
    by_name: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        by_name[source.node.source_name].append(source)
    names = apart(by_name, lambda name: re.sub(r"\W", "_", name, flags=re.ASCII))
    tags = max_runtime_tags(settings.max_runtime)
    jobs, schedules = [], []
    for name, tables in by_name.items():
        job = f"{names[name]}_sync"
        what = f"Copies {', '.join(sorted(table.node.name for table in tables))} from the database."
        jobs.append(dg.define_asset_job(job, _selection(tables), description=what, tags=tags))
        by_cron: dict[str, list[Source]] = defaultdict(list)
        for table in tables:
            if isinstance(table.contract.arrives, TableArrival) and table.contract.arrives.schedule:
                by_cron[table.contract.arrives.schedule].append(table)
        for cron, scheduled in by_cron.items():
            suffix = re.sub(r"\W", "_", f"_{scheduled[0].node.name}", flags=re.ASCII) if len(by_cron) > 1 else ""
            schedules.append(
                dg.ScheduleDefinition(
                    name=f"{job}{suffix}",
                    target=_selection(scheduled),
                    cron_schedule=cron,
                    execution_timezone=settings.timezone,
                    tags=tags,
                    description=f"Copies {', '.join(sorted(table.node.name for table in scheduled))} at {cron}.",
                )
            )
    return dg.Definitions(jobs=jobs, schedules=schedules)


def _selection(sources: Sequence[Source]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(asset_key(source) for source in sources))
