"""Finds rows that unsuccessful jobs have left in the tables.

Airbyte keeps the rows and the state of a sync that fails late. The next sync continues from there, may find nothing
left to move, and succeeds without rows, although the tables have new ones. The models that read them must be built
then.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from lakehouse_analytics._dagster_internals import AssetCheckExecutionRecordStatus
from lakehouse_analytics.triggers import event_log
from lakehouse_analytics.triggers.airbyte import events
from lakehouse_analytics.triggers.airbyte.job_identity import identity_of
from lakehouse_analytics.triggers.airbyte.job_outcome import JobOutcome, may_have_written
from lakehouse_analytics.triggers.airbyte.jobs import FINAL_STATUSES, Job
from lakehouse_analytics.triggers.events import EMPTIED, ENDED, SYNC_CHECK, metadata_value

#: Maximum number of evaluations of a check that are searched if the newest one is not sufficient; see `PartialRows`.
MAX_HISTORY = 50
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def latest_evaluations(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]
) -> dict[dg.AssetKey, dg.AssetCheckEvaluation]:
    """Return the newest evaluation of each table's check; one query per `event_log.PAGE` tables."""
    found: dict[dg.AssetKey, dg.AssetCheckEvaluation] = {}
    checks = [dg.AssetCheckKey(key, SYNC_CHECK) for key in dict.fromkeys(keys)]
    for start in range(0, len(checks), event_log.PAGE):
        page = checks[start : start + event_log.PAGE]
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(page)
        found |= {check.asset_key: record.evaluation for check, record in latest.items() if record.evaluation}
    return found


class PartialRows:
    """Finds out whether unsuccessful jobs may have written rows to a table since its last success.

    The newest evaluation of a table is usually sufficient, because the evaluation of a job that wrote nothing carries
    over the state before that job. So a tick costs one query per `event_log.PAGE` tables, when the first table is
    looked up, regardless of the number of jobs. The history of a table is read, once, only if its newest evaluation is
    not sufficient: if it belongs to the job itself or to a later one (a repeated tick, a replay), to a running job, to
    no job, or to an older version of this project.

    Args:
        instance: Dagster's instance, which stores the evaluations.
        keys: The tables that may be looked up.
        server: URL of Airbyte's API.
    """

    def __init__(self, instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey], server: str) -> None:
        self._instance, self._keys, self._server = instance, [*keys], server
        self._latest: dict[dg.AssetKey, dg.AssetCheckEvaluation] | None = None
        self._histories: dict[dg.AssetKey, list[dg.AssetCheckEvaluation]] = {}
        self._updated: dict[dg.AssetKey, bool] = {}

    def before(self, key: dg.AssetKey, job: Job) -> bool:
        """Return whether a table may have contained such rows before a job.

        The jobs passed to `update` decide, or the stored evaluations if there was none for the table.
        """
        if key in self._updated:
            return self._updated[key]
        newest = self._newest(key)
        if newest is None:
            return False
        if (answer := self._after(newest, job)) is not None:
            return answer
        if key not in self._histories:
            rows = self._instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(key, SYNC_CHECK), limit=MAX_HISTORY, status=_EVALUATED
            )
            self._histories[key] = [row.evaluation for row in rows if row.evaluation]
        answers = (self._after(evaluation, job) for evaluation in self._histories[key])
        return next((answer for answer in answers if answer is not None), False)

    def update(self, key: dg.AssetKey, job: Job, outcome: JobOutcome) -> bool | None:
        """Take the outcome of a job into account.

        Returns:
            The state that the job's evaluation has to carry over; None if the evaluation is sufficient without it.
        """
        if outcome.passed or job.empties:
            self._updated[key] = False
            return None
        if may_have_written(job):
            self._updated[key] = True
            return None
        before = self._updated[key] = self.before(key, job)
        # A job that became visible late is stored after a later one, and must not hide the rows of that one.
        newest = self._newest(key)
        return before or bool(newest and _is_later(newest, job) and self._after(newest))

    def _newest(self, key: dg.AssetKey) -> dg.AssetCheckEvaluation | None:
        if self._latest is None:
            self._latest = latest_evaluations(self._instance, self._keys)
        return self._latest.get(key)

    def _after(self, evaluation: dg.AssetCheckEvaluation, job: Job | None = None) -> bool | None:
        """Return whether there may be such rows after an evaluation.

        Returns None if unknown, or if it is not older than a job.
        """
        status, moved = metadata_value(evaluation, events.STATUS), metadata_value(evaluation, events.BYTES)
        if status not in FINAL_STATUSES:
            return None
        if job and (self._is_of(evaluation, job) or _is_later(evaluation, job)):
            return None
        if evaluation.passed or EMPTIED in evaluation.metadata:
            return False
        if status != "succeeded" and (metadata_value(evaluation, events.ROWS) != 0 or moved):
            return True
        carried = metadata_value(evaluation, events.ROWS_BEFORE)
        return carried if isinstance(carried, bool) else None

    def _is_of(self, evaluation: dg.AssetCheckEvaluation, job: Job) -> bool:
        identity = metadata_value(evaluation, events.IDENTITY)
        if identity is None:
            return bool(metadata_value(evaluation, events.SYNC_ID) == job.id)
        return bool(identity == identity_of(job, self._server))


def _is_later(evaluation: dg.AssetCheckEvaluation, job: Job) -> bool:
    ended = metadata_value(evaluation, ENDED)
    return bool(job.ended and ended is not None and ended > job.ended.timestamp())
