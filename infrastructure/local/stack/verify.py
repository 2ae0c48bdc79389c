"""The proof at the end of a start: a table written and read back through Trino, as a client would."""

import base64
import json
import ssl
import time
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from stack import trino_config
from stack.errors import StackError
from stack.layout import Layout
from stack.settings import Settings

SCHEMA = "stack_check"
SECONDS = 120.0


def verify(layout: Layout, settings: Settings) -> None:
    """Write, read and drop a table over HTTPS with the password: a broken catalog or S3 server is seen here."""
    client = _Client(layout, settings)
    try:
        client.wait_for_workers(1 + len(settings.worker_ports))
        client.ask(f"drop schema if exists {SCHEMA} cascade")  # of an interrupted check
        client.ask(f"create schema {SCHEMA}")
        client.ask("create table proof (n bigint)")
        client.ask("insert into proof values 41, 1")
        found = client.ask("select sum(n) from proof")
        client.ask("drop table proof")
        client.ask(f"drop schema {SCHEMA}")
    except (StackError, OSError) as error:
        raise StackError(f"Trino answers, but a table cannot be written: {error}\nLogs: {layout.logs}") from error
    if found != [[42]]:
        raise StackError(f"a table was written through Trino, and read back as {found} instead of [[42]]")


class _NoNodesError(StackError):
    """The statement has not run."""


class _Client:
    """The few lines of Trino's protocol that a check needs, over HTTPS with password and private authority."""

    def __init__(self, layout: Layout, settings: Settings) -> None:
        login = base64.b64encode(f"{trino_config.USER}:{settings.trino_password}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {login}",
            "X-Trino-User": trino_config.USER,
            "X-Trino-Source": "stack-check",
            "X-Trino-Catalog": trino_config.CATALOG,
            "X-Trino-Schema": SCHEMA,
        }
        tls = ssl.create_default_context(cafile=str(layout.tls / "ca.pem"))
        self._connection = HTTPSConnection("localhost", settings.trino_https_port, context=tls, timeout=SECONDS)

    def ask(self, statement: str) -> list[list[object]]:
        """The rows of a statement. Retried while Trino schedules nothing yet on a node that it lists as active."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self._ask(statement)
            except _NoNodesError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _ask(self, statement: str) -> list[list[object]]:
        rows: list[list[object]] = []
        answer = self._request("POST", "/v1/statement", statement)
        while True:
            if error := answer.get("error"):
                kind = _NoNodesError if error.get("errorName") == "NO_NODES_AVAILABLE" else StackError
                raise kind(f"{error['message']} (query {answer['id']})")
            rows += answer.get("data", [])
            if "nextUri" not in answer:
                return rows
            answer = self._request("GET", urlsplit(answer["nextUri"]).path)

    def wait_for_workers(self, count: int) -> None:
        """Wait until the coordinator knows all workers, itself included, some moments after they say `started`."""
        deadline = time.monotonic() + SECONDS
        while (found := self._workers()) != count:
            if time.monotonic() > deadline:
                raise StackError(f"after {SECONDS:.0f} s Trino has {found} active workers, expected {count}")
            time.sleep(0.2)

    def _workers(self) -> object:
        return self.ask("select count(*) from system.runtime.nodes where state = 'active'")[0][0]

    def _request(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise StackError(f"HTTP {response.status} to {method} {path}: {text[:500].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(text)
        return answer
