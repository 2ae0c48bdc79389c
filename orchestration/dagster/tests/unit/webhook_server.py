"""Real servers of `lakehouse webhook` on loopback ports, in this process and in one that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import dagster as dg
from lakehouse_analytics.webhook.recorder import Recorder
from lakehouse_analytics.webhook.server import WebhookServer
from lakehouse_analytics.webhook.sources import ReportedSources

#: Importing Dagster takes seconds, so processes are forked from one that has.
PRELOADED = [
    "dagster",
    "dagster_postgres",
    "lakehouse_analytics.webhook.recorder",
    "lakehouse_analytics.webhook.server",
]
TOKEN = "tok-3f9c1b7e5a2d4860"
ORDERS, ITEMS = ("shop", "orders"), ("raw", "shop", "items")
SOURCES = ReportedSources({"shop/orders": ORDERS, "shop/items": ITEMS}, frozenset({"shop/people"}))


@dataclass
class Response:
    status: int
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Client:
    """What a reporting system does."""

    port: int

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        token: str = TOKEN,
    ) -> Response:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            authorization = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, body, {**authorization, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
            return Response(response.status, json.loads(content) if content else {}, dict(response.getheaders()))
        finally:
            connection.close()

    def report(self, name: str = "shop/orders", **report: Any) -> Response:
        return self.send("POST", f"/arrived/{name}", json.dumps(report).encode() if report else None)


@contextmanager
def serving(instance: dg.DagsterInstance, sources: ReportedSources = SOURCES) -> Iterator[Client]:
    """A server in a thread, for as long as the block runs."""
    recorder = Recorder(instance, sources.keys.values())
    server = WebhookServer(("127.0.0.1", 0), TOKEN, sources, recorder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Client(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def server_process(root: str, dies: str = "") -> Iterator[tuple[Client, BaseProcess]]:
    """A server in a process of its own; see `_serve` for `dies`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(root, dies, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.poll(120), "the server did not start"
        yield Client(ours.recv()), process
    finally:
        process.kill()
        process.join()


def _serve(root: str, dies: str, pipe: Connection) -> None:
    """Serve the instance in a folder.

    `dies` names a step of storing an event, before which the process dies as if killed: `event` (nothing is stored),
    `index` (the event is in the log, but its asset does not point at it), or `answer` (everything is stored).
    """
    with dg.DagsterInstance.from_config(root) as instance:
        storage, recorder = instance.event_log_storage, Recorder(instance, SOURCES.keys.values())
        if dies == "event":
            storage.store_event = _die  # type: ignore[method-assign]
        if dies == "index":
            storage._store_asset_event_tags = _die  # type: ignore[attr-defined]
        if dies == "answer":
            record = recorder.record
            recorder.record = lambda *args: (record(*args), _die())[0]  # type: ignore[method-assign,func-returns-value]
        server = WebhookServer(("127.0.0.1", 0), TOKEN, SOURCES, recorder)
        pipe.send(server.server_port)
        server.serve_forever()


def _die(*_: object, **__: object) -> None:
    os._exit(9)
