"""Jobs as Airbyte's public API tells them.

What a newer Airbyte may add never stops the feed: unknown fields, statuses and types are let through, and of a row
that cannot be read at all its neighbours are taken. Source: `JobResponse` of the OpenAPI document.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

#: A job with one of these has ended for good; `incomplete` is between two attempts.
ENDED = frozenset({"succeeded", "failed", "cancelled"})
#: Types of jobs that empty the tables; all others may fill them.
EMPTYING = frozenset({"reset", "clear"})

_DURATION = re.compile(r"P(?:(?P<d>[\d.]+)D)?(?:T(?:(?P<h>[\d.]+)H)?(?:(?P<m>[\d.]+)M)?(?:(?P<s>[\d.]+)S)?)?", re.ASCII)
_DIGITS = 20
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class NotAJobError(ValueError):
    """A row that says too little to be a job. The message says what it lacks."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        started: When it was created; None where Airbyte says nothing of use.
        ended: When it ended, in whole seconds of Airbyte's clock; None of a job that has not, and where Airbyte does
            not say.
        seconds, rows, bytes: What it took and moved, as far as Airbyte says.
    """

    id: int
    connection: str
    kind: str
    status: str
    started: datetime | None = None
    ended: datetime | None = None
    seconds: float | None = None
    rows: int | None = None
    bytes: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its status is final."""
        return self.status in ENDED

    @property
    def empties(self) -> bool:
        """Whether it is of a type that empties the tables."""
        return self.kind in EMPTYING

    @property
    def moved_nothing(self) -> bool:
        """Whether Airbyte says that no row was moved. Where it says nothing, some may have been."""
        return self.rows == 0 and not self.bytes


def job_of(row: object) -> Job:
    """Read one element of `data`.

    Raises:
        NotAJobError: without an id or a connection it cannot be followed.
    """
    if not isinstance(row, Mapping):
        raise NotAJobError(f"a {type(row).__name__} where a job was expected")
    job_id, connection = _whole(row.get("jobId")), row.get("connectionId")
    if job_id is None:
        raise NotAJobError("a job without a jobId")
    if not isinstance(connection, str) or not connection:
        raise NotAJobError(f"job {job_id} without a connectionId")
    return Job(
        id=job_id,
        connection=connection.lower(),
        kind=_word(row.get("jobType")),
        status=_word(row.get("status")),
        started=instant(row.get("startTime")),
        ended=instant(row.get("lastUpdatedAt")),
        seconds=seconds_of(row.get("duration")),
        rows=_whole(row.get("rowsSynced")),
        bytes=_whole(row.get("bytesSynced")),
    )


def instant(text: object) -> datetime | None:
    """A time as Airbyte writes it, cut to its second: seconds may be missing, one without a zone is in UTC."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None


def seconds_of(text: object) -> float | None:
    """Seconds of an ISO 8601 duration without months, such as `PT8H6M12S`."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not found or not any(found.groupdict().values()):
        return None
    try:
        total = sum(float(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)
    except ValueError:
        return None
    return total if math.isfinite(total) else None


def _word(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    """A number that counts or names something: in 64 bits, as the API has it, and nothing made of a fraction."""
    if isinstance(value, float):
        found = int(value) if value.is_integer() else -1
    elif isinstance(value, str):
        found = int(value) if value.isascii() and value.isdigit() and len(value) < _DIGITS else -1
    else:
        found = value if isinstance(value, int) and not isinstance(value, bool) else -1
    return found if 0 <= found < 2**63 else None
