"""A single HTTP exchange with Airbyte, limited in time and size.

TLS certificates and proxies are configured by the variables that `requests` reads (REQUESTS_CA_BUNDLE, HTTPS_PROXY,
NO_PROXY), as for all clients of this project.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.network import reason
from lakehouse_analytics.triggers.airbyte.errors import URL_ADVICE, AttemptError
from lakehouse_analytics.triggers.airbyte.server import AirbyteServer

if TYPE_CHECKING:
    import requests

#: Maximum size of a response in bytes, decompressed. A page has at most 100 jobs or connections; a connection with a
#: thousand streams takes a few hundred bytes per stream.
MAX_RESPONSE_BYTES = 64 << 20

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        method: HTTP method.
        path: Path below the server's base URL.
        query: Query parameters. A sequence allows repeated parameters.
        body: JSON text.
    """

    method: str
    path: str
    query: Mapping[str, Any] | Sequence[tuple[str, str]] = ()
    body: bytes | None = None


@dataclass(frozen=True)
class Response:
    """A response of any status."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class Transport:
    """Sends requests to one server. May be used by several threads."""

    def __init__(self, server: AirbyteServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._server, self._clock = server, clock
        #: Number of requests sent.
        self.requests = 0

    def send(self, request: Request, authorization: str, *, deadline: float | None) -> Response:
        """Send a request once.

        Args:
            request: The request.
            authorization: Value of the `Authorization` header; if empty, the header is not sent.
            deadline: Reading of the clock at which to give up; None: after the server's timeout.

        Raises:
            AttemptError: There is no response.
        """
        import requests
        import urllib3

        timeout, url = self._timeout(request, deadline), self._server.url_of(request.path)
        self.requests += 1
        try:
            return self._exchange(request, authorization, timeout)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise AttemptError(
                f"{url} did not answer within {timeout:.3g} s (LAKEHOUSE_AIRBYTE_TIMEOUT).",
                transient=True,
                not_executed=isinstance(error, requests.ConnectTimeout),
            ) from None
        except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as error:
            raise AttemptError(
                f"{url} cannot be reached ({reason(error)}): check that Airbyte is running, and check "
                "LAKEHOUSE_AIRBYTE_URL.",
                transient=True,
                not_executed=_never_connected(error),
            ) from None
        except (requests.exceptions.InvalidHeader, UnicodeError):
            raise AttemptError(
                f"The credentials for {url} contain characters that an HTTP header cannot have: "
                f"{self._server.credentials_advice}."
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise AttemptError(
                f"The request to {url} failed ({type(error).__name__}): check LAKEHOUSE_AIRBYTE_URL.",
                transient=not isinstance(error, ValueError),  # a ValueError is an invalid URL
            ) from None

    def _timeout(self, request: Request, deadline: float | None) -> float:
        if deadline is None:
            return self._server.timeout
        timeout = min(self._server.timeout, deadline - self._clock())
        if timeout <= 0:
            raise AttemptError(
                f"No request was sent to {self._server.url_of(request.path)}: the time limit was reached before it."
            )
        return timeout

    def _exchange(self, request: Request, authorization: str, timeout: float) -> Response:
        import requests
        import urllib3

        until = self._clock() + timeout
        headers = {"Accept": "application/json", "User-Agent": "lakehouse-analytics"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if authorization:
            headers["Authorization"] = authorization
        with requests.Session() as session:
            # Without this, an entry for the host in ~/.netrc would replace the credentials.
            session.auth = _unchanged
            with session.request(
                request.method,
                self._server.url_of(request.path),
                params=[*request.query] if isinstance(request.query, Sequence) else {**request.query},
                data=request.body,
                headers=headers,
                timeout=urllib3.Timeout(total=timeout),  # type: ignore[arg-type]
                allow_redirects=False,
                stream=True,
            ) as response:
                content = self._read(response, request.path, until)
                return Response(response.status_code, response.reason or "", response.headers, content)

    def _read(self, response: requests.Response, path: str, until: float) -> bytes:
        """Read the body, limited in time and size.

        The timeout of `requests` does not limit it, because it restarts with each byte.
        """
        import requests

        chunks: list[bytes] = []
        size = 0
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                raise AttemptError(
                    f"{self._server.url_of(path)} answered with more than {MAX_RESPONSE_BYTES >> 20} MiB, more than a "
                    f"page of 100 entries can have: {URL_ADVICE}"
                )
            if self._clock() > until:
                raise requests.Timeout
        return b"".join(chunks)


def _never_connected(error: BaseException) -> bool:
    from urllib3.exceptions import NewConnectionError

    return bool(error.args) and isinstance(getattr(error.args[0], "reason", None), NewConnectionError)


def _unchanged(request: Any) -> Any:
    return request
