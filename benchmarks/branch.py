"""A branch of many tables on Trino, with one changed model: how long until it can be queried, and what it writes.

Makes a project of 500 models, and their tables directly in the catalog. Then it changes one model, and runs `lakehouse
manifest`, `lakehouse branch create`, `lakehouse build --changed` and `lakehouse branch drop`. Exits with 1 if anything
but the model and those downstream of it is built, if a table or file of production changes, if creating the branch
writes a file, if the drop leaves a row or a file, or if it takes longer than the target. Needs the local stack
(`make stack-up`); its schemas are dropped at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# ruff: noqa: PLC0415  # what is imported late is imported once the stack's settings are there

ROOT = Path(__file__).resolve().parents[1]
TARGET = 60.0
BRANCH = "benchmark"
PREFIX = "branch_benchmark_"
LAYERS = ("bronze", "silver", "gold")
PROJECT = """\
name: bench
version: "1.0"
profile: lakehouse
models:
  bench:
    +materialized: table
    +on_table_exists: replace
"""
SCHEMA_NAME = "{% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}\n"


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500, help="number of models (default: %(default)s)")
    parser.add_argument("--catalog", default="lakehouse", help="Trino's catalog (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="branch-benchmark-") as folder:
        os.environ.update(_environment(options.catalog, Path(folder)))
        groups = options.models // 5
        _write_project(Path(folder) / "dbt", groups)
        lake = Lake(options.catalog)
        lake.drop()
        try:
            problems = _measure(lake, Path(folder), groups)
        finally:
            lake.drop()
    print("\n".join(problems) or "Everything as expected.")
    sys.exit(1 if problems else 0)


def _measure(lake: Lake, folder: Path, groups: int) -> list[str]:
    project, deployed = folder / "dbt", folder / "deployed"
    lake.create_tables(groups)
    _run("manifest")
    target = next(project.glob("target/*/manifest.json")).parent
    shutil.copytree(target, deployed)
    model = project / "models" / "bronze" / "b0.sql"
    model.write_text(model.read_text().replace("n from", "n + 1 as n from"))
    rows, files = lake.rows(), lake.files()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = {
        "manifest": _run("manifest"),
        "branch create": _run("branch", "create", BRANCH),
    }
    after_creation = lake.files()
    base = str(deployed / "manifest.json")
    seconds["build --changed"] = _run("build", "--branch", BRANCH, "--changed", "--base", base)
    built = {name for name, place in lake.rows(BRANCH).items() if place != rows.get(name)}
    rows_then, main_files = lake.rows(), lake.files()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds["branch drop"] = _run("branch", "drop", BRANCH)
    ready = sum(seconds.values()) - seconds["branch drop"]
    print(f"{len(rows)} tables, {len(files)} files. " + ", ".join(f"{name}: {s:.1f} s" for name, s in seconds.items()))
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"Ready after {ready:.1f} s, of which the commands used {cpu:.1f} s of CPU. Built: {', '.join(sorted(built))}"
    )
    expected = {"bronze.b0", "silver.s0_0", "silver.s0_1", "silver.s0_2", "gold.g0"}
    findings = {
        f"Built {sorted(built)} instead of {sorted(expected)}.": built != expected,
        "Tables of production have changed.": rows_then != rows,
        "Creating the branch wrote files.": after_creation != files,
        "Files of production have changed.": not files.items() <= main_files.items(),
        "The drop left rows.": lake.rows(BRANCH) != {},
        "The drop left files.": lake.files() != files,
        f"It took longer than {TARGET:.0f} s.": ready > TARGET,
    }
    return [text for text, found in findings.items() if found]


def _environment(catalog: str, folder: Path) -> dict[str, str]:
    stack_folder = ROOT / os.environ.get("LAKEHOUSE_STACK_DIR", ".stack")
    words = shlex.split((stack_folder / "env").read_text(), comments=True)
    stack = dict(word.split("=", 1) for word in words)
    name = f"__{catalog.upper()}__"
    settings = {key.replace("__LAKEHOUSE__", name): value for key, value in stack.items()}
    return {
        **settings,
        f"PYICEBERG_CATALOG{name}WAREHOUSE": f"s3://lakehouse/{catalog}",
        "LAKEHOUSE_ENV": "trino",
        "LAKEHOUSE_TRINO_CATALOG": catalog,
        "LAKEHOUSE_ICEBERG_CATALOG": catalog,
        "LAKEHOUSE_DBT_PROJECT_DIR": str(folder / "dbt"),
        "LAKEHOUSE_DBT_PROFILES_DIR": str(ROOT / "dbt"),
        "DAGSTER_HOME": str(folder / "home"),
    }


def _write_project(folder: Path, groups: int) -> None:
    """Write five models per group: a bronze one, three silver ones that read it, and a gold one that reads two."""
    layers = "".join(f"    {layer}: {{+schema: {PREFIX}{layer}}}\n" for layer in LAYERS)
    files = {
        "dbt_project.yml": PROJECT + layers,
        "macros/generate_schema_name.sql": SCHEMA_NAME,
        "models/sources.yml": f"sources: [{{name: raw, schema: {PREFIX}raw, tables: [{{name: a}}]}}]\n",
    }
    for group in range(groups):
        files[f"models/bronze/b{group}.sql"] = "select id, n from {{ source('raw', 'a') }}\n"
        for number in range(3):
            read = f"select id, n + {number} as n from {{{{ ref('b{group}') }}}}\n"
            files[f"models/silver/s{group}_{number}.sql"] = read
        files[f"models/gold/g{group}.sql"] = (
            f"select x.id, x.n + y.n as n from {{{{ ref('s{group}_0') }}}} as x "
            f"join {{{{ ref('s{group}_1') }}}} as y on x.id = y.id\n"
        )
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _run(*words: str) -> float:
    """Run a command of `lakehouse`, and return its seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).with_name("lakehouse"), *words], check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"lakehouse {' '.join(words)}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


class Lake:
    """The catalog and the files of the benchmark's tables."""

    def __init__(self, catalog: str) -> None:
        from lakehouse_analytics.iceberg.catalog import open_catalog

        self._catalog: Any = open_catalog(catalog)
        self._folder = f"lakehouse/{catalog}"

    def create_tables(self, groups: int) -> None:
        """Create all tables with two rows, by pyiceberg."""
        import pyarrow as pa

        rows = pa.table({"id": [1, 2], "n": [10, 20]})
        for layer in ("raw", *LAYERS):
            self._catalog.create_namespace(PREFIX + layer)
        names = [(PREFIX + "raw", "a")]
        for group in range(groups):
            names += [(PREFIX + "bronze", f"b{group}"), (PREFIX + "gold", f"g{group}")]
            names += [(PREFIX + "silver", f"s{group}_{number}") for number in range(3)]

        def create(name: tuple[str, str]) -> None:
            self._catalog.create_table(name, rows.schema).append(rows)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, names))

    def rows(self, branch: str = "") -> dict[str, str]:
        """Return the metadata of each table, which names its snapshot; of a branch or of production."""
        from sqlalchemy import text

        with self._catalog.engine.connect() as connection:
            found = connection.execute(
                text(
                    "select table_namespace, table_name, metadata_location from iceberg_tables "
                    "where catalog_name = :catalog and starts_with(table_namespace, :prefix)"
                ),
                {"catalog": self._catalog.name, "prefix": PREFIX},
            ).fetchall()
        end = f"__{branch}" if branch else ""
        return {
            f"{schema.removeprefix(PREFIX).removesuffix(end)}.{table}": location
            for schema, table, location in found
            if schema.endswith(end) and ("__" in schema) == bool(branch)
        }

    def files(self) -> Mapping[str, int]:
        """Return all files of the tables, with their sizes."""
        from pyarrow.fs import FileSelector

        system = self._file_system()
        found: dict[str, int] = {}
        for layer in ("raw", *LAYERS):
            folder = FileSelector(f"{self._folder}/{PREFIX}{layer}", recursive=True, allow_not_found=True)
            found |= {file.path: file.size for file in system.get_file_info(folder) if file.is_file}
        return found

    def _file_system(self) -> Any:
        from pyiceberg.io import load_file_io

        io: Any = load_file_io(self._catalog.properties, f"s3://{self._folder}")
        return io.fs_by_scheme("s3", "lakehouse")

    def drop(self) -> None:
        """Drop the tables and their files."""
        from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
        from lakehouse_analytics.iceberg.deletion import delete_file
        from pyiceberg.io import load_file_io

        branches = SqlBranchCatalog(self._catalog.name)
        if BRANCH in {branch.name for branch in branches.branches()}:
            branches.drop(BRANCH)
        for (schema,) in self._catalog.list_namespaces():
            if schema.startswith(PREFIX):
                for name in self._catalog.list_tables(schema):
                    self._catalog.drop_table(name)
                self._catalog.drop_namespace(schema)
        io = load_file_io(self._catalog.properties, f"s3://{self._folder}")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: delete_file(io, f"s3://{path}"), self.files()))


if __name__ == "__main__":
    main()
