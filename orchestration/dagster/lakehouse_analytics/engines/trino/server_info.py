"""Requests the state of a Trino server: its version, and whether it is still starting. This needs no authentication."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse_analytics.engines.trino.session import TrinoServer

if TYPE_CHECKING:
    import requests

#: Responses of a gateway whose Trino cannot be reached, or which has too many requests.
_UNAVAILABLE = (429, 502, 503, 504)


@dataclass(frozen=True)
class ServerInfo:
    """A response to `/v1/info`. A gateway may send something other than Trino's JSON; then little is known.

    Attributes:
        status: The HTTP status.
        phrase: The status in words.
        starting: Whether Trino says that it is still starting.
        version: Trino's version; None if it is not known.
        date: The time of the server, as in the header `Date`; None if there is none.
    """

    status: int
    phrase: str
    starting: bool = False
    version: str | None = None
    date: str | None = None

    @property
    def is_unavailable(self) -> bool:
        """Whether a gateway responded in place of Trino, and a later request may succeed."""
        return self.status in _UNAVAILABLE


def server_info(server: TrinoServer, session: requests.Session, timeout: float) -> ServerInfo:
    """Request the state of a server.

    Args:
        server: The server.
        session: An HTTP session with its certificates (`http_session`).
        timeout: Maximum duration of the request in seconds.

    Raises:
        requests.RequestException: There is no response.
    """
    response = session.get(f"{server.address}/v1/info", timeout=timeout)
    info = None
    with suppress(ValueError):
        info = response.json()
    info = info if isinstance(info, dict) else {}
    version = info.get("nodeVersion")
    return ServerInfo(
        response.status_code,
        response.reason,
        starting=info.get("starting") is True,
        version=str(version.get("version")) if isinstance(version, dict) else None,
        date=response.headers.get("Date"),
    )
