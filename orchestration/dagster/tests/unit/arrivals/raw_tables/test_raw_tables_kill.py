"""A process that is killed while it changes a table: the table is as before or as after, with its state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from lakehouse_analytics.arrivals.raw_tables.base import Change

from .conftest import SCHEMA, TABLE, Storage

ROWS = 20_000
KILLS = int(os.environ.get("LAKEHOUSE_TEST_KILLS", "4"))
PATHS = {"PYTHONPATH": str(Path(__file__).parents[2])}
#: Changes the table again and again: each change replaces half of the rows, and adds rows and a column.
PROGRAM = """
import sys
from pathlib import Path
from lakehouse_analytics.arrivals.raw_tables.base import Change
kind, place, schema, name, rows = sys.argv[1:]
if kind == "duckdb":
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
    table = DuckDBTable(Path(place), 5.0, schema, name)
elif kind == "clickhouse":
    from raw_clickhouse import clickhouse_table
    table = clickhouse_table(Path(place), schema, name)
else:
    from lakehouse_analytics.arrivals.raw_tables.iceberg import IcebergTable
    table = IcebergTable("lake", schema, name)
while True:
    state = table.read()
    n = state.state["n"] + 1
    columns = {"id": "BIGINT", "n": "BIGINT", f"c{n}": "BIGINT"}
    print(n, flush=True)
    table.apply(Change(columns, [Path(rows) / f"{n}.parquet"], {"n": n}, key=["id"]), state)
"""


def test_a_killed_change_leaves_the_table_as_before_or_as_after(storage: Storage, tmp_path: Path) -> None:
    random_delay = random.Random(5)
    rows = tmp_path / "rows"
    rows.mkdir()
    number, kills, inside = 0, 0, 0
    for n in range(60):
        storage.parquet(
            f"SELECT i AS id, {n}::BIGINT AS n FROM range({n} * {ROWS} // 2, {n} * {ROWS} // 2 + {ROWS}) t(i)"
        )
        (storage.root / f"rows-{n + 1}.parquet").rename(rows / f"{n}.parquet")
    table = storage.table()
    table.apply(Change({"id": "BIGINT", "n": "BIGINT"}, [rows / "0.parquet"], {"n": 0}), table.read())
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        storage.kind,
        str(storage.data / ("clickhouse" if storage.kind == "clickhouse" else "lakehouse.duckdb")),
        SCHEMA,
        TABLE,
        str(rows),
    ]
    # At least one kill must be inside of a change, which on a busy machine may take some attempts.
    while kills < KILLS or (not inside and kills < 5 * KILLS):
        kills += 1
        process = subprocess.Popen(
            command,
            env=os.environ | storage.environment | PATHS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        started = int(process.stdout.readline())  # it begins a change now
        time.sleep(random_delay.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        output, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        last = max([started, *map(int, output.split())])
        state = table.read()
        number = state.state["n"]
        assert number in (last - 1, last), errors
        inside += number == last - 1
        # Ids from 0 on, each once, with the number of the last change that had it.
        expected = [(n, ROWS // 2) for n in range(number)] + [(number, ROWS)]
        assert list(table.query("SELECT n, count(DISTINCT id) FROM {table} GROUP BY n ORDER BY n")) == expected
        assert list(table.query("SELECT count(id), max(id) + 1 FROM {table}")) == [((number + 2) * ROWS // 2,) * 2]
        assert [name for name in state.columns if name.startswith("c")] == [f"c{n + 1}" for n in range(number)]
    assert inside > 0
