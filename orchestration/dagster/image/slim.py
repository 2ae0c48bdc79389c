"""Reduces the image's Python environment to what its processes use, and proves that the rest still works.

The Dockerfile runs it with the interpreter of the environment, before bytecode is compiled and again afterwards:

    python slim.py remove    delete what `RULES` names
    python slim.py check     import what the image runs on, open every shared library, look for missing bytecode
    python slim.py sizes     megabytes per distribution, and what requires it, as a Markdown table
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import os
import pkgutil
import re
import shutil
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Rule:
    """Files of one distribution that no process of the image reads.

    Attributes:
        distribution: The name on PyPI. A rule is skipped where the distribution is not installed.
        remove: Globs below site-packages. Each must match something: if it does not, the distribution has changed, and
            the rule must be looked at again.
        reason: Why nothing needs the files.
        keep: Globs that stay although `remove` matches them.
    """

    distribution: str
    remove: tuple[str, ...]
    reason: str
    keep: tuple[str, ...] = ()


RULES = (
    Rule(
        "babel",
        ("babel/locale-data/*.dat",),
        "agate reads the numbers of a CSV by the rules of one locale, and the image sets English (LC_ALL=C.UTF-8)",
        keep=("babel/locale-data/root.dat", "babel/locale-data/en*.dat"),
    ),
    Rule(
        "kubernetes",
        ("kubernetes/aio",),
        "the asyncio copy of the client; dagster-k8s uses the synchronous one, which does not import it",
    ),
    Rule(
        "pyarrow",
        (
            "pyarrow/libarrow_flight.so.*",
            "pyarrow/libarrow_python_flight.so*",
            "pyarrow/_flight.*",
            "pyarrow/flight.py",
        ),
        "the client and server of Arrow Flight RPC; no other library links to them",
    ),
    Rule(
        "pyarrow",
        ("pyarrow/libarrow*.so", "pyarrow/libarrow*.so.*.*.*"),
        "copies for the linker of a build: the dynamic loader opens libarrow*.so.NNNN",
    ),
    Rule("pyarrow", ("pyarrow/include", "pyarrow/**/*.pxi", "pyarrow/**/*.pxd"), "headers for a build"),
    Rule("pyarrow", ("pyarrow/tests", "pyarrow/_pyarrow_cpp_tests.*"), "tests"),
    Rule("networkx", ("networkx/**/tests",), "tests; dbt-core uses the graph algorithms"),
    Rule(
        "zstandard",
        ("zstandard/_cffi.*", "zstandard/backend_cffi.py"),
        "the implementation for PyPy; CPython uses backend_c",
    ),
)

#: What the code, Dagster's instance, dbt or PyIceberg import by name at run time, so that no import statement of ours
#: shows it. All modules of the package itself are imported as well.
IMPORTED_BY_NAME = (
    "dagster._core.run_coordinator.queued_run_coordinator",
    "dagster_aws.s3.compute_log_manager",
    "dagster_k8s",
    "dagster_postgres",
    "dbt.adapters.duckdb",
    "dbt.adapters.trino",
    "dbt.cli.main",
    "grpc_health.v1.health",
    "kubernetes.client",
    "kubernetes.config",
    "kubernetes.stream",
    "kubernetes.watch",
    "psycopg2",
    "pyarrow.acero",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.json",
    "pyarrow.orc",
    "pyarrow.parquet",
    "pyiceberg.catalog.glue",
    "pyiceberg.catalog.rest",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "pyiceberg_core",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "trino.sqlalchemy",
)


class SlimError(Exception):
    """The environment is not what the rules or the checks expect."""


def installed(distribution: str) -> bool:
    """Whether the environment of this interpreter has the distribution."""
    return any(True for _ in importlib.metadata.distributions(name=distribution))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(entry.lstat().st_size for entry in path.rglob("*") if not entry.is_dir())
    return path.lstat().st_size


def matches(rule: Rule, site: Path) -> list[Path]:
    """The paths that a rule removes, outermost first.

    Raises:
        SlimError: One of its globs matches nothing.
    """
    kept = {path for pattern in rule.keep for path in site.glob(pattern)}
    found: list[Path] = []
    for pattern in rule.remove:
        paths = [path for path in sorted(site.glob(pattern)) if path not in kept]
        if not paths:
            raise SlimError(
                f"{rule.distribution}: {pattern} matches nothing in {site}. The distribution has changed: look at the "
                f"rule in {Path(__file__).name} again, and correct or delete it."
            )
        for path in paths:  # sorted: a folder comes before what is in it
            if not any(parent in found for parent in path.parents):
                found.append(path)
    return found


def remove(site: Path = SITE) -> int:
    """Delete what the rules name; prints a line per rule and returns the bytes that are gone."""
    gone = 0
    for rule in RULES:
        if not installed(rule.distribution):
            continue
        freed = 0
        for path in matches(rule, site):
            freed += size_of(path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        gone += freed
        print(f"{freed / 1e6:7.1f} MB  {rule.distribution}: {rule.reason}")
    print(f"{gone / 1e6:7.1f} MB  removed")
    return gone


def shared_libraries(site: Path) -> Iterator[Path]:
    """Every extension module and every library that one may link to."""
    for path in sorted(site.rglob("*")):
        if path.is_file() and re.search(r"\.so(\.\d+)*$", path.name):
            yield path


def check_imports() -> None:
    """Import every module of the package, and `IMPORTED_BY_NAME`."""
    package = importlib.import_module("lakehouse_analytics")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "lakehouse_analytics.")]
    for name in (*names, *IMPORTED_BY_NAME):
        importlib.import_module(name)
    print(f"imports        {len(names)} modules of lakehouse_analytics, {len(IMPORTED_BY_NAME)} by name")


def check_libraries(site: Path = SITE) -> None:
    """Open every shared library: one that is linked to a removed library does not load."""
    libraries = list(shared_libraries(site))
    for path in libraries:
        try:
            ctypes.CDLL(str(path), mode=os.RTLD_LAZY)
        except OSError as error:
            raise SlimError(f"A shared library does not load: {error}") from error
    print(f"libraries      {len(libraries)} open")


def check_bytecode(site: Path = SITE) -> None:
    """The root file system of a pod is read-only: a module without bytecode would be compiled at each start."""
    cached = {Path(importlib.util.cache_from_source(str(path))): path for path in site.rglob("*.py")}
    missing = [source for target, source in cached.items() if not target.exists()]
    stray = [path for path in site.rglob("*.pyc") if path.parent.name == "__pycache__" and path not in cached]
    if missing or stray:
        raise SlimError(f"Modules without bytecode: {missing[:5]}. Bytecode without a module: {stray[:5]}.")
    print(f"bytecode       {len(cached)} modules")


def check_use() -> None:
    """Use, once, what a rule has cut something from.

    Raises:
        SlimError: A package no longer does what is asked of it.
    """
    from agate.data_types import Number  # type: ignore[import-untyped]
    from agate.table import Table  # type: ignore[import-untyped]
    from kubernetes import client
    from pyarrow import parquet, table
    from zstandard import ZstdCompressor, ZstdDecompressor

    written = io.BytesIO()
    parquet.write_table(table({"a": [1, 2]}), written, compression="zstd")
    Table([[1.5]], ["n"], [Number()]).print_table(output=io.StringIO())
    answers = {
        "agate reads an English number": (Number().cast("1,234.5"), Decimal("1234.5")),
        "zstandard decompresses what it compressed": (
            ZstdDecompressor().decompress(ZstdCompressor().compress(b"x")),
            b"x",
        ),
        "pyarrow reads the Parquet that it wrote": (parquet.read_table(io.BytesIO(written.getvalue())).num_rows, 2),
        "kubernetes describes a Job": (client.V1Job(metadata=client.V1ObjectMeta(name="run")).metadata.name, "run"),
    }
    for claim, (answer, expected) in answers.items():
        if answer != expected:
            raise SlimError(f"It does not hold that {claim}: {answer!r} instead of {expected!r}.")
    print(f"use            {len(answers)} packages that rules cut something from")


def sizes() -> list[tuple[str, float, float, list[str]]]:
    """Each distribution with its megabytes, those of its bytecode and who requires it; the largest first.

    A requirement of an extra counts, because metadata does not say which extras were asked of an installation.
    """
    required: dict[str, set[str]] = defaultdict(set)
    rows = []
    distributions = {canonical(found.metadata["Name"]): found for found in importlib.metadata.distributions()}
    for name, found in distributions.items():
        for requirement in found.requires or ():
            required[canonical(re.split(r"[ ;\[<>=!~(]", requirement, maxsplit=1)[0])].add(name)
    for name, found in distributions.items():
        code = bytecode = 0
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if not path.is_file() or path.suffix == ".pyc":  # bytecode is counted with its module
                continue
            code += path.lstat().st_size
            if path.suffix == ".py":
                cache = Path(importlib.util.cache_from_source(str(path)))
                bytecode += cache.lstat().st_size if cache.exists() else 0
        rows.append((name, code / 1e6, bytecode / 1e6, sorted(required[name])))
    return sorted(rows, key=lambda row: -(row[1] + row[2]))


def canonical(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def print_sizes(least: float = 2.0) -> None:
    """Print `sizes`, from `least` megabytes on, as a Markdown table."""
    rows = sizes()
    print("| distribution | MB | of it bytecode | required by |\n|---|---|---|---|")
    for name, code, bytecode, by in rows:
        if code + bytecode >= least:
            print(f"| {name} | {code + bytecode:.0f} | {bytecode:.0f} | {', '.join(by)} |")
    rest = [row for row in rows if row[1] + row[2] < least]
    print(f"| {len(rest)} others | {sum(c + b for _, c, b, _ in rest):.0f} | {sum(b for _, _, b, _ in rest):.0f} | |")
    print(f"| **together** | {sum(c + b for _, c, b, _ in rows):.0f} | {sum(b for _, _, b, _ in rows):.0f} | |")


def check() -> None:
    """Every check, the cheap ones first."""
    check_bytecode()
    check_libraries()
    check_imports()
    check_use()


COMMANDS: dict[str, Callable[[], object]] = {"remove": remove, "check": check, "sizes": print_sizes}

if __name__ == "__main__":
    try:
        COMMANDS[sys.argv[1]]()
    except SlimError as error:
        sys.exit(str(error))
    # At once: every library is imported here, and a thread of one of them has aborted an interpreter that ended as
    # usual ("terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)
