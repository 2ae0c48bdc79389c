"""Dagster's own commands, as people type them: in the checkout's root and in the folder of the package.

A copy of the checkout, with a `.env` in its root: an error about its one wrong variable shows that a command reads it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[4]
CODE = "orchestration/dagster"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As git has it, without what a developer left there."""
    copy = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "dbt", "pyproject.toml", "orchestration"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    (copy / CODE / ".env").symlink_to("../../.env")  # as `make` makes it
    return copy


def run(checkout: Path, folder: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
    # The package of the copy, not the installed one.
    environment |= {"PYTHONPATH": str(checkout / CODE), "DAGSTER_DISABLE_TELEMETRY": "1", "COLUMNS": "200", **variables}
    program = Path(sys.executable).parent / command[0]
    return subprocess.run(
        [str(program), *command[1:]],
        cwd=checkout / folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# Each costs about four seconds; test_layout.py compares the two configurations of pytest.
@pytest.mark.parametrize(
    ("folder", "command", "says"),
    [
        # The first makes the manifest, as `dg dev` and `dagster dev` do.
        (".", "dg check defs", "All definitions loaded successfully"),
        (CODE, "dg check defs", "All definitions loaded successfully"),
        (".", "dagster definitions validate", "All code locations passed validation"),
        (CODE, "dagster definitions validate", "All code locations passed validation"),
        (".", "dagster job list", "bronze_refresh"),
        (CODE, "dagster job list", "bronze_refresh"),
        (".", "dagster asset list -m lakehouse_analytics.definitions", "silver/dim_product"),
        (CODE, "dagster asset list -m lakehouse_analytics.definitions", "silver/dim_product"),
        (".", f"pytest {CODE}/tests/unit/common/test_text.py::test_a_message_has_no_traceback", "5 passed"),
        (CODE, "pytest tests/unit/common/test_text.py::test_a_message_has_no_traceback", "5 passed"),
    ],
)
def test_a_command_works_where_people_type_it(checkout: Path, folder: str, command: str, says: str) -> None:
    (checkout / ".env").unlink(missing_ok=True)
    done = run(checkout, folder, *command.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout + done.stderr


# `dagster asset list` opens no instance, with which Dagster reads the file: SETUP_GUIDE.md runs it by `dotenv`.
@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (".", "dagster definitions validate"),
        (CODE, "dg check defs"),
        (".", "dg list defs"),
        (".", "dagster job list"),
        (CODE, "dagster job list"),
        (".", "dotenv run -- dagster asset list -m lakehouse_analytics.definitions"),
        (CODE, "dotenv run -- dagster asset list -m lakehouse_analytics.definitions"),
    ],
)
def test_the_env_file_of_the_root_is_read(checkout: Path, folder: str, command: str) -> None:
    (checkout / ".env").write_text("LAKEHOUSE_TIMEZONE=Mars/Olympus\n")
    program = str(Path(sys.executable).parent)
    done = run(checkout, folder, *command.split(), PATH=f"{program}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode != 0
    assert "LAKEHOUSE_TIMEZONE: 'Mars/Olympus' is not an IANA time zone" in done.stdout + done.stderr


@pytest.mark.parametrize("folder", [".", CODE])
def test_pip_can_install_the_folder(checkout: Path, folder: str, tmp_path: Path) -> None:
    """`pip install -e ".[dev]"`: what pip asks of the backend that pyproject.toml names, without its downloads."""
    build = tomllib.loads((checkout / folder / "pyproject.toml").read_text())["build-system"]
    assert Requirement(build["requires"][0]).specifier.contains(version("setuptools"))
    paths = [str(checkout / folder / name) for name in build.get("backend-path", [])]
    program = (
        "import importlib, sys; _, name, out, *paths = sys.argv; sys.path[:0] = paths; "
        "backend = importlib.import_module(name); "
        "assert backend.get_requires_for_build_editable() == []; "
        "backend.prepare_metadata_for_build_editable(out); backend.build_editable(out)"
    )
    done = run(checkout, folder, "python", "-c", program, build["build-backend"], str(tmp_path), *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [metadata] = tmp_path.glob("*.whl"), tmp_path.glob("*.dist-info/METADATA")
    declared = metadata.read_text()
    assert "\nName: lakehouse-analytics\n" in declared
    assert "\nProvides-Extra: dev\n" in declared
    with zipfile.ZipFile(wheel) as archive:
        linked = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith((".pth", ".py")))
        scripts = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert str(checkout / CODE) in linked
    assert "lakehouse = lakehouse_analytics.cli:main" in scripts


#: A project with findings of several kinds, on Trino, which nothing asks.
FINDINGS = {
    "dbt_project.yml": "name: shop\nprofile: shop\n",
    "profiles.yml": "shop: {target: dev, outputs: {dev: {type: trino, host: trino.example, port: 8080, user: ann, "
    "database: lake, schema: shop}}}\n",
    "models/a.sql": "{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='id', "
    "meta={'lakehouse': {'pool': 'p'}, 'dagster': {'colour': 1}}) }}\nselect 1 as id",
    "models/b.sql": "{{ config(materialized='table', on_table_exists='gone') }}\nselect 1 as id",
    "models/c.sql": "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='at', "
    "begin='2026-01-01', batch_size='day') }}\nselect 1 as id, current_timestamp as at",
    "tests/t.sql": "{{ config(meta={'dagster': {'ref': 'nothing'}}) }}\nselect * from {{ ref('a') }} where false",
}
SAID = (
    "incremental_strategy: delete+insert is two commits",
    "incremental_strategy: microbatch deletes each batch",
    "meta.lakehouse.pool has no effect",
    "on_table_exists is rename",
    "on_table_exists: gone is not valid",
    "no query-comment names the run",
    "have no layer",
    "meta.dagster.ref names nothing",
    "meta.dagster has keys without effect",
)


def test_nothing_is_printed_twice(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".env").unlink(missing_ok=True)
    for name, text in FINDINGS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = {"LAKEHOUSE_DBT_PROJECT_DIR": str(tmp_path)}
    made = run(checkout, ".", "lakehouse", "manifest", **variables)
    assert made.returncode == 0, made.stdout + made.stderr
    done = run(checkout, ".", "dagster", "definitions", "validate", **variables)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert {what: printed.count(what) for what in SAID} == dict.fromkeys(SAID, 1)
    # Without the time in front of a line.
    lines = Counter(re.sub(r"^.*? - (INFO|WARNING|ERROR)", "", line).strip() for line in printed.splitlines())
    assert [line for line, times in lines.items() if line and times > 1] == []
