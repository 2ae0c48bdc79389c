"""The official SDK (`airbyte-api`), using this project's HTTP client.

The SDK builds requests and parses responses. `JsonClient` sends them, because the SDK's own client has no timeout for a
whole response, no retries unless configured, reads TLS and proxy settings by other rules than the rest of this project,
quotes whole response bodies in its errors, and follows redirects to any host.

Importing the SDK takes longer than a quiet sensor tick, so this module is only imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import httpx
from airbyte_api import AirbyteAPI, api, errors, models

from lakehouse_analytics.triggers.airbyte.http import JsonClient
from lakehouse_analytics.triggers.airbyte.transport import Request

#: Placeholder for the server in the URLs that the SDK builds; `JsonClient` has the real one.
_BASE_URL = "https://airbyte.invalid"


def sdk_client(http: JsonClient) -> AirbyteAPI:
    """Return the SDK, which sends its requests through a JSON client.

    Its methods raise `AirbyteError` for failed requests. Those that list jobs or connections fail on an enum value that
    the SDK does not know.
    """
    return AirbyteAPI(server_url=_BASE_URL, client=_Client(http), async_client=_NoAsyncClient())


def start_sync(sdk: AirbyteAPI, connection: str) -> Mapping[str, Any]:
    """Start a sync.

    Returns:
        The job as Airbyte describes it.
    """
    request = models.JobCreateRequest(connection_id=connection, job_type=models.JobTypeEnum.SYNC)
    return _body(lambda: sdk.jobs.create_job(request=request))


def cancel_job(sdk: AirbyteAPI, job_id: int) -> Mapping[str, Any]:
    """Cancel a job.

    Returns:
        The job as Airbyte describes it.
    """
    return _body(lambda: sdk.jobs.cancel_job(request=api.CancelJobRequest(job_id=job_id)))


class _SdkResponse(Protocol):
    raw_response: httpx.Response


def _body(call: Callable[[], _SdkResponse]) -> Mapping[str, Any]:
    try:
        response = call().raw_response
    except errors.AirbyteAPIError as error:
        # Airbyte has executed the request, but its response has a value that the SDK does not know.
        response = error.raw_response
    body: Mapping[str, Any] = response.json()
    return body


class _Client:
    """Sends the SDK's requests through a JSON client. Implements `airbyte_api.httpclient.HttpClient`."""

    def __init__(self, http: JsonClient) -> None:
        self._http = http

    def build_request(self, method: str, url: Any, **parts: Any) -> httpx.Request:
        """Build a request as `httpx.Client` does. The timeout is that of the server."""
        parts.pop("timeout", None)
        return httpx.Request(method, url, **parts)

    def send(self, request: httpx.Request, **_: Any) -> httpx.Response:
        """Send a request.

        Raises:
            AirbyteError: There is no valid response.
        """
        body = request.read() or None
        sent = Request(request.method, request.url.path, request.url.params.multi_items(), body)
        response = self._http.send(sent)
        headers = {"Content-Type": "application/json"}
        return httpx.Response(200, headers=headers, content=response.content, request=request)

    def close(self) -> None:
        """Do nothing: no connection stays open."""


class _NoAsyncClient:
    """Prevents the SDK from creating an `httpx.AsyncClient`.

    It is not used here, and creating it loads TLS certificates.
    """

    def build_request(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("Only the synchronous methods of the Airbyte SDK are available here.")

    async def send(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("Only the synchronous methods of the Airbyte SDK are available here.")

    async def aclose(self) -> None:
        """Do nothing: no connection stays open."""
