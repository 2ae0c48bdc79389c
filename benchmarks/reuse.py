"""A run of a project in which nothing has changed, with `reuse: true`, compared with one that builds everything.

The models are generated, on DuckDB, without tests or with three per model: those are evaluated in every run. Nothing
here passes or fails, except that the later runs must build nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from load import clean_environment
from project import generate

_SUMMARY = re.compile(r"(\d+) of \d+ tables were built(?:, and (\d+) reused)?")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500, help="number of models (default: %(default)s)")
    parser.add_argument("--tests", action="store_true", help="with three tests per model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reuse-benchmark-") as name:
        folder = Path(name)
        environment = clean_environment(folder, LAKEHOUSE_DUCKDB_PATH=str(folder / "lakehouse.duckdb"))
        generate(folder / "dbt", options.models)
        project = folder / "dbt" / "dbt_project.yml"
        reuse = "+materialized: table\n    +meta: {lakehouse: {reuse: true}}"
        project.write_text(project.read_text().replace("+materialized: table", reuse))
        if not options.tests:
            for file in (folder / "dbt" / "models").rglob("*.yml"):
                file.unlink()
        (folder / "home").mkdir()
        for command in ("init", "manifest"):
            subprocess.run(["lakehouse", command], env=environment, check=True, stdout=subprocess.DEVNULL)
        print(f"{options.models} models{', three tests each' if options.tests else ''}")
        first, second, third = _run(environment), _run(environment, builds=0), _run(environment, builds=0)
        print(f"unchanged, compared with everything: {second / first:.2f} and {third / first:.2f} of the time")
        seconds = _no_run(environment)
        print(f"  lakehouse build --skip-unchanged: no run, {seconds:.1f} s, {seconds / first:.2f} of the time")


def _run(environment: dict[str, str], builds: int | None = None) -> float:
    """Run all models, print what was built, and return the seconds between the start and the end of the run."""
    began = time.monotonic()
    job = ["dagster", "job", "execute", "-m", "lakehouse_analytics.definitions", "-j", "full_refresh"]
    result = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    found = _SUMMARY.search(result.stderr + result.stdout)
    if result.returncode or not found:
        sys.exit(f"The run failed:\n{result.stderr[-3000:]}")
    built, reused = int(found[1]), int(found[2] or 0)
    if builds is not None and built != builds:
        sys.exit(f"{built} tables were built, and {builds} expected.")
    print(f"  {built} built, {reused} reused: {seconds:.1f} s, with the start of the process")
    return seconds


def _no_run(environment: dict[str, str]) -> float:
    """Return the seconds in which `lakehouse build` finds that there is nothing to build."""
    began = time.monotonic()
    command = ["lakehouse", "build", "--skip-unchanged"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode or "so nothing is built or tested" not in result.stdout:
        sys.exit(f"The command built something:\n{result.stdout[-2000:]}{result.stderr[-1000:]}")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
