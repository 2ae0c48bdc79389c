"""One tick of the Airbyte sensor against asking each connection as dagster-airbyte's client does.

The Airbyte is the simulator of this project, on loopback: 1,000 connections and 10,000 jobs of history. Then 300
connections whose syncs end together, again and again, over a Dagster that remembers 268 syncs of each: with rows, and
without any, which asks what the jobs before them left.

Exits with 1 when a quiet tick is more than one request, when of a burst of jobs one is lost or reported twice, when a
tick reads events of Dagster's history that are older than the tick before, or when it reads a history for each table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from dagster_airbyte.resources import AirbyteClient
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.devtools.airbyte_simulator import Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteServer
from lakehouse_analytics.triggers.airbyte.events import SYNC_ID
from lakehouse_analytics.triggers.airbyte.sensor import airbyte_sync_sensor
from lakehouse_analytics.triggers.airbyte.snapshot import ConnectionCache
from lakehouse_analytics.triggers.airbyte.workspace import AirbyteWorkspace, source_tables
from lakehouse_analytics.triggers.event_log import PAGE
from lakehouse_analytics.triggers.events import SYNC_CHECK

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
    parser.add_argument(
        "--together", type=int, default=300, help="connections that end together (default: %(default)s)"
    )
    parser.add_argument("--times", type=int, default=6, help="how often they do (default: %(default)s)")
    parser.add_argument("--past", type=int, default=268, help="syncs of each that Dagster has (default: %(default)s)")
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

    together = all_at_once(options.together, options.times, options.past, rows=1)
    empty = all_at_once(options.together, options.times, options.past, rows=0)
    figures = {
        "quiet tick": {"requests": max(t["requests"] for t in quiet), "seconds": median(t["seconds"] for t in quiet)},
        "dagster-airbyte, each connection": stock,
        f"tick with {options.burst} new jobs": {
            "requests": burst[0]["requests"], "seconds": burst[0]["seconds"], "runs": burst[0]["runs"],
        },
    }  # fmt: skip
    figures[f"slowest tick of {options.together} that end together"] = together
    figures["the same, without rows"] = empty
    for name, figure in figures.items():
        print(f"{name:42}  {figure['requests']:6,} requests  {figure['seconds']:8.3f} s")
    print(f"{'ratio of a quiet tick':42}  {stock['requests'] / figures['quiet tick']['requests']:6,.0f} ×         "
          f"{stock['seconds'] / figures['quiet tick']['seconds']:8.0f} ×")  # fmt: skip
    print(f"{'longest cursor':42}  {ours.longest:6,} characters")
    if options.json:
        options.json.write_text(json.dumps({**figures, "cursor": ours.longest}, indent=2))
    wrong = []
    if figures["quiet tick"]["requests"] != 1:
        wrong.append("a quiet tick is more than one request")
    if ours.reported != dict.fromkeys(jobs, 1):
        wrong.append(
            f"{len({*jobs} - ours.reported.keys())} jobs lost, "
            f"{sum(n > 1 for n in ours.reported.values())} reported twice"
        )
    for tick, stored in ((together, 2 * options.together), (empty, options.together)):
        # Beside them the newest one, twice, and what is left of a page.
        if tick["events"] > stored + PAGE + 2:
            wrong.append(f"a tick read {tick['events']} events, and the one before stored {stored}")
    if empty["histories"]:
        wrong.append(f"a tick of jobs without rows read {empty['histories']} histories")
    if wrong:
        sys.exit("; ".join(wrong))


def all_at_once(connections: int, times: int, past: int, *, rows: int) -> dict[str, float]:
    """The slowest of some ticks, each of which finds one job of every connection, and the events that it read."""
    clock = Clock()
    clock.behind = timedelta(0)
    store = Store(clock)
    names = [store.add_connection(f"connection {n}", streams=["t"]) for n in range(connections)]
    found: list[dict[str, float]] = []
    with Simulator(store).serving() as simulator, dg.DagsterInstance.ephemeral() as instance:
        ours = Ours(instance, simulator, names)
        ours.tick()
        for number in range(times + 1):
            for name in names:
                store.end(store.start(name), rows=rows, bytes=rows)
            clock.behind -= timedelta(seconds=400)  # longer than the overlap
            with counting(instance) as read:
                tick = ours.tick(keep=True)
            if number:
                found.append({**tick, "events": read["events"], "histories": read["histories"]})
            else:
                multiply(instance, past)  # what the first one stored
                ours.tick()
    return max(found, key=lambda tick: tick["seconds"])


@contextmanager
def counting(instance: Any) -> Iterator[Counter[str]]:
    """The numbers of events that an instance reads meanwhile, and of histories that it reads them from."""
    read: Counter[str] = Counter()
    storage = instance.event_log_storage
    of_run, of_check = storage.get_records_for_run, storage.get_asset_check_execution_history

    def records(*args: Any, **more: Any) -> Any:
        page = of_run(*args, **more)
        read["events"] += len(page.records)
        return page

    def history(*args: Any, **more: Any) -> Any:
        rows = of_check(*args, **more)
        read["events"] += len(rows)
        read["histories"] += 1
        return rows

    storage.get_records_for_run, storage.get_asset_check_execution_history = records, history
    try:
        yield read
    finally:
        storage.get_records_for_run, storage.get_asset_check_execution_history = of_run, of_check


def multiply(instance: Any, times: int) -> None:
    """Give each stored event so many copies, as if so many syncs had been recorded before."""
    with instance.event_log_storage.index_connection() as connection:
        for table in ("event_logs", "asset_check_executions"):
            columns = [row[1] for row in connection.exec_driver_sql(f"pragma table_info({table})") if row[1] != "id"]
            names, copied = ", ".join(columns), ", ".join(f"a.{column}" for column in columns)
            connection.exec_driver_sql(
                f"insert into {table} ({names}) select {copied} from (with recursive n(i) as (select 1 union all "
                f"select i + 1 from n where i < {times - 1}) select i from n) n cross join {table} a"
            )


class Ours:
    """The sensor, over a source and a bronze model for each connection."""

    def __init__(self, instance: Any, simulator: Any, connections: list[str]) -> None:
        graph = read(manifest(connections), {})
        airbyte = Airbyte(AirbyteServer(simulator.url))
        cache = ConnectionCache(airbyte, source_tables(graph))
        self.instance, self.simulator = instance, simulator
        self.sensor = airbyte_sync_sensor(AirbyteWorkspace(graph, airbyte, cache, "http://localhost", 3600))
        self.cursor: str | None = None
        self.reported: Counter[int] = Counter()
        self.longest = 0

    def tick(self, *, keep: bool = False) -> dict[str, Any]:
        """Evaluate, and, to `keep` them, store the events as the daemon does; only the evaluation is measured."""
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
            if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == SYNC_CHECK
        ]
        self.reported.update(jobs)
        if keep:
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
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
