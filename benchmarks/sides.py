"""What the benchmarks of arrivals and exports share: each side is a process of its own, and the sides take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

#: What one side has needed: `seconds`, `cpu` seconds (user and system), `memory` at its peak in MB, and its results.
Figures = dict[str, Any]
UNIT_TESTS = Path(__file__).resolve().parents[1] / "orchestration" / "dagster" / "tests" / "unit"
MAX_MEMORY = 500
#: ClickHouse's checksum of a text: the number in the first 60 bits of its MD5.
CLICKHOUSE_MD5 = "toUInt128(bitShiftRight(reinterpretAsUInt64(reverse(substring(MD5({text}), 1, 8))), 4))"


def measured(work: Callable[[], Any]) -> Figures:
    """Do some work in this process, and return what it needed."""
    began, cpu = time.monotonic(), _cpu()
    work()
    seconds, cpu = time.monotonic() - began, _cpu() - cpu
    # Not `ru_maxrss`, which may be the parent's.
    memory = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "cpu": cpu, "memory": int(memory.split()[1]) / 1024}


def _cpu() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def run_side(script: str, *arguments: str, python: str = sys.executable) -> Figures:
    """Run a side in a process of its own, and return the figures that it prints last."""
    result = subprocess.run([python, script, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(result.stdout.splitlines()[-1])
    return figures


def run_dlt(*arguments: str) -> Figures:
    """Load with dlt, in its own environment: DLT_PYTHON, which `make bench-arrivals` installs."""
    python = os.environ.get("DLT_PYTHON") or sys.exit("DLT_PYTHON is not set: run `make bench-arrivals`.")
    return run_side(str(Path(__file__).with_name("arrivals_dlt.py")), *arguments, python=python)


def medians(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the median of each figure over the rounds, and the highest memory."""
    names = ("seconds", "cpu")
    return {
        side: {name: median(each[side][name] for each in rounds) for name in names}
        | {"memory": max(each[side]["memory"] for each in rounds)}
        for side in rounds[0]
    }


def print_ratios(figures: Mapping[str, Figures], labels: Mapping[str, str]) -> None:
    """Print the sides, with the first one as the base of the ratios."""
    base = figures[next(iter(labels))]
    for side, label in labels.items():
        each = figures[side]
        wall, cpu = each["seconds"] / base["seconds"], each["cpu"] / base["cpu"]
        seconds = f"{each['seconds']:6.1f} s {wall:5.1f}x {each['cpu']:6.1f} s CPU {cpu:5.1f}x"
        print(f"  {label:44}{seconds} {each['memory']:6.0f} MB")
    sys.stdout.flush()


def check_memory(figures: Iterable[Figures]) -> None:
    """Fail if a side needed more memory than a sync may."""
    if max(each["memory"] for each in figures) > MAX_MEMORY:
        sys.exit(f"More than {MAX_MEMORY} MB of memory were needed.")


def progress(text: str) -> None:
    """Report what is done now, on stderr."""
    print(f"{text} …", file=sys.stderr, flush=True)
