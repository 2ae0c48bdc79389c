"""What a server says of itself, and what a gateway in front of it says instead."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
from lakehouse_analytics.engines.trino.server_info import ServerInfo, server_info
from lakehouse_analytics.engines.trino.session import TrinoServer, http_session


class Server(HTTPServer):
    """Sends one response to every request."""

    response: tuple[int, str] = (200, "")
    paths: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        status, body = self.server.response
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.paths = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def info_of(port: int) -> ServerInfo:
    trino = TrinoServer.model_validate(
        {"host": "127.0.0.1", "port": port, "http_scheme": "http", "user": "me", "catalog": "lakehouse"}
    )
    with http_session(trino) as session:
        return server_info(trino, session, 5)


def test_trino_sends_its_version_state_and_time(server: Server) -> None:
    server.response = (200, json.dumps({"nodeVersion": {"version": "476"}, "starting": True}))
    info = info_of(server.server_port)
    assert server.paths == ["/v1/info"]
    assert (info.status, info.starting, info.version, info.is_unavailable) == (200, True, "476", False)
    assert (info.date or "").endswith("GMT")


@pytest.mark.parametrize(
    ("status", "body", "unavailable"),
    [
        (200, "<html>", False),
        (200, "[1]", False),
        (200, '{"nodeVersion": "476", "starting": "yes"}', False),
        (404, "", False),
        (429, "", True),
        (502, "<html>", True),
        (503, '{"error": "down"}', True),
        (504, "", True),
    ],
)
def test_little_is_known_if_a_gateway_responds(server: Server, status: int, body: str, unavailable: bool) -> None:
    server.response = (status, body)
    info = info_of(server.server_port)
    assert (info.status, info.starting, info.version, info.is_unavailable) == (status, False, None, unavailable)


def test_without_a_server_there_is_an_error(server: Server) -> None:
    with Server(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(requests.ConnectionError):
        info_of(port)
