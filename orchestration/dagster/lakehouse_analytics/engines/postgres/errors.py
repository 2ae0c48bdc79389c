"""Classification of PostgreSQL's failures, by the message that dbt reports.

The messages are PostgreSQL's own in English (https://www.postgresql.org/docs/current/errcodes-appendix.html) and those
of libpq. dbt does not report the SQLSTATE.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lakehouse_analytics.common.postgres_errors import REFUSED


@dataclass(frozen=True)
class Failure:
    """The classification of a failure.

    Attributes:
        transient: Whether the same statement may succeed later, unchanged.
        queue_full: Whether the server refused a connection because it has too many.
        advice: How to fix the failure; empty if the message says it already.
    """

    transient: bool = False
    queue_full: bool = False
    advice: str = ""


_CONNECTIONS = "PostgreSQL has no connection left: lower LAKEHOUSE_DBT_THREADS, or raise max_connections."
#: The first pattern that matches takes precedence.
_FAILURES: tuple[tuple[re.Pattern[str], Failure], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), failure)
    for pattern, failure in (
        (
            "sorry, too many clients already|remaining connection slots are reserved|too many connections for",
            Failure(transient=True, queue_full=True, advice=_CONNECTIONS),
        ),
        ("deadlock detected|could not serialize access|lock timeout", Failure(transient=True)),
        (
            "terminating connection due to|server closed the connection|connection to server .* failed|"
            "could not connect to server|connection already closed|connection refused|connection reset|"
            "SSL connection has been closed|the database system is (starting up|shutting down|in recovery mode)",
            Failure(transient=True),
        ),
        (
            "permission denied for",
            Failure(advice="Grant the right to the role that dbt logs in with: docs/engines.md (PostgreSQL)."),
        ),
        ("No space left on device", Failure(advice="The disk of the PostgreSQL server is full.")),
    )
)


def classify(message: str) -> Failure:
    """Classify the message of a failed node or statement."""
    if REFUSED.search(message):
        return Failure()
    return next((failure for pattern, failure in _FAILURES if pattern.search(message)), Failure())
