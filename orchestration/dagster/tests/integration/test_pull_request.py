"""The workflow for pull requests, with a real lakehouse and without GitHub: each of its scripts, in its order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.settings import repository_root

from .conftest import Lakehouse
from .test_changed import git

pytestmark = [pytest.mark.engine("trino"), pytest.mark.nightly("trino")]

#: Stands for the command line of GitHub. It prints the id of a comment if one was written, and keeps its words.
GH = """#!/bin/bash
echo "$*" >> "$GH_LOG"
case "$*" in
  *--paginate*) if [ -f "$GH_LOG.comment" ]; then echo 7; fi ;;
  *body=@*) cp comment.md "$GH_LOG.comment" ;;
esac
"""


class Workflow:
    """The scripts of the workflow, run as GitHub runs them, in a checkout."""

    def __init__(self, folder: Path, tools: Path, number: int) -> None:
        file = repository_root() / "examples" / "pull-request" / "lakehouse.yml"
        self.parsed: dict[Any, Any] = yaml.safe_load(file.read_text())
        self.folder, self.log = folder, tools / "gh.log"
        tools.mkdir()
        (tools / "gh").write_text(GH)
        (tools / "gh").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "GITHUB_REPOSITORY": "shop/lakehouse",
            "NUMBER": str(number),
            "BRANCH": self.parsed["env"]["BRANCH"].replace("${{ github.event.number }}", str(number)),
            "BASE": self.parsed["env"]["BASE"],
            "DAGSTER_HOME": self.parsed["env"]["DAGSTER_HOME"],
            "GH_LOG": str(self.log),
        }

    def run(self, job: str) -> dict[str, int]:
        """Run the scripts of a job; the exit code of each step."""
        codes: dict[str, int] = {}
        for step in self.parsed["jobs"][job]["steps"]:
            skipped = any(codes.values()) and "cancelled" not in step.get("if", "")
            if "run" not in step or step["name"] == "Install" or skipped:
                continue
            outcome = "failure" if codes.get("Build") else "success"
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=self.folder,
                env={**self.environment, "OUTCOME": outcome},
                check=False,
                capture_output=True,
                text=True,
            )
            codes[step["name"]] = done.returncode
            print(done.stdout, done.stderr)
        return codes

    @property
    def comment(self) -> str:
        return Path(f"{self.log}.comment").read_text()


def test_pushes_a_failed_gate_and_the_end(lakehouse: Lakehouse) -> None:
    assert lakehouse.run().success
    before = lakehouse.database.contents()
    (lakehouse.root / ".gitignore").write_text("target\n")
    git(lakehouse.root, "init", "--quiet")
    git(lakehouse.root, "add", "dbt", ".gitignore")
    git(lakehouse.root, "commit", "--quiet", "--message", "base")
    workflow = Workflow(lakehouse.root, lakehouse.root / "tools", 42)

    lakehouse.files["models/gold/ga.sql"] = "select sum(n) + 1 as n from {{ ref('sa') }}"
    lakehouse.write()
    git(lakehouse.root, "commit", "--quiet", "--all", "--message", "change")
    assert workflow.run("build") == {"Create the branch": 0, "Build": 0, "Comment": 0}
    assert workflow.comment.startswith("<!-- lakehouse -->\n### What this change reaches\n")
    assert "Compared with HEAD^1: 1 changed, 1 more reached" in workflow.comment
    assert "The build on the branch pr-42: success." in workflow.comment
    assert "### `gold/ga`: `main` → `branch:pr-42`" in workflow.comment
    assert lakehouse.sql("select n from gold__pr_42.ga") == [(50601,)]

    # The next push changes something else, and fails a gate.
    lakehouse.files |= {
        "models/gold/ga.sql": "select sum(n) as n from {{ ref('sa') }}",
        "models/bronze/b.sql": "select 1 as id, n from {{ source('raw', 'b') }}",
    }
    lakehouse.write()
    git(lakehouse.root, "commit", "--quiet", "--all", "--amend", "--message", "another change")
    assert workflow.run("build") == {"Create the branch": 0, "Build": 1, "Comment": 0}
    assert "The build on the branch pr-42: failure." in workflow.comment
    assert lakehouse.sql("select n from gold__pr_42.ga") == [(50600,)]  # as in production: nothing of the first push
    methods = [line.split()[2] for line in workflow.log.read_text().splitlines() if "--method" in line]
    assert methods == ["POST", "PATCH"]

    assert lakehouse.database.contents() == before
    assert workflow.run("drop") == {"Drop the branch": 0}
    assert workflow.run("drop") == {"Drop the branch": 0}
    schemas = {schema for (schema,) in lakehouse.sql("select schema_name from information_schema.schemata")}
    assert not {schema for schema in schemas if "__" in str(schema)}
