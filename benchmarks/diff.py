"""`lakehouse diff` of a million rows in ten columns, on DuckDB and on Trino, compared with brute force in Python.

Of the rows, 1 % are added, 1 % removed and 1 % changed. Exits with 1 if a result differs from brute force, or takes
longer than the target. Trino needs the local stack (`make stack-up`), or another one named by the environment; its
tables are in a schema of their own, which is dropped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse_analytics.engines.comparison import Comparison

# ruff: noqa: PLC0415  # what is imported late is imported once the stack's settings are there

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "diff_benchmark"
TARGET = 30.0
COLUMNS = ("id", "a", "b", "c", "d", "e", "f", "g", "h", "i")
#: The rows of a side: `{keep}` limits them, and `{changed}` is true for those with another value.
SELECT = """
    select id, id % 1000 as a, id * 3 + case when {changed} and id % 3 = 0 then 1 else 0 end as b,
        cast(id as double precision) / 7 + case when {changed} and id % 3 = 1 then 0.5 else 0 end as c,
        cast(cast(id % 100000 as decimal(18, 2)) / 4 as decimal(18, 2)) as d,
        case when id % 10 = 0 then null else 'customer ' || cast(id % 5000 as varchar) end as e,
        case when {changed} and id % 3 = 2 then null else 'note ' || cast(id as varchar) end as f,
        id % 2 = 0 as g, date '2026-01-01' + interval '1' day as h,
        'country ' || cast(id % 200 as varchar) as i
    from {numbers} where {keep}
"""
BASE = {"changed": "1 = 0", "keep": "id % 100 <> 1"}
HEAD = {"changed": "id % 100 = 2", "keep": "id % 100 <> 3"}


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each side (default: %(default)s)")
    parser.add_argument("--engine", choices=["duckdb", "trino"], action="append", help="default: both")
    options = parser.parse_args()
    places: dict[str, Callable[[int], AbstractContextManager[Comparison]]] = {"duckdb": _duckdb, "trino": _trino}
    print(f"{'engine':<8} {'case':<28} {'diff':>8} {'brute force':>12}   added removed changed unchanged")
    failed = False
    for engine in options.engine or [*places]:
        with places[engine](options.rows) as session:
            for case in _measure(engine, session):
                failed = failed or case
    sys.exit(1 if failed else 0)


def _measure(engine: str, session: Comparison) -> Iterator[bool]:
    """Compare with a key, without one, and with the hash; yield whether a result is wrong or late."""
    from lakehouse_analytics.diff.compare import Options, compare
    from lakehouse_analytics.diff.relations import Side
    from lakehouse_analytics.engines.content_hash import content_hash

    sources = {name: f"{SCHEMA}.{name}" for name in ("base", "head")}
    before, after = (Side(name, source, session.columns(source)) for name, source in sources.items())
    began = time.monotonic()
    rows = [[tuple(row) for row in session.fetch_all(f"select * from {source}")] for source in sources.values()]
    fetched = time.monotonic() - began
    for case, key in (("by key", ("id",)), ("by key, with examples", ("id",)), ("whole rows", ())):
        began = time.monotonic()
        options = Options(key=key, samples=5 if "examples" in case else 0)
        found = compare(session, before, after, options, table="benchmark")
        seconds = time.monotonic() - began
        began = time.monotonic()
        expected = _by_key(*rows) if key else _whole(*rows)
        brute = fetched + time.monotonic() - began
        counts = (found.added, found.removed, found.changed, found.unchanged)
        print(f"{engine:<8} {case:<28} {seconds:>6.1f} s {brute:>10.1f} s   {' '.join(map(str, counts))}", flush=True)
        if (counts, {name: n for name, n in found.columns.items() if n}) != expected:
            print(f"  expected {expected}")
        yield (counts, {name: n for name, n in found.columns.items() if n}) != expected or seconds > TARGET
    began = time.monotonic()
    content_hash(session, sources["base"])
    print(f"{engine:<8} {'hash of one side':<28} {time.monotonic() - began:>6.1f} s", flush=True)


def _by_key(base: list[Any], head: list[Any]) -> tuple[tuple[int, ...], dict[str, int]]:
    old, new = ({row[0]: row for row in side} for side in (base, head))
    both = old.keys() & new.keys()
    changes: Counter[str] = Counter()
    changed = 0
    for key in both:
        if old[key] != new[key]:
            changed += 1
            changes.update(n for n, one, other in zip(COLUMNS, old[key], new[key], strict=True) if one != other)
    return (len(new) - len(both), len(old) - len(both), changed, len(both) - changed), dict(changes)


def _whole(base: list[Any], head: list[Any]) -> tuple[tuple[int, ...], dict[str, int]]:
    old, new = Counter(base), Counter(head)
    return ((new - old).total(), (old - new).total(), 0, (new & old).total()), {}


@contextmanager
def _duckdb(rows: int) -> Iterator[Comparison]:
    import duckdb
    from lakehouse_analytics.engines.duckdb.comparison import comparison

    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
        path = Path(folder) / "bench.duckdb"
        with duckdb.connect(str(path)) as connection:
            connection.execute(f"create schema {SCHEMA}")
            for name, side in (("base", BASE), ("head", HEAD)):
                numbers = f"range({rows}) as r(id)"
                connection.execute(f"create table {SCHEMA}.{name} as {SELECT.format(numbers=numbers, **side)}")
        with comparison(path, timeout=10, attached={}) as session:
            yield session


@contextmanager
def _trino(rows: int) -> Iterator[Comparison]:
    path = Path(os.environ.get("LAKEHOUSE_STACK_DIR", ROOT / ".stack")) / "env"
    if "LAKEHOUSE_TRINO_HOST" not in os.environ and path.is_file():
        os.environ |= dict(word.split("=", 1) for word in shlex.split(path.read_text(), comments=True))
    os.environ["LAKEHOUSE_ENV"] = "trino"
    from lakehouse_analytics.engines.trino.resource import TrinoResource
    from lakehouse_analytics.settings import Settings

    settings = Settings.load()
    trino = TrinoResource.of(settings)
    where = f"{settings.trino_catalog}.{SCHEMA}"
    trino.fetch_all(f"drop schema if exists {where} cascade")
    trino.fetch_all(f"create schema {where}")
    numbers = (
        f"(select t.n * 1000 + u.n as id from unnest(sequence(0, {rows // 1000 - 1})) as t(n) "
        "cross join unnest(sequence(0, 999)) as u(n)) as r"
    )
    try:
        for name, side in (("base", BASE), ("head", HEAD)):
            trino.fetch_all(f"create table {where}.{name} as {SELECT.format(numbers=numbers, **side)}")
        with trino.comparison() as session:
            yield session
    finally:
        trino.fetch_all(f"drop schema {where} cascade")


if __name__ == "__main__":
    main()
