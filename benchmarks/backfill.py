"""A year of days in one run of Dagster, against bare dbt on the same windows, and against a run a day.

All of it on the same rows, in one go; the instance in the stack's PostgreSQL, as in production, or in SQLite. Each side
is a whole process, started cold, as a launcher starts it. A run per day is measured on some days and reported per run;
multiplying is left to the reader.
"""

# ruff: noqa: PLC0415  # the runtime is imported once the environment is set

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "orchestration" / "dagster"))

from tests.integration import shop  # noqa: E402
from tests.integration.stack import STACK, empty_database  # noqa: E402

BEGIN = "2025-01-01"
MODULE = "lakehouse_analytics.definitions"
DAYS = 365
MODELS = ("days", "day_sums")


def main() -> None:
    """Measure, and print seconds and ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=20_000_000, help="orders in the year")
    options.add_argument("--runs", type=int, default=3, help="days that are built by a run each")
    options.add_argument("--microbatch", type=int, default=10, help="days of dbt's own microbatch, with the same SQL")
    arguments = options.parse_args()
    root = Path(tempfile.mkdtemp(prefix="lakehouse-bench-"))
    try:
        with empty_database() if (STACK / "env").is_file() else nullcontext() as address:
            Bench(root, arguments.rows, address).run(arguments.runs, arguments.microbatch)
    finally:
        shutil.rmtree(root)


class Bench:
    """One project on one DuckDB file, and an instance."""

    def __init__(self, root: Path, rows: int, address: str | None) -> None:
        self.root, self.database = root, root / "shop.duckdb"
        self.rows = rows
        files = shop.files(BEGIN)
        for name, text in files.items():
            path = root / "dbt" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).lstrip())
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))},
            "DAGSTER_HOME": str(root / "home"),
            "DAGSTER_EVENT_BATCH_SIZE": "1000",
            "LAKEHOUSE_DUCKDB_PATH": str(self.database),
            "LAKEHOUSE_DBT_PROJECT_DIR": str(root / "dbt"),
            "LAKEHOUSE_DBT_PROFILES_DIR": str(ROOT / "dbt"),
        }
        from duckdb import connect

        with connect(str(self.database)) as connection:
            connection.execute("create schema raw")
            connection.execute(
                "create table raw.orders as select i as id, timestamp '2025-01-01' + "
                f"to_microseconds(cast(i * (365 * 86400e6 / {rows}) as bigint)) as ordered_at, "
                f"i % 10007 as customer, 1 + i % 97 as amount from range({rows}) as r(i)"
            )
        (root / "home").mkdir()
        self.storage = "PostgreSQL" if address else "SQLite"
        settings = "telemetry: {enabled: false}\n"
        if address:
            settings += f"storage: {{postgres: {{postgres_url: '{address}'}}}}\n"
        (root / "home" / "dagster.yaml").write_text(settings)
        self.process("lakehouse", "manifest")
        self.job("full_refresh", "2025-01-01", "2025-01-01", assets=["bronze/orders"])

    def run(self, runs: int, batches: int) -> None:
        """Everything, twice where the first time makes the table."""
        last = f"{DAYS} days"
        windows = ("--event-time-start", "2025-01-01", "--event-time-end", "2026-01-01")
        dbt = ("dbt", "build", "--exclude-resource-type", "unit_test", "--select", *MODELS)
        paths = ("--project-dir", str(self.root / "dbt"), "--profiles-dir", str(ROOT / "dbt"), "--target", "local")
        seconds: dict[str, float] = {}
        planned: dict[str, float] = {}
        for turn in ("table new", "table there"):
            if turn == "table new":
                self.forget()
            seconds[f"bare dbt, {last}, {turn}"] = self.process(*dbt, *windows, *paths)
            if turn == "table new":
                self.forget()
            seconds[f"one run, {last}, {turn}"] = self.job("daily_backfill", "2025-01-01", "2025-12-31")
            planned[turn] = self.planning()
        self.check()
        each = [self.job("daily_backfill", day, day) for day in (f"2025-06-{n:02}" for n in range(1, runs + 1))]
        print(f"{self.rows:,} rows, {len(MODELS)} models; the instance in {self.storage}")
        for what, taken in seconds.items():
            print(f"{what:<40} {taken:8.1f} s")
        for turn in ("table new", "table there"):
            ratio = seconds[f"one run, {last}, {turn}"] / seconds[f"bare dbt, {last}, {turn}"]
            print(f"{'ratio, ' + turn:<40} {ratio:8.2f}")
            print(f"{'  of it before the run starts':<40} {planned[turn]:8.1f} s")
            alone = seconds[f"one run, {last}, {turn}"] - planned[turn]
            print(f"{'ratio of the run alone, ' + turn:<40} {alone / seconds[f'bare dbt, {last}, {turn}']:8.2f}")
        one = sum(each) / len(each)
        print(f"{'a run a day, mean of ' + str(runs):<40} {one:8.1f} s a day")
        if batches:
            print(f"{'microbatch of bare dbt':<40} {self.microbatch(batches, paths):8.2f} s a day")

    def planning(self) -> float:
        """Seconds from the newest run's creation to its start: Dagster writes down each partition that is planned.

        In production the webserver or the daemon does this, before there is a process of the run.
        """
        from dagster import DagsterInstance

        with DagsterInstance.from_config(str(self.root / "home")) as instance:
            [record] = instance.get_run_records(limit=1)
            return (record.start_time or 0.0) - record.create_timestamp.timestamp()

    def check(self) -> None:
        """Every partition has its event, and the day its rows."""
        from dagster import AssetKey, DagsterInstance
        from duckdb import connect

        with DagsterInstance.from_config(str(self.root / "home")) as instance:
            for table in ("silver/days", "gold/day_sums"):
                built = instance.get_materialized_partitions(AssetKey(table.split("/")))
                assert len(built) == DAYS, f"{table}: {len(built)} partitions were reported"
        with connect(str(self.database), read_only=True) as connection:
            [(days, rows)] = connection.execute("select count(*), sum(orders) from gold.day_sums").fetchall()
        assert (days, rows) == (DAYS, self.rows)

    def forget(self) -> None:
        """Drop the tables of the windows."""
        from duckdb import connect

        with connect(str(self.database)) as connection:
            connection.execute("drop table if exists silver.days")
            connection.execute("drop table if exists gold.day_sums")

    def job(self, name: str, first: str, last: str, assets: list[str] | None = None) -> float:
        """A run in a process of its own, as the default launcher starts it; seconds."""
        ends = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        if assets:
            keys = " or ".join(f"key:{asset}" for asset in assets)
            return self.process("dagster", "asset", "materialize", "-m", MODULE, "--select", keys)
        return self.process("dagster", "job", "execute", "-m", MODULE, "-j", name, "--tags", json.dumps(ends))

    def microbatch(self, days: int, paths: tuple[str, ...]) -> float:
        """Seconds a day of dbt's own strategy, over the days that follow."""
        model = self.root / "dbt" / "models" / "silver" / "batched.sql"
        config = (
            "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='ordered_at', "
            f"begin='{BEGIN}', batch_size='day') }}}}\n"
        )
        model.write_text(config + "select id, ordered_at, customer, amount from {{ ref('orders') }}")
        source = self.root / "dbt" / "models" / "bronze" / "orders.sql"
        source.write_text("{{ config(event_time='ordered_at') }}\n" + source.read_text())
        until = f"2025-03-{days + 1:02}"
        window = ("--event-time-start", "2025-03-01", "--event-time-end", until)
        return self.process("dbt", "run", "--select", "batched", *window, *paths) / days

    def process(self, *command: str) -> float:
        """Run a command to its end; seconds."""
        began = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=ROOT / "orchestration" / "dagster",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
