"""A small project of layers whose data has generations, and runs of it that publish, fail their gates or are killed.

Each run builds a new generation, which is a column of every layer. So a reader knows which rows there must be, and sees
a mixture of two publications as two generations.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pytest
from lakehouse_analytics.branches.catalog import BranchCatalog, Name
from lakehouse_analytics.branches.opening import open_branches
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.settings import repository_root

from .conftest import FILES
from .databases import Trino
from .run_server import CODE, Job, RunServer
from .stack import empty_database

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
    branches: BranchCatalog
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
        return sum(len(publication.tables) for publication in self.branches.publications(run_id))

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
            print(f"maintenance, {seconds} s:", job.result["steps"], flush=True)
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
        print(generation, plan, f"{time.monotonic() - began:.1f} s", result, tables, flush=True)
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


@contextmanager
def new_world(root: Path, database: Trino, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """The project on a database, with Dagster's storage in PostgreSQL, as in production."""
    with empty_database() as postgres:
        for name, text in PROJECT.items():
            path = root / "dbt" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).lstrip())
        (root / "home").mkdir()
        # As in production, where the locks of tables are in Dagster's PostgreSQL.
        no_logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
        instance = {
            "storage": {"postgres": {"postgres_url": postgres}},
            "compute_logs": no_logs,  # the others start four processes for each step
            "telemetry": {"enabled": False},
        }
        (root / "home" / "dagster.yaml").write_text(json.dumps(instance))
        environment = {
            **database.environment,
            "DAGSTER_HOME": str(root / "home"),
            "LAKEHOUSE_DBT_PROJECT_DIR": str(root / "dbt"),
            "LAKEHOUSE_DBT_PROFILES_DIR": str(repository_root() / "dbt"),
            "LAKEHOUSE_PUBLISH": "run",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        database.ask("create schema raw")
        parsed = subprocess.run(
            [Path(sys.executable).parent / "lakehouse", "manifest"],
            cwd=CODE,
            capture_output=True,
            text=True,
            check=False,
        )
        assert parsed.returncode == 0, parsed.stdout + parsed.stderr
        seed = int(os.environ.get("LAKEHOUSE_TEST_SEED", random.randrange(10**6)))
        print(f"LAKEHOUSE_TEST_SEED={seed}", flush=True)
        with RunServer(os.environ, root) as server:
            yield World(root, database, open_branches(database.catalog), server, random.Random(seed))
