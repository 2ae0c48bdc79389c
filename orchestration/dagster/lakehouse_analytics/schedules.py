"""Schedules, and the sensor that runs windows that were not ready at their schedule's tick."""

import json
from collections.abc import Mapping, Sequence

import dagster as dg

from lakehouse_analytics._dagster_internals import get_current_datetime
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.jobs import MAIN, MAINTENANCE, job_of, tables_by_column
from lakehouse_analytics.notifications import Alert, Notifier, notify_at_least_one
from lakehouse_analytics.partitions.backlog import (
    BACKLOG_TAG,
    PRIORITY,
    SchedulePlan,
    ScheduleState,
    range_request,
    schedule_state,
)
from lakehouse_analytics.partitions.by_column import ColumnPartitions, column_partitions, known_values, value_ranges
from lakehouse_analytics.partitions.definitions import GrainPartitions
from lakehouse_analytics.settings import Settings

#: Name of the sensor that runs windows which were not ready at their schedule's tick.
WAITING = "waiting_schedules"
#: Maximum number of late windows in the sensor's cursor, which records that they were reported.
_REMEMBERED = 200


def plans(settings: Settings, graph: Graph, grain_partitions: Mapping[Grain, GrainPartitions]) -> list[SchedulePlan]:
    """Return the plan of each grain's schedule."""
    crons: Mapping[Grain, str] = {
        "hourly": settings.hourly_refresh_cron,
        "daily": settings.daily_refresh_cron,
        "weekly": settings.weekly_refresh_cron,
        "monthly": settings.monthly_refresh_cron,
    }
    sources = {source.node.full_name: source for source in graph.sources.values()}
    by_column = column_partitions(graph)
    found = []
    for grain, partitions_def in grain_partitions.items():
        of_grain = [table for table in graph.tables.values() if table.grain == grain]
        jobs = {f"{grain}_refresh": (job_of(grain), [table for table in of_grain if not table.by])}
        jobs |= {name: (name, tables) for name, tables in tables_by_column(graph).items() if tables[0].grain == grain}
        for name, (job, tables) in jobs.items():
            if not tables:
                continue
            names = dict.fromkeys(name for table in tables for name in table.contract.after)
            found.append(
                SchedulePlan(
                    name=name,
                    job=job,
                    cron=crons[grain],
                    timezone=settings.timezone,
                    partitions_def=partitions_def,
                    catch_up=settings.catch_up,
                    graph=graph,
                    grain_partitions=grain_partitions,
                    tables=tables,
                    after=[sources[name] for name in names],
                    by_column=by_column,
                    column=tables[0].by,
                    most=settings.max_partitions_per_run,
                )
            )
    return found


def value_schedules(settings: Settings, graph: Graph) -> list[dg.ScheduleDefinition]:
    """Return the schedules of tables that are partitioned by a column only: each tick builds all values."""
    by_column = column_partitions(graph)
    return [
        _of_values(name, tables[0].by, by_column[tables[0].by], settings)
        for name, tables in tables_by_column(graph).items()
        if tables[0].by and not tables[0].grain
    ]


def _of_values(name: str, column: str, values: ColumnPartitions, settings: Settings) -> dg.ScheduleDefinition:
    cron, most = settings.daily_refresh_cron, settings.max_partitions_per_run

    @dg.schedule(
        name=name,
        job_name=name,
        cron_schedule=cron,
        execution_timezone=settings.timezone,
        description=f"All values of {column}, at {cron} in {settings.timezone}.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
        known, at = known_values(values, context.instance), context.scheduled_execution_time.isoformat()
        requests = [
            range_request(name, f"{at} {first}", first, last, PRIORITY)
            for first, last in value_ranges(known, known, most)
        ]
        return requests or dg.SkipReason(f"{column} has no values yet.")

    return schedule


def schedule_definitions(
    settings: Settings,
    plans: Sequence[SchedulePlan],
    by_value: Sequence[dg.ScheduleDefinition],
    jobs: Sequence["dg.UnresolvedAssetJobDefinition"],
    notifiers: Sequence[Notifier],
) -> dg.Definitions:
    """Return `daily_refresh`, the schedules of the other grains and of maintenance, and the sensor `waiting_schedules`.

    Schedules are stopped by default, so that a laptop can sleep at night. The sensor acts for those that run.

    Args:
        settings: The environment.
        plans: Plans of the schedules of windows.
        by_value: The schedules of tables that are partitioned by a column only.
        jobs: All jobs.
        notifiers: Notified about windows that wait too long.
    """
    schedules = [*(_of_windows(plan) for plan in plans), *by_value]
    if not any(plan.job == MAIN for plan in plans):
        what = "All layers"
        schedules.append(_schedule("daily_refresh", MAIN, settings.daily_refresh_cron, settings.timezone, what))
    if any(job.name == MAINTENANCE for job in jobs):
        what = "Maintenance of all Iceberg tables"
        schedules.append(_schedule(MAINTENANCE, MAINTENANCE, settings.maintenance_cron, settings.timezone, what))
    return dg.Definitions(schedules=schedules, sensors=waiting_schedules(settings, plans, jobs, notifiers))


def _schedule(name: str, job: str, cron: str, timezone: str, what: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        description=f"{what}, at {cron} in {timezone}.",
    )


def _of_windows(plan: SchedulePlan) -> dg.ScheduleDefinition:
    after = "".join(f", when {'.'.join(source.key)} has synced" for source in plan.after)

    @dg.schedule(
        name=plan.name,
        job_name=plan.job,
        cron_schedule=plan.cron,
        execution_timezone=plan.timezone,
        description=f"The last window that has ended, at {plan.cron} in {plan.timezone}{after}.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
        at = context.scheduled_execution_time
        past = schedule_state(context.instance, plan.name) or ScheduleState(at, None)
        requests, waiting = [], []
        for window in plan.backlog(past.ticked, at, past.started if past.started < at else None):
            if missing := plan.unmet_conditions(window, context.instance):
                waiting.append(f"{window.key} waits: {'; '.join(missing)}")
            else:
                requests += plan.requests(window, window.key, context.instance)
        if running := plan.current(at):
            # The current window is built at every tick until it has ended.
            requests += plan.requests(running, f"{running.key} at {at.isoformat()}", context.instance, ended=False)
        for line in waiting:
            context.log.warning(line)
        if requests:
            return requests
        more = f". The sensor {WAITING} will run it." if waiting else ""
        return dg.SkipReason("\n".join(waiting) + more if waiting else "No window has ended since the last tick.")

    return schedule


def waiting_schedules(
    settings: Settings,
    plans: Sequence[SchedulePlan],
    jobs: Sequence["dg.UnresolvedAssetJobDefinition"],
    notifiers: Sequence[Notifier],
) -> list[dg.SensorDefinition]:
    """Return the sensor for windows that were not ready at their schedule's tick; empty if no schedule has to wait."""
    waiting = [plan for plan in plans if plan.may_wait]
    if not waiting:
        return []
    names = {plan.job for plan in waiting}
    deadline, webserver_url = settings.after_deadline, settings.webserver_url

    @dg.sensor(
        name=WAITING,
        jobs=[job for job in jobs if job.name in names],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs the windows of schedules that had to wait for a sync, upstream windows or values.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        reported: list[str] = json.loads(context.cursor or "[]")
        requests, lines = [], []
        for plan in waiting:
            past = schedule_state(context.instance, plan.name)
            if past is None or past.ticked is None:
                continue  # stopped, or without a tick yet, which will check them
            for window in plan.backlog(None, past.ticked, past.started):
                name = plan.backlog_id(window)
                if context.instance.get_runs_count(dg.RunsFilter(tags={BACKLOG_TAG: name})):
                    continue
                missing = plan.unmet_conditions(window, context.instance)
                if not missing:
                    requests += plan.requests(window, name, context.instance)
                    continue
                lines.append(f"{name} waits: {'; '.join(missing)}")
                late = get_current_datetime() - plan.due_at(window)
                if (
                    late > deadline
                    and name not in reported
                    and _notify(context, notifiers, name, lines[-1], webserver_url)
                ):
                    reported.append(name)
        cursor = json.dumps(reported[-_REMEMBERED:])
        return dg.SensorResult(
            run_requests=requests, skip_reason=None if requests else "\n".join(lines) or "Nothing waits.", cursor=cursor
        )

    return [sensor]


def _notify(
    context: dg.SensorEvaluationContext, notifiers: Sequence[Notifier], name: str, reason: str, webserver_url: str
) -> bool:
    """Return whether a channel accepted the alert. If none did, the next tick tries again."""
    schedule = name.split("/", maxsplit=1)[0]
    alert = Alert(f"{name} is late", f"{webserver_url.rstrip('/')}/automation?search={schedule}", reason)
    return notify_at_least_one(notifiers, alert, context.log)
