"""One tick of the Airbyte sensor against asking each connection as dagster-airbyte's client does.

The Airbyte is the simulator of this project, on loopback: 1,000 connections and 10,000 jobs of history. Exits with 1
when a quiet tick is more than one request, or when of a burst of jobs one is lost or told twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from dagster_airbyte.resources import AirbyteClient
from lakehouse_analytics.airbyte.client import Airbyte, AirbyteServer
from lakehouse_analytics.airbyte.inventory import Inventory
from lakehouse_analytics.airbyte.simulated import Store
from lakehouse_analytics.airbyte.simulator import Simulator
from lakehouse_analytics.listening import Listening, source_tables
from lakehouse_analytics.manifest import read
from lakehouse_analytics.sync_events import CHECK, SYNC_ID
from lakehouse_analytics.sync_sensor import airbyte_sync_sensor

QUIET_TICKS = 9


class Clock:
    """Airbyte's: the history lies in the past."""

    def __init__(self) -> None:
        self.behind = timedelta(days=10)

    def __call__(self) -> datetime:
        """The time."""
        return datetime.now(UTC) - self.behind


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--history", type=int, default=10_000, help="jobs that ended before (default: %(default)s)")
    parser.add_argument("--burst", type=int, default=500, help="jobs that end at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    options = parser.parse_args()

    clock = Clock()
    store = Store(clock)
    connections = [store.add_connection(f"connection {n}", streams=["t"]) for n in range(options.connections)]
    step = (clock.behind - timedelta(hours=2)) / max(1, options.history)
    for number in range(options.history):
        store.end(store.start(connections[number % len(connections)]), rows=number)
        clock.behind -= step
    with Simulator(store).serving() as simulator, tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
        with dg.DagsterInstance.local_temp(folder) as instance:
            ours = Ours(instance, simulator, connections)
            ours.tick()
            clock.behind = timedelta(0)
            quiet = [ours.tick() for _ in range(QUIET_TICKS)]
            jobs = [store.start(connections[n % len(connections)]) for n in range(options.burst)]
            for job in jobs:
                store.end(job, rows=job)
            burst = [ours.tick()]
            while burst[-1]["jobs"]:
                burst.append(ours.tick())
        stock = theirs(simulator, store.workspace, connections)

    figures = {
        "quiet tick": {"requests": max(t["requests"] for t in quiet), "seconds": median(t["seconds"] for t in quiet)},
        "dagster-airbyte, each connection": stock,
        f"tick with {options.burst} new jobs": {
            "requests": burst[0]["requests"], "seconds": burst[0]["seconds"], "runs": burst[0]["runs"],
        },
    }  # fmt: skip
    for name, figure in figures.items():
        print(f"{name:34}  {figure['requests']:6,} requests  {figure['seconds']:8.3f} s")
    print(f"{'ratio of a quiet tick':34}  {stock['requests'] / figures['quiet tick']['requests']:6,.0f} ×         "
          f"{stock['seconds'] / figures['quiet tick']['seconds']:8.0f} ×")  # fmt: skip
    print(f"{'longest cursor':34}  {ours.longest:6,} characters")
    if options.json:
        options.json.write_text(json.dumps({**figures, "cursor": ours.longest}, indent=2))
    wrong = []
    if figures["quiet tick"]["requests"] != 1:
        wrong.append("a quiet tick is more than one request")
    if ours.told != dict.fromkeys(jobs, 1):
        wrong.append(
            f"{len({*jobs} - ours.told.keys())} jobs lost, {sum(n > 1 for n in ours.told.values())} told twice"
        )
    if wrong:
        sys.exit("; ".join(wrong))


class Ours:
    """The sensor, over a source and a bronze model for each connection."""

    def __init__(self, instance: Any, simulator: Any, connections: list[str]) -> None:
        graph = read(manifest(connections), {})
        airbyte = Airbyte(AirbyteServer(simulator.url))
        inventory = Inventory(airbyte, source_tables(graph))
        self.instance, self.simulator = instance, simulator
        self.sensor = airbyte_sync_sensor(Listening(graph, airbyte, inventory, "http://localhost", 3600))
        self.cursor: str | None = None
        self.told: Counter[int] = Counter()
        self.longest = 0

    def tick(self) -> dict[str, Any]:
        """Evaluate, and store as the daemon does; only the evaluation is measured."""
        sent, began = len(self.simulator.requests), time.perf_counter()
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, sensor_name=self.sensor.name
        ) as context:
            result = self.sensor(context)
        seconds, requests = time.perf_counter() - began, len(self.simulator.requests) - sent
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        self.longest = max(self.longest, len(self.cursor or ""))
        jobs = [
            int(event.metadata[SYNC_ID].value)  # type: ignore[arg-type]
            for event in result.asset_events
            if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == CHECK
        ]
        self.told.update(jobs)
        return {"seconds": seconds, "requests": requests, "runs": len(result.run_requests or ()), "jobs": len(jobs)}


def theirs(simulator: Any, workspace: str, connections: list[str]) -> dict[str, Any]:
    """What a sensor over dagster-airbyte's client would ask: the jobs of the last hour, connection by connection."""
    client = AirbyteClient(
        rest_api_base_url=simulator.url,
        configuration_api_base_url=simulator.url,
        workspace_id=workspace,
        username="nobody",
        password="none",
        request_max_retries=0,
        request_retry_delay=0,
        request_timeout=10,
    )
    sent, began = len(simulator.requests), time.perf_counter()
    for connection in connections:
        client.get_jobs_for_connection(connection, created_after=datetime.now(UTC) - timedelta(hours=1))
    return {"requests": len(simulator.requests) - sent, "seconds": time.perf_counter() - began}


def manifest(connections: list[str]) -> dict[str, Any]:
    """A dbt manifest with a source and a bronze model for each connection."""
    sources: dict[str, Any] = {}
    nodes: dict[str, Any] = {}
    for number, connection in enumerate(connections):
        source, model = f"source.bench.s{number}.t", f"model.bench.stg_{number}"
        common = {"package_name": "bench", "patch_path": None, "database": "lake", "original_file_path": "models/x.yml"}
        sources[source] = {
            **common, "unique_id": source, "resource_type": "source", "source_name": f"s{number}", "name": "t",
            "fqn": ["bench", f"s{number}", "t"], "schema": f"s{number}", "identifier": "t",
            "source_meta": {"lakehouse": {"airbyte": {"connection": connection}}}, "config": {"meta": {}},
        }  # fmt: skip
        nodes[model] = {
            **common, "unique_id": model, "resource_type": "model", "name": f"stg_{number}", "version": None,
            "fqn": ["bench", "bronze", f"stg_{number}"], "original_file_path": f"models/bronze/stg_{number}.sql",
            "schema": "bronze", "alias": f"stg_{number}", "relation_name": f"bronze.stg_{number}",
            "config": {"materialized": "table", "meta": {}}, "depends_on": {"nodes": [source]},
        }  # fmt: skip
    metadata = {"adapter_type": "duckdb", "project_name": "bench", "invocation_id": str(uuid.uuid4())}
    return {"metadata": metadata, "nodes": nodes, "sources": sources, "exposures": {}}


if __name__ == "__main__":
    main()
