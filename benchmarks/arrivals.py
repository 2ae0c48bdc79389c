"""Files that arrive, against the bare tools that read the same, and against dlt: `files`, and `listing`.

`files` writes small CSV files, and compares `FileLoader` with DuckDB's `read_csv` of the same. `listing` writes many
small files, and measures a tick of their sensor. Each side is a process of its own. Exits with 1 if the contents differ
from the files, or if the load needs more than 500 MB of memory.

With `--s3 s3://bucket/prefix`, both write to an empty prefix of a bucket, and compare with a bare read and listing of
it by obstore. The variables AWS_* have its address and the credentials.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sides import check_memory, measured, print_ratios, progress, run_dlt, run_side

# ruff: noqa: PLC0415  # each process imports what it measures

ROOT = Path(__file__).resolve().parents[1]
#: The sum of 60 bits of the MD5 of each row of the files.
PRICES_SUM = (
    "SELECT sum(('0x' || substr(md5(market || '|' || epoch(starts)::bigint || '|' || price || '|' || volume), 1, 15))"
    "::bigint)::varchar FROM {table}"
)


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
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
    for name, run in (("load", _load), ("read-csv", _read_csv), ("get", _get)):
        child = commands.add_parser(name)
        child.add_argument("source")
        child.add_argument("folder", type=Path)
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare_files(options: argparse.Namespace) -> None:
    """Load files by both sides, and compare."""
    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        folder = Path(text)
        source = options.s3 or str(folder / "in")
        progress(f"writing {options.files:,} files")
        _put(source, ((f"{number:06}.csv", _prices(number, options.rows)) for number in range(options.files)))
        bare = ("get", "obstore.get of each") if options.s3 else ("read-csv", "read_csv of DuckDB")
        labels = dict([bare, ("load", "load with quarantine and list of files")])
        figures = {}
        for side in labels:
            progress(side)
            figures[side] = run_side(__file__, side, source, str(folder))
        if not options.s3:
            progress("dlt")
            figures["dlt"] = run_dlt("files", str(folder), source)
            labels["dlt"] = "dlt"
    where = "S3" if options.s3 else "a disk"
    print(f"{options.files:,} CSV files of {options.rows} rows on {where} into DuckDB; contents equal by checksum")
    print_ratios(figures, labels)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if {each["rows"] for each in figures.values()} != {options.files * options.rows}:
        sys.exit("The numbers of rows differ from the files.")
    if figures["load"]["sum"] != _sum_of_prices(options.files, options.rows):
        sys.exit("The rows differ from the files.")
    check_memory([figures["load"]])


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
        bare = measured(
            (lambda: sum(len(page) for page in obstore.list(_store(root))))
            if options.s3
            else (lambda: sum(path.stat().st_size for path in Path(text).rglob("*.csv")))
        )
        found: list[int] = []
        ours = measured(lambda: found.append(fingerprint(storage.settled())[1]))
    print(f"{options.files:,} files on {'S3' if options.s3 else 'a disk'}")
    label = "obstore.list" if options.s3 else "rglob and stat"
    print_ratios({"bare": bare, "tick": ours}, {"bare": label, "tick": "tick of the sensor"})
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
    figures = measured(lambda: [*loader.load_new()])
    [(rows,)] = tables.rows.query("SELECT count(*) FROM {table}")
    [(checksum,)] = tables.rows.query(PRICES_SUM)
    print(json.dumps(figures | {"rows": rows, "sum": checksum}))


def _read_csv(options: argparse.Namespace) -> None:
    import duckdb

    columns = "{'market': 'VARCHAR', 'starts': 'TIMESTAMPTZ', 'price': 'DECIMAL(12,2)', 'volume': 'INTEGER'}"
    with duckdb.connect(options.folder / "bare.duckdb") as db:
        query = f"create table prices as from read_csv('{options.source}/*.csv', columns = {columns})"
        figures = measured(lambda: (db.execute(query), db.execute("checkpoint")))
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

    figures = measured(lambda: asyncio.run(work()))
    print(json.dumps(figures | {"rows": rows}))


if __name__ == "__main__":
    main()
