"""What distinguishes one ended job from every other: server, connection, id and end. Pure.

The id alone does not. A reinstalled Airbyte counts from 1 again, another server has the same numbers, and a job that
failed may be retried and succeed under the same id.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Characters of six bits each that stand for a connection and a status in a cursor, which has to stay short. They alone
#: distinguish jobs with the same id that ended in the same second.
TAG_LENGTH = 3


class JobEnd(NamedTuple):
    """One end of a job of one server, as a cursor stores it.

    Attributes:
        id: Of the job.
        tag: Digest of its connection and status; empty if an older version of this project wrote the cursor.
        at: When it ended, in whole seconds; None if Airbyte does not say.
    """

    id: int
    tag: str
    at: datetime | None


def job_end(job: Job) -> JobEnd:
    """The end of a job that has ended."""
    digest = hashlib.sha256(f"{job.connection}\n{job.status}".encode()).digest()
    return JobEnd(job.id, base64.urlsafe_b64encode(digest).decode()[:TAG_LENGTH], job.ended)


def server_digest(url: str) -> str:
    """Short text for a server: a digest of its address without scheme and credentials."""
    parts = urlsplit(url)
    address = f"{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path.rstrip('/')}"
    return hashlib.sha256(address.encode()).hexdigest()[:10]


def identity_of(job: Job, url: str) -> str:
    """Text that no other end of a job has, such as `4711-20261128T180500Z-3fa2c8d01b`.

    The last part is a digest of the server and the connection. A job that has not ended, or for which Airbyte gives no
    time, has `open` in place of the time.

    Args:
        job: The job.
        url: URL of the server's API.
    """
    digest = hashlib.sha256(f"{server_digest(url)}\n{job.connection}".encode()).hexdigest()[:10]
    at = f"{job.ended.astimezone(UTC):%Y%m%dT%H%M%SZ}" if job.ended else "open"
    return f"{job.id}-{at}-{digest}"
