"""`examples/pull-request/lakehouse.yml`, which users copy into their repository."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from lakehouse_analytics.branches.names import branch_name
from lakehouse_analytics.cli.commands import main

ROOT = Path(__file__).resolve().parents[5]
WORKFLOW = ROOT / "examples" / "pull-request" / "lakehouse.yml"
TEXT = WORKFLOW.read_text()
PARSED: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS = [step for job in PARSED["jobs"].values() for step in job["steps"]]


def commands() -> Iterator[list[str]]:
    """The words of each command of `lakehouse` in the steps."""
    for script in (step["run"] for step in STEPS if "run" in step):
        for line in re.findall(r"^\s*(lakehouse .*)$", script, re.MULTILINE):
            words = shlex.split(line.replace("2>&1", "").split("||")[0])
            yield words[1:]


def test_there_are_the_commands_of_a_pull_request() -> None:
    found = {" ".join(words[:2]) for words in commands()}
    assert found >= {"manifest", "branch create", "build --branch", "impact --base", "branch drop"}


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_each_command_has_options_that_exist(words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    command.make_context(command.name, words, parent=context)  # raises a click.UsageError


def test_the_name_of_the_branch_is_usable() -> None:
    assert PARSED["env"]["BRANCH"] == "pr-${{ github.event.number }}"
    assert branch_name("pr-42") == "pr_42"


def test_actions_are_those_of_this_repository() -> None:
    ours = {
        line
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in re.findall(r"uses: (.*)", path.read_text())
    }
    used = re.findall(r"uses: (.*)", TEXT)
    assert used
    assert set(used) <= ours
    assert all(re.search(r"@[0-9a-f]{40}  # v", line) for line in used)


def test_scripts_get_values_from_the_environment_only() -> None:
    """An expression in a script would run what is written into the title of a pull request."""
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert scripts
    assert not [script for script in scripts if "${{" in script]


def test_permissions_are_minimal_and_forks_are_left_out() -> None:
    assert PARSED["permissions"] == {"contents": "read"}
    assert PARSED["jobs"]["build"]["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "permissions" not in PARSED["jobs"]["drop"]
    assert "pull_request_target" not in TEXT
    for job in PARSED["jobs"].values():
        assert "github.event.pull_request.head.repo.full_name == github.repository" in job["if"]
    assert all(
        step["with"]["persist-credentials"] is False for step in STEPS if "actions/checkout" in step.get("uses", "")
    )


def test_every_variable_is_a_setting() -> None:
    from lakehouse_analytics.settings import PREFIX, Settings

    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    names = {name for name in PARSED["env"] if name.startswith(PREFIX)}
    assert len(names) > 5
    assert names <= known
