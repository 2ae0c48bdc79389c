"""The HTTP server of `lakehouse webhook`.

Threads and the time of a request are bounded, so a caller that sends slowly cannot keep others out for long. The server
has no TLS: in Kubernetes, an Ingress adds it.
"""

from __future__ import annotations

import hmac
import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from lakehouse_analytics.common.redact import Redactor
from lakehouse_analytics.common.text import brief
from lakehouse_analytics.webhook.recorder import Recorder, StorageError
from lakehouse_analytics.webhook.report import MAX_BODY, ReportError, parse
from lakehouse_analytics.webhook.sources import ReportedSources, UnknownSourceError

logger = logging.getLogger(__name__)

#: Requests that are served at once. Further ones get a 503.
MAX_THREADS = 16
#: Seconds within which a request must have been received.
MAX_SECONDS = 10.0
#: Seconds and bytes for which the rest of a refused request is read, so that the caller receives the response.
_LINGER, _LINGER_BYTES = 1.0, 1_048_576
_RETRY = {"Retry-After": "5"}


@dataclass(frozen=True)
class Response:
    """The response to a request.

    Attributes:
        status: The HTTP status.
        body: Encoded as JSON.
        headers: Further headers.
    """

    status: HTTPStatus
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """A request is refused. The message is for its sender."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.response = Response(status, {"error": message}, headers or {})


class _TimedSocket(io.RawIOBase):
    """Reads a socket until a deadline, however slowly the data arrives."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._deadline = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class WebhookServer(ThreadingHTTPServer):
    """Serves `/arrived/<source>/<table>` and `/health`.

    Args:
        address: Host and port. Port 0 chooses a free one: `server_address` has it.
        token: Callers send it as `Authorization: Bearer <token>`.
        sources: The sources whose loads are reported.
        recorder: Stores the loads.
    """

    daemon_threads = False  # `server_close` waits for requests that are being served
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], token: str, sources: ReportedSources, recorder: Recorder) -> None:
        self.sources, self.recorder = sources, recorder
        self.redact = Redactor([token])
        self._token = token.encode()
        self._slots = threading.BoundedSemaphore(MAX_THREADS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, WebhookHandler)

    def server_bind(self) -> None:
        """Bind the address. Unlike the standard library, do not look up its name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def accepts(self, authorization: str) -> bool:
        """Return whether the value of the header `Authorization` has the token."""
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode(errors="replace")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a request in a thread of its own, or refuse it if there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        body = json.dumps({"error": f"{MAX_THREADS} requests are being served. Repeat this one later."}).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        with suppress(OSError):
            request.settimeout(0)
            request.send(f"{head}Retry-After: 5\r\nConnection: close\r\n\r\n".encode() + body)
        logger.info("%s refused: %d requests are being served", client_address[0], MAX_THREADS)
        super().shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a request, and make room for the next one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection. What has not been read is read first: otherwise, the caller may lose the response."""
        with suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            deadline, left = time.monotonic() + _LINGER, _LINGER_BYTES
            while left > 0 and (seconds := deadline - time.monotonic()) > 0:
                request.settimeout(seconds)
                got = len(request.recv(min(left, 65_536)))
                left -= got
                if not got:
                    break
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log an error that no answer could report, such as a caller that has closed the connection."""
        error = sys.exception()
        expected = isinstance(error, OSError)
        logger.log(
            logging.INFO if expected else logging.ERROR,
            "%s failed: %s",
            client_address[0],
            type(error).__name__,
            exc_info=None if expected else error,
        )


class WebhookHandler(BaseHTTPRequestHandler):
    """Serves one request and closes the connection."""

    server: WebhookServer
    protocol_version = "HTTP/1.1"  # clients that ask whether to send the body (`Expect: 100-continue`) get an answer
    server_version, sys_version = "lakehouse-webhook", ""

    def setup(self) -> None:
        """Prepare to read the request within `MAX_SECONDS`."""
        super().setup()
        self.rfile = io.BufferedReader(_TimedSocket(self.connection, MAX_SECONDS))
        self._began = time.monotonic()
        self.command = self.path = ""

    def handle(self) -> None:
        """Serve one request."""
        self.handle_one_request()

    def serve(self) -> None:
        """Respond to the request that has been read."""
        try:
            response = self._respond()
        except RefusedError as error:
            response = error.response
        except TimeoutError:
            response = Response(
                HTTPStatus.REQUEST_TIMEOUT, {"error": f"The request took more than {MAX_SECONDS:.0f} s."}
            )
        except Exception:
            logger.exception("The request failed.")
            response = Response(
                HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "Internal error; see the log of the webhook."}
            )
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve  # noqa: N815

    def _respond(self) -> Response:
        path = urlsplit(self.path).path
        if path == "/health":
            self._allow("GET", "HEAD")
            return Response(HTTPStatus.OK, {"status": "ok"})
        # Split first: the name of a table may contain an encoded slash.
        parts = [unquote(part) for part in path.split("/")]
        if len(parts) != 4 or parts[:2] != ["", "arrived"]:
            raise RefusedError(HTTPStatus.NOT_FOUND, "Expected the path /arrived/<source>/<table> or /health.")
        self._allow("POST")
        if not self.server.accepts(self.headers.get("Authorization", "")):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "Expected the header `Authorization: Bearer <token>` with the token of LAKEHOUSE_WEBHOOK_TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )
        name = "/".join(parts[2:])
        try:
            key = self.server.sources.key(name)
            load = parse(self._body()).load(key)
            stored = self.server.recorder.record(load, key)
        except UnknownSourceError as error:
            raise RefusedError(HTTPStatus.NOT_FOUND, str(error)) from None
        except ReportError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except StorageError as error:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), _RETRY) from None
        return Response(HTTPStatus.OK, {"source": name, "id": load.id, "stored": stored})

    def _allow(self, *methods: str) -> None:
        if self.command not in methods:
            raise RefusedError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"Expected the method {' or '.join(methods)}.",
                {"Allow": ", ".join(methods)},
            )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "Expected a body with a Content-Length, not in chunks.")
        lengths = set(self.headers.get_all("Content-Length", ["0"]))
        length = lengths.pop().strip()
        if lengths or not (length.isascii() and length.isdecimal()):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "Expected one Content-Length, a number of bytes.")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected a body of at most {MAX_BODY:,} bytes.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "The body is shorter than its Content-Length.")
        return body

    def _send(self, response: Response) -> None:
        body = json.dumps(response.body).encode()
        self.close_connection = True
        self.connection.settimeout(MAX_SECONDS)
        self.log_request(response.status)
        self.send_response_only(response.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in {**headers, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_expect_100(self) -> bool:
        """Ask for the body only if the request would not be refused without it."""
        if self.server.accepts(self.headers.get("Authorization", "")):
            return super().handle_expect_100()
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Respond to a request that the standard library refuses, such as one that is not HTTP."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.request_version = "HTTP/1.1"
        self._send(Response(status, {"error": f"{status.phrase}."}))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        """Log one line per request: without its query, headers and body, which may contain secrets."""
        path = urlsplit(self.path).path.encode("unicode_escape").decode() or "-"
        milliseconds = (time.monotonic() - self._began) * 1000
        line = f"{self.client_address[0]} {self.command or '-'} {brief(path, 200)} {int(code)} {milliseconds:.0f} ms"
        logger.info("%s", self.server.redact(line))

    def log_error(self, format: str, *args: Any) -> None:
        """Log a request that was not received in time."""
        logger.info("%s %s", self.client_address[0], self.server.redact(format % args))
