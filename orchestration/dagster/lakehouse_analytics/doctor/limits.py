"""The probes of concurrency limits. They are configured in the instance, so the code cannot enforce them."""

from __future__ import annotations

import os

from lakehouse_analytics.arrivals.connections import connection_variable
from lakehouse_analytics.common.names import counted
from lakehouse_analytics.components import with_components
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine
from lakehouse_analytics.user_defs import load_user_defs


def queue(context: ProbeContext) -> Finding:
    """Check that runs go through Dagster's queue. Without it, the limits of `concurrency` have no effect."""
    from dagster import QueuedRunCoordinator

    coordinator = context.instance.run_coordinator
    if isinstance(coordinator, QueuedRunCoordinator):
        return fine("runs wait in Dagster's queue until the limits let them start")
    return failed(
        f"the run coordinator is not the queue: {type(coordinator).__name__} starts every run immediately and ignores "
        "the limits of `concurrency`. A backfill of 50 days starts 50 runs, and two runs may write the same table.",
        fixes.queue_runs(fixes.here()),
    )


def limits(context: ProbeContext) -> Finding:
    """Check that DuckDB and exports have one writer at a time, and that runs which build windows are limited."""
    from lakehouse_analytics._dagster_internals import BACKFILL_ID_TAG
    from lakehouse_analytics.keys import WINDOWS_OF

    missing, there = [], []
    if found := _pool(context):
        name, must_be_1 = found
        slots = {one.name: one.limit for one in context.instance.event_log_storage.get_pool_limits()}
        if name in slots and (slots[name] == 1 or not must_be_1):
            there.append(f"{counted(slots[name] or 0, 'run')} at a time in the pool {name}")
        else:
            limit = f"is {slots[name]}, not 1" if name in slots else "is not set"
            missing.append((f"the limit of the pool {name} {limit}", fixes.limit_pool(fixes.here(), name)))
    if not all(table.is_whole for table in context.graph.tables.values()):
        queue = context.instance.get_concurrency_config().run_queue_config
        limited = {limit["key"] for limit in (queue.tag_concurrency_limits if queue else ())}
        for key, what in ((BACKFILL_ID_TAG, "of a backfill"), (WINDOWS_OF, "of a job that builds windows")):
            if key in limited:
                there.append(f"runs {what} are limited")
            else:
                fix = fixes.limit_runs(fixes.here())
                missing.append((f"nothing limits the runs {what}: dagster.yaml has no limit for the tag {key}", fix))
    if missing:
        return failed("\n".join(what for what, _ in missing), "\n".join(dict.fromkeys(fix for _, fix in missing)))
    return fine("; ".join(there) or "this project needs no limits")


def _pool(context: ProbeContext) -> tuple[str, bool] | None:
    """Return the pool that the project needs, and whether it must have one slot; None if it needs none.

    Exports of an engine without a pool have one of their own. A folder of chdb can be open in one process.
    """
    from lakehouse_analytics.keys import EXPORTS_POOL

    if context.graph.engine.pool:
        return context.graph.engine.pool, True
    graph = with_components(context.graph, load_user_defs().tree)
    copied = [source.contract.copied_to for source in graph.sources.values()]
    names = {copy.serve.to for copy in graph.copies}
    names |= {str(arrival.to) for arrival in copied if arrival}
    if not names:
        return None
    return EXPORTS_POOL, any(os.environ.get(connection_variable(name), "").startswith("chdb:") for name in names)
