"""Where LAKEHOUSE_STRICT is set: for this repository's project, and for no other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from lakehouse_analytics.settings import repository_root

ENVIRONMENT = "infrastructure/local/env.sh"


@pytest.mark.parametrize(
    ("variables", "dotenv", "strict"),
    [
        ({}, "", "true"),
        ({"LAKEHOUSE_DBT_PROJECT_DIR": "/theirs"}, "", ""),
        ({}, "LAKEHOUSE_DBT_PROJECT_DIR=/theirs\n", ""),
        ({}, "LAKEHOUSE_STRICT=false\n", "false"),
        ({"LAKEHOUSE_DBT_PROJECT_DIR": "/theirs", "LAKEHOUSE_STRICT": "true"}, "", "true"),
    ],
)
def test_make_is_strict_unless_another_project_is_named(
    variables: dict[str, str], dotenv: str, strict: str, tmp_path: Path
) -> None:
    script = tmp_path / ENVIRONMENT
    script.parent.mkdir(parents=True)
    shutil.copy(repository_root() / ENVIRONMENT, script)
    (tmp_path / ".env").write_text(dotenv)
    done = subprocess.run(
        ["bash", "-aeuc", f'. "{script}"; echo "${{LAKEHOUSE_STRICT:-}}"'],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == strict


def test_the_values_for_kubernetes_are_strict() -> None:
    values = yaml.safe_load((repository_root() / "infrastructure/kubernetes/dagster/values.yaml").read_text())
    [deployment] = values["dagster-user-deployments"]["deployments"]
    assert deployment["env"]["LAKEHOUSE_STRICT"] == "true"
