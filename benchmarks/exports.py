"""An export of a table of DuckDB into ClickHouse (chdb), against the bare tools that copy the same.

On the bare side, DuckDB writes a Parquet file (`COPY … TO`), and chdb inserts it: nothing is verified, and readers see
the rows while they arrive. Each side is a process of its own, the sides take turns, and the medians of the rounds are
printed. Exits with 1 if the contents differ from the lakehouse, or if an export to another process, whose memory is not
that of ClickHouse's engine, needs more than 500 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from customers import CLICKHOUSE_TABLE, DUCKDB_CHECKSUM, checksum_in_clickhouse, clickhouse
from sides import Figures, check_memory, measured, medians, print_ratios, progress, run_side

# ruff: noqa: PLC0415  # each process imports what it measures

SIDES = {
    "bare": "COPY to Parquet, inserted by chdb",
    "export": "export, verified and swapped",
    "export-http": "the same, by HTTP to another process",
}
TABLE = """
create table gold.customers as
select id, case when id % 10 > 0 then (id % 1000)::int end as region, 'Zoë ' || id as name,
  'c' || id || '@example.com' as email, ((id % 100000) / 7.0)::decimal(12,2) as balance, id / 4.0::double as score,
  id % 2 = 0 as active, date '1950-01-01' + (id % 20000)::int as born,
  timestamptz '2026-01-01 00:00:00+00' + to_seconds(id) as updated_at,
  format('{{{{"id": {{}}, "tags": ["x", "y"]}}}}', id) as payload
from range(1, {rows} + 1) numbers(id)"""


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    parser.set_defaults(run=compare)
    commands = parser.add_subparsers(metavar="")
    for name, run in (("bare", _bare), ("export", _export), ("export-http", _export)):
        child = commands.add_parser(name)
        child.add_argument("lake", type=Path)
        child.add_argument("folder", type=Path)
        child.add_argument("address")
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare(options: argparse.Namespace) -> None:
    """Copy the table by all sides, and print them."""
    from clickhouse_http import clickhouse_http

    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        progress(f"writing {options.rows:,} rows")
        lake = Path(text) / "lake.duckdb"
        expected = _write(lake, options.rows)
        folders = [Path(text) / str(number) for number in range(options.rounds)]
        with clickhouse_http(Path(text) / "server") as server:
            rounds = [{side: _run(side, lake, folder, server.url) for side in SIDES} for folder in folders]
    figures = medians(rounds)
    print(f"{options.rows:,} rows of DuckDB into ClickHouse")
    print_ratios(figures, SIDES)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if any(each["sum"] != expected for sides in rounds for each in sides.values()):
        sys.exit("The contents differ from the lakehouse.")
    check_memory([figures["export-http"]])


def _run(side: str, lake: Path, folder: Path, server: str) -> Figures:
    progress(side)
    folder.mkdir(exist_ok=True)
    address = server if side == "export-http" else f"chdb://{folder / side}"
    return run_side(__file__, side, str(lake), str(folder), address)


def _write(path: Path, rows: int) -> list[str]:
    """Write the table of the lakehouse, and return its checksum."""
    import duckdb

    with duckdb.connect(path) as db:
        db.execute("create schema gold")
        db.execute(TABLE.format(rows=rows))
        [checksum] = db.execute(DUCKDB_CHECKSUM.format(table="gold.customers")).fetchall()
    return [str(value) for value in checksum]


def _bare(options: argparse.Namespace) -> None:
    import chdb
    import duckdb

    path = options.folder / "customers.parquet"
    session = chdb.connect(options.address.removeprefix("chdb://"))

    def work() -> None:
        with duckdb.connect(options.lake, read_only=True) as db:
            db.execute(f"copy gold.customers to '{path}' (format parquet)")
        session.query(CLICKHOUSE_TABLE.format(table="customers"))
        session.query(f"insert into customers select * from file('{path}', 'Parquet')")

    figures = measured(work)
    session.close()
    print(json.dumps(figures | {"sum": checksum_in_clickhouse(options.address, "customers")}))


def _export(options: argparse.Namespace) -> None:
    import clickhouse_connect  # noqa: F401  # imports are not measured, on either side
    from lakehouse_analytics.dbt.relation import Relation
    from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
    from lakehouse_analytics.exports.base import Target
    from lakehouse_analytics.exports.registry import destination
    from lakehouse_analytics.exports.run import export

    target = Target("reporting", "customers", ["id"], "gold/customers", "0" * 8)
    resource = DuckDBResource(path=str(options.lake))

    def work() -> None:
        table = resource.read_table(Relation("lake", "gold", "customers"), "gold.customers")
        with table as reader, destination(clickhouse(options.address), target) as made:
            export(reader, made, target.key, lambda _: None)

    figures = measured(work)
    print(json.dumps(figures | {"sum": checksum_in_clickhouse(options.address, "reporting.customers")}))


if __name__ == "__main__":
    main()
