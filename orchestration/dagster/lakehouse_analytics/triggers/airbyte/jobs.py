"""Jobs as Airbyte's public API describes them.

Parsing is tolerant, so that a newer Airbyte does not stop the sensor: unknown fields, statuses and job types are
accepted, and a row that is not a job does not affect the other rows. Source: `JobResponse` of the OpenAPI document.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

#: Final statuses. `incomplete` is not one: another attempt follows.
FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
#: Types of jobs that empty the tables; jobs of any other type may write rows.
EMPTYING = frozenset({"reset", "clear"})

_DURATION = re.compile(r"P(?:(?P<d>[\d.]+)D)?(?:T(?:(?P<h>[\d.]+)H)?(?:(?P<m>[\d.]+)M)?(?:(?P<s>[\d.]+)S)?)?", re.ASCII)
_MAX_DIGITS = 20
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class InvalidJobError(ValueError):
    """A row without the fields that every job has. The message says which field is missing."""


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        id: Airbyte's number of the job.
        connection: Id of the connection, in lower case.
        kind: Job type, in lower case.
        status: Status, in lower case.
        started: When the job was created; None if Airbyte reports no valid time.
        ended: When the job ended, in whole seconds of Airbyte's clock; None if it has not ended, or if Airbyte reports
            no valid time.
        seconds, rows, bytes: Duration, and how much was moved; None if Airbyte does not report it.
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
        """Whether the status is final."""
        return self.status in FINAL_STATUSES

    @property
    def empties(self) -> bool:
        """Whether jobs of this type empty the tables."""
        return self.kind in EMPTYING

    @property
    def moved_nothing(self) -> bool:
        """Whether Airbyte reports that no row was moved. If it reports no number, rows may have been moved."""
        return self.rows == 0 and not self.bytes


def parse_job(row: object) -> Job:
    """Parse one element of `data`.

    Raises:
        InvalidJobError: The id of the job or of its connection is missing.
    """
    if not isinstance(row, Mapping):
        raise InvalidJobError(f"a {type(row).__name__} where a job was expected")
    job_id, connection = _count(row.get("jobId")), row.get("connectionId")
    if job_id is None:
        raise InvalidJobError("a job without a jobId")
    if not isinstance(connection, str) or not connection:
        raise InvalidJobError(f"job {job_id} without a connectionId")
    return Job(
        id=job_id,
        connection=connection.lower(),
        kind=_lower(row.get("jobType")),
        status=_lower(row.get("status")),
        started=parse_time(row.get("startTime")),
        ended=parse_time(row.get("lastUpdatedAt")),
        seconds=parse_duration(row.get("duration")),
        rows=_count(row.get("rowsSynced")),
        bytes=_count(row.get("bytesSynced")),
    )


def parse_time(text: object) -> datetime | None:
    """Parse a time as Airbyte writes it, truncated to seconds.

    Seconds may be missing; without a time zone, it is UTC.
    """
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None


def parse_duration(text: object) -> float | None:
    """Return the seconds of an ISO 8601 duration without months, such as `PT8H6M12S`."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not found or not any(found.groupdict().values()):
        return None
    try:
        total = sum(float(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)
    except ValueError:
        return None
    return total if math.isfinite(total) else None


def _lower(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    """Return a non-negative 64-bit integer, or None for any other value, including a fraction."""
    if isinstance(value, float):
        found = int(value) if value.is_integer() else -1
    elif isinstance(value, str):
        found = int(value) if value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS else -1
    else:
        found = value if isinstance(value, int) and not isinstance(value, bool) else -1
    return found if 0 <= found < 2**63 else None
