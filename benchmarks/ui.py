"""What the UI asks of a large instance: 500 daily assets with three years of partitions, in the stack's PostgreSQL.

Asks a real webserver what its pages ask, once cold and then warm, and fails when a warm answer takes a second or more.
The UI asks the status of 10 assets at a time (`live-data-provider/util.ts`); all at once is only reported.
Evaluations of checks are not filled in.
"""

# ruff: noqa: PLC0415  # Dagster is imported once its home is set

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "orchestration" / "dagster")]

from tests.integration.stack import empty_database  # noqa: E402

WARM = 7
LIMIT = 1.0
UNLIMITED = ("status of all assets", "latest runs of all assets")
_STATS = "partitionStats { numMaterialized numPartitions numFailed numMaterializing }"
_RANGES = (
    "assetPartitionStatuses { ... on TimePartitionStatuses { ranges { startKey endKey status } } } "
    "partitionKeyConnection(limit: 50, ascending: false, cursor: null) { results }"
)


def main() -> None:
    """Fill, ask, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--assets", type=int, default=500)
    options.add_argument("--days", type=int, default=3 * 365)
    arguments = options.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lakehouse-bench-"))
    try:
        with empty_database() as address:
            (home / "dagster.yaml").write_text(
                f"telemetry: {{enabled: false}}\nstorage: {{postgres: {{postgres_url: '{address}'}}}}\n"
            )
            os.environ |= {"DAGSTER_HOME": str(home), "BENCH_ASSETS": str(arguments.assets)}
            keys = fill(arguments.days)
            slow = measure(keys, arguments.days)
    finally:
        shutil.rmtree(home)
    sys.exit(f"a second or more: {', '.join(slow)}" if slow else 0)


def fill(days: int) -> list[list[str]]:
    """Materialize every partition of every asset; their keys."""
    import dagster as dg
    from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
    from dagster._core.events.log import EventLogEntry
    from dagster._core.test_utils import create_run_for_test
    from ui_location import defs

    began = time.perf_counter()
    keys = sorted(defs.resolve_asset_graph().materializable_asset_keys)
    partitions_def = defs.resolve_asset_graph().get(keys[0]).partitions_def
    assert partitions_def
    partitions = partitions_def.get_partition_keys()[:days]
    with dg.DagsterInstance.get() as instance:
        run = create_run_for_test(instance, job_name="__ASSET_JOB", status=dg.DagsterRunStatus.SUCCESS)
        for key in keys:
            entries = []
            for partition in partitions:
                done = dg.AssetMaterialization(key, partition=partition, metadata={"dagster/partition_row_count": 7})
                event = DagsterEvent(
                    event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                    job_name="__ASSET_JOB",
                    step_key="build",
                    event_specific_data=StepMaterializationData(done),
                )
                said = (None, "debug", "", run.run_id, time.time(), "build", "__ASSET_JOB", event)
                entries.append(EventLogEntry(*said))
            instance.event_log_storage.store_event_batch(entries)
    events = len(keys) * len(partitions)
    print(f"{events:,} materializations stored in {time.perf_counter() - began:.0f} s")
    return [[*key.path] for key in keys]


def measure(keys: list[list[str]], days: int) -> list[str]:
    """Ask the webserver; the names of what was slow."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["dagster-webserver", "-f", str(HERE / "ui_location.py"), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    all_keys, one = [{"path": key} for key in keys], {"path": keys[-1]}
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "status of all assets": (
            f"query($k: [AssetKeyInput!]) {{ assetNodes(assetKeys: $k) {{ id {_STATS} }} }}",
            {"k": all_keys},
        ),
        "latest runs of all assets": (
            "query($k: [AssetKeyInput!]!) { assetsLatestInfo(assetKeys: $k) { id latestRun { id status } "
            "latestMaterialization { timestamp runId } } }",
            {"k": all_keys},
        ),
        "status of 10 assets": (
            f"query($k: [AssetKeyInput!]) {{ assetNodes(assetKeys: $k) {{ id {_STATS} }} }}",
            {"k": all_keys[:10]},
        ),
        "status of 60 assets": (
            f"query($k: [AssetKeyInput!]) {{ assetNodes(assetKeys: $k) {{ id {_STATS} }} }}",
            {"k": all_keys[:60]},
        ),
        "partitions bar of one asset": (
            f"query($k: AssetKeyInput!) {{ assetNodeOrError(assetKey: $k) {{ ... on AssetNode {{ id {_RANGES} }} }} }}",
            {"k": one},
        ),
        "events of one asset": (
            "query($k: AssetKeyInput!) { assetOrError(assetKey: $k) { ... on Asset { "
            "assetMaterializations(limit: 100) { partition timestamp metadataEntries { label } } } } }",
            {"k": one},
        ),
        "catalog": ("{ assetsOrError { ... on AssetConnection { nodes { id key { path } } } } }", {}),
    }
    slow = []
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url)
        print(f"{len(keys)} assets, {days} days each; seconds")
        for name, (query, variables) in questions.items():
            taken = [ask(url, query, variables) for _ in range(WARM + 1)]
            slow += [name] if name not in UNLIMITED and statistics.median(taken[1:]) >= LIMIT else []
            print(f"{name:<34} cold {taken[0]:6.3f}   warm {statistics.median(taken[1:]):6.3f}")
        pages = [page(f"{url}/assets/{'/'.join(keys[-1])}?view=partitions") for _ in range(WARM)]
        print(f"{'page':<34}               warm {statistics.median(pages):6.3f}")
    finally:
        server.terminate()
        server.wait()
    return slow


def wait_for(url: str) -> None:
    """Until the location is loaded."""
    deadline = time.monotonic() + 120
    question = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
    while time.monotonic() < deadline:
        try:
            answer = post(url, question, {})
            if all(e["loadStatus"] == "LOADED" for e in answer["data"]["workspaceOrError"]["locationEntries"]):
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit("the webserver does not answer")


def post(url: str, query: str, variables: dict[str, Any]) -> Any:
    """One GraphQL request."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)


def ask(url: str, query: str, variables: dict[str, Any]) -> float:
    """Seconds of one answer without errors."""
    began = time.perf_counter()
    answer = post(url, query, variables)
    assert not answer.get("errors"), answer["errors"]
    return time.perf_counter() - began


def page(url: str) -> float:
    """Seconds of the page itself."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as response:
        response.read()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
