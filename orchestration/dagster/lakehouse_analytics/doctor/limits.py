"""What keeps runs apart that must not go at once: limits that the instance has, and not the code."""

from __future__ import annotations

from lakehouse_analytics.doctor.probe import Finding, Known, failed, fine


def limits(known: Known) -> Finding:
    """DuckDB has one writer at a time, and windows are built by one run at a time."""
    from dagster._core.storage.tags import BACKFILL_ID_TAG

    from lakehouse_analytics.engines import pool
    from lakehouse_analytics.jobs import WINDOWS_OF

    lacking, there = [], []
    name = pool(known.graph)
    if name:
        slots = {one.name: one.limit for one in known.instance.event_log_storage.get_pool_limits()}
        if slots.get(name) == 1:
            there.append(f"one run at a time in the pool {name}")
        else:
            said = f"has {slots[name]}" if name in slots else "is not set"
            lacking.append((f"the limit of the pool {name} {said}", f"dagster instance concurrency set {name} 1"))
    if any(table.grain for table in known.graph.tables.values()):
        queue = known.instance.get_concurrency_config().run_queue_config
        limited = {limit["key"] for limit in (queue.tag_concurrency_limits if queue else ())}
        for key, what in ((BACKFILL_ID_TAG, "of a backfill"), (WINDOWS_OF, "of a job that builds windows")):
            if key in limited:
                there.append(f"runs {what} are limited")
            else:
                mend = "Copy `concurrency` from orchestration/dagster/dagster.yaml to the one in DAGSTER_HOME."
                lacking.append((f"nothing limits the runs {what}: dagster.yaml has no limit for the tag {key}", mend))
    if lacking:
        return failed("\n".join(what for what, _ in lacking), "\n".join(dict.fromkeys(mend for _, mend in lacking)))
    return fine("; ".join(there) or "nothing that is built needs any")
