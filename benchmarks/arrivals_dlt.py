"""The loads of `arrivals.py` and `databases.py` with dlt, as its documentation shows them.

Runs in the environment of `dlt.lock`.

https://dlthub.com/docs/dlt-ecosystem/verified-sources/sql_database and
https://dlthub.com/docs/dlt-ecosystem/verified-sources/filesystem/basic
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dlt  # type: ignore[import-not-found]  # in another environment
from dlt.sources.filesystem import filesystem, read_csv_duckdb  # type: ignore[import-not-found]
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]
from sides import measured
from sqlalchemy import Float

#: SQLAlchemy's words for the schemes of addresses.
DRIVERS = {"postgresql": "postgresql+psycopg2", "mariadb": "mariadb+pymysql"}


def main() -> None:
    """Load `database URL FOLDER` or `files FOLDER FILES`, and print the seconds and the peak of memory."""
    kind, *arguments = sys.argv[1:]
    folder = Path(arguments[1] if kind == "database" else arguments[0])
    pipeline = dlt.pipeline(
        pipeline_name=f"bench_{kind}",
        pipelines_dir=str(folder / "dlt"),
        destination=dlt.destinations.duckdb(str(folder / "dlt.duckdb")),
        dataset_name="raw",
    )
    load = _table if kind == "database" else _files
    figures = measured(lambda: pipeline.run(load(arguments), write_disposition="replace"))
    table = "customers" if kind == "database" else "prices"
    with pipeline.sql_client() as client:
        rows = client.execute_sql(f"SELECT count(*) FROM {table}")
    print(json.dumps(figures | {"rows": rows[0][0]}))


def _table(arguments: list[str]) -> Any:
    scheme, _, address = arguments[0].partition(":")
    url = f"{DRIVERS[scheme]}:{address}"
    return sql_table(url, table="customers", backend="pyarrow", table_adapter_callback=_floats_as_floats)


def _floats_as_floats(table: Any) -> None:
    """Read MySQL's double as such: for SQLAlchemy, it is a decimal, whose precision dlt derives from each batch."""
    for column in table.columns.values():
        if isinstance(column.type, Float):
            column.type.asdecimal = False


def _files(arguments: list[str]) -> Any:
    files = filesystem(bucket_url=Path(arguments[1]).as_uri(), file_glob="*.csv")
    return (files | read_csv_duckdb(chunk_size=10_000)).with_name("prices")


if __name__ == "__main__":
    main()
