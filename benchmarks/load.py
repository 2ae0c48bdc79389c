"""This code location against stock dagster-dbt, side by side in one run: what loading costs, and what a run costs.

Every figure is the median of fresh processes, the two sides taking turns. CPU seconds are user and system, of the
process and its children; memory is the peak of the loading process itself. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from project import TESTS_A_MODEL, generate

SIDES = ("stock", "ours")
#: `stock+rows` counts rows with `fetch_row_counts()`; ours always counts.
RUN_SIDES = ("stock", "stock+rows", "ours")
#: Measurements of each side.
TIMES = 5
CHAIN = 4  # models of the project that is run: one a layer

Sample = dict[str, dict[str, float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here, too")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000], help="models (default: %(default)s)")
    parser.add_argument("--no-run", action="store_true", help="measure loading only")
    options = parser.parse_args()

    report: dict[str, Any] = {"machine": _machine(), "load": {}, "run": {}}
    with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
        for models in options.sizes:
            environment = _project(Path(folder, str(models)), models)
            samples = _take_turns(SIDES, environment, "", TIMES, f"load {models}")
            report["load"][models] = _load(samples)
        if not options.no_run:
            environment = _project(Path(folder, "chain"), CHAIN)
            for name, selection in (("all 4 layers", "*"), ("1 model", "bronze_0000")):
                report["run"][name] = _run(_take_turns(RUN_SIDES, environment, selection, TIMES, f"run {name}"))
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables for the project in `dbt` of a folder, without any other of ours, of Dagster or of dbt.

    With Python's byte code, as an image has it: else compiling is most of what importing costs.
    """
    left_out = ("LAKEHOUSE_", "DAGSTER_", "DBT_", "PYTHONDONTWRITEBYTECODE")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}",
        "DAGSTER_HOME": str(folder / "home"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "LAKEHOUSE_DBT_PROJECT_DIR": str(folder / "dbt"),
        "LAKEHOUSE_DBT_TARGET_PATH": str(folder / "target"),
        **more,
    }


def _project(folder: Path, models: int) -> dict[str, str]:
    """Generate a project and parse it once, for both sides; the environment that names it."""
    _progress(f"generating and parsing {models} models")
    generate(folder / "dbt", models)
    (folder / "home").mkdir()
    environment = clean_environment(folder, LAKEHOUSE_DUCKDB_PATH=str(folder / "bench.duckdb"))
    subprocess.run(["lakehouse", "manifest"], env=environment, check=True, stdout=subprocess.DEVNULL)
    # Stock dbt looks for the partial parse in its own target folder: it shall not have to parse either.
    environment["DBT_TARGET_PATH"] = str(folder / "target")
    return environment


def _take_turns(
    sides: tuple[str, ...], environment: dict[str, str], selection: str, times: int, what: str
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {side: [] for side in sides}
    # A turn before the first fills the disk's cache and Python's byte code.
    for turn in range(times + 1):
        for side in sides if turn % 2 else reversed(sides):
            _progress(f"{what}: {side} {turn} of {times}")
            sample = _measure(environment, side, selection)
            if turn:
                samples[side].append(sample)
    return samples


def _measure(environment: dict[str, str], side: str, selection: str) -> Sample:
    child = Path(__file__).parent / "child.py"
    done = subprocess.run(
        [sys.executable, str(child), side, selection],
        env=environment,
        cwd=environment["DAGSTER_HOME"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    sample: Sample = json.loads(done.stdout.strip().splitlines()[-1])
    return sample


def _load(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    out: dict[str, Any] = {side: dict(samples[side][0]["size"]) for side in SIDES}
    for side in SIDES:
        taken = samples[side]
        out[side]["import: CPU s"] = _median(s["import"]["cpu"] for s in taken)
        out[side]["import + load: CPU s"] = _median(s["load"]["cpu"] for s in taken)
        out[side]["load alone: CPU s"] = _median(s["load"]["cpu"] - s["import"]["cpu"] for s in taken)
        out[side]["serve alone: CPU s"] = _median(s["serve"]["cpu"] - s["load"]["cpu"] for s in taken)
        out[side]["import + load + serve: CPU s"] = _median(s["serve"]["cpu"] for s in taken)
        out[side]["peak memory loaded: MB"] = _median(s["load"]["rss"] for s in taken)
        out[side]["peak memory served: MB"] = _median(s["serve"]["rss"] for s in taken)
    return out


def _run(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    return {
        side: {
            "run: CPU s": _median(s["run"]["cpu"] - s["load"]["cpu"] for s in taken),
            "run: wall s": _median(s["run"]["wall"] - s["load"]["wall"] for s in taken),
            "whole process: CPU s": _median(s["run"]["cpu"] for s in taken),
        }
        for side, taken in samples.items()
    }


def _median(values: Any) -> float:
    return round(float(median(values)), 3)


def _print(report: dict[str, Any]) -> None:
    print(report["machine"])
    for models, sides in report["load"].items():
        sizes = "; ".join(f"{side}: {sides[side]['assets']} assets, {sides[side]['checks']} checks" for side in SIDES)
        _table(f"Loading {models} models, {TESTS_A_MODEL} tests each ({sizes})", sides)
    for name, sides in report["run"].items():
        _table(f"Running {name} of a project of {CHAIN}, in process, after loading", sides)


def _table(title: str, sides: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}\n{'':32}" + "".join(f"{side:>12}" for side in sides) + f"{'ours/stock':>12}")
    for figure in (name for name in sides["stock"] if ": " in name):
        values = {side: figures[figure] for side, figures in sides.items()}
        ratio = f"{values['ours'] / values['stock']:.2f}" if values["stock"] else "–"
        print(f"{figure:32}" + "".join(f"{value:>12.2f}" for value in values.values()) + f"{ratio:>12}")


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("dagster", "dagster-dbt", "dbt-core", "dbt-duckdb"))
    system = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{system}, {packages}"


def _progress(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
