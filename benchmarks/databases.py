"""A table of a database against the bare tools that copy the same, and against dlt: `postgresql`, and `mariadb`.

Starts a server of its own, with a table of ten columns of different types, and copies it

- into DuckDB: by `sync_table`, and by what the database itself writes (`COPY … TO STDOUT`, `SELECT … INTO OUTFILE`)
  to a file that DuckDB reads into a table; for MariaDB, PyMySQL alone fetches the rows as well, and drops them;
- into ClickHouse: by `sync_table`, to chdb and by HTTP to another process, and by the table functions `postgresql` and
  `mysql` of chdb.

Each side is a process of its own, the sides take turns, and the medians of the rounds are printed. Exits with 1 if the
contents differ from the source, or if a sync into DuckDB or by HTTP needs more than 500 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from customers import (
    CLICKHOUSE_TABLE,
    DUCKDB_CHECKSUM,
    DUCKDB_TYPES,
    MARIADB,
    POSTGRESQL,
    Source,
    checksum_in_clickhouse,
    clickhouse,
)
from sides import Figures, check_memory, measured, medians, print_ratios, progress, run_dlt, run_side

# ruff: noqa: PLC0415  # each process imports what it measures

CONTRACT = {
    "database": "bench",
    "mode": "incremental",
    "update_key": "updated_at",
    "primary_key": "id",
    "deletes": "reconcile",
}
SYNC, CHANGES = "full sync", "incremental sync, 1% changed and 1% deleted"
TO_CLICKHOUSE = {"sync-to-chdb": SYNC, "sync-to-server": "the same, by HTTP to another process"}
#: The sides by database: names of the commands, and what is printed.
INTO_DUCKDB = {
    "postgresql": {"copy": "COPY to CSV, read by DuckDB", "sync": SYNC, "dlt": "dlt, full load"},
    "mariadb": {
        "outfile": "INTO OUTFILE, read by DuckDB",
        "fetch": "PyMySQL's fetchmany alone",
        "sync": SYNC,
        "dlt": "dlt, full load",
    },
}
INTO_CLICKHOUSE = {
    "postgresql": {"function": "ClickHouse's function postgresql()"} | TO_CLICKHOUSE,
    "mariadb": {"function": "ClickHouse's function mysql()"} | TO_CLICKHOUSE,
}


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, source in (("postgresql", POSTGRESQL), ("mariadb", MARIADB)):
        command = commands.add_parser(name, help=f"a table of {source.title}")
        command.add_argument("--rows", type=int, default=1_000_000, help="how many (default: %(default)s)")
        command.add_argument("--rounds", type=int, default=3, help="of each side (default: %(default)s, at most 9)")
        command.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
        command.set_defaults(run=partial(compare, name, source))
    sides = {
        "copy": _copy,
        "outfile": _outfile,
        "fetch": _fetch,
        "sync": _sync,
        "function": _function,
        "sync-to-chdb": _sync_to_clickhouse,
        "sync-to-server": _sync_to_clickhouse,
    }
    for name, run in sides.items():
        child = commands.add_parser(name)
        child.add_argument("source")
        child.add_argument("folder", type=Path)
        child.add_argument("address", help="of ClickHouse")
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare(name: str, source: Source, options: argparse.Namespace) -> None:
    """Copy the table by all sides, and print them."""
    from clickhouse_http import clickhouse_http

    into_duckdb, into_clickhouse = INTO_DUCKDB[name], INTO_CLICKHOUSE[name]
    folders = tempfile.TemporaryDirectory(prefix="lakehouse-bench-")
    with source.server() as server, folders as text, clickhouse_http(Path(text) / "server") as clickhouse_server:
        database = server.new_database()
        progress(f"writing {options.rows:,} rows")
        for statement in source.create:
            server.ask(statement.format(rows=options.rows), database=database)
        folder, url = Path(text), server.url(database)
        rounds = []
        for number in range(1, options.rounds + 1):
            folder = Path(text) / str(number)
            folder.mkdir(mode=0o777)
            addresses = {"sync-to-server": clickhouse_server.url}
            sides = (*into_duckdb, *into_clickhouse)
            rounds.append({side: _run(side, url, folder, addresses.get(side)) for side in sides})
            _check(rounds[-1], server.ask(source.checksum, database=database))
        changes = []
        for number in range(1, options.rounds + 1):
            for statement in source.change:
                server.ask(statement.format(number=number), database=database)
            changes.append({"changes": _run("sync", url, folder)})
            _check(changes[-1], server.ask(source.checksum, database=database))
    figures = medians(rounds) | medians(changes)
    print(f"{options.rows:,} rows of {source.title} into DuckDB; contents equal by checksum")
    print_ratios(figures, into_duckdb | {"changes": CHANGES})
    print(f"{options.rows:,} rows of {source.title} into ClickHouse; contents equal by checksum")
    print_ratios(figures, into_clickhouse)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    check_memory(figures[side] for side in ("sync", "changes", "sync-to-server"))


def _run(side: str, url: str, folder: Path, clickhouse_server: str | None = None) -> Figures:
    progress(side)
    if side == "dlt":
        return run_dlt("database", url, str(folder))
    return run_side(__file__, side, url, str(folder), clickhouse_server or f"chdb://{folder / side}")


def _check(figures: dict[str, Figures], found: Any) -> None:
    """Fail if contents differ from the source. Of dlt, and of a fetch without a table, only the rows are counted."""
    expected = [str(value) for value in found[0]]
    for side, each in figures.items():
        contents = [str(each["rows"]), expected[1]] if "rows" in each else [str(value) for value in each["sum"][0]]
        if contents != expected:
            sys.exit(f"The contents differ from the source: {side} has {contents}, and the source {expected}.")


def _copy(options: argparse.Namespace) -> None:
    """Copy by PostgreSQL's `COPY`, and by DuckDB's reader of CSV."""
    import psycopg2

    path = options.folder / "customers.csv"

    def write() -> None:
        with path.open("wb") as file, psycopg2.connect(options.source) as session, session.cursor() as cursor:
            cursor.copy_expert("copy customers to stdout (format csv, header)", file)

    _read_by_duckdb(options.folder, path, write, f"columns = {DUCKDB_TYPES}")


def _outfile(options: argparse.Namespace) -> None:
    """Copy by MariaDB's `INTO OUTFILE`, which the server writes, and by DuckDB's reader of the same."""
    path = options.folder / "customers.tsv"

    def write() -> None:
        with _mariadb(options.source) as session, session.cursor() as cursor:
            cursor.execute(f"select * from customers into outfile '{path}'")

    types = DUCKDB_TYPES | {"updated_at": "TIMESTAMP"}
    # The rows have no tabs, line feeds or backslashes, which would need `escape`.
    reading = rf"columns = {types}, delim = '\t', header = false, nullstr = '\N', quote = '', escape = ''"
    _read_by_duckdb(options.folder, path, write, reading)


def _read_by_duckdb(folder: Path, path: Path, write: Any, reading: str) -> None:
    import duckdb

    with duckdb.connect(folder / "bare.duckdb") as db:
        db.execute("SET enable_progress_bar = false")

        def work() -> None:
            write()
            db.execute(f"create table customers as from read_csv('{path}', {reading})")
            db.execute("checkpoint")

        figures = measured(work)
        rows = db.execute(DUCKDB_CHECKSUM.format(table="customers")).fetchall()
    path.unlink()
    print(json.dumps(figures | {"sum": rows}))


def _fetch(options: argparse.Namespace) -> None:
    """Fetch the rows as PyMySQL's documentation shows, unbuffered."""
    rows = 0

    def work() -> None:
        nonlocal rows
        with _mariadb(options.source) as session, session.cursor() as cursor:
            cursor.execute("select * from customers")
            while batch := cursor.fetchmany(20_000):
                rows += len(batch)

    print(json.dumps(measured(work) | {"rows": rows}))


def _mariadb(url: str) -> Any:
    import pymysql
    from pymysql.cursors import SSCursor

    address = urlsplit(url)
    return pymysql.connect(
        host=address.hostname,
        port=address.port or 3306,
        user=address.username,
        password=unquote(address.password or ""),
        database=address.path[1:],
        cursorclass=SSCursor,
    )


def _sync(options: argparse.Namespace) -> None:
    from lakehouse_analytics.arrivals.raw_tables.duckdb_file import DuckDBTable

    raw = DuckDBTable(options.folder / "lake.duckdb", timedelta(minutes=1).total_seconds(), "raw", "customers")
    figures = _measured_sync(options, raw)
    print(json.dumps(figures | {"sum": [list(row) for row in raw.query(DUCKDB_CHECKSUM)]}))


def _sync_to_clickhouse(options: argparse.Namespace) -> None:
    import clickhouse_connect  # noqa: F401
    from lakehouse_analytics.arrivals.raw_tables.clickhouse import ClickHouseTable

    database = f"round_{options.folder.name}"
    raw = ClickHouseTable(clickhouse(options.address), database, "customers", "shop/customers", ["id"])
    figures = _measured_sync(options, raw)
    print(json.dumps(figures | {"sum": [checksum_in_clickhouse(options.address, f"{database}.customers")]}))


def _measured_sync(options: argparse.Namespace, raw: Any) -> Figures:
    # Imports are not measured, on either side.
    import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]  # noqa: F401
    import duckdb  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pymysql  # noqa: F401
    from lakehouse_analytics.arrivals.connections import connection
    from lakehouse_analytics.arrivals.databases.sync import SCHEMES, sync_table
    from lakehouse_analytics.contract.arrivals import TableArrival

    source = connection("bench", SCHEMES, {"LAKEHOUSE_CONNECTION_BENCH": options.source})
    arrival = TableArrival.model_validate(CONTRACT)
    return measured(lambda: sync_table(arrival, raw, source, options.folder / "staging", table="customers"))


def _function(options: argparse.Namespace) -> None:
    """Copy by the table function of ClickHouse for the database."""
    os.environ["TZ"] = "UTC"
    import chdb

    address = urlsplit(options.source)
    function = "mysql" if address.scheme == "mariadb" else "postgresql"
    arguments = (f"{address.hostname}:{address.port}", address.path[1:], "customers", address.username)
    words = ", ".join(f"'{word}'" for word in (*arguments, unquote(address.password or "")))

    def work() -> None:
        session.query(CLICKHOUSE_TABLE.format(table="customers"))
        session.query(f"insert into customers select * from {function}({words})")

    session = chdb.connect(options.address.removeprefix("chdb://"))
    figures = measured(work)
    session.close()
    print(json.dumps(figures | {"sum": [checksum_in_clickhouse(options.address, "customers")]}))


if __name__ == "__main__":
    main()
