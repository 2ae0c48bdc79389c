"""The loads of `arrivals.py` with dlt, as its documentation shows them. Runs in the environment of `dlt.lock`.

https://dlthub.com/docs/dlt-ecosystem/verified-sources/sql_database and
https://dlthub.com/docs/dlt-ecosystem/verified-sources/filesystem/basic
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import dlt  # type: ignore[import-not-found]  # in another environment
from dlt.sources.filesystem import filesystem, read_csv_duckdb  # type: ignore[import-not-found]
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]


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
    began = time.monotonic()
    if kind == "database":
        pipeline.run(
            sql_table(arguments[0].replace("://", "+psycopg2://", 1), table="customers", backend="pyarrow"),
            write_disposition="replace",
        )
    else:
        files = filesystem(bucket_url=Path(arguments[1]).as_uri(), file_glob="*.csv")
        pipeline.run((files | read_csv_duckdb(chunk_size=10_000)).with_name("prices"), write_disposition="replace")
    seconds = time.monotonic() - began
    memory = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    table = "customers" if kind == "database" else "prices"
    with pipeline.sql_client() as client:
        rows = client.execute_sql(f"SELECT count(*) FROM {table}")
    print(json.dumps({"seconds": seconds, "memory": int(memory.split()[1]) / 1024, "rows": rows[0][0]}))


if __name__ == "__main__":
    main()
