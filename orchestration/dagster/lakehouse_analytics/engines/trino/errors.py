"""Classification of Trino's failures: whether they are transient, whether anything was written, and what to do.

`classify` takes an exception of the client, and `classify_dbt` the text that dbt reports about it. This module imports
neither Dagster nor the client. The names of failures are Trino's own (`StandardErrorCode`, `IcebergErrorCode`); if no
query failed, the name says what happened to the request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

#: Trino's name for a failed commit: another writer committed first, or it is unknown whether the commit took place.
COMMIT_ERROR = "ICEBERG_COMMIT_ERROR"
#: Trino's name for the failure of a statement that its resource group refused.
QUEUE_FULL = "QUERY_QUEUE_FULL"
#: Our name for the failure of a statement that was still QUEUED when the caller's time limit was reached.
STILL_QUEUED = "QUERY_QUEUED"


class Kind(StrEnum):
    """The kinds of failures: whether a retry can help."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"


@dataclass(frozen=True)
class Failure:
    """The classification of a failure of Trino.

    Attributes:
        kind: `transient` if the same statement may succeed later, unchanged.
        certainly_not_applied: Whether the failed statement certainly wrote nothing. False means that this is unknown.
            Earlier statements of the same model may have written something.
        name: Trino's name of the error, such as DIVISION_BY_ZERO, or what happened to the request.
        query_id: Trino's id of the query; None if there was no query.
        message: The message of Trino or the client.
        advice: How to fix the failure.
        of_server: Whether the server or its catalog failed, not the statement: other statements would fail as well.
    """

    kind: Kind
    certainly_not_applied: bool
    name: str
    query_id: str | None
    message: str
    advice: str
    of_server: bool = False

    @property
    def transient(self) -> bool:
        """Whether a retry can help."""
        return self.kind is Kind.TRANSIENT

    @property
    def queue_full(self) -> bool:
        """Whether a resource group refused the statement because its queue is full. Trino itself is up."""
        return self.name == QUEUE_FULL

    def __str__(self) -> str:  # noqa: D105
        query = f" (query {self.query_id})" if self.query_id else ""
        return f"{self.name}: {self.message}{query}. {self.advice}"


class _Rule(NamedTuple):
    kind: Kind
    advice: str
    certainly_not_applied: bool = False
    of_server: bool = False


class _QueryError(NamedTuple):
    """The fields of a query's error."""

    type: str
    name: str
    message: str
    query_id: str | None


_T, _P = Kind.TRANSIENT, Kind.PERMANENT

_WORKERS = "A worker was lost or could not be reached: retry. If it happens again, see the workers' logs."
_MEMORY = (
    "The statement needs more memory than one query may use; a retry does not help. Build the model in smaller "
    "windows, set a smaller meta.window_piece on a model with replace_window (docs/atomic-writes.md), select fewer "
    "columns before joining, or have query.max-memory and query.max-memory-per-node raised."
)
_LONG = (
    "The statement exceeds a limit of the cluster or of LAKEHOUSE_TRINO_SESSION_PROPERTIES; a retry does not help. "
    "Build the model in smaller windows, or have the limit raised."
)
FULL = (
    "The cluster is busy: retry. If it happens again, run fewer models at once (LAKEHOUSE_DBT_THREADS) or have the "
    "cluster enlarged."
)
FULL_QUEUE = (
    "The resource group's queue is full. Run fewer models at once (LAKEHOUSE_DBT_THREADS), start fewer builds at the "
    "same time, have the group's maxQueued raised, or wait longer (LAKEHOUSE_TRINO_QUEUE_TIMEOUT)."
)
QUEUED = (
    "Trino is up; other queries of the resource group come first. Retry later, or have the group's "
    "hardConcurrencyLimit raised."
)
_CATALOG = "The Iceberg catalog's database does not respond: check that it is running and that Trino reaches it; retry."
_STORAGE = "Files of the table cannot be read or written: check that the object storage responds; then retry."
_STATEMENT = "Fix the SQL of the model; a retry does not help."
_TABLE = "The table's files are damaged: restore it from an older snapshot or rebuild it (dbt --full-refresh)."
_RIGHTS = "The user (LAKEHOUSE_TRINO_USER) does not have the privilege: grant it, or log in as another user."
_SESSION_PROPERTY = (
    "The user (LAKEHOUSE_TRINO_USER) may not set this session property: remove it from "
    "LAKEHOUSE_TRINO_SESSION_PROPERTIES or from the model's own `set session`, or have the privilege granted."
)
_LOG_IN = (
    "Trino refuses the login: check LAKEHOUSE_TRINO_USER with LAKEHOUSE_TRINO_PASSWORD, LAKEHOUSE_TRINO_JWT or "
    "LAKEHOUSE_TRINO_CLIENT_CERTIFICATE; they may be wrong or have expired."
)
_REACH = "Trino is down, still starting or cannot be reached: check LAKEHOUSE_TRINO_HOST and LAKEHOUSE_TRINO_PORT."
_LOST = "The connection was lost while the query was running; the query may have finished. See its page in Trino's UI."
_CERTIFICATE = (
    "Trino's certificate is not trusted: set LAKEHOUSE_TRINO_CA_BUNDLE to the certificates (PEM) of its authority, "
    "and LAKEHOUSE_TRINO_HOST to a name in the certificate."
)
_CLIENT_CERTIFICATE = (
    "Trino refuses the encrypted connection: check LAKEHOUSE_TRINO_CLIENT_CERTIFICATE and LAKEHOUSE_TRINO_CLIENT_KEY."
)
_SCHEME = "One side uses HTTPS and the other does not: LAKEHOUSE_TRINO_HTTP_SCHEME does not match LAKEHOUSE_TRINO_PORT."
_PEM = (
    "A file of certificates or keys (PEM) cannot be used: check LAKEHOUSE_TRINO_CA_BUNDLE, "
    "LAKEHOUSE_TRINO_CLIENT_CERTIFICATE and LAKEHOUSE_TRINO_CLIENT_KEY."
)

#: The rules by Trino's name of the error. The type (`_BY_TYPE`) decides if a name is missing here.
_BY_NAME = {
    # Trino refused the statement before it ran.
    "SERVER_STARTING_UP": _Rule(_T, "Trino is starting: retry.", certainly_not_applied=True, of_server=True),
    QUEUE_FULL: _Rule(_T, FULL_QUEUE, certainly_not_applied=True),
    # Transient states of the cluster.
    "SERVER_SHUTTING_DOWN": _Rule(_T, "Trino is shutting down: retry when it is back.", of_server=True),
    "NO_NODES_AVAILABLE": _Rule(_T, "There is no worker: check that workers are running; then retry.", of_server=True),
    "REMOTE_TASK_ERROR": _Rule(_T, _WORKERS),
    "REMOTE_TASK_MISMATCH": _Rule(_T, _WORKERS),
    "REMOTE_HOST_GONE": _Rule(_T, _WORKERS),
    "REMOTE_BUFFER_CLOSE_FAILED": _Rule(_T, _WORKERS),
    "TOO_MANY_REQUESTS_FAILED": _Rule(_T, _WORKERS),
    "PAGE_TRANSPORT_ERROR": _Rule(_T, _WORKERS),
    "PAGE_TRANSPORT_TIMEOUT": _Rule(_T, _WORKERS),
    "ABANDONED_TASK": _Rule(_T, _WORKERS),
    "ABANDONED_QUERY": _Rule(_T, "The query's result was not fetched in time, so Trino ended it: retry."),
    "OPTIMIZER_TIMEOUT": _Rule(_T, FULL),
    "OUT_OF_SPILL_SPACE": _Rule(_T, FULL),
    "CLUSTER_OUT_OF_MEMORY": _Rule(_T, FULL),
    "ADMINISTRATIVELY_PREEMPTED": _Rule(_T, FULL),
    "GENERIC_INSUFFICIENT_RESOURCES": _Rule(_T, FULL),
    "TRANSACTION_CONFLICT": _Rule(_T, "Another writer changed the same table: retry."),
    "ICEBERG_CATALOG_ERROR": _Rule(_T, _CATALOG, of_server=True),
    # A retry would fail in the same way.
    "EXCEEDED_GLOBAL_MEMORY_LIMIT": _Rule(_P, _MEMORY),
    "EXCEEDED_LOCAL_MEMORY_LIMIT": _Rule(_P, _MEMORY),
    "EXCEEDED_TIME_LIMIT": _Rule(_P, _LONG),
    "EXCEEDED_CPU_LIMIT": _Rule(_P, _LONG),
    "EXCEEDED_SCAN_LIMIT": _Rule(_P, _LONG),
    "EXCEEDED_SPILL_LIMIT": _Rule(_P, _LONG),
    "QUERY_HAS_TOO_MANY_STAGES": _Rule(_P, "The statement is too large: split the model into several."),
    "ICEBERG_TOO_MANY_OPEN_PARTITIONS": _Rule(_P, "Build windows of fewer partitions, or partition more coarsely."),
    "ICEBERG_BAD_DATA": _Rule(_P, _TABLE),
    "ICEBERG_INVALID_METADATA": _Rule(_P, _TABLE),
    "ICEBERG_MISSING_METADATA": _Rule(_P, _TABLE),
    "ICEBERG_INVALID_PARTITION_VALUE": _Rule(_P, _TABLE),
    "ADMINISTRATIVELY_KILLED": _Rule(_P, "A person or a rule of the cluster killed the query: find out why first."),
    "USER_CANCELED": _Rule(_P, "The query was cancelled."),
    "PERMISSION_DENIED": _Rule(_P, _RIGHTS, certainly_not_applied=True),
    "INVALID_SESSION_PROPERTY": _Rule(
        _P, "Fix LAKEHOUSE_TRINO_SESSION_PROPERTIES, or the model's own `set session`.", certainly_not_applied=True
    ),
    "CATALOG_NOT_FOUND": _Rule(
        _P, "Check LAKEHOUSE_TRINO_CATALOG, and the catalogs that the model names.", certainly_not_applied=True
    ),
}  # fmt: skip

_BY_TYPE = {
    "USER_ERROR": _Rule(_P, _STATEMENT),
    "INTERNAL_ERROR": _Rule(_P, "An error inside Trino: look up the query in Trino's UI and the server's log."),
    "INSUFFICIENT_RESOURCES": _Rule(_T, FULL),
    "EXTERNAL": _Rule(_T, _STORAGE),
}

#: Names whose rule depends on the message: the name, a pattern in the message, the rule. The first match takes
#: precedence, also over `_BY_NAME`.
_BY_MESSAGE = (
    # Iceberg found another writer's commit. Its other commit errors may follow a commit that the catalog has accepted.
    (COMMIT_ERROR,
     r"(?s)^(?!.*Cannot determine whether).*([Cc]onflicting|concurrent|Cannot commit: ref hash)",
     _Rule(_T, "Another writer committed to the table first: retry.", certainly_not_applied=True)),
    ("PERMISSION_DENIED", r"Cannot set (system|catalog) session property", _Rule(_P, _SESSION_PROPERTY,
     certainly_not_applied=True)),
    (COMMIT_ERROR, "",
     _Rule(_T, "It is unknown whether the commit took place: check the table's $snapshots before you retry.")),
    ("ICEBERG_INVALID_METADATA", "Error accessing metadata file", _Rule(_T, _STORAGE)),
    # Trino 476 has no name for a catalog database that is down, nor for the first queries after it is back.
    ("GENERIC_INTERNAL_ERROR",
     r"Cannot check and eventually update SQL schema|Failed to connect: jdbc:"
     r"|PSQLException|java\.sql\.SQL|\biceberg_(tables|namespace)",
     _Rule(_T, _CATALOG, of_server=True)),
    ("GENERIC_INTERNAL_ERROR", r"Connection (refused|reset)|shutting down|shut down", _Rule(_T, _WORKERS)),
)  # fmt: skip

#: Failures without a query: a pattern in the text, the name, the rule. The first match takes precedence.
_BY_TEXT = tuple((re.compile(pattern, re.DOTALL), name, rule) for pattern, name, rule in (
    (r"suitable TLS CA certificate bundle|find the TLS (certificate|key) file|\[SSL\] PEM lib|NO_CERTIFICATE_OR_CRL",
     "TLS_FILE", _Rule(_P, _PEM, certainly_not_applied=True, of_server=True)),
    (r"CERTIFICATE_VERIFY_FAILED", "CERTIFICATE_NOT_TRUSTED",
     _Rule(_P, _CERTIFICATE, certainly_not_applied=True, of_server=True)),
    (r"WRONG_VERSION_NUMBER|BadStatusLine\('\\x15|record layer failure", "WRONG_SCHEME",
     _Rule(_P, _SCHEME, certainly_not_applied=True, of_server=True)),
    (r"(SSLV3|TLSV1|TLSV13)_ALERT|KEY_VALUES_MISMATCH", "TLS_REFUSED",
     _Rule(_P, _CLIENT_CERTIFICATE, certainly_not_applied=True, of_server=True)),
    (r"TLS/SSL is required for authentication", "WRONG_SCHEME",
     _Rule(_P, "Logging in requires LAKEHOUSE_TRINO_HTTP_SCHEME=https.", certainly_not_applied=True, of_server=True)),
    (r"error 401\b", "UNAUTHORIZED", _Rule(_P, _LOG_IN, certainly_not_applied=True, of_server=True)),
    (r"error 403\b", "FORBIDDEN", _Rule(_P, _RIGHTS, certainly_not_applied=True, of_server=True)),
    (r"error (404|410)\b", "QUERY_NOT_FOUND",
     _Rule(_T, "Trino was restarted and forgot the query, which may have finished: retry.")),
    (r"error (429|502|503|504)\b|empty response from server", "SERVER_UNAVAILABLE", _Rule(_T, _REACH, of_server=True)),
    (r"failed to execute.*(Failed to resolve|Name or service not known)", "UNKNOWN_HOST",
     _Rule(_T, _REACH, certainly_not_applied=True, of_server=True)),
    # Trino runs a statement when its first page is requested, not when it is sent: see `classify`.
    (r"failed to execute.*(Failed to establish a new connection|Max retries exceeded|timed out|Connection aborted"
     r"|Connection reset|RemoteDisconnected|UNEXPECTED_EOF)", "CONNECTION_REFUSED",
     _Rule(_T, _REACH, certainly_not_applied=True, of_server=True)),
    (r"Failed to resolve|Name or service not known|Failed to establish a new connection|Max retries exceeded|timed out"
     r"|Connection (aborted|reset|refused|broken)|RemoteDisconnected|UNEXPECTED_EOF|failed to fetch",
     "CONNECTION_LOST", _Rule(_T, _LOST, of_server=True)),
))  # fmt: skip

_UNKNOWN = _Rule(_P, "Unrecognized error; see the run's log.")

#: The text of the client's errors, which dbt passes on (dbt/adapters/trino/connections.py).
_QUERY_ERROR = re.compile(
    r"Trino\w*Error\(type=(?P<type>\w+), name=(?P<name>\w+), message=\"(?P<message>.*?)\", query_id=(?P<id>\w+)\)",
    re.DOTALL,
)
_LONGEST_MESSAGE = 1000


def starting() -> Failure:
    """Return the failure of a server that reports that it is starting."""
    return _of_query(_QueryError("INTERNAL_ERROR", "SERVER_STARTING_UP", "Trino server is still initializing", None))


def still_queued(query_id: str | None, group: str, seconds: float) -> Failure:
    """Return the failure of a statement that was QUEUED until its time limit. An immediate retry would wait as long."""
    where = f"resource group {group}" if group else "its resource group"
    message = f"the query was still in the queue of {where} after {seconds:.0f} s"
    return Failure(Kind.PERMANENT, True, STILL_QUEUED, query_id, message, QUEUED)


def too_slow(query_id: str | None, seconds: float) -> Failure:
    """Return the failure of a statement that exceeded its time limit. A retry would take as long."""
    message = f"the query had not finished after {seconds:.0f} s"
    return Failure(Kind.PERMANENT, False, "EXCEEDED_TIME_LIMIT", query_id, message, FULL, of_server=True)


def classify(error: BaseException, query_id: str | None = None) -> Failure:
    """Classify an exception of the `trino` client or of a library that it uses.

    Args:
        error: The exception.
        query_id: The id that Trino gave the statement; None if it gave none. In that case, certainly nothing was
            written: Trino starts a statement when the client requests its first page, for which the client needs the
            response with the id (`QueuedStatementResource.submitIfNeeded` of Trino 476; a test sends a statement and
            requests no page).
    """
    name = getattr(error, "error_name", None)
    if name is not None:
        kind, message = str(getattr(error, "error_type", "")), str(getattr(error, "message", ""))
        return _of_query(_QueryError(kind, str(name), message, getattr(error, "query_id", None) or query_id))
    return _of_text(str(error) or type(error).__name__, query_id, unsent=query_id is None)


def classify_dbt(message: str) -> Failure:
    """Classify a message of dbt-trino: `message` of a node in run_results.json, or the reason why dbt itself ended.

    A text without a failure of Trino (a compilation error, a failed test) is a permanent failure with the name UNKNOWN.
    `certainly_not_applied` is about the statement that failed. If earlier statements of the model have run (a temporary
    view, a `pre_hook`), the next build of the model starts with them again.

    Args:
        message: The whole text, including dbt's "Database Error in model …" and "compiled code at …".
    """
    found = _QUERY_ERROR.search(message)
    if found:
        return _of_query(_QueryError(found["type"], found["name"], found["message"], found["id"]))
    # The client may have retried before it reported this, so only the text itself shows whether anything was sent.
    return _of_text(message, None, unsent=False)


def _of_query(error: _QueryError) -> Failure:
    rule = next(
        (rule for name, pattern, rule in _BY_MESSAGE if name == error.name and re.search(pattern, error.message)),
        _BY_NAME.get(error.name) or _BY_TYPE.get(error.type, _UNKNOWN),
    )
    query_id = error.query_id if error.query_id != "None" else None
    return _failure(rule, error.name, query_id, error.message, rule.certainly_not_applied)


def _of_text(text: str, query_id: str | None, *, unsent: bool) -> Failure:
    matches = ((name, rule) for pattern, name, rule in _BY_TEXT if pattern.search(text))
    name, rule = next(matches, ("UNKNOWN", _UNKNOWN))
    unapplied = unsent or (rule.certainly_not_applied and query_id is None)
    return _failure(rule, name, query_id, text, unapplied)


def _failure(rule: _Rule, name: str, query_id: str | None, message: str, unapplied: bool) -> Failure:
    short = " ".join(message.split())
    if len(short) > _LONGEST_MESSAGE:
        short = short[:_LONGEST_MESSAGE] + "…"
    return Failure(rule.kind, unapplied, name, query_id, short.rstrip("."), rule.advice, rule.of_server)
