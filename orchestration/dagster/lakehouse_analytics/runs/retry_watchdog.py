"""A sensor that restarts the retries that Dagster's daemon missed, as observed in Dagster 1.13.27.

The daemon reads each failure event once. If it reads the event before the run's status has been updated, it does not
treat the run as failed, and never looks at it again; this becomes more likely under load. If it cannot launch the
retry, for example because the code location is being replaced, it gives up for good. In both cases,
`run_failure_notifier` has already decided not to report the failure, because a retry was expected.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import RunRecord

from lakehouse_analytics._dagster_internals import AUTO_RETRY_RUN_ID_TAG, PARENT_RUN_ID_TAG, WILL_RETRY_TAG
from lakehouse_analytics.notifications import Alert, Notifier, heard

#: Seconds since the end of a run after which its retry counts as missed.
RETRY_TIMEOUT = 120.0
#: Seconds since the end of a run after which a missed retry is reported instead of requested again.
REPORT_AFTER = 600.0
#: Age of the oldest failure that is examined. It exceeds the longest outage of a daemon that goes unnoticed.
LOOK_BACK = timedelta(hours=6)
#: Maximum number of failed runs that a tick examines.
MAX_RUNS = 500
#: Key of the retry daemon's cursor, the last failure event that it has read
#: (`dagster._daemon.auto_run_reexecution.event_log_consumer`).
DAEMON_CURSOR = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"
#: Message of the event that the daemon logs if it cannot launch a retry (same module).
LAUNCH_FAILED = "Failed to retry run"


def lost_retries(notifiers: Sequence[Notifier], webserver_url: str) -> dg.SensorDefinition:
    """Build the sensor `lost_retries`.

    The sensor makes the daemon read the failures that it missed again, and reports the retries that it could not
    launch. Its cursor is the list of the failed runs that need no further action.

    Args:
        notifiers: The channels that alerts are sent to.
        webserver_url: The URL of Dagster's webserver, for links.
    """

    @dg.sensor(
        name="lost_retries",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="Restarts retries that Dagster's daemon missed, and reports retries that could not be started.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        if not instance.run_retries_enabled:
            return dg.SensorResult(skip_reason="Run retries are turned off in this instance.")
        known = set(json.loads(context.cursor or "[]"))
        lost: list[str] = []
        settled: list[str] = []
        for record in _failed(instance):
            run = record.dagster_run
            age = time.time() - (record.end_time or record.update_timestamp.timestamp())
            if run.run_id in known:
                settled.append(run.run_id)
            elif age >= RETRY_TIMEOUT:
                pending = _is_retry_pending(instance, run)
                if pending and age < REPORT_AFTER:
                    lost.append(run.run_id)
                elif not (pending or _launch_failed(instance, run)) or _notify(context, notifiers, webserver_url, run):
                    settled.append(run.run_id)
        _rewind_daemon_cursor(instance, lost)
        reason = f"Requested the missed retries of: {', '.join(lost)}." if lost else "No retry was missed."
        return dg.SensorResult(skip_reason=reason, cursor=json.dumps(settled))

    return sensor


def _failed(instance: dg.DagsterInstance) -> Sequence[RunRecord]:
    since = datetime.now(UTC) - LOOK_BACK
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return instance.get_run_records(wanted, limit=MAX_RUNS)


def _is_retry_pending(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether Dagster may still have to retry the run, and neither the daemon nor a user has done so."""
    if run.tags.get(WILL_RETRY_TAG) == "false" or AUTO_RETRY_RUN_ID_TAG in run.tags:
        return False
    return not instance.get_runs_count(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: run.run_id}))


def _launch_failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether the daemon could not launch the retry and logged that it gave up."""
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return any(log.message == LAUNCH_FAILED for log in logs)


def _notify(
    context: dg.SensorEvaluationContext, notifiers: Sequence[Notifier], webserver_url: str, run: dg.DagsterRun
) -> bool:
    """Send an alert, and return whether a channel accepted it. If none did, the next tick tries again."""
    alert = Alert(
        f"Run of {run.job_name} failed, and its retry could not be started",
        f"{webserver_url.rstrip('/')}/runs/{run.run_id}",
        "See the last events of the run for the cause, and re-execute it from the failed asset.",
    )
    return heard(notifiers, alert, context.log)


def _rewind_daemon_cursor(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Move the daemon's cursor back to before the failures of the runs. The daemon does not retry a run twice."""
    failures = [
        record.storage_id
        for run_id in run_ids
        for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1).records
    ]
    storage = instance.daemon_cursor_storage
    read = storage.get_cursor_values({DAEMON_CURSOR}).get(DAEMON_CURSOR)
    if failures and read and int(read) >= min(failures):
        storage.set_cursor_values({DAEMON_CURSOR: str(min(failures) - 1)})
