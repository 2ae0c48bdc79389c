"""The outcome of a job for the tables that it fills, by what it moved and not by its status alone. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from lakehouse_analytics.common import durations
from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Minimum age of a stalled job, and the multiple of its usual duration after which it counts as stalled.
MIN_STALLED_AGE = timedelta(minutes=30)
STALLED_FACTOR = 3.0
STALLED = "stalled"


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a job.

    Attributes:
        passed: The tables are complete.
        warn: Report a failure as a warning.
        filled: The tables are complete and have, or may have, new rows: models that read them should be built.
        status: Airbyte's status, or `stalled`.
        reason: One line.
    """

    passed: bool
    warn: bool
    filled: bool
    status: str
    reason: str


def may_have_written(job: Job) -> bool:
    """Return whether a job that did not succeed may have written rows: Airbyte commits them while a job is running."""
    return job.status != "succeeded" and not job.empties and not job.moved_nothing


def job_outcome(job: Job, *, may_be_empty: bool = False, partial_rows: bool = False) -> JobOutcome:
    """Return the outcome of a job that has ended.

    Args:
        job: A job with a final status.
        may_be_empty: The contract's `allow_empty`: syncs without rows are common, and models are built after them.
        partial_rows: Since the last success, a job that did not succeed may have written rows. The next sync continues
            from there, and may find nothing left to move.
    """
    name = f"{job.kind or 'job'} {job.id}"
    if job.status != "succeeded":
        # The public API does not report the cause; Airbyte's UI does.
        written = "some rows may have been written" if job.rows is None else f"{job.rows:,} rows were written"
        return JobOutcome(False, False, False, job.status, f"{name} {job.status}{_after(job)}; {written}")
    if job.empties:
        return JobOutcome(False, True, False, job.status, f"{name} emptied the tables; the next sync fills them")
    if job.moved_nothing and partial_rows:
        reason = (
            f"{name} succeeded{_after(job)}: no rows, but an earlier job that did not succeed may have written some"
        )
        return JobOutcome(True, False, True, job.status, reason)
    if job.moved_nothing and not may_be_empty:
        return JobOutcome(
            False, True, False, job.status,
            f"{name} succeeded and moved no rows, so nothing is built; if this is usual, set "
            "meta.lakehouse.airbyte.allow_empty",
        )  # fmt: skip
    moved = "Airbyte does not report the number of rows" if job.rows is None else f"{job.rows:,} rows"
    return JobOutcome(True, False, True, job.status, f"{name} succeeded{_after(job)}: {moved}")


def running_outcome(job: Job, now: datetime, past: Sequence[Job], limit: timedelta | None) -> JobOutcome | None:
    """Return the outcome of a running job if it is stalled, else None.

    Args:
        job: A running job.
        now: The time by Airbyte's clock.
        past: Earlier jobs of the connection.
        limit: The contract's `stalled_after`; if None, three times the usual duration of earlier syncs.
    """
    if job.started is None:
        return None
    age = now - job.started
    expected: str
    if limit is None:
        usual = [j.seconds for j in past if j.status == "succeeded" and j.seconds is not None and not j.empties]
        if not usual:
            return None  # the usual duration is unknown
        limit = max(MIN_STALLED_AGE, timedelta(seconds=STALLED_FACTOR * median(usual)))
        expected = f"usually {durations.rounded(median(usual))}"
    else:
        expected = f"the limit is {durations.rounded(limit)}"
    if age <= limit:
        return None
    reason = f"{job.kind or 'job'} {job.id} has been running for {durations.rounded(age)}, {expected}"
    return JobOutcome(False, False, False, STALLED, reason)


def _after(job: Job) -> str:
    return f" after {durations.rounded(job.seconds)}" if job.seconds is not None else ""
