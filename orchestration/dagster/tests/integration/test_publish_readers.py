"""Readers that join the layers while runs publish, fail their gates and are killed, and maintenance passes.

Each run builds a new generation of the data, which is a column of every layer. So a reader knows which rows there must
be, and a mixture of two publications is seen as two generations.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pytest
from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.settings import repository_root
from pyiceberg.table import Table

from .conftest import FILES
from .databases import Trino, new_database
from .run_server import CODE, Job, RunServer
from .stack import empty_database

pytestmark = pytest.mark.engine("trino")

#: More with LAKEHOUSE_TEST_RUNS; LAKEHOUSE_TEST_SEED repeats what happened to them, though not the moments.
RUNS = int(os.environ.get("LAKEHOUSE_TEST_RUNS", "4"))
#: No run begins after so many seconds.
LIMIT = float(os.environ.get("LAKEHOUSE_TEST_SECONDS", "86400"))
#: How many seconds ago the readers read.
AS_OF = os.environ.get("LAKEHOUSE_TEST_AS_OF", "1")
ROWS = 10
LAYERS = {"bronze": "stg_orders", "silver": "orders", "gold": "revenue"}
NAMES = [Name(schema, table) for schema, table in LAYERS.items()]
#: The gate that fails because of a generation's data.
GOOD, BAD_FOR_SILVER, BAD_FOR_GOLD = 0, 1, 2

PROJECT = {name: text for name, text in FILES.items() if name.startswith(("dbt_project", "macros/"))} | {
    "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: generations}]}]",
    "models/bronze/stg_orders.sql": """
        {{ config(materialized='incremental', incremental_strategy='append') }}
        select r.generation, n as id, r.fault
        from {{ source('raw', 'generations') }} as r
        cross join unnest(sequence(1, ROWS)) as t (n)
        {% if is_incremental() %}
        where r.generation > (select coalesce(max(generation), 0) from {{ this }})
        {% endif %}
        """.replace("ROWS", str(ROWS)),
    "models/silver/orders.sql": "select generation, id, fault from {{ ref('stg_orders') }}",
    "models/silver/silver.yml": """
        models:
          - name: orders
            columns: [{name: fault, data_tests: [{accepted_values: {arguments: {values: [0, 2], quote: false}}}]}]
        """,
    "models/gold/revenue.sql": """
        select max(generation) as generation, count(*) as n, count_if(fault <> 0) as bad from {{ ref('orders') }}
        """,
    "models/gold/gold.yml": """
        models:
          - name: revenue
            columns: [{name: bad, data_tests: [{accepted_values: {arguments: {values: [0], quote: false}}}]}]
        """,
}


@dataclass
class Counts:
    """What happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    #: What each publication took between the time in the history and the commit, by generation.
    seconds: dict[int, float] = field(default_factory=dict)
    published: list[int] = field(default_factory=list)
    #: When it had ended, and how many seconds of history it kept.
    maintenance: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class World:
    """The project on an empty catalog, and what runs it."""

    root: Path
    database: Trino
    branches: SqlBranchCatalog
    server: RunServer
    choices: random.Random
    counts: Counts = field(default_factory=Counts)
    #: How long a run that published took.
    typical: list[float] = field(default_factory=list)
    unfinished: list[tuple[Job, int]] = field(default_factory=list)

    def load(self, generation: int, fault: int) -> None:
        """Write a new generation; those before it have been repaired."""
        rows = {"generation": [*range(1, generation + 1)], "fault": [*([GOOD] * (generation - 1)), fault]}
        table = pa.table(rows, pa.schema([("generation", pa.int64()), ("fault", pa.int64())]))
        catalog = open_catalog(self.database.catalog)
        if generation == 1:
            catalog.create_table(("raw", "generations"), table.schema)
        catalog.load_table(("raw", "generations")).overwrite(table)

    def start(self) -> tuple[Job, str]:
        run_id = str(uuid.uuid4())
        return self.server.start("run", run_id=run_id), run_id

    def kill(self, job: Job) -> None:
        """Kill a run at a random moment: half of them around their publication, if they get there."""
        typical = statistics.median(self.typical)
        end = time.monotonic() + self.choices.uniform(0, typical * 1.1)
        if self.choices.random() < 0.5:
            while job.is_alive and not job.is_publishing:
                time.sleep(0.01)
            end = time.monotonic() + self.choices.uniform(0, 1.5)
        while job.is_alive and time.monotonic() < end:
            time.sleep(0.01)
        if job.is_alive:
            job.kill(with_dbt=self.choices.random() < 0.7)

    def publications(self, run_id: str) -> int:
        """The number of tables that a run has published."""
        with self.branches.transaction("The test") as session:
            count = "select count(*) from lakehouse_publications where catalog_name = :catalog and publication = :run"
            return int(session.run(count, run=run_id)[0][0])

    def maintain(self) -> None:
        """Start maintenance, which forgets earlier states once in a while."""
        seconds = self.choices.choice([15, 3600, 3600])
        self.unfinished.append((self.server.start("maintain", retain=f"{seconds}s"), seconds))

    def settle(self) -> None:
        """Wait for maintenance, if it is running. It may have skipped tables, but has not failed."""
        for job, seconds in self.unfinished:
            job.wait()
            assert job.result, job.log[-6000:]
            assert job.result["success"], job.log[-6000:]
            print(f"maintenance, {seconds} s:", job.result["steps"], flush=True)  # noqa: T201
            self.counts.maintenance.append((time.time(), seconds))
        self.unfinished.clear()

    def step(self, generation: int, plan: str) -> None:
        """One run on a new generation, and what it must have done."""
        fault = self.choices.choice([BAD_FOR_SILVER, BAD_FOR_GOLD]) if plan == "fail" else GOOD
        self.load(generation, fault)
        began = time.monotonic()
        job, run_id = self.start()
        if plan == "kill":
            self.kill(job)
        job.wait()
        result = job.result
        tables = self.publications(run_id)
        print(generation, plan, f"{time.monotonic() - began:.1f} s", result, tables, flush=True)  # noqa: T201
        assert tables in (0, 3), job.log[-4000:]
        if plan == "fail":
            assert result, job.log[-6000:]
            assert not result["success"]
            assert "Nothing was published because of " in result["failure"], result["failure"]
            assert tables == 0
        elif plan == "run" or result:
            assert result, job.log[-6000:]
            assert result["success"], result["failure"] + job.log[-6000:]
            assert tables == 3
            self.counts.seconds[generation] = result["seconds"]
            self.typical.append(time.monotonic() - began)
        if tables:
            self.counts.published.append(generation)
        died = "killed after publication" if tables else "killed"
        self.counts.outcomes[died if result is None else "failed" if plan == "fail" else "published"] += 1


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty database for Dagster."""
    with empty_database() as address:
        yield address


@pytest.fixture
def world(tmp_path: Path, engine: str, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    database = new_database(engine, tmp_path)
    assert isinstance(database, Trino)
    for name, text in PROJECT.items():
        path = tmp_path / "dbt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip())
    (tmp_path / "home").mkdir()
    # As in production, where the locks of tables are in Dagster's PostgreSQL.
    no_logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    instance = {
        "storage": {"postgres": {"postgres_url": postgres}},
        "compute_logs": no_logs,  # the others start four processes for each step
        "telemetry": {"enabled": False},
    }
    (tmp_path / "home" / "dagster.yaml").write_text(json.dumps(instance))
    environment = {
        **database.environment,
        "DAGSTER_HOME": str(tmp_path / "home"),
        "LAKEHOUSE_DBT_PROJECT_DIR": str(tmp_path / "dbt"),
        "LAKEHOUSE_DBT_PROFILES_DIR": str(repository_root() / "dbt"),
        "LAKEHOUSE_PUBLISH": "run",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    database.ask("create schema raw")
    parsed = subprocess.run([Path(sys.executable).parent / "lakehouse", "manifest"], cwd=CODE, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr
    seed = int(os.environ.get("LAKEHOUSE_TEST_SEED", random.randrange(10**6)))
    print(f"LAKEHOUSE_TEST_SEED={seed}", flush=True)  # noqa: T201
    with RunServer(os.environ, tmp_path) as server:
        yield World(tmp_path, database, SqlBranchCatalog(database.catalog), server, random.Random(seed))


@contextmanager
def reader(root: Path) -> Iterator[Path]:
    """A process that reads for as long as the block; the file of what it has read."""
    found, stop = root / "reads", root / "stop"
    with found.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.layer_reader", AS_OF, str(stop)], cwd=CODE, stdout=out
        )
    try:
        yield found
        assert process.poll() is None
    finally:
        stop.touch()
        process.wait(30)


def files(catalog: Any, root: str) -> set[str]:
    """All files below the folders of the layers."""
    from pyarrow.fs import FileSelector

    system = catalog._load_file_io(location=root).fs_by_scheme("s3", root.removeprefix("s3://").split("/")[0])
    found = set()
    for layer in LAYERS:
        selector = FileSelector(f"{root.removeprefix('s3://')}/{layer}", allow_not_found=True, recursive=True)
        found |= {f"s3://{file.path}" for file in system.get_file_info(selector) if file.is_file}
    return found


def named(table: Table) -> set[str]:
    """The files that the metadata of a table names."""
    metadata, io = table.metadata, table.io
    found = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    for snapshot in metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(io):
            found.add(manifest.manifest_path)
            if manifest.added_snapshot_id == snapshot.snapshot_id:
                found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io)}
    return found


def mixed(rows: Collection[Any]) -> bool:
    """Whether a read has not seen the state that one publication has left."""
    if len(rows) != 1:
        return True
    [row] = rows
    generation = row[0]
    return list(row) != [generation, generation * ROWS, 0] * 3


def test_readers_see_whole_good_generations_and_nothing_is_lost_or_left(world: World) -> None:
    catalog = open_catalog(world.database.catalog)
    root = world.database.environment[f"PYICEBERG_CATALOG__{world.database.catalog.upper()}__WAREHOUSE"]
    before = files(catalog, root)
    began = time.monotonic()
    world.step(1, "run")
    time.sleep(float(AS_OF))
    with reader(world.root) as found:
        try:
            run_all(world, began)
        finally:
            reads = [json.loads(line) for line in found.read_text().splitlines()]
            report(world, reads, began)
    check_reads(world, reads)
    check_history(world)
    check_janitor(world, before, root)


def run_all(world: World, began: float) -> None:
    """A third of the runs fails a gate, and another is killed; maintenance begins with every sixth, or before it."""
    plans = (["fail", "kill", "run"] * RUNS)[: RUNS - 1]
    world.choices.shuffle(plans)
    maintained = {*world.choices.sample(range(RUNS - 1), k=math.ceil(RUNS / 6))}
    for number, plan in enumerate(plans):
        if number in maintained:
            world.maintain()
            if world.choices.random() < 0.5:
                world.settle()
        world.step(number + 2, plan)
        world.settle()
        if time.monotonic() - began > LIMIT:
            break
    time.sleep(float(AS_OF) + 1)


def report(world: World, reads: Collection[dict[str, Any]], began: float) -> None:
    kinds = Counter(read["kind"] for read in reads)
    mixtures = Counter(read["kind"] for read in reads if "rows" in read and mixed(read["rows"]))
    errors = Counter(read["kind"] for read in reads if "error" in read)
    seconds = [*world.counts.seconds.values()]
    print(  # noqa: T201
        f"{sum(world.counts.outcomes.values())} runs in {time.monotonic() - began:.0f} s: {dict(world.counts.outcomes)}; "
        f"{len(world.counts.maintenance)} times maintenance; reads {dict(kinds)}, mixed {dict(mixtures)}, "
        f"errors {dict(errors)}; publication: median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s; "
        f"run: median {statistics.median(world.typical):.1f} s",
        flush=True,
    )


def check_reads(world: World, reads: Collection[dict[str, Any]]) -> None:
    assert {read["kind"] for read in reads} == {"as of", "plain"}
    assert [read for read in reads if "error" in read] == []
    slow = {generation for generation, seconds in world.counts.seconds.items() if seconds >= float(AS_OF)}
    # Plain queries look the tables up one after the other. A publication may take longer than the readers wait.
    bad = [r for r in reads if r["kind"] == "as of" and mixed(r["rows"]) and not {*r["rows"][0][::3]} & slow]
    assert bad == []
    seen = [row for read in reads for row in read["rows"]]
    assert [row for row in seen if row[2] or row[5] or row[8]] == []
    assert {row[0] for row in seen} <= {*world.counts.published}


def check_history(world: World) -> None:
    """Every state that maintenance had to keep can be read, and is that of one publication."""
    published: dict[int, int] = {}
    for name in NAMES:
        table = open_catalog(world.database.catalog).load_table((name.schema, name.table))
        log = {entry.snapshot_id: entry.timestamp_ms for entry in table.metadata.snapshot_log}
        ids = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
        total = "generation, n, bad" if name.schema == "gold" else "max(generation), count(*), count_if(fault <> 0)"
        found: dict[int, tuple[int, int, int]] = {}
        for start in range(0, len(ids), 20):
            chunk = ids[start : start + 20]
            selects = [f"select {i}, {total} from {name} for version as of {i}" for i in chunk]
            found |= {row[0]: row[1:] for row in world.database.ask(" union all ".join(selects))}
        assert {*found} == {*ids}
        states = {found[i] for i in ids}
        assert all(n == generation * ROWS and bad == 0 for generation, n, bad in states), states
        times: dict[int, int] = {}
        for snapshot, at in sorted(log.items(), key=lambda entry: entry[1]):
            times.setdefault(found[snapshot][0], at)
        there, generations = sorted(times), world.counts.published
        print(f"{name}: {len(ids)} snapshots, {len(there)} of {len(generations)} generations", flush=True)  # noqa: T201
        # Only the oldest ones are forgotten, and what was current at the beginning of the retention is kept.
        assert there == generations[-len(there) :]
        if len(there) < len(generations):
            forgotten = max(ended - retain for ended, retain in world.counts.maintenance)
            assert times[there[0]] / 1000 <= forgotten
        for generation in there[1:]:  # merged files of the first one may have become a state of their own
            assert published.setdefault(generation, times[generation]) == times[generation]


def check_janitor(world: World, before: set[str], root: str) -> None:
    """Nothing is left by runs that failed or died, and nothing is lost."""
    stop_abandoned_queries(world.database)
    job = world.server.start("maintain", retain="1h")
    job.wait()
    assert job.result, job.log[-6000:]
    assert job.result["success"], job.log[-6000:]
    assert world.branches.branches() == []
    with world.branches.transaction("The test") as session:
        rows = session.run("select table_namespace, table_name from iceberg_tables where catalog_name = :catalog")
        schemas = session.run("select distinct namespace from iceberg_namespace_properties where catalog_name = :catalog")
        pending = session.run(
            "select metadata_location from lakehouse_dropped_tables where catalog_name = :catalog "
            "and delete_after <= now()"
        )
    assert {Name(*row) for row in rows} == {*NAMES, Name("raw", "generations")}
    assert {row[0] for row in schemas} <= {*LAYERS, "raw"}
    assert pending == []
    catalog = open_catalog(world.database.catalog)
    there = files(catalog, root)
    needed: set[str] = set()
    for name in NAMES:
        needed |= named(catalog.load_table((name.schema, name.table)))
    print(f"{len(needed)} files named, {len(needed - there)} lost, {len(there - needed - before)} left", flush=True)  # noqa: T201
    assert needed - there == set()
    assert there - needed - before == set()


def stop_abandoned_queries(database: Trino) -> None:
    """End the queries of killed runs, which Trino would do after five minutes."""
    listed = (
        "select query_id from system.runtime.queries where state not in ('FINISHED', 'FAILED') "
        "and query like '%__run_%' and query not like '%system.runtime%'"
    )
    for (query,) in database.ask(listed):
        database.ask(f"call system.runtime.kill_query(query_id => '{query}', message => 'its run is dead')")
