"""A run of this code location against bare `dbt build`, whole processes side by side.

`skew`: one slow table in bronze, beside it chains of four tables. Only what reads the slow one may wait for it.
`trino`: 300 tables and 100 tests on the local stack. Every figure is the median of fresh processes that take turns,
after one turn that does not count. Nothing here passes or fails, except that both sides must build everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from load import _machine, _progress, clean_environment

TURNS = 5
THREADS = 4
#: Seconds of the slow table, and of each table of the chains; the chains, and their tables, one a layer.
SLOW, EACH, CHAINS, LAYERS = 20, 5, 3, ("bronze", "silver", "gold", "metrics")
MODELS, TESTS = 300, 100
SIDES = ("dbt build", "ours")

Cost = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["skew", "trino"], default=["skew", "trino"])
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help="default: %(default)s")
    options = parser.parse_args()
    print(_machine())
    makers: dict[str, Callable[[Path], dict[str, str]]] = {"skew": _skewed, "trino": _on_trino}
    for what in options.what:
        with tempfile.TemporaryDirectory(prefix="lakehouse-bench-") as folder:
            environment = makers[what](Path(folder))
            taken: dict[str, list[Cost]] = {side: [] for side in SIDES}
            for turn in range(options.turns + 1):
                for side in SIDES if turn % 2 else reversed(SIDES):
                    _progress(f"{what}: {side} {turn} of {options.turns}")
                    cost = _measure(side, environment)
                    if turn:
                        taken[side].append(cost)
            _print(what, taken)


def _skewed(folder: Path) -> dict[str, str]:
    """Tables that take a given time, whatever the machine is."""

    def model(layer: str, name: str, seconds: int, parent: str | None) -> None:
        reads = f'    dbt.ref("{parent}")\n' if parent else ""
        code = f"import time\n\ndef model(dbt, session):\n{reads}    time.sleep({seconds})\n"
        _write(folder, f"models/{layer}/{name}.py", f'{code}    return session.sql("select 1 as id")\n')

    model("bronze", "slow", SLOW, None)
    for chain in range(CHAINS):
        parent = None
        for layer in LAYERS:
            name = f"{layer}_{chain}"
            model(layer, name, EACH, parent)
            parent = name
    output = {"type": "duckdb", "path": str(folder / "bench.duckdb"), "threads": THREADS}
    return _project(folder, output, {"LAKEHOUSE_DUCKDB_PATH": str(folder / "bench.duckdb")})


def _on_trino(folder: Path) -> dict[str, str]:
    """Tables of a row each in four layers, a test on every third."""
    share = MODELS // len(LAYERS)
    for number in range(MODELS):
        layer = LAYERS[number // share]
        body = "select 1 as id" if number < share else f"select * from {{{{ ref('m{number - share:03}') }}}}"
        _write(folder, f"models/{layer}/m{number:03}.sql", body)
    tested = [f"{{name: m{n:03}, columns: [{{name: id, data_tests: [not_null]}}]}}" for n in range(0, MODELS, 3)]
    _write(folder, "models/tests.yml", f"models: [{', '.join(tested[:TESTS])}]")
    output = {
        "type": "trino",
        "method": "ldap",
        "host": "{{ env_var('LAKEHOUSE_TRINO_HOST') }}",
        "port": "{{ env_var('LAKEHOUSE_TRINO_PORT') | as_number }}",
        "user": "{{ env_var('LAKEHOUSE_TRINO_USER') }}",
        "password": "{{ env_var('LAKEHOUSE_TRINO_PASSWORD') }}",
        "cert": "{{ env_var('LAKEHOUSE_TRINO_CA_BUNDLE') }}",
        "http_scheme": "https",
        "database": "lakehouse",
        "schema": "bench",
        "threads": THREADS,
    }
    stack = dict(line.split("=", 1) for line in Path(".stack/env").read_text().splitlines())
    # Requests would prefer a bundle of this machine to the one that dbt is given.
    more = {"LAKEHOUSE_ENV": "trino", "REQUESTS_CA_BUNDLE": stack["LAKEHOUSE_TRINO_CA_BUNDLE"]}
    return _project(folder, output, {**stack, **more})


def _project(folder: Path, output: Mapping[str, object], more: Mapping[str, str]) -> dict[str, str]:
    _write(folder, "dbt_project.yml", 'name: bench\nversion: "1.0"\nprofile: bench\nmodels: {+materialized: table}\n')
    _write(folder, "profiles.yml", json.dumps({"bench": {"target": "here", "outputs": {"here": output}}}))
    (folder / "home").mkdir()
    profiles = {"DBT_PROFILES_DIR": str(folder / "dbt"), "LAKEHOUSE_DBT_TARGET": "here"}
    environment = clean_environment(folder, **profiles, **more)
    subprocess.run(["lakehouse", "manifest"], env=environment, check=True, stdout=subprocess.DEVNULL)
    # Bare dbt parses nothing either.
    shutil.copytree(folder / "target", folder / "of-dbt")
    return environment


def _write(folder: Path, name: str, text: str) -> None:
    path = folder / "dbt" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _measure(side: str, environment: Mapping[str, str]) -> Cost:
    project = Path(environment["LAKEHOUSE_DBT_PROJECT_DIR"])
    commands = {
        # With the target by name, or dbt parses again.
        "dbt build": ["dbt", "build", "--target", "here", "--target-path", str(project.parent / "of-dbt")],
        "ours": [sys.executable, str(Path(__file__).parent / "child.py"), "ours", "*"],
    }
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(commands[side], env=environment, cwd=project, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{side} failed:\n{said.read().decode()[-3000:]}")
    return {"wall s": time.monotonic() - began, "CPU s": usage.ru_utime + usage.ru_stime}


def _print(what: str, taken: Mapping[str, list[Cost]]) -> None:
    titles = {
        "skew": f"One table of {SLOW} s beside {CHAINS} chains of {len(LAYERS)} of {EACH} s, {THREADS} threads, DuckDB",
        "trino": f"{MODELS} tables and {TESTS} tests, {THREADS} threads, Trino",
    }
    print(f"\n{titles[what]}\n{'':10}" + "".join(f"{side:>12}" for side in SIDES) + f"{'ratio':>8}{'from … to':>14}")
    for figure in ("wall s", "CPU s"):
        bare, ours = ([cost[figure] for cost in taken[side]] for side in SIDES)
        ratios = sorted(one / other for one, other in zip(ours, bare, strict=True))
        print(
            f"{figure:10}{median(bare):12.2f}{median(ours):12.2f}{median(ours) / median(bare):8.2f}"
            f"{ratios[0]:8.2f} {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
