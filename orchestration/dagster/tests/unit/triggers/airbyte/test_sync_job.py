"""Starting a sync, asking the checks again, and maintenance's question whether a sync is running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import dagster as dg
import pytest
from lakehouse_analytics.devtools.airbyte_simulator import Request, Response, Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.settings import Settings
from lakehouse_analytics.triggers.airbyte import http
from lakehouse_analytics.triggers.airbyte.checks import sync_checks
from lakehouse_analytics.triggers.airbyte.sync_job import sync_job
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace, airbyte_workspace
from manifests import Manifest

SHOP, ADS = "6f1c7f0a-0000-4000-8000-000000000001", "6f1c7f0a-0000-4000-8000-000000000002"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    store = Store()
    store.add_connection("Shop", id=SHOP, streams=["orders"])
    store.add_connection("Ads", id=ADS, streams=["clicks"])
    with Simulator(store).serving() as simulator:
        yield simulator


@pytest.fixture
def workspace(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> AirbyteWorkspace:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", simulator.url)
    m = Manifest()
    m.source("shop", "orders", whole={"airbyte": {"connection": "Shop"}})
    m.source("files", "x")
    m.source("mail", "opens", whole={"airbyte": {"connection": "Mial"}})
    m.source("ads", "clicks", whole={"airbyte": {"connection": "Ads"}})
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_EXCLUDE", "Ads")
    made = airbyte_workspace(Settings.load(), m.graph())
    assert made
    return made


def run(workspace: AirbyteWorkspace, connection: str) -> tuple[bool, str]:
    """Run the job; whether it succeeded, and everything it said."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = sync_job(workspace, interval=0.02).execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"sync": {"config": {"connection": connection}}}},
        )
        failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        said = [record.user_message for record in instance.all_logs(result.run_id)]
        said += [f.user_failure_data.description or "" for f in failures if f.user_failure_data]
        assert all(f.user_failure_data for f in failures), "a traceback instead of words"
    return result.success, "\n".join(said)


def end_when_asked(simulator: Simulator) -> None:
    """A job ends when its status is requested."""

    def end(request: Request) -> None:
        number = request.path.rpartition("/")[2]
        if request.method == "GET" and number.isdigit():
            simulator.store.end(int(number))

    simulator.faults.append(end)


def posts(simulator: Simulator) -> int:
    return sum(request.method == "POST" for request in simulator.requests)


def deletes(simulator: Simulator) -> int:
    return sum(request.method == "DELETE" for request in simulator.requests)


@pytest.mark.parametrize("named", [SHOP, "Shop", SHOP.upper()])
def test_a_sync_is_started_and_waited_for(simulator: Simulator, workspace: AirbyteWorkspace, named: str) -> None:
    simulator.run_sync = lambda _, job: simulator.store.end(job, rows=7)
    success, said = run(workspace, named)
    assert success, said
    assert posts(simulator) == 1
    assert "Started job 1 of 'Shop'" in said
    assert "7 rows" in said


def test_a_sync_that_runs_already_is_waited_for_and_none_is_started(
    simulator: Simulator, workspace: AirbyteWorkspace
) -> None:
    job = simulator.store.start(SHOP)
    end_when_asked(simulator)
    success, said = run(workspace, "Shop")
    assert success, said
    assert f"Attached to job {job}" in said
    assert posts(simulator) == 0


def test_one_who_was_faster_is_joined(simulator: Simulator, workspace: AirbyteWorkspace) -> None:
    """Between the question whether one runs and the start of ours."""
    started: list[int] = []

    def someone_else(request: Request) -> Response | None:
        if request.method == "POST" and not started:
            started.append(simulator.store.start(SHOP))
        return None

    simulator.faults.append(someone_else)
    end_when_asked(simulator)
    success, said = run(workspace, "Shop")
    assert success, said
    assert f"Attached to job {started[0]}" in said
    assert len(simulator.store.jobs) == 1


def test_a_start_whose_answer_is_lost_starts_no_second_sync(simulator: Simulator, workspace: AirbyteWorkspace) -> None:
    def lost(request: Request) -> Response | None:
        if request.method == "POST" and not simulator.store.jobs:
            simulator.store.start(SHOP)
            return Response(200, hang_up=True)
        return None

    simulator.faults.append(lost)
    end_when_asked(simulator)
    success, said = run(workspace, "Shop")
    assert success, said
    assert len(simulator.store.jobs) == 1


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_sync_that_does_not_succeed_fails_the_run_in_words(
    simulator: Simulator, workspace: AirbyteWorkspace, status: str
) -> None:
    simulator.run_sync = lambda _, job: simulator.store.end(job, status)
    success, said = run(workspace, "Shop")
    assert not success
    assert f"Airbyte's sync 1 of 'Shop' {status}: see http" in said


def test_an_unknown_connection_is_told_with_the_nearest(workspace: AirbyteWorkspace) -> None:
    success, said = run(workspace, "Shopp")
    assert not success
    assert "no connection with the id or name 'Shopp'; did you mean 'Shop'?" in said


def test_an_airbyte_that_goes_away_for_a_while_is_waited_for(simulator: Simulator, workspace: AirbyteWorkspace) -> None:
    job = simulator.store.start(SHOP)
    gone = iter([Response(502, {})] * 10)
    simulator.faults.append(lambda r: next(gone, None) if r.path.endswith(f"/jobs/{job}") else None)
    end_when_asked(simulator)
    success, said = run(workspace, "Shop")
    assert success, said
    assert "Retrying for up to" in said


@pytest.mark.parametrize("ours", [True, False])
def test_an_interrupted_run_cancels_what_it_started_and_nothing_else(
    simulator: Simulator, workspace: AirbyteWorkspace, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    if not ours:
        simulator.store.start(SHOP)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    clock = SimpleNamespace(sleep=interrupted, monotonic=time.monotonic)
    monkeypatch.setattr("lakehouse_analytics.triggers.airbyte.sync_job.time", clock)
    config = {"ops": {"sync": {"config": {"connection": "Shop"}}}}
    result = sync_job(workspace).execute_in_process(run_config=config, raise_on_error=False)
    assert not result.success
    assert deletes(simulator) == int(ours)
    assert simulator.store.jobs[1].status == ("cancelled" if ours else "running")


# --- Evaluating the checks again


def evaluate(workspace: AirbyteWorkspace) -> dict[str, dg.AssetCheckEvaluation]:
    specs = [dg.AssetSpec(dg.AssetKey(source.key)) for source in workspace.graph.sources.values()]
    checks = sync_checks(workspace)
    job = dg.Definitions(
        assets=specs, asset_checks=checks, jobs=[dg.define_asset_job("ask", dg.AssetSelection.all_asset_checks())]
    ).resolve_job_def("ask")
    result = job.execute_in_process()
    return {e.asset_key.to_user_string(): e for e in result.get_asset_check_evaluations()}


def test_a_check_that_is_asked_again_asks_airbyte(simulator: Simulator, workspace: AirbyteWorkspace) -> None:
    found = evaluate(workspace)
    assert found["shop/orders"].description == "No job of connection 'Shop' has ended yet."
    assert "files/x" not in found  # its contract does not name a connection
    unknown = found["mail/opens"].description or ""
    assert unknown.startswith("Airbyte has no connection with the id or name 'Mial'")
    assert "Correct meta.lakehouse.airbyte.connection" in unknown
    assert "LAKEHOUSE_AIRBYTE_EXCLUDE leaves out connection 'Ads'" in (found["ads/clicks"].description or "")
    job = simulator.store.start(SHOP)
    simulator.store.end(job, rows=3)
    simulator.store.start(SHOP)
    found = evaluate(workspace)
    assert found["shop/orders"].passed
    assert found["shop/orders"].metadata["airbyte/sync_id"].value == job


# --- Maintenance's question


def test_maintenance_knows_of_a_running_sync_by_id_and_by_name(
    simulator: Simulator, workspace: AirbyteWorkspace
) -> None:
    job = simulator.store.start(SHOP)
    simulator.store.end(job)
    assert [workspace.running(named) for named in (SHOP, "Shop", "Ads")] == [None] * 3
    for status in ("running", "pending", "queued", "incomplete", "a-status-of-the-future"):
        job = simulator.store.start(SHOP, status=status)
        assert workspace.running("Shop") == f"Airbyte's sync {job} of Shop is {status}"
        assert workspace.running("Ads") is None
        simulator.store.end(job)


def test_maintenance_stays_away_when_nobody_answers_or_knows(simulator: Simulator, workspace: AirbyteWorkspace) -> None:
    assert "no connection with the id or name 'Unknown'" in (workspace.running("Unknown") or "")
    simulator.faults.append(lambda _: Response(500, {}))
    assert "is unknown whether" in (workspace.running("Shop") or "")
