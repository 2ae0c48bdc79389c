"""Which failures of a catalog and its storage may pass, for the libraries that pyiceberg uses."""

from __future__ import annotations

import re
from typing import Any

from lakehouse_analytics.common import postgres_errors

#: Names of errors, by the package that defines them.
_TRANSIENT = {
    "pyiceberg": {
        "CommitStateUnknownException",
        "ServerError",
        "ServiceUnavailableError",
        "TooManyRequestsError",
        "WaitingForLockException",
    },
    "requests": {"ChunkedEncodingError", "ConnectionError", "ConnectTimeout", "ProxyError", "ReadTimeout", "Timeout"},
    "urllib3": {"ConnectTimeoutError", "MaxRetryError", "NewConnectionError", "ProtocolError", "ReadTimeoutError"},
    "botocore": {
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "ReadTimeoutError",
    },
    "sqlalchemy": {"TimeoutError"},
}
#: What pyarrow's S3 client says of servers and networks.
_OF_STORAGE = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING)|"
    r"\(HTTP status (429|5\d\d)\)"
)
_HTTP_TOO_MANY, _HTTP_SERVER = 429, 500


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed later, unchanged.

    Args:
        error: An error of pyiceberg, or of a library that it uses.
    """
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    if name in _TRANSIENT.get(package, ()):
        return True
    if package == "sqlalchemy":
        return _of_database(getattr(error, "orig", None))
    if package == "botocore":
        return _of_aws(getattr(error, "response", {}))
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError | TimeoutError) or bool(_OF_STORAGE.search(str(error)))
    return False


def _of_database(error: BaseException | None) -> bool:
    """Return it for an error of the driver of a SQL catalog."""
    if type(error).__name__ not in ("OperationalError", "InterfaceError"):
        return False
    if type(error).__module__.startswith("psycopg2"):
        return postgres_errors.is_transient(str(error), getattr(error, "pgcode", None))
    return "database is locked" in str(error)  # SQLite


def _of_aws(response: dict[str, Any]) -> bool:
    """Return it for an answer of AWS, such as of Glue."""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(response.get("Error", {}).get("Code", ""))
    return status == _HTTP_TOO_MANY or status >= _HTTP_SERVER or "Throttl" in code or "TooMany" in code
