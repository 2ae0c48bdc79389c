"""The probe of the webhook, on a real server."""

from __future__ import annotations

import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, Status
from lakehouse_analytics.doctor.webhook import webhook
from lakehouse_analytics.settings import Settings
from manifests import Manifest
from postgres_server import free_port
from webhook_server import TOKEN, serving

WHAT = "loads of 1 source table are reported (shop/orders)"


def probe(port: int, *, host: str = "127.0.0.1", token: str | None = TOKEN, source: bool = True) -> Finding:
    manifest = Manifest()
    manifest.source("crm", "people", lakehouse={"arrives": {"database": "crm"}})
    if source:
        manifest.source("shop", "orders", lakehouse={"arrives": {"webhook": True}})
    context = ProbeContext(timeout=15)
    context.graph = manifest.graph()
    context.settings = Settings(webhook_token=token, webhook_port=port, webhook_host=host)
    return webhook(context)


@pytest.fixture(autouse=True)
def _outside_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def test_a_project_without_such_sources_is_left_out() -> None:
    assert probe(1, source=False).status is Status.SKIPPED


def test_a_server_that_answers() -> None:
    with dg.DagsterInstance.ephemeral() as instance, serving(instance) as client:
        for host in ("127.0.0.1", "0.0.0.0"):
            found = probe(client.port, host=host)
            assert found.status is Status.OK
            assert found.message == f"http://127.0.0.1:{client.port}/health answers; {WHAT}"


def test_a_server_that_does_not_run() -> None:
    port = free_port()
    found = probe(port)
    assert found.status is Status.FAILED
    assert found.message == f"{WHAT}, but http://127.0.0.1:{port}/health does not answer: Connection refused"
    assert "`lakehouse webhook`" in found.fix


def test_another_program_at_its_port() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        found = probe(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert found.status is Status.FAILED
    assert found.message.endswith("/health is answered with 404 by another program")


def test_without_a_token_no_webhook_is_expected() -> None:
    found = probe(1, token=None)
    assert found.status is Status.SKIPPED
    assert found.message == f"{WHAT}, but LAKEHOUSE_WEBHOOK_TOKEN is not set: no webhook runs here"


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_pod_does_not_probe_the_webhook_of_another_pod(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert probe(free_port(), token=token).status is Status.SKIPPED
