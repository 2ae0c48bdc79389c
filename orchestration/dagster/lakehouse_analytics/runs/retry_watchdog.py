"""Retries that Dagster owes and forgets, seen in Dagster 1.13.27.

The daemon that retries reads each failure event once. Read in the moment between the event and the run's status, the
run has not failed yet, and is never looked at again; the moment grows under load. Where it cannot launch the retry (the
code location is being replaced, say), it gives up for good. `run_failure_notifier` has kept silent by then.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import RunRecord

from lakehouse_analytics._dagster_internals import AUTO_RETRY_RUN_ID_TAG, PARENT_RUN_ID_TAG, WILL_RETRY_TAG
from lakehouse_analytics.notifications import Alert, Notifier, heard

#: Seconds after a run's end in which its retry may still come by itself; then those that a requested one has.
PATIENCE, GIVE_UP = 120.0, 600.0
#: How far back runs are looked at: longer than a daemon is away unnoticed.
LOOK_BACK = timedelta(hours=6)
LIMIT = 500
#: How far the daemon that retries has read (`dagster._daemon.auto_run_reexecution.event_log_consumer`).
READ = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"
#: In its words, there.
GAVE_UP = "Failed to retry run"


def lost_retries(notifiers: Sequence[Notifier], webserver_url: str) -> dg.SensorDefinition:
    """Has the daemon look again at failed runs that it passed over, and tells of those that it could not retry.

    Its cursor is the runs about which nothing is left to do.
    """

    @dg.sensor(
        name="lost_retries",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="Has runs retried that Dagster's daemon passed over; tells of those that it could not retry.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        if not instance.run_retries_enabled:
            return dg.SensorResult(skip_reason="Run retries are off in this instance.")
        known = set(json.loads(context.cursor or "[]"))
        lost: list[str] = []
        settled: list[str] = []
        for record in _failed(instance):
            run = record.dagster_run
            age = time.time() - (record.end_time or record.update_timestamp.timestamp())
            if run.run_id in known:
                settled.append(run.run_id)
            elif age >= PATIENCE:
                owed = _owed(instance, run)
                if owed and age < GIVE_UP:
                    lost.append(run.run_id)
                elif not (owed or _gave_up(instance, run)) or _told(context, notifiers, webserver_url, run):
                    settled.append(run.run_id)
        _have_read_again(instance, lost)
        said = f"Asked again for the retry of: {', '.join(lost)}." if lost else "No retry is owed."
        return dg.SensorResult(skip_reason=said, cursor=json.dumps(settled))

    return sensor


def _failed(instance: dg.DagsterInstance) -> Sequence[RunRecord]:
    since = datetime.now(UTC) - LOOK_BACK
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return instance.get_run_records(wanted, limit=LIMIT)


def _owed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether it is to be retried, or that is undecided, and neither the daemon nor a person has retried it."""
    if run.tags.get(WILL_RETRY_TAG) == "false" or AUTO_RETRY_RUN_ID_TAG in run.tags:
        return False
    return not instance.get_runs_count(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: run.run_id}))


def _gave_up(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the daemon could not launch the retry, and has said that there is none."""
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return any(log.message == GAVE_UP for log in logs)


def _told(
    context: dg.SensorEvaluationContext, notifiers: Sequence[Notifier], webserver_url: str, run: dg.DagsterRun
) -> bool:
    """Whether a channel accepted it; if none did, the next tick tries again."""
    alert = Alert(
        f"Run of {run.job_name} failed, and its retry could not be started",
        f"{webserver_url.rstrip('/')}/runs/{run.run_id}",
        "The run's last events say why. Re-execute it from the failed asset.",
    )
    return heard(notifiers, alert, context.log)


def _have_read_again(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Let the daemon read from before their failures on. What it has retried, it does not retry again."""
    failures = [
        record.storage_id
        for run_id in run_ids
        for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1).records
    ]
    storage = instance.daemon_cursor_storage
    read = storage.get_cursor_values({READ}).get(READ)
    if failures and read and int(read) >= min(failures):
        storage.set_cursor_values({READ: str(min(failures) - 1)})
