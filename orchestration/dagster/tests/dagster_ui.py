"""Dagster as the UI asks it, by GraphQL: of `dagster dev` on this machine, or of a webserver in a cluster."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def poll(question: Callable[[], T | None], *, seconds: float, what: str, because: Callable[[], str] = str) -> T:
    """Ask until there is an answer, less and less often: who asks takes the processor from who works."""
    deadline, pause = time.monotonic() + seconds, 0.1
    while (answer := question()) is None or answer is False:
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{because()}"
        time.sleep(pause)
        pause = min(0.5, pause * 1.2)
    return answer


@dataclass(frozen=True)
class Run:
    """A run as the UI shows it."""

    run_id: str
    status: str
    start: float
    end: float
    tags: Mapping[str, str]
    parent: str | None
    materialized: frozenset[str]
    row_counts: Mapping[str, int]
    planned: frozenset[str]
    checks: Mapping[tuple[str, str], bool]
    words: str


class DagsterUI:
    """One webserver.

    Attributes:
        url: Of its GraphQL.
        location: Name of the code location there.
    """

    def __init__(self, url: str, location: str = "lakehouse_analytics") -> None:
        self.url, self.location = url, location

    @property
    def repository(self) -> dict[str, str]:
        return {"repositoryName": "__repository__", "repositoryLocationName": self.location}

    def because(self) -> str:
        """What a person should see when something fails."""
        return ""

    def alive(self) -> None:
        """Fail where it is in vain to wait for an answer."""

    def ask(self, query: str, **variables: Any) -> Any:
        """One GraphQL request; the value of its only field."""
        request = urllib.request.Request(
            self.url,
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error}: {error.read().decode()[:2000]}\n{self.because()}") from None
        assert not answer.get("errors"), answer["errors"]
        [value] = answer["data"].values()
        return value

    def wait_until_ready(self, *, seconds: float = 120) -> None:
        """The location is loaded and every daemon has given a sign of life."""

        def ready() -> bool:
            self.alive()
            try:
                location = self.ask(
                    "query($name: String!) { workspaceLocationEntryOrError(name: $name) { __typename "
                    "... on WorkspaceLocationEntry { loadStatus locationOrLoadError { __typename "
                    "... on PythonError { message } } } } }",
                    name=self.location,
                )
                health = self.ask("{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }")
            except OSError:
                return False
            if location["__typename"] != "WorkspaceLocationEntry" or location["loadStatus"] != "LOADED":
                return False
            assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation", location
            daemons = [d for d in health["daemonHealth"]["allDaemonStatuses"] if d["required"]]
            return bool(daemons) and all(d["healthy"] for d in daemons)

        poll(ready, seconds=seconds, what="Dagster", because=self.because)

    def launch(
        self,
        job: str,
        *,
        assets: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Launch a job, or assets ad hoc as the button "Materialize selected" does; the run's id."""
        selection = {"assetSelection": [{"path": key.split("/")} for key in assets]} if assets else {}
        answer = self.ask(
            "mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } "
            "... on RunConfigValidationInvalid { errors { message } } } }",
            params={
                "selector": {**self.repository, "pipelineName": job, **selection},
                "mode": "default",
                "runConfigData": config or {},
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
            },
        )
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def retry_failed_assets(self, run_id: str) -> str:
        """The button "Re-execute: from asset failure"; the new run's id."""
        answer = self.ask(
            "mutation($params: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $params) { "
            "__typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack } } }",
            params={"parentRunId": run_id, "strategy": "FROM_ASSET_FAILURE"},
        )
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """The button "Terminate"."""
        answer = self.ask(
            "mutation($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }",
            id=run_id,
        )
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def status(self, run_id: str) -> str:
        run = self.ask("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        return str(run["status"])

    def run_ids(self) -> list[str]:
        """Every run, newest first."""
        return [run["runId"] for run in self.ask("{ runsOrError { ... on Runs { results { runId } } } }")["results"]]

    def runs_of(self, tag: str, value: str) -> list[str]:
        """The runs with a tag, newest first."""
        answer = self.ask(
            "query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { runId } } } }",
            f={"tags": [{"key": tag, "value": value}]},
        )
        return [run["runId"] for run in answer["results"]]

    def finished(self, run_id: str, *, seconds: float = 240) -> Run:
        """Wait for the end of a run, and read it."""
        ends = ("SUCCESS", "FAILURE", "CANCELED")
        poll(
            lambda: self.status(run_id) in ends,
            seconds=seconds,
            what=f"the end of run {run_id}",
            because=self.because,
        )
        answer = self.ask(_RUN, id=run_id)
        events = answer["eventConnection"]["events"]
        counts = {
            _key(event): entry["intValue"]
            for event in events
            # An observation tells the rows of a table that took long to count.
            if event["__typename"] in ("MaterializationEvent", "ObservationEvent")
            for entry in event["metadataEntries"]
            if entry["label"] == "dagster/row_count"
        }
        evaluations = [e["evaluation"] for e in events if e["__typename"] == "AssetCheckEvaluationEvent"]
        return Run(
            run_id=run_id,
            status=answer["status"],
            start=answer["startTime"],
            end=answer["endTime"],
            tags={tag["key"]: tag["value"] for tag in answer["tags"]},
            parent=answer["parentRunId"],
            materialized=frozenset(_key(e) for e in events if e["__typename"] == "MaterializationEvent"),
            row_counts=counts,
            planned=frozenset(_key(e) for e in events if e["__typename"] == "AssetMaterializationPlannedEvent"),
            checks={("/".join(e["assetKey"]["path"]), e["checkName"]): e["success"] for e in evaluations},
            words="\n".join(
                part
                for event in events
                if event["__typename"] in ("ExecutionStepFailureEvent", "RunFailureEvent", "LogMessageEvent")
                for part in (
                    event["message"],
                    ((event.get("failureMetadata") or {}).get("description")) or "",
                    ((event.get("error") or {}).get("message")) or "",
                )
            ),
        )

    def schedule_is_on(self, name: str) -> bool:
        found = self.ask(
            "query($s: ScheduleSelector!) { scheduleOrError(scheduleSelector: $s) { "
            "... on Schedule { scheduleState { status } } } }",
            s={**self.repository, "scheduleName": name},
        )
        return bool(found["scheduleState"]["status"] == "RUNNING")

    def switch_schedule(self, name: str, *, on: bool) -> None:
        """The switch beside a schedule."""
        found = self.ask(
            "query($s: ScheduleSelector!) { scheduleOrError(scheduleSelector: $s) { "
            "... on Schedule { scheduleState { id } } } }",
            s={**self.repository, "scheduleName": name},
        )
        fields = "{ __typename ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } }"
        if on:
            answer = self.ask(
                f"mutation($s: ScheduleSelector!) {{ startSchedule(scheduleSelector: $s) {fields} }}",
                s={**self.repository, "scheduleName": name},
            )
        else:
            answer = self.ask(
                f"mutation($id: String!) {{ stopRunningSchedule(id: $id) {fields} }}", id=found["scheduleState"]["id"]
            )
        assert answer["scheduleState"]["status"] == ("RUNNING" if on else "STOPPED"), answer

    def start_sensor(self, name: str) -> None:
        answer = self.ask(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename "
            "... on Sensor { sensorState { status } } ... on PythonError { message } } }",
            s={**self.repository, "sensorName": name},
        )
        assert answer["sensorState"]["status"] == "RUNNING", answer

    def evaluate_sensor(self, name: str) -> dict[str, Any]:
        """The button "Preview tick result": what the sensor would do now."""
        answer = self.ask(
            "mutation($s: SensorSelector!) { sensorDryRun(selectorData: $s, cursor: null) { __typename "
            "... on PythonError { message } ... on DryRunInstigationTick { evaluationResult { skipReason "
            "runRequests { runKey } error { message } } } } }",
            s={**self.repository, "sensorName": name},
        )
        result: dict[str, Any] = answer["evaluationResult"]
        assert not result["error"], result["error"]
        return result

    def ticks(self, name: str) -> list[dict[str, Any]]:
        """What the daemon's evaluations of a sensor came to, newest first."""
        answer = self.ask(
            "query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState { "
            "ticks(limit: 100) { status skipReason runIds error { message } } } } } }",
            s={**self.repository, "sensorName": name},
        )
        ticks: list[dict[str, Any]] = answer["sensorState"]["ticks"]
        return ticks


_RUN = """
query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status startTime endTime parentRunId tags { key value }
  eventConnection(limit: 1000) { events {
    __typename
    ... on MessageEvent { message }
    ... on MaterializationEvent { assetKey { path } metadataEntries { label ... on IntMetadataEntry { intValue } } }
    ... on ObservationEvent { assetKey { path } metadataEntries { label ... on IntMetadataEntry { intValue } } }
    ... on AssetMaterializationPlannedEvent { assetKey { path } }
    ... on AssetCheckEvaluationEvent { evaluation { assetKey { path } checkName success } }
    ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
  } }
} } }
"""


def _key(event: Mapping[str, Any]) -> str:
    return "/".join(event["assetKey"]["path"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
