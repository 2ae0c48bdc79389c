"""Arrivals against the bare tools that read the same, and against dlt: `database`, and `files`.

`database` starts a PostgreSQL of its own, with a table of ten columns of different types. It compares `sync_table` with
`COPY … TO` a CSV file that DuckDB reads into a table. `files` writes small CSV files, and compares `FileLoader` with
DuckDB's `read_csv` of the same. `listing` writes many small files, and measures a tick of their sensor. Each side is a
process of its own. Exits with 1 if the contents differ from the source, or if a side of ours needs more than 500 MB of
memory.

With `--s3 s3://bucket/prefix`, `files` and `listing` write to an empty prefix of a bucket, and compare with a bare read
and listing of it by obstore. The variables AWS_* have its address and the credentials.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
#: The sum of 60 bits of the MD5 of each row of the files.
PRICES_SUM = (
    "SELECT sum(('0x' || substr(md5(market || '|' || epoch(starts)::bigint || '|' || price || '|' || volume), 1, 15))"
    "::bigint)::varchar FROM {table}"
)


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    database = commands.add_parser("database", help="a table of PostgreSQL")
    database.add_argument("--rows", type=int, default=1_000_000, help="how many (default: %(default)s)")
    database.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    database.set_defaults(run=compare_database)
    files = commands.add_parser("files", help="small CSV files")
    files.add_argument("--files", type=int, default=10_000, help="how many (default: %(default)s)")
    files.add_argument("--rows", type=int, default=100, help="rows of each (default: %(default)s)")
    files.add_argument("--s3", metavar="ADDRESS", help="an empty prefix of a bucket, instead of a disk")
    files.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    files.set_defaults(run=compare_files)
    listing = commands.add_parser("listing", help="a tick of the sensor for files")
    listing.add_argument("--files", type=int, default=100_000, help="how many (default: %(default)s)")
    listing.add_argument("--s3", metavar="ADDRESS", help="an empty prefix of a bucket, instead of a disk")
    listing.set_defaults(run=measure_listing)
    for name, run in (("sync", _sync), ("bare", _bare), ("load", _load), ("read-csv", _read_csv), ("get", _get)):
        child = commands.add_parser(name)
        child.add_argument("source")
        child.add_argument("folder", type=Path)
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare_database(options: argparse.Namespace) -> None:
    """Copy a table by both sides, and compare."""
    sys.path.insert(0, str(ROOT / "orchestration" / "dagster" / "tests" / "unit"))
    from postgres_server import postgres_server

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
        _progress("dlt")
        figures["dlt"] = _dlt("database", server.url(name), folder)
        correct.append(figures["dlt"]["rows"] == options.rows)
        server.ask(CHANGES, database=name)
        _progress("sync of 1% changed and 1% deleted rows")
        figures["changes"] = _child("sync", server.url(name), Path(folder))
        correct.append(figures["changes"]["sum"] == [list(row) for row in server.ask(POSTGRES_SUM, database=name)])
    print(f"{options.rows:,} rows of PostgreSQL into DuckDB; contents equal by checksum")
    _print(
        figures,
        {
            "bare": "COPY to CSV, read by DuckDB",
            "sync": "full sync",
            "dlt": "dlt, full load",
            "changes": "incremental sync, 1% changed and 1% deleted",
        },
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if not all(correct):
        sys.exit("The contents differ from the source.")
    _check_memory(figures["sync"], figures["changes"])


def compare_files(options: argparse.Namespace) -> None:
    """Load files by both sides, and compare."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        folder = Path(text)
        source = options.s3 or str(folder / "in")
        _progress(f"writing {options.files:,} files")
        _put(source, ((f"{number:06}.csv", _prices(number, options.rows)) for number in range(options.files)))
        bare = ("get", "obstore.get of each") if options.s3 else ("read-csv", "read_csv of DuckDB")
        labels = dict([bare, ("load", "load with quarantine and list of files")])
        figures = {}
        for side in labels:
            _progress(side)
            figures[side] = _child(side, source, folder)
        if not options.s3:
            _progress("dlt")
            figures["dlt"] = _dlt("files", str(folder), source)
            labels["dlt"] = "dlt"
    where = "S3" if options.s3 else "a disk"
    print(f"{options.files:,} CSV files of {options.rows} rows on {where} into DuckDB; contents equal by checksum")
    _print(figures, labels)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if {each["rows"] for each in figures.values()} != {options.files * options.rows}:
        sys.exit("The numbers of rows differ from the files.")
    if figures["load"]["sum"] != _sum_of_prices(options.files, options.rows):
        sys.exit("The rows differ from the files.")
    _check_memory(figures["load"])


def _prices(number: int, rows: int) -> str:
    lines = [f"M{row % 4},2026-01-01T00:00:00Z,{number}.{row:02},{row}\n" for row in range(rows)]
    return "market,starts,price,volume\n" + "".join(lines)


def _sum_of_prices(files: int, rows: int) -> str:
    """Return the checksum that the rows of all files have."""
    import duckdb

    made = (
        "(SELECT 'M' || row % 4 AS market, timestamptz '2026-01-01 00:00:00Z' AS starts, "
        "(number || '.' || lpad(row::text, 2, '0'))::decimal(12,2) AS price, row::int AS volume "
        f"FROM range({files}) AS files(number), range({rows}) AS rows(row))"
    )
    with duckdb.connect() as db:
        return str(db.execute(PRICES_SUM.format(table=made)).fetchall()[0][0])


def measure_listing(options: argparse.Namespace) -> None:
    """Measure the listing of a sensor's tick, against a bare one."""
    import obstore
    from lakehouse_analytics.arrivals.files.pattern import FilePattern
    from lakehouse_analytics.arrivals.files.storage import FileStorage
    from lakehouse_analytics.arrivals.files.versions import fingerprint

    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        root = options.s3 or text
        _put(root, ((f"{number % 100:02}/2026-01-01_{number:06}.csv", "n\n1\n") for number in range(options.files)))
        storage = FileStorage(FilePattern(f"{root}/**/{{date}}_*.csv"))
        bare = _measured(
            (lambda: sum(len(page) for page in obstore.list(_store(root))))
            if options.s3
            else (lambda: sum(path.stat().st_size for path in Path(text).rglob("*.csv")))
        )
        found: list[int] = []
        ours = _measured(lambda: found.append(fingerprint(storage.settled())[1]))
    print(f"{options.files:,} files on {'S3' if options.s3 else 'a disk'}")
    label = "obstore.list" if options.s3 else "rglob and stat"
    _print({"bare": bare, "tick": ours}, {"bare": label, "tick": "tick of the sensor"})
    if found != [options.files]:
        sys.exit("Not all files were listed.")


def _store(root: str) -> Any:
    """Return the store of a folder, or of an address on S3."""
    from obstore.store import LocalStore, S3Store

    if "://" not in root:
        return LocalStore(root, mkdir=True)
    address = urlsplit(root)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {"endpoint": endpoint, "client_options": {"allow_http": True}} if endpoint else {}
    return S3Store(address.netloc, prefix=address.path.strip("/"), **options)


def _put(root: str, files: Iterator[tuple[str, str]]) -> None:
    """Write files, several at the same time, and wait until they may be read."""
    import obstore

    store = _store(root)
    with ThreadPoolExecutor(16) as threads:
        for batch in iter(lambda: list(itertools.islice(files, 1000)), []):
            list(threads.map(lambda file: obstore.put(store, file[0], file[1].encode()), batch))
    if "://" not in root:
        time.sleep(6)  # a file that has just changed is not read yet


def _check_memory(*figures: dict[str, Any]) -> None:
    if max(each["memory"] for each in figures) > MAX_MEMORY:
        sys.exit(f"More than {MAX_MEMORY} MB of memory were needed.")


def _print(figures: dict[str, dict[str, Any]], labels: dict[str, str]) -> None:
    """Print the sides, with the first one as the base of the ratios."""
    bare = figures[next(iter(labels))]["seconds"]
    for side, label in labels.items():
        each = figures[side]
        print(f"  {label:44}{each['seconds']:6.1f} s {each['seconds'] / bare:5.1f}x {each['memory']:6.0f} MB")


def _child(side: str, url: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, side, url, str(folder)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _dlt(kind: str, *arguments: str) -> dict[str, Any]:
    """Load with dlt, in its own environment: DLT_PYTHON, which `make bench-arrivals` installs."""
    python = os.environ.get("DLT_PYTHON") or sys.exit("DLT_PYTHON is not set: run `make bench-arrivals`.")
    command = [python, str(Path(__file__).with_name("arrivals_dlt.py")), kind, *arguments]
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

    source = connection("bench", SCHEMES, {"LAKEHOUSE_CONNECTION_BENCH": options.source})
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
            with path.open("wb") as file, psycopg2.connect(options.source) as session, session.cursor() as cursor:
                cursor.copy_expert("copy customers to stdout (format csv, header)", file)
            db.execute(f"create table customers as from read_csv('{path}', columns = {BARE_TYPES})")
            db.execute("checkpoint")

        figures = _measured(work)
        rows = db.execute(DUCKDB_SUM.format(table="customers")).fetchall()
    path.unlink()
    print(json.dumps(figures | {"sum": [list(row) for row in rows]}))


def _load(options: argparse.Namespace) -> None:
    from lakehouse_analytics.arrivals.files.load import FileLoader, FileTables
    from lakehouse_analytics.arrivals.files.storage import storage_of
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable
    from lakehouse_analytics.contract.arrivals import FileArrival

    names = ("prices", "prices__files", "prices__quarantine")
    tables = FileTables(*(DuckDBTable(options.folder / "lake.duckdb", 60, "raw", name) for name in names))
    arrival = FileArrival(
        files=f"{options.source}/*.csv", columns={"starts": "timestamptz", "price": "decimal(12,2)", "volume": "int"}
    )
    loader = FileLoader(arrival, storage_of(arrival, ROOT), tables, log=lambda _: None)
    figures = _measured(lambda: [*loader.load_new()])
    [(rows,)] = tables.rows.query("SELECT count(*) FROM {table}")
    [(checksum,)] = tables.rows.query(PRICES_SUM)
    print(json.dumps(figures | {"rows": rows, "sum": checksum}))


def _read_csv(options: argparse.Namespace) -> None:
    import duckdb

    columns = "{'market': 'VARCHAR', 'starts': 'TIMESTAMPTZ', 'price': 'DECIMAL(12,2)', 'volume': 'INTEGER'}"
    with duckdb.connect(options.folder / "bare.duckdb") as db:
        query = f"create table prices as from read_csv('{options.source}/*.csv', columns = {columns})"
        figures = _measured(lambda: (db.execute(query), db.execute("checkpoint")))
        print(json.dumps(figures | {"rows": db.execute("select count(*) from prices").fetchall()[0][0]}))


def _get(options: argparse.Namespace) -> None:
    import asyncio

    import obstore

    store = _store(options.source)
    rows = 0

    async def get(path: str, slots: asyncio.Semaphore) -> int:
        async with slots:
            content = await (await obstore.get_async(store, path)).bytes_async()
            return bytes(content).count(b"\n") - 1

    async def work() -> None:
        nonlocal rows
        slots = asyncio.Semaphore(32)
        rows = sum(await asyncio.gather(*(get(one["path"], slots) for page in obstore.list(store) for one in page)))

    figures = _measured(lambda: asyncio.run(work()))
    print(json.dumps(figures | {"rows": rows}))


def _progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
