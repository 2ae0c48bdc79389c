"""Row counts of many tables on the local stack: dagster-dbt's one by one, one statement for many, Iceberg's metadata.

Makes its tables in a schema of its own and drops them. Exits with 1 when a count is wrong, or when the metadata is less
than ten times as fast as dagster-dbt. Needs the local stack (`make stack-up`), or another one named by the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# ruff: noqa: PLC0415  # what is imported late is imported once the stack's settings are there

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "row_counts_benchmark"
TARGET = 10.0
#: Of the tables, how many have deletes in the mixed case.
DELETED_SHARE = 0.05
REPEATS = 3

Rows = dict[str, int]


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    options = parser.parse_args()
    _take_stack()

    began = time.monotonic()
    with _lake() as lake, tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
        _progress(f"making {options.tables} tables")
        truth = lake.make(options.tables)
        _progress("parsing the dbt project of dagster-dbt's side")
        stock = Stock(Path(folder), truth)
        _progress("measuring")
        # Trino compiles what it runs often; no side may profit from coming second.
        lake.batched(truth)
        stock.count([*truth][: max(1, options.tables // 10)])

        figures = {
            "dagster-dbt, one by one": _measure(lambda: stock.count([*truth]), truth, 1),
            "one statement for many": _measure(lambda: lake.batched(truth), truth, REPEATS),
            "Iceberg's metadata": _measure(lambda: lake.known(truth), truth, REPEATS),
        }
        deleted = lake.delete_rows(truth)
        few = max(1, round(options.tables * DELETED_SHARE))
        figures[f"metadata, and {few} tables with deletes queried"] = _measure(
            lambda: lake.mixed(truth), deleted, REPEATS
        )
    report = {
        "tables": options.tables,
        "seconds": figures,
        "import": lake.import_seconds,
        "total": time.monotonic() - began,
    }
    wrong = [name for name, seconds in figures.items() if seconds is None]
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if wrong:
        sys.exit(f"counted wrongly: {'; '.join(wrong)}")
    ratio = _ratio(figures, "Iceberg's metadata")
    if ratio < TARGET:
        sys.exit(f"Iceberg's metadata is {ratio:.1f} times as fast as dagster-dbt, {TARGET:g} are the target")


class Lake:
    """The benchmark's tables, and this project's ways to count them."""

    def __init__(self) -> None:
        from lakehouse_analytics.engines.trino.resource import TrinoResource
        from lakehouse_analytics.settings import Settings

        settings = Settings.load()
        if not settings.iceberg_catalog:
            sys.exit("LAKEHOUSE_ICEBERG_CATALOG is not set: name the pyiceberg catalog to measure")
        self.name, self.database = settings.iceberg_catalog, settings.trino_catalog
        self.trino = TrinoResource.of(settings)
        start = time.monotonic()
        from lakehouse_analytics.iceberg.catalog import open_catalog

        self.catalog = open_catalog(self.name)
        self.import_seconds = time.monotonic() - start

    def make(self, tables: int) -> Rows:
        """Small tables, each of another size."""
        import pyarrow as pa

        def one(number: int) -> None:
            rows = pa.table({"id": pa.array(range(number + 1), pa.int64())})
            self.catalog.create_table((SCHEMA, f"t{number:04}"), rows.schema).append(rows)

        with ThreadPoolExecutor(8) as pool:
            [*pool.map(one, range(tables))]
        return {f"t{number:04}": number + 1 for number in range(tables)}

    def delete_rows(self, truth: Rows) -> Rows:
        """One row less, by a delete file, in a share of the tables; the true counts after it."""
        some = [*truth][1 :: max(1, round(1 / DELETED_SHARE))]
        for name in some:
            self.trino.fetch_all(f"delete from {self.relation(name)} where id = 0")
        return {name: rows - (name in some) for name, rows in truth.items()}

    def relation(self, table: str) -> Any:
        """One of the tables, as Trino names it."""
        from lakehouse_analytics.dbt.relation import Relation

        return Relation(self.database, SCHEMA, table)

    def batched(self, tables: Mapping[str, int]) -> Rows:
        """In a few statements, through Trino."""
        from lakehouse_analytics.checks.row_count_rules import CountRequest
        from lakehouse_analytics.checks.runner import BatchedCounts, TotalCounts

        answers = BatchedCounts(self.trino.fetch_all, TotalCounts(), self.trino.max_stages).count(
            [CountRequest(str(self.relation(name))) for name in tables]
        )
        return {name: getattr(answer, "rows", -1) for name, answer in zip(tables, answers, strict=True)}

    def known(self, tables: Mapping[str, int]) -> Rows:
        """From metadata, those that it tells."""
        from lakehouse_analytics.iceberg.row_counts import MetadataCounts

        counts = MetadataCounts(self.name, database=self.database, fetch_all=self.trino.fetch_all)
        found = counts.rows([self.relation(name) for name in tables])
        return {relation.name: rows for relation, rows in found.items()}

    def mixed(self, tables: Mapping[str, int]) -> Rows:
        """From metadata, and the rest from Trino: as a run does it."""
        known = self.known(tables)
        return known | self.batched({name: 0 for name in tables if name not in known})


@contextmanager
def _lake() -> Iterator[Lake]:
    lake = Lake()
    where = f"{lake.database}.{SCHEMA}"
    lake.trino.fetch_all(f"drop schema if exists {where} cascade")
    lake.trino.fetch_all(f"create schema {where}")
    try:
        yield lake
    finally:
        lake.trino.fetch_all(f"drop schema {where} cascade")


class Stock:
    """dagster-dbt's own `fetch_row_counts`, over events of models that are built already.

    Its threads, its adapter, its statements; only the building is left out.
    """

    def __init__(self, folder: Path, truth: Rows) -> None:
        from dagster_dbt import DbtCliResource

        (folder / "models").mkdir()
        for name in truth:
            (folder / "models" / f"{name}.sql").write_text("select 1 as id\n")
        (folder / "dbt_project.yml").write_text(
            "name: bench\nversion: '1.0'\nprofile: lakehouse\nmodels: {bench: {+materialized: table}}\n"
        )
        (folder / "macros").mkdir()
        (folder / "macros" / "names.sql").write_text(
            f"{{% macro generate_schema_name(name, node) %}}{SCHEMA}{{% endmacro %}}\n"
        )
        dbt = DbtCliResource(project_dir=str(folder), profiles_dir=str(ROOT / "dbt"), target="trino")
        self.invocation = dbt.cli(["--quiet", "parse"], target_path=folder / "target").wait()
        self.invocation.manifest = json.loads((folder / "target" / "manifest.json").read_text())
        if self.invocation.adapter is None:
            sys.exit("dagster-dbt could not make a dbt adapter: see its warning above")

    def count(self, tables: list[str]) -> Rows:
        """Count as a run of `dbt build` does that has built these."""
        import dagster as dg
        from dagster_dbt.core.dbt_event_iterator import DbtEventIterator

        built = (dg.AssetMaterialization(name, metadata={"unique_id": f"model.bench.{name}"}) for name in tables)
        events = DbtEventIterator(built, self.invocation).fetch_row_counts()
        counts = {}
        for event in events:
            if isinstance(event, dg.AssetMaterialization) and "dagster/row_count" in event.metadata:
                counts[event.asset_key.path[-1]] = int(str(event.metadata["dagster/row_count"].value))
        return counts


def _measure(count: Callable[[], Rows], truth: Rows, repeats: int) -> float | None:
    """Median seconds; None where a count was wrong or missing."""
    seconds = []
    for _ in range(repeats):
        start = time.monotonic()
        found = count()
        seconds.append(time.monotonic() - start)
        if found != truth:
            return None
    return sorted(seconds)[len(seconds) // 2]


def _ratio(figures: Mapping[str, float | None], name: str) -> float:
    first, own = next(iter(figures.values())), figures[name]
    return first / own if first and own else 0.0


def _print(report: Mapping[str, Any]) -> None:
    figures = report["seconds"]
    print(f"\n| {report['tables']} tables | s | times as fast |\n|---|---:|---:|")
    for name, seconds in figures.items():
        print(f"| {name} | {'wrong' if seconds is None else f'{seconds:.2f}'} | {_ratio(figures, name):.1f} |")
    print(f"\nImporting pyiceberg and opening the catalog, once a process: {report['import']:.1f} s, in no line above.")
    print(f"All of it: {report['total']:.0f} s.")


def _take_stack() -> None:
    """The stack's settings, unless Trino is named by the environment."""
    if "LAKEHOUSE_TRINO_HOST" not in os.environ:
        path = Path(os.environ.get("LAKEHOUSE_STACK_DIR", ROOT / ".stack"), "env")
        if not path.is_file():
            sys.exit(f"{path} does not exist: make stack-up first, or set LAKEHOUSE_TRINO_HOST and the rest")
        words = (word.partition("=") for word in shlex.split(path.read_text(), comments=True))
        os.environ.update({name: value for name, _, value in words})
    os.environ["LAKEHOUSE_ENV"] = "trino"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["DBT_SEND_ANONYMOUS_USAGE_STATS"] = "false"
    # These override the private certificate authority that dbt's adapter is configured with.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(name, None)


def _progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
