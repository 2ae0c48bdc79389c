"""Schedules, and the sensor that asks for what they had to leave waiting."""

import json
from collections.abc import Mapping, Sequence

import dagster as dg

from lakehouse_analytics._dagster_internals import get_current_datetime
from lakehouse_analytics.contract.models import Grain
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.jobs import MAIN, MAINTENANCE, job_of
from lakehouse_analytics.notifications import Alert, Notifier, heard
from lakehouse_analytics.partitions.backlog import BACKLOG_TAG, SchedulePlan, ScheduleState, schedule_state
from lakehouse_analytics.partitions.definitions import GrainPartitions
from lakehouse_analytics.settings import Settings

#: The sensor that asks for what its schedule had to leave.
WAITING = "waiting_schedules"
#: Windows that waited too long and were reported, as the sensor remembers them.
_REMEMBERED = 200


def plans(settings: Settings, graph: Graph, grain_partitions: Mapping[Grain, GrainPartitions]) -> list[SchedulePlan]:
    """The schedule of each grain."""
    crons: Mapping[Grain, str] = {
        "hourly": settings.hourly_refresh_cron,
        "daily": settings.daily_refresh_cron,
        "weekly": settings.weekly_refresh_cron,
        "monthly": settings.monthly_refresh_cron,
    }
    sources = {source.node.full_name: source for source in graph.sources.values()}
    found = []
    for grain, partitions_def in grain_partitions.items():
        tables = [table for table in graph.tables.values() if table.grain == grain]
        names = dict.fromkeys(name for table in tables for name in table.contract.after)
        found.append(
            SchedulePlan(
                name=f"{grain}_refresh",
                job=job_of(grain),
                cron=crons[grain],
                timezone=settings.timezone,
                partitions_def=partitions_def,
                catch_up=settings.catch_up,
                graph=graph,
                grain_partitions=grain_partitions,
                tables=tables,
                after=[sources[name] for name in names],
            )
        )
    return found


def schedule_definitions(
    settings: Settings,
    plans: Sequence[SchedulePlan],
    jobs: Sequence["dg.UnresolvedAssetJobDefinition"],
    notifiers: Sequence[Notifier],
) -> dg.Definitions:
    """`daily_refresh`, the schedules of the other grains, that of maintenance, and `waiting_schedules`.

    Schedules are off until somebody turns them on: a laptop should sleep at night. The sensor acts for those that are.

    Args:
        settings: The environment.
        plans: Of the schedules of windows.
        jobs: All there are.
        notifiers: Who hears of a window that waits too long.
    """
    schedules = [_of_windows(plan) for plan in plans]
    if not any(plan.job == MAIN for plan in plans):
        what = "Every layer"
        schedules.append(_schedule("daily_refresh", MAIN, settings.daily_refresh_cron, settings.timezone, what))
    if any(job.name == MAINTENANCE for job in jobs):
        what = "Maintenance of every Iceberg table"
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
        description=f"The window that ended last, at {plan.cron} in {plan.timezone}{after}.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
        at = context.scheduled_execution_time
        past = schedule_state(context.instance, plan.name) or ScheduleState(at, None)
        requests, waiting = [], []
        for window in plan.backlog(past.ticked, at, past.started if past.started < at else None):
            if missing := plan.unmet_conditions(window, context.instance):
                waiting.append(f"{window.key} waits: {'; '.join(missing)}")
            else:
                requests.append(plan.request(window, window.key))
        if running := plan.current(at):
            # Built again at every tick until it has ended.
            requests.append(plan.request(running, f"{running.key} at {at.isoformat()}", ended=False))
        for line in waiting:
            context.log.warning(line)
        if requests:
            return requests
        more = f" The sensor {WAITING} asks for it then." if waiting else ""
        return dg.SkipReason("\n".join(waiting) + more if waiting else "No window has ended since the last tick.")

    return schedule


def waiting_schedules(
    settings: Settings,
    plans: Sequence[SchedulePlan],
    jobs: Sequence["dg.UnresolvedAssetJobDefinition"],
    notifiers: Sequence[Notifier],
) -> list[dg.SensorDefinition]:
    """Asks for windows that were not ready at their schedule's tick; none where no schedule can have to wait."""
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
        description="Runs what a schedule left waiting for a sync or for windows upstream, when it is there.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        reported: list[str] = json.loads(context.cursor or "[]")
        requests, lines = [], []
        for plan in waiting:
            past = schedule_state(context.instance, plan.name)
            if past is None or past.ticked is None:
                continue  # off, or its first tick comes yet: it will be checked then
            for window in plan.backlog(None, past.ticked, past.started):
                name = plan.backlog_id(window)
                if context.instance.get_runs_count(dg.RunsFilter(tags={BACKLOG_TAG: name})):
                    continue
                missing = plan.unmet_conditions(window, context.instance)
                if not missing:
                    requests.append(plan.request(window, name))
                    continue
                lines.append(f"{name} waits: {'; '.join(missing)}")
                late = get_current_datetime() - plan.due_at(window)
                if (
                    late > deadline
                    and name not in reported
                    and _tell(context, notifiers, name, lines[-1], webserver_url)
                ):
                    reported.append(name)
        cursor = json.dumps(reported[-_REMEMBERED:])
        return dg.SensorResult(
            run_requests=requests, skip_reason=None if requests else "\n".join(lines) or "Nothing waits.", cursor=cursor
        )

    return [sensor]


def _tell(
    context: dg.SensorEvaluationContext, notifiers: Sequence[Notifier], name: str, reason: str, webserver_url: str
) -> bool:
    """Whether a channel accepted it; if none did, the next tick tries again."""
    schedule = name.split("/", maxsplit=1)[0]
    alert = Alert(f"{name} is late", f"{webserver_url.rstrip('/')}/automation?search={schedule}", reason)
    return heard(notifiers, alert, context.log)
