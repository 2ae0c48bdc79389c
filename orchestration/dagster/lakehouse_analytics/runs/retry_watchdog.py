"""Finds retries that Dagster should launch but does not, as observed in Dagster 1.13.27.

The daemon that retries runs reads each failure event once. If it does so between the event and the update of the run's
status, the run has not failed yet, and is never considered again. This gap grows under load. If the daemon cannot
launch a retry, for example because the code location is being replaced, it gives up. By then, `run_failure_notifier`
has skipped the run.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import RunRecord

from lakehouse_analytics._dagster_internals import AUTO_RETRY_RUN_ID_TAG, PARENT_RUN_ID_TAG, WILL_RETRY_TAG
from lakehouse_analytics.notifications import Alert, Notifier, notify_at_least_one

#: Seconds after a run's end in which Dagster may still launch the retry, and in which a retry requested by this sensor
#: may follow.
PATIENCE, GIVE_UP = 120.0, 600.0
#: How far back failed runs are considered: longer than an outage of the daemon stays unnoticed.
LOOK_BACK = timedelta(hours=6)
LIMIT = 500
#: Key of the daemon's cursor for failure events (`dagster._daemon.auto_run_reexecution.event_log_consumer`).
CURSOR_KEY = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"
#: The daemon's message if it cannot launch a retry, from the same module.
RETRY_FAILED = "Failed to retry run"


def lost_retries(notifiers: Sequence[Notifier], webserver_url: str) -> dg.SensorDefinition:
    """Return the sensor that makes the daemon reconsider runs that it missed, and reports those it could not retry.

    Its cursor has the runs for which nothing is left to do.
    """

    @dg.sensor(
        name="lost_retries",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="Retries runs that Dagster's daemon missed, and notifies about those that it could not retry.",
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
                needs_retry = _needs_retry(instance, run)
                if needs_retry and age < GIVE_UP:
                    lost.append(run.run_id)
                elif not (needs_retry or _could_not_retry(instance, run)) or _notify(
                    context, notifiers, webserver_url, run
                ):
                    settled.append(run.run_id)
        _rewind_daemon(instance, lost)
        reason = f"Requested the retries of: {', '.join(lost)}." if lost else "No retry is missing."
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(settled))

    return sensor


def _failed(instance: dg.DagsterInstance) -> Sequence[RunRecord]:
    since = datetime.now(UTC) - LOOK_BACK
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return instance.get_run_records(wanted, limit=LIMIT)


def _needs_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether a run is to be retried, or that is undecided, and neither the daemon nor a user has retried it."""
    if run.tags.get(WILL_RETRY_TAG) == "false" or AUTO_RETRY_RUN_ID_TAG in run.tags:
        return False
    return not instance.get_runs_count(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: run.run_id}))


def _could_not_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether the daemon could not launch the retry, and has logged this."""
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return any(log.message == RETRY_FAILED for log in logs)


def _notify(
    context: dg.SensorEvaluationContext, notifiers: Sequence[Notifier], webserver_url: str, run: dg.DagsterRun
) -> bool:
    """Return whether a channel accepted the alert. If none did, the next tick tries again."""
    alert = Alert(
        f"Run of {run.job_name} failed, and its retry could not be started",
        f"{webserver_url.rstrip('/')}/runs/{run.run_id}",
        "The run's last events show the reason. Re-execute it from the failed asset.",
    )
    return notify_at_least_one(notifiers, alert, context.log)


def _rewind_daemon(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Set the daemon's cursor to before the failures of some runs.

    It does not retry runs again that it has retried already.
    """
    failures = [
        record.storage_id
        for run_id in run_ids
        for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1).records
    ]
    storage = instance.daemon_cursor_storage
    read = storage.get_cursor_values({CURSOR_KEY}).get(CURSOR_KEY)
    if failures and read and int(read) >= min(failures):
        storage.set_cursor_values({CURSOR_KEY: str(min(failures) - 1)})
