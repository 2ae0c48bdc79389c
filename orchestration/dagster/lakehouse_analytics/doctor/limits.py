"""The probes of concurrency limits. They are configured in the instance, so the code cannot enforce them."""

from __future__ import annotations

from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine


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
    """Check that DuckDB has one writer at a time, and that runs which build windows are limited."""
    from lakehouse_analytics._dagster_internals import BACKFILL_ID_TAG
    from lakehouse_analytics.keys import WINDOWS_OF

    missing, there = [], []
    name = context.graph.engine.pool
    if name:
        slots = {one.name: one.limit for one in context.instance.event_log_storage.get_pool_limits()}
        if slots.get(name) == 1:
            there.append(f"one run at a time in the pool {name}")
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
