"""Identifies the end of a job by server, connection, id and time. Pure functions.

The id alone is not unique. A reinstalled Airbyte counts from 1 again, another server has the same numbers, and a job
that failed may be retried and succeed under the same id.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Length of the digest of a connection and a status, in characters of six bits each, because a cursor has to stay
#: short. Only the digest distinguishes jobs with the same id that ended in the same second.
TAG_LENGTH = 3


class JobEnd(NamedTuple):
    """One end of a job, as a cursor stores it.

    Attributes:
        id: Id of the job.
        tag: Digest of its connection and status; empty if an older version of this project wrote the cursor.
        at: When it ended, in whole seconds; None if Airbyte does not report it.
    """

    id: int
    tag: str
    at: datetime | None


def job_end(job: Job) -> JobEnd:
    """Return the end of a job that has ended."""
    digest = hashlib.sha256(f"{job.connection}\n{job.status}".encode()).digest()
    return JobEnd(job.id, base64.urlsafe_b64encode(digest).decode()[:TAG_LENGTH], job.ended)


def server_digest(url: str) -> str:
    """Return a short text that identifies a server: a digest of its address without scheme and credentials."""
    parts = urlsplit(url)
    address = f"{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path.rstrip('/')}"
    return hashlib.sha256(address.encode()).hexdigest()[:10]


def identity_of(job: Job, url: str) -> str:
    """Return a text that identifies the end of a job, such as `4711-20261128T180500Z-3fa2c8d01b`.

    The last part is a digest of the server and the connection. A job that has not ended, or for which Airbyte reports
    no time, has `open` instead of the time.

    Args:
        job: The job.
        url: URL of the server's API.
    """
    digest = hashlib.sha256(f"{server_digest(url)}\n{job.connection}".encode()).hexdigest()[:10]
    at = f"{job.ended.astimezone(UTC):%Y%m%dT%H%M%SZ}" if job.ended else "open"
    return f"{job.id}-{at}-{digest}"
