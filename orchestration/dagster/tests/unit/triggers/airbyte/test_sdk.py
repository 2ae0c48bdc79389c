"""The official SDK over this project's client: what it sends and reads, and that nothing else imports it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from airbyte_api import api, errors
from lakehouse_analytics.devtools.airbyte_simulator import Request, Response
from lakehouse_analytics.settings import repository_root
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteError, AirbyteServer
from pydantic import SecretStr

if TYPE_CHECKING:
    from conftest import CheckedSimulator

SECRET = "s3cr3t-of-the-application"


@pytest.fixture
def client(airbyte: CheckedSimulator) -> Airbyte:
    """A client that needs a token."""
    airbyte.client = ("the-client-id", SECRET)
    return Airbyte(AirbyteServer(airbyte.url, "client_credentials", airbyte.client[0], SecretStr(SECRET)))


def sent(airbyte: CheckedSimulator) -> list[str]:
    return [f"{request.method} {request.path.removeprefix(airbyte.base_path)}" for request in airbyte.requests]


@pytest.mark.parametrize("status", ["paused", "running"])
@pytest.mark.parametrize("kind", ["application/json", "application/problem+json", "text/plain"])
def test_a_sync_is_started_and_cancelled_whatever_airbyte_calls_its_status(
    airbyte: CheckedSimulator, client: Airbyte, status: str, kind: str
) -> None:
    shop = airbyte.store.add_connection("Shop")

    def a_newer_airbyte(request: Request) -> Response | None:
        if request.path.endswith("/token"):
            return None
        answer = airbyte._route(request)
        assert isinstance(answer.body, dict)
        return Response(answer.status, {**answer.body, "status": status, "jobType": "vacuum"}, kind=kind)

    airbyte.faults.append(a_newer_airbyte)
    job = client.start_sync(shop)
    assert (job.id, job.connection, job.status, job.kind) == (1, shop, status, "vacuum")
    assert client.cancel(job.id).status == status
    assert airbyte.store.jobs[job.id].status == "cancelled"
    assert sent(airbyte) == ["POST /applications/token", "POST /jobs", "DELETE /jobs/1"]


def test_it_sends_what_it_is_asked_with_the_clients_credentials(airbyte: CheckedSimulator, client: Airbyte) -> None:
    ids = [airbyte.store.add_connection(name) for name in ("Shop", "Ads", "CRM")]
    client.running_jobs()
    airbyte.tokens.clear()  # a token that was revoked is replaced for the SDK, too
    workspaces = [airbyte.store.workspace, "00000000-0000-4000-8000-000000000000"]
    request = api.ListConnectionsRequest(workspace_ids=workspaces, limit=2, offset=1)
    response = client.sdk.connections.list_connections(request=request).connections_response
    assert response
    assert [connection.connection_id for connection in response.data] == ids[1:]
    assert airbyte.requests[-1].query["workspaceIds"] == workspaces
    assert client.requests == len(airbyte.requests)


@pytest.mark.parametrize("url", ["http://[::1", "https://", "airbyte.example.com/v1", "http://127.0.0.1:1/{v1}"])
def test_an_address_that_is_wrong_is_named(url: str) -> None:
    client = Airbyte(AirbyteServer(url, timeout=0.1))
    with pytest.raises(AirbyteError, match="LAKEHOUSE_AIRBYTE_URL"):
        client.start_sync("00000000-0000-4000-8000-000000000000")


def test_its_errors_are_the_clients(airbyte: CheckedSimulator, client: Airbyte) -> None:
    airbyte.faults.append(lambda r: None if r.path.endswith("/token") else Response(403, {"detail": f"not {SECRET}"}))
    with pytest.raises(AirbyteError, match="does not permit this request") as caught:
        client.sdk.jobs.get_job(request=api.GetJobRequest(job_id=1))
    assert SECRET not in str(caught.value)
    assert caught.value.status == 403


def test_why_jobs_are_not_read_with_it(airbyte: CheckedSimulator, client: Airbyte) -> None:
    job = airbyte.store.start(airbyte.store.add_connection("Shop"))

    def a_newer_airbyte(request: Request) -> Response | None:
        answer = airbyte._route(request)
        return Response(200, {**answer.body, "status": "paused"}) if isinstance(answer.body, dict) else None

    airbyte.faults.append(lambda request: None if request.path.endswith("/token") else a_newer_airbyte(request))
    with pytest.raises(errors.ResponseValidationError):
        client.sdk.jobs.get_job(request=api.GetJobRequest(job_id=job))
    assert client.job(job).status == "paused"


def test_its_asynchronous_methods_are_refused_in_words(client: Airbyte) -> None:
    with pytest.raises(NotImplementedError, match="synchronous methods"):
        asyncio.run(client.sdk.jobs.get_job_async(request=api.GetJobRequest(job_id=1)))


def test_the_example_of_the_document(
    airbyte: CheckedSimulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    airbyte.client = ("the-client-id", SECRET)
    airbyte.store.add_connection("Shop")
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", airbyte.url)
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_ID", airbyte.client[0])
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_SECRET", SECRET)
    [example] = re.findall(r"```python\n(.*?)```", (repository_root() / "docs" / "airbyte.md").read_text(), re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out == "['Shop']\n"


def test_loading_and_ticks_do_not_import_it(airbyte: CheckedSimulator) -> None:
    airbyte.store.start(airbyte.store.add_connection("Shop"))
    program = f"""
        import sys
        import lakehouse_analytics.definitions
        from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteServer
        client = Airbyte(AirbyteServer({airbyte.url!r}))
        assert client.running_jobs() and client.connections() and client.now()
        print([name for name in ("airbyte_api", "httpx") if name in sys.modules])
        """
    found = subprocess.run([sys.executable, "-c", dedent(program)], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
