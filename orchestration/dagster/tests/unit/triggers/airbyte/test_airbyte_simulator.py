"""The double against the real thing: the official document, and the official client that reads it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import requests
from airbyte_api import AirbyteAPI, api, errors, models
from lakehouse_analytics.devtools.airbyte_simulator import Request, Response, Simulator
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteServer

if TYPE_CHECKING:
    from conftest import CheckedSimulator, Official

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


def sdk(airbyte: Simulator) -> AirbyteAPI:
    """The official client. It keeps tokens by the log-in for all of its instances: each test has its own."""
    airbyte.client = ("the-client-id", uuid.uuid4().hex)
    log_in = models.SchemeClientCredentials(
        client_id=airbyte.client[0], client_secret=airbyte.client[1], token_url=f"{airbyte.url}/applications/token"
    )
    return AirbyteAPI(server_url=airbyte.url, security=models.Security(client_credentials=log_in))


def entries(airbyte: Simulator, path: str) -> list[object]:
    return list(requests.get(f"{airbyte.url}{path}", timeout=10).json()["data"])


def test_the_official_client_reads_it_like_the_real_one(airbyte: CheckedSimulator) -> None:
    shop = airbyte.store.add_connection("Shop", streams=["orders"], prefix="raw_", namespaceDefinition="source")
    failed = airbyte.store.start(shop)
    airbyte.store.end(failed, "failed", rows=None, bytes=None)
    client = sdk(airbyte)

    created = client.jobs.create_job(
        request=models.JobCreateRequest(connection_id=shop, job_type=models.JobTypeEnum.SYNC)
    ).job_response
    assert created
    assert created.status == models.JobStatusEnum.RUNNING
    airbyte.store.end(created.job_id, rows=7)

    got = client.jobs.get_job(request=api.GetJobRequest(job_id=created.job_id)).job_response
    assert got
    assert (got.status, got.rows_synced, got.connection_id) == (models.JobStatusEnum.SUCCEEDED, 7, shop)

    since = airbyte.store.jobs[failed].updated.replace(microsecond=0)
    listed = client.jobs.list_jobs(
        request=api.ListJobsRequest(updated_at_start=since, order_by="updatedAt|DESC", limit=1)
    ).jobs_response
    assert listed
    assert [job.job_id for job in listed.data] == [created.job_id]

    connections = client.connections.list_connections(request=api.ListConnectionsRequest()).connections_response
    assert connections
    assert [(c.connection_id, c.name, c.prefix) for c in connections.data] == [(shop, "Shop", "raw_")]


def test_why_it_is_not_used_one_unknown_status_costs_it_the_whole_page(airbyte: CheckedSimulator) -> None:
    shop = airbyte.store.add_connection("Shop")
    airbyte.store.end(airbyte.store.start(shop))
    newer = {"jobId": 2, "status": "paused", "jobType": "sync", "startTime": "2026-11-21T02:00Z", "connectionId": shop}

    def a_newer_airbyte(request: Request) -> Response | None:
        return (
            Response(200, {"data": [*map(_told_job, airbyte.store.jobs), newer]}) if "/jobs" in request.path else None
        )

    def _told_job(job: int) -> dict[str, object]:
        return {**newer, "jobId": job, "status": airbyte.store.jobs[job].status}

    client = sdk(airbyte)
    airbyte.faults.append(a_newer_airbyte)
    with pytest.raises(errors.ResponseValidationError):
        client.jobs.list_jobs(request=api.ListJobsRequest())
    airbyte.client = None
    page = Airbyte(AirbyteServer(airbyte.url)).changed_jobs(NOW, 0)
    assert [(job.id, job.status) for job in page.jobs] == [(1, "succeeded"), (2, "paused")]
    assert not page.problems


def test_the_official_document_is_there(official: Official | None) -> None:
    if official is None:
        pytest.skip("no official document: requests and responses are not validated")


def wrong_query(airbyte: CheckedSimulator) -> None:
    requests.get(f"{airbyte.url}/jobs?limit=1000", timeout=10)


def wrong_time(airbyte: CheckedSimulator) -> None:
    requests.get(f"{airbyte.url}/jobs?updatedAtStart=2026-11-21T02:00:00", timeout=10)


def unknown_parameter(airbyte: CheckedSimulator) -> None:
    requests.get(f"{airbyte.url}/jobs?updatedSince=2026-11-21T02:00:00Z", timeout=10)


def unknown_page(airbyte: CheckedSimulator) -> None:
    requests.get(f"{airbyte.url}/syncs", timeout=10)


def wrong_body(airbyte: CheckedSimulator) -> None:
    requests.post(f"{airbyte.url}/jobs", json={"connectionId": "shop", "jobType": "sync"}, timeout=10)


def wrong_answer(airbyte: CheckedSimulator) -> None:
    airbyte.store.start(airbyte.store.add_connection("Shop"), kind="vacuum")
    entries(airbyte, "/jobs")


def incomplete_answer(airbyte: CheckedSimulator) -> None:
    airbyte.store.add_connection("Shop", tags=[{"name": "without an id"}])
    entries(airbyte, "/connections")


@pytest.mark.parametrize(
    "offence",
    [wrong_query, wrong_time, unknown_parameter, unknown_page, wrong_body, wrong_answer, incomplete_answer],
)
def test_what_is_not_as_the_document_says_is_seen(
    airbyte: CheckedSimulator, official: Official | None, offence: Callable[[CheckedSimulator], None]
) -> None:
    if official is None:
        pytest.skip("no official document")
    offence(airbyte)
    assert airbyte.violations
    airbyte.violations.clear()


def test_what_becomes_visible_late_is_seen_as_it_was_until_then(airbyte: CheckedSimulator) -> None:
    now = NOW
    airbyte.store.clock = lambda: now
    airbyte.store.end(airbyte.store.start(airbyte.store.add_connection("Shop")), late=timedelta(seconds=5))
    before = entries(airbyte, "/jobs")
    now += timedelta(seconds=5)
    after = entries(airbyte, "/jobs")
    assert [[row["status"] for row in rows] for rows in (before, after)] == [["running"], ["succeeded"]]  # type: ignore[index]
    assert after[0]["lastUpdatedAt"] == "2026-11-21T02:00Z"  # type: ignore[index]


def test_one_sync_at_a_time_and_a_cancelled_one_stays_cancelled(airbyte: CheckedSimulator) -> None:
    shop = airbyte.store.add_connection("Shop")
    wanted = {"connectionId": shop, "jobType": "sync"}
    first = requests.post(f"{airbyte.url}/jobs", json=wanted, timeout=10)
    assert requests.post(f"{airbyte.url}/jobs", json=wanted, timeout=10).status_code == 409
    for _ in range(2):
        ended = requests.delete(f"{airbyte.url}/jobs/{first.json()['jobId']}", timeout=10).json()
        assert ended["status"] == "cancelled"
    assert requests.get(f"{airbyte.url}/jobs/77", timeout=10).status_code == 404


@pytest.mark.parametrize("body", ["", "{", "[]", "null", json.dumps({"connectionId": [], "jobType": "sync"})])
def test_a_body_that_is_none_is_refused(airbyte: CheckedSimulator, body: str) -> None:
    airbyte.official = None
    headers = {"Content-Type": "application/json"}
    for path in ("/jobs", "/applications/token"):
        assert requests.post(f"{airbyte.url}{path}", data=body, headers=headers, timeout=10).status_code in (400, 401)
