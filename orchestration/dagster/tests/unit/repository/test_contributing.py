"""What contributors rely on: pre-commit runs what `make lint` runs, and workflows use actions that cannot change."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml
from lakehouse_analytics.settings import repository_root

ROOT = repository_root()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def linters() -> list[str]:
    """The targets that `make lint` consists of."""
    found = re.search(r"^LINTERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    return found[1].split()


def hooks() -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "a hook from elsewhere has a version of its own, and is downloaded"
    found: list[dict[str, Any]] = repository["hooks"]
    return found


def test_pre_commit_runs_every_linter_of_make_lint() -> None:
    assert [shlex.split(hook["entry"])[-1] for hook in hooks()] == linters()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Any) -> None:
    uses = re.findall(r"^\s*(?:- )?uses: (.*)$", workflow.read_text(), re.MULTILINE)
    assert uses
    loose = [action for action in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action)]
    assert not loose, "pin by commit, with the release as a comment: a tag can be moved"
