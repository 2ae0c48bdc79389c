"""Readers that join the layers while runs publish, fail their gates and are killed, and maintenance passes."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
from lakehouse_analytics.iceberg.catalog import open_catalog
from pyiceberg.table import Table

from .databases import Trino, new_database
from .generations import LAYERS, NAMES, ROWS, World, new_world
from .run_server import CODE

pytestmark = pytest.mark.engine("trino")

#: More with LAKEHOUSE_TEST_RUNS; LAKEHOUSE_TEST_SEED repeats what happened to them, though not the moments.
RUNS = int(os.environ.get("LAKEHOUSE_TEST_RUNS", "4"))
#: No run begins after so many seconds.
LIMIT = float(os.environ.get("LAKEHOUSE_TEST_SECONDS", "86400"))
#: How many seconds ago the readers read. It is more than a publication takes, also on a busy machine.
AS_OF = os.environ.get("LAKEHOUSE_TEST_AS_OF", "5")


@pytest.fixture
def world(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    database = new_database(engine, tmp_path)
    assert isinstance(database, Trino)
    with new_world(tmp_path, database, monkeypatch) as made:
        yield made


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
    """The files that the metadata of a table names, and all that its snapshots need."""
    metadata, io = table.metadata, table.io
    found = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    for snapshot in metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(io):
            if manifest.manifest_path not in found and io.new_input(manifest.manifest_path).exists():
                found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io)}
            found.add(manifest.manifest_path)
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
    print(
        f"{world.counts.outcomes.total()} runs in {time.monotonic() - began:.0f} s: {dict(world.counts.outcomes)}; "
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
        print(f"{name}: {len(ids)} snapshots, {len(there)} of {len(generations)} generations", flush=True)
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
    branches = world.branches
    assert isinstance(branches, SqlBranchCatalog)
    assert branches.branches() == []
    with branches.transaction("The test") as session:
        rows = session.run("select table_namespace, table_name from iceberg_tables where catalog_name = :catalog")
        schemas = session.run(
            "select distinct namespace from iceberg_namespace_properties where catalog_name = :catalog"
        )
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
    print(f"{len(needed)} files named, {len(needed - there)} lost, {len(there - needed - before)} left", flush=True)
    assert needed - there == set()
    assert there - needed - before == set()


def stop_abandoned_queries(database: Trino) -> None:
    """End the queries of killed runs, which Trino would do after five minutes. Other tests use other catalogs."""
    listed = (
        "select query_id from system.runtime.queries where state not in ('FINISHED', 'FAILED') "
        f"and query like '%\"{database.catalog}\".\"%~_~_run~_%' escape '~' and query not like '%system.runtime%'"
    )
    for (query,) in database.ask(listed):
        database.ask(f"call system.runtime.kill_query(query_id => '{query}', message => 'its run is dead')")
