"""What distinguishes one ended job from every other: server, connection, id and end. Pure.

The id alone does not. An Airbyte that is installed again counts from 1, another server has the same numbers, and a job
that failed may be tried again and succeed under the id that it had.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from lakehouse_analytics.triggers.airbyte.jobs import Job

#: Characters of six bits each that stand for a connection and a status in a cursor, which has to stay short. Jobs
#: with the same id that ended in the same second are told apart by nothing else.
TAG = 3


class Ended(NamedTuple):
    """One end of a job of one server, as a cursor remembers it.

    Attributes:
        tag: Of its connection and status; empty if an older version of this project wrote the cursor.
        at: When it ended, in whole seconds; None if Airbyte does not say.
    """

    id: int
    tag: str
    at: datetime | None


def ended(job: Job) -> Ended:
    """The end of a job that has ended."""
    digest = hashlib.sha256(f"{job.connection}\n{job.status}".encode()).digest()
    return Ended(job.id, base64.urlsafe_b64encode(digest).decode()[:TAG], job.ended)


def server_of(url: str) -> str:
    """Short text for a server: its address without scheme and log-in, as a digest."""
    parts = urlsplit(url)
    address = f"{(parts.hostname or '').lower()}:{parts.port or ''}{parts.path.rstrip('/')}"
    return hashlib.sha256(address.encode()).hexdigest()[:10]


def identity_of(job: Job, url: str) -> str:
    """Text that no other end of a job has, such as `4711-20261128T180500Z-3fa2c8d01b`.

    The last part stands for the server at `url` and the connection. A job that has not ended, or that Airbyte gives no
    time for, has `open` for a time.
    """
    digest = hashlib.sha256(f"{server_of(url)}\n{job.connection}".encode()).hexdigest()[:10]
    at = f"{job.ended.astimezone(UTC):%Y%m%dT%H%M%SZ}" if job.ended else "open"
    return f"{job.id}-{at}-{digest}"
