"""Which failures of PostgreSQL may pass, for all drivers: psycopg2, ADBC, and dbt's messages."""

from __future__ import annotations

import re

#: Matches the server's messages about wrong credentials, databases and roles. Waiting does not help.
REFUSED = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry|does not exist|certificate verify failed",
    re.IGNORECASE,
)
#: States after which a retry may succeed: connection lost, too many connections, conflicts, locks, shutdown.
_STATES = ("08", "40", "53", "55P03", "57P")
_OF_SERVER = re.compile("FATAL: |ERROR: |PANIC: ")
#: What a server says for a while. Drivers report no state while they connect.
_PASSING = re.compile(
    "starting up|shutting down|in recovery mode|not (yet )?accepting connections|too many (clients|connections)|"
    "connection slots|terminating connection|conflict with recovery|deadlock detected|could not serialize|lock timeout",
    re.IGNORECASE,
)


def is_transient(message: str, state: str | None = None) -> bool:
    """Return whether the same statement may succeed later, unchanged.

    Args:
        message: The driver's message.
        state: The SQLSTATE, if the driver knows it. Without one, a message that is not the server's is about the
            connection.
    """
    if state:
        return state.startswith(_STATES)
    if REFUSED.search(message):
        return False
    return not _OF_SERVER.search(message) or bool(_PASSING.search(message))
