"""Arrivals against the bare tools that read the same: `database` copies a table of PostgreSQL into a DuckDB file.

`database` starts a PostgreSQL of its own, with a table of ten columns of different types. It compares `sync_table` with
`COPY … TO` a CSV file that DuckDB reads into a table. Each side is a process of its own. Exits with 1 if the contents
differ from the source, or if a sync needs more than 500 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

# ruff: noqa: PLC0415  # each process imports what it measures

ROOT = Path(__file__).resolve().parents[1]
MAX_MEMORY = 500
CONTRACT = {
    "database": "bench",
    "mode": "incremental",
    "update_key": "updated_at",
    "primary_key": "id",
    "deletes": "reconcile",
}
TABLE = """
create table customers (
  id bigint primary key, region int, name text, email varchar(80), balance numeric(12,2), score double precision,
  active boolean, born date, updated_at timestamptz, payload jsonb);
insert into customers
select id, case when id % 10 > 0 then id % 1000 end, 'Zoë ' || id, 'c' || id || '@example.com', (id % 100000) / 7.0,
  id / 4.0, id % 2 = 0, date '1950-01-01' + (id % 20000)::int, timestamptz '2026-01-01' + id * interval '1 second',
  jsonb_build_object('id', id, 'tags', array['x', 'y'])
from generate_series(1, {rows}) id"""
#: One percent of the rows, and as many deleted.
CHANGES = """
update customers set balance = -1, updated_at = '2026-06-01' where id % 100 = 0;
delete from customers where id % 100 = 1"""
BARE_TYPES = {
    "id": "BIGINT",
    "region": "INTEGER",
    "name": "VARCHAR",
    "email": "VARCHAR",
    "balance": "DECIMAL(12,2)",
    "score": "DOUBLE",
    "active": "BOOLEAN",
    "born": "DATE",
    "updated_at": "TIMESTAMPTZ",
    "payload": "VARCHAR",
}
#: The number of rows, and the sum of 60 bits of the MD5 of each row, as text that both databases write the same.
_TEXT = (
    "id::text || '|' || coalesce(region::text, '') || '|' || name || '|' || email || '|' || balance::text || '|' || "
    "(score * 4)::bigint::text || '|' || active::text || '|' || born::text || '|' || {time} || '|' || payload::text"
)
POSTGRES_SUM = (
    "select count(*), sum(('x' || substr(md5("
    + _TEXT.format(time="extract(epoch from updated_at)::bigint::text")
    + "), 1, 15))::bit(60)::bigint)::text from customers"
)
DUCKDB_SUM = (
    "select count(*), sum(('0x' || substr(md5("
    + _TEXT.format(time="epoch(updated_at)::bigint::text")
    + "), 1, 15))::bigint)::varchar from {table}"
)


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    database = commands.add_parser("database", help="a table of PostgreSQL")
    database.add_argument("--rows", type=int, default=1_000_000, help="how many (default: %(default)s)")
    database.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    database.set_defaults(run=compare_database)
    for name, run in (("sync", _sync), ("bare", _bare)):
        child = commands.add_parser(name)
        child.add_argument("url")
        child.add_argument("folder", type=Path)
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare_database(options: argparse.Namespace) -> None:
    """Copy a table by both sides, and compare."""
    sys.path.insert(0, str(ROOT / "orchestration" / "dagster" / "tests" / "unit"))
    from postgres_server import postgres_server  # type: ignore[import-not-found]

    with postgres_server() as server, tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
        name = server.new_database()
        _progress(f"writing {options.rows:,} rows")
        server.ask(TABLE.format(rows=options.rows), database=name)
        server.ask("vacuum analyze customers", database=name)
        expected = [list(row) for row in server.ask(POSTGRES_SUM, database=name)]
        figures = {}
        for side in ("bare", "sync"):
            _progress(side)
            figures[side] = _child(side, server.url(name), Path(folder))
        correct = [figures[side]["sum"] == expected for side in figures]
        server.ask(CHANGES, database=name)
        _progress("sync of 1% changed and 1% deleted rows")
        figures["changes"] = _child("sync", server.url(name), Path(folder))
        correct.append(figures["changes"]["sum"] == [list(row) for row in server.ask(POSTGRES_SUM, database=name)])
    _print(options.rows, figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if not all(correct):
        sys.exit("The contents differ from the source.")
    if max(each["memory"] for each in figures.values() if each is not figures["bare"]) > MAX_MEMORY:
        sys.exit(f"A sync needed more than {MAX_MEMORY} MB.")


def _print(rows: int, figures: dict[str, dict[str, Any]]) -> None:
    bare = figures["bare"]["seconds"]
    print(f"{rows:,} rows of PostgreSQL into DuckDB; contents equal by checksum")
    for side, label in (
        ("bare", "COPY to CSV, read by DuckDB"),
        ("sync", "full sync"),
        ("changes", "incremental sync, 1% changed and 1% deleted"),
    ):
        each = figures[side]
        print(f"  {label:44}{each['seconds']:6.1f} s {each['seconds'] / bare:5.1f}x {each['memory']:6.0f} MB")


def _child(side: str, url: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, side, url, str(folder)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _measured(work: Callable[[], Any]) -> dict[str, Any]:
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    # Not `ru_maxrss`, which may be the parent's.
    memory = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "memory": int(memory.split()[1]) / 1024}


def _sync(options: argparse.Namespace) -> None:
    from lakehouse_analytics.arrivals.connections import connection
    from lakehouse_analytics.arrivals.databases.sync import SCHEMES, sync_table
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
    from lakehouse_analytics.contract.arrivals import TableArrival

    source = connection("bench", SCHEMES, {"LAKEHOUSE_CONNECTION_BENCH": options.url})
    raw = DuckDBTable(options.folder / "lake.duckdb", timedelta(minutes=1).total_seconds(), "raw", "customers")
    arrival = TableArrival.model_validate(CONTRACT)
    figures = _measured(lambda: sync_table(arrival, raw, source, options.folder / "staging", table="customers"))
    print(json.dumps(figures | {"sum": [list(row) for row in raw.query(DUCKDB_SUM)]}))


def _bare(options: argparse.Namespace) -> None:
    import duckdb
    import psycopg2

    path = options.folder / "customers.csv"
    with duckdb.connect(options.folder / "bare.duckdb") as db:
        db.execute("SET enable_progress_bar = false")

        def work() -> None:
            with path.open("wb") as file, psycopg2.connect(options.url) as session, session.cursor() as cursor:
                cursor.copy_expert("copy customers to stdout (format csv, header)", file)
            db.execute(f"create table customers as from read_csv('{path}', columns = {BARE_TYPES})")
            db.execute("checkpoint")

        figures = _measured(work)
        rows = db.execute(DUCKDB_SUM.format(table="customers")).fetchall()
    path.unlink()
    print(json.dumps(figures | {"sum": [list(row) for row in rows]}))


def _progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
