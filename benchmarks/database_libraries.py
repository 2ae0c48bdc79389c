"""Libraries that could read tables of databases, against those that arrivals use: docs/adr/0011-arrival-libraries.md.

`postgresql` and `mariadb` read a million rows into a Parquet file, each library in a process of its own, in turns.
`postgresql-types` and `mariadb-types` print what each library makes of unusual values. The alternatives are in another
environment, whose Python is named by LIBRARIES_PYTHON:

    uv venv /tmp/libraries
    uv pip install --python /tmp/libraries connectorx "dlt[parquet,sql-database]" psycopg2-binary pymysql \\
      adbc-driver-postgresql pyarrow duckdb
    LIBRARIES_PYTHON=/tmp/libraries/bin/python python benchmarks/database_libraries.py postgresql
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from customers import DUCKDB_TYPES, MARIADB, POSTGRESQL, Source
from sides import Figures, measured, medians, print_ratios, progress, run_side

if TYPE_CHECKING:
    import pyarrow as pa

# ruff: noqa: PLC0415  # each process imports what it measures

#: The libraries by database. The first one is the product's own reading.
LIBRARIES = {
    "postgresql": {
        "arrivals": "arrivals: ADBC, with casts",
        "adbc": "ADBC, select *",
        "connectorx": "connectorx, one table of Arrow",
        "connectorx-stream": "connectorx, batches of Arrow",
        "dlt": "dlt, sql_table by pyarrow",
    },
    "mariadb": {
        "arrivals": "arrivals: PyMySQL, text to Arrow",
        "pymysql": "PyMySQL, Python objects to Arrow",
        "connectorx": "connectorx, one table of Arrow",
        "connectorx-stream": "connectorx, batches of Arrow",
        "dlt": "dlt, sql_table by pyarrow",
    },
}
BATCH_ROWS, FILE = 20_000, "customers.parquet"
#: Types with a value that other systems do not have like this.
VALUES = {
    "postgresql": [
        ("numeric", "1e50"),
        ("numeric", "1.123456789012345"),
        ("numeric", "'Infinity'"),
        ("numeric(38,10)", "12345678901234567890.0123456789"),
        ("numeric(10,2)", "'NaN'"),
        ("date", "'infinity'"),
        ("timestamptz", "'infinity'"),
        ("timestamptz", "'2026-07-01 12:00:00.123456+02'"),
        ("time", "'24:00'"),
        ("interval", "'1 month 2 days 00:00:03'"),
        ("int[]", "'{{1,null},{3,4}}'"),
        ("text[]", "array['a', null, 'b,c']"),
        ("jsonb", """'{"a": [1, null]}'"""),
        ("uuid", "'00000000-0000-0000-0000-0000000000ff'"),
        ("money", "12345.67"),
        ("inet", "'10.0.0.1/8'"),
        ("int4range", "'[1,5)'"),
        ("bytea", r"'\x00ff'"),
    ],
    "mariadb": [
        ("bigint unsigned", "18446744073709551615"),
        ("decimal(38,10)", "12345678901234567890.0123456789"),
        ("decimal(65,30)", "1e30"),
        ("tinyint(1)", "2"),
        ("bit(1)", "b'1'"),
        ("double", "0.1"),
        ("date", "'0000-00-00'"),
        ("datetime(6)", "'2026-07-01 12:00:00.123456'"),
        ("timestamp(6)", "'2026-07-01 12:00:00.123456'"),
        ("time(6)", "'-25:00:00.5'"),
        ("year", "2026"),
        ("json", """'{"a": [1, null]}'"""),
        ("varchar(9)", "'Zoë 😀'"),
        ("varbinary(4)", "x'00ff'"),
        ("enum('a','b')", "'b'"),
    ],
}


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, source in (("postgresql", POSTGRESQL), ("mariadb", MARIADB)):
        command = commands.add_parser(name, help=f"a table of {source.title}")
        command.add_argument("--rows", type=int, default=1_000_000, help="how many (default: %(default)s)")
        command.add_argument("--rounds", type=int, default=3, help="of each library (default: %(default)s)")
        command.set_defaults(run=partial(compare, name, source))
        types = commands.add_parser(f"{name}-types", help=f"unusual values of {source.title}")
        types.set_defaults(run=partial(compare_types, name, source))
    for name, run in (("read", _read), ("values", _values)):
        child = commands.add_parser(name)
        child.add_argument("library")
        child.add_argument("source")
        child.add_argument("folder", type=Path)
        child.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


def compare(name: str, source: Source, options: argparse.Namespace) -> None:
    """Read the table by all libraries, and print them."""
    libraries = LIBRARIES[name]
    with source.server() as server, tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        database = server.new_database()
        progress(f"writing {options.rows:,} rows")
        for statement in source.create:
            server.ask(statement.format(rows=options.rows), database=database)
        # Read first, so that imports are not measured.
        server.ask("create table few as select * from customers limit 10", database=database)
        folders = [Path(text) / str(number) for number in range(options.rounds)]
        rounds = [
            {each: _run("read", each, server.url(database), folder / each) for each in libraries} for folder in folders
        ]
        print(f"{options.rows:,} rows of {source.title} into a Parquet file")
        print_ratios(medians(rounds), libraries)
        for library, label in libraries.items():
            changed = _changed(folders[-1] / "arrivals" / FILE, folders[-1] / library / FILE)
            print(f"  {label}: {', '.join(changed) or 'no column'} differs from arrivals")


def _changed(ours: Path, theirs: Path) -> list[str]:
    """Return the columns of which any value differs between two files, in the types of the product."""
    import duckdb

    with duckdb.connect() as db:
        db.execute("set TimeZone = 'UTC'")
        differs = ", ".join(
            f"bool_or(o.{name} is distinct from t.{name}::{kind})" for name, kind in DUCKDB_TYPES.items()
        )
        joined = f"'{ours}' o full join '{theirs}' t using (id)"
        [found] = db.execute(f"select {differs.replace('o.id', 'coalesce(o.id, -1)')} from {joined}").fetchall()
    return [name for name, changed in zip(DUCKDB_TYPES, found, strict=True) if changed]


def compare_types(name: str, source: Source, options: argparse.Namespace) -> None:  # noqa: ARG001
    """Read each value by all libraries, and print a table in Markdown."""
    libraries = [*LIBRARIES[name]]
    with source.server() as server, tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as text:
        database = server.new_database()
        if name == "mariadb":
            server.ask("set global sql_mode = ''")  # without it, zero dates are refused
        for number, (declared, value) in enumerate(VALUES[name]):
            server.ask(f"create table v{number} (v {declared})", database=database)
            server.ask(f"insert into v{number} values ({value})", database=database)
        url = server.url(database)
        found = {library: _run("values", library, url, Path(text) / library)["values"] for library in libraries}
    print(f"| | {' | '.join(libraries)} |")
    print(f"|---{'|---' * len(libraries)}|")
    for number, (declared, value) in enumerate(VALUES[name]):
        print(f"| `{declared}`: `{value}` | {' | '.join(found[library][number] for library in libraries)} |")


def _run(what: str, library: str, url: str, folder: Path) -> Figures:
    progress(library)
    folder.mkdir(parents=True)
    others = os.environ.get("LIBRARIES_PYTHON") or sys.exit("LIBRARIES_PYTHON is not set: see --help.")
    python = sys.executable if library == "arrivals" else others
    return run_side(__file__, what, library, url, str(folder), python=python)


def _read(options: argparse.Namespace) -> None:
    """Read the table into a Parquet file, and print the figures."""
    _write("few", options)
    print(json.dumps(measured(lambda: _write("customers", options))))


def _write(table: str, options: argparse.Namespace) -> None:
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    with _READERS[options.library](options.source, table, options.folder) as batches:
        for batch in batches:
            writer = writer or pq.ParquetWriter(
                options.folder / f"{table}.parquet", batch.schema, compression="zstd", compression_level=1
            )
            writer.write_batch(batch)
    if writer:
        writer.close()


def _values(options: argparse.Namespace) -> None:
    """Read one table per value, and print their types and values as text."""
    found = []
    for number in range(len(VALUES[urlsplit(options.source).scheme])):
        try:
            with _READERS[options.library](options.source, f"v{number}", options.folder) as batches:
                [column] = [batch.column("v") for batch in batches if batch.num_rows]
            found.append(f"{column.type}: {_value(column)}")
        except BaseException as error:  # also a panic of Rust
            found.append(f"error: {_reason(error)}")
    print(json.dumps({"values": found}))


def _reason(error: BaseException) -> str:
    """Return the first line of the error that caused another one."""
    cause = error.__cause__ or error.__context__
    return _reason(cause) if cause else str(error).strip().partition("\n")[0][:100]


def _value(column: pa.Array[Any]) -> str:
    try:
        return repr(column[0].as_py())
    except (OverflowError, ValueError):  # Python's dates end with the year 9999
        return str(column[0].value)


@contextmanager
def _arrivals(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:  # noqa: ARG001
    from lakehouse_analytics.arrivals.connections import connection
    from lakehouse_analytics.arrivals.databases.base import Nullified
    from lakehouse_analytics.arrivals.databases.sync import SCHEMES, opener

    source = connection("bench", SCHEMES, {"LAKEHOUSE_CONNECTION_BENCH": url})
    with opener(source)(source, table, timedelta(hours=1)) as opened:
        yield opened.batches([*opened.columns.values()], "true", Nullified())


@contextmanager
def _adbc(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:  # noqa: ARG001
    import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]

    with adbc_driver_postgresql.dbapi.connect(url) as session, session.cursor() as cursor:
        cursor.execute(f"select * from {table}")
        yield cursor.fetch_record_batch()


@contextmanager
def _connectorx(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:  # noqa: ARG001
    import connectorx  # type: ignore[import-not-found]

    query = f"select * from {table}"
    yield connectorx.read_sql(_mysql(url), query, return_type="arrow").to_batches()


@contextmanager
def _connectorx_stream(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:  # noqa: ARG001
    import connectorx

    query = f"select * from {table}"
    yield connectorx.read_sql(_mysql(url), query, return_type="arrow_stream", batch_size=BATCH_ROWS)


def _mysql(url: str) -> str:
    return url.replace("mariadb://", "mysql://", 1)


@contextmanager
def _dlt(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:
    """Extract and normalize, which writes Parquet files for the destination, and yield their batches."""
    import dlt  # type: ignore[import-not-found]
    import pyarrow.parquet as pq
    from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]

    drivers = {"postgresql": "postgresql+psycopg2", "mariadb": "mariadb+pymysql"}
    scheme, _, address = url.partition(":")
    pipeline = dlt.pipeline(
        f"read_{table}", pipelines_dir=str(folder / "dlt"), destination="duckdb", dataset_name="raw"
    )
    rows = sql_table(
        f"{drivers[scheme]}:{address}", table=table, backend="pyarrow", table_adapter_callback=_floats_as_floats
    )
    pipeline.extract(rows, write_disposition="replace")
    pipeline.normalize()
    files = sorted((folder / "dlt").rglob(f"started_jobs/{table}.*.parquet")) or sorted(
        (folder / "dlt").rglob(f"new_jobs/{table}.*.parquet")
    )
    yield (batch for file in files for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS))


def _floats_as_floats(table: Any) -> None:
    """Read MySQL's double as such: for SQLAlchemy, it is a decimal, whose precision dlt derives from each batch."""
    from sqlalchemy import Float

    for column in table.columns.values():
        if isinstance(column.type, Float):
            column.type.asdecimal = False


@contextmanager
def _pymysql(url: str, table: str, folder: Path) -> Iterator[Iterable[pa.RecordBatch]]:  # noqa: ARG001
    import pyarrow as pa
    import pymysql
    from pymysql.cursors import SSCursor

    address = urlsplit(url)
    session = pymysql.connect(
        host=address.hostname,
        port=address.port or 3306,
        user=address.username,
        password=unquote(address.password or ""),
        database=address.path[1:],
        cursorclass=SSCursor,
    )
    with session, session.cursor() as cursor:
        cursor.execute(f"select * from {table}")
        names = [each[0] for each in cursor.description]
        yield (
            pa.RecordBatch.from_arrays([_array(values) for values in zip(*rows, strict=True)], names=names)
            for rows in iter(lambda: cursor.fetchmany(BATCH_ROWS), ())
        )


def _array(values: Sequence[Any]) -> pa.Array[Any]:
    import pyarrow as pa

    array = pa.array(values)
    # Otherwise, the precision would be that of the longest value of the batch.
    return array.cast(pa.decimal128(38, array.type.scale)) if pa.types.is_decimal128(array.type) else array


_READERS = {
    "arrivals": _arrivals,
    "adbc": _adbc,
    "connectorx": _connectorx,
    "connectorx-stream": _connectorx_stream,
    "dlt": _dlt,
    "pymysql": _pymysql,
}


if __name__ == "__main__":
    main()
