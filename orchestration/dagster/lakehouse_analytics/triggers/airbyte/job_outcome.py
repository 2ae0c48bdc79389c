"""What a job says of the tables it fills: evidence, not status. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from lakehouse_analytics.triggers.airbyte.jobs import Job

#: A running job is looked at from this age on, and stalled at so many times the usual length.
YOUNG = timedelta(minutes=30)
TIMES = 3.0
STALLED = "stalled"


@dataclass(frozen=True)
class Verdict:
    """Of one job.

    Attributes:
        passed: The tables can be relied on.
        warn: A failure is worth a look and no more.
        filled: Rows came, or may have come, and all of them are there: what reads the tables should be built.
        status: Airbyte's, or `stalled`.
        reason: One line.
    """

    passed: bool
    warn: bool
    filled: bool
    status: str
    reason: str


def may_have_written(job: Job) -> bool:
    """Whether a job that did not succeed may have left rows in the tables: Airbyte commits them as it goes."""
    return job.status != "succeeded" and not job.empties and not job.moved_nothing


def judge(job: Job, *, may_be_empty: bool = False, rows_before: bool = False) -> Verdict:
    """Judge a job that has ended.

    Args:
        job: What ended.
        may_be_empty: The contract's `allow_empty`: no rows are nothing unusual, and what reads them is built.
        rows_before: Since the last success a job may have written rows without succeeding. The next one goes on from
            there, and may find nothing left to move.
    """
    name = f"{job.kind or 'job'} {job.id}"
    if job.status != "succeeded":
        # The public API does not tell why; Airbyte's own page does.
        some = "some rows may have been written" if job.rows is None else f"{job.rows:,} rows were written"
        return Verdict(False, False, False, job.status, f"{name} {job.status}{_after(job)}; {some}")
    if job.empties:
        return Verdict(False, True, False, job.status, f"{name} emptied the tables; the next sync fills them")
    if job.moved_nothing and rows_before:
        reason = (
            f"{name} succeeded{_after(job)}: no rows, but a job before it that did not succeed may have written some"
        )
        return Verdict(True, False, True, job.status, reason)
    if job.moved_nothing and not may_be_empty:
        return Verdict(
            False, True, False, job.status,
            f"{name} succeeded and moved no rows, so nothing is built; where that is usual, set "
            "meta.lakehouse.airbyte.allow_empty",
        )  # fmt: skip
    moved = "Airbyte does not say how many rows it moved" if job.rows is None else f"{job.rows:,} rows"
    return Verdict(True, False, True, job.status, f"{name} succeeded{_after(job)}: {moved}")


def judge_running(job: Job, now: datetime, past: Sequence[Job], limit: timedelta | None) -> Verdict | None:
    """Judge a job that still runs; None while it may go on.

    Args:
        job: What runs.
        now: By Airbyte's clock.
        past: Earlier jobs of the connection.
        limit: The contract's `stalled_after`; without it, what earlier syncs took decides.
    """
    if job.started is None:
        return None
    age = now - job.started
    allowed = limit is not None
    usual = [job.seconds for job in past if job.status == "succeeded" and job.seconds is not None and not job.empties]
    if limit is None:
        if not usual:
            return None  # never seen to end: nobody knows how long it takes
        limit = max(YOUNG, timedelta(seconds=TIMES * median(usual)))
    if age <= limit:
        return None
    expected = f"allowed are {_length(limit.total_seconds())}" if allowed else f"usually {_length(median(usual))}"
    reason = f"{job.kind or 'job'} {job.id} has been running for {_length(age.total_seconds())}, {expected}"
    return Verdict(False, False, False, STALLED, reason)


def _after(job: Job) -> str:
    return f" after {_length(job.seconds)}" if job.seconds is not None else ""


def _length(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole // 60 % 60} min"
