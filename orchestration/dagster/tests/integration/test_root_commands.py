"""Dagster's own commands, as people type them: in the checkout's root and in the folder of the package.

A copy of the checkout, with a `.env` in its root: an error about its one wrong variable shows that a command reads it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(checkout: Path, folder: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
    # The package of the copy, not the installed one.
    environment |= {"PYTHONPATH": str(checkout / CODE), "DAGSTER_DISABLE_TELEMETRY": "1", "COLUMNS": "200"}
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


# Each costs about four seconds; `pytest` itself is what runs this, and test_layout.py compares its two configurations.
@pytest.mark.parametrize(
    ("folder", "command", "says"),
    [
        # The first makes the manifest, as `dg dev` and `dagster dev` do.
        (".", "dg check defs", "All definitions loaded successfully"),
        (CODE, "dg check defs", "All definitions loaded successfully"),
        (".", "dagster definitions validate", "All code locations passed validation"),
        (CODE, "dagster definitions validate", "All code locations passed validation"),
        (".", "dagster job list", "bronze_refresh"),
        (".", "dagster asset list -m lakehouse_analytics.definitions", "silver/dim_product"),
    ],
)
def test_a_command_works_where_people_type_it(checkout: Path, folder: str, command: str, says: str) -> None:
    (checkout / ".env").unlink(missing_ok=True)
    done = run(checkout, folder, *command.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout + done.stderr


@pytest.mark.parametrize(("folder", "command"), [(".", "dagster definitions validate"), (CODE, "dg check defs")])
def test_the_env_file_of_the_root_is_read(checkout: Path, folder: str, command: str) -> None:
    (checkout / ".env").write_text("LAKEHOUSE_TIMEZONE=Mars/Olympus\n")
    done = run(checkout, folder, *command.split())
    assert done.returncode != 0
    assert "LAKEHOUSE_TIMEZONE: 'Mars/Olympus' is not an IANA time zone" in done.stdout + done.stderr
