"""Every command that doctor prints exists in the place where it prints it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest
from lakehouse_analytics import doctor
from lakehouse_analytics.cli import main
from lakehouse_analytics.doctor import fixes
from lakehouse_analytics.doctor.fixes import Place
from lakehouse_analytics.settings import repository_root

PROGRAMS = ("make", "lakehouse", "dagster", "dagster-daemon", "kubectl", "helm", "python", "dg", "dbt")
ARGUMENTS = {
    "pool": "duckdb",
    "what": "schedule",
    "name": "daily_refresh",
    "page": "http://localhost:3000/automation",
    "ingest": True,
}
ALL = {
    name: function
    for name, function in inspect.getmembers(fixes, inspect.isfunction)
    if not name.startswith("_") and name != "here" and function.__module__ == fixes.__name__
}
#: What is there in a pod, whose root file system is read-only and which has no checkout.
WRITES = (["lakehouse", "init"], ["lakehouse", "manifest"], ["lakehouse", "ingest"], ["lakehouse", "demo"])
ONLY_IN = {"include_instance": {Place.POD}, "prepare_home": {Place.CHECKOUT, Place.ELSEWHERE}}


def commands(text: str) -> list[list[str]]:
    """What stands in backticks and begins with a program."""
    found = [shlex.split(quoted.rstrip(".")) for quoted in re.findall(r"`([^`]+)`", text)]
    return [words for words in found if words and words[0] in PROGRAMS and len(words) > 1]


@pytest.fixture
def _known_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_K8S_PIPELINE_RUN_NAMESPACE", "lake")


@pytest.mark.usefixtures("_known_namespace")
@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_of_a_fix_exists_where_it_is_printed(name: str, place: Place) -> None:
    if place not in ONLY_IN.get(name, {*Place}):
        return
    wanted = [parameter for parameter in inspect.signature(ALL[name]).parameters if parameter != "place"]
    text = ALL[name](place, **{parameter: ARGUMENTS[parameter] for parameter in wanted})
    for words in commands(text):
        check(words, place)
    bare = re.sub(r"`[^`]+`", "", text)
    assert not re.search(
        r"(?<![.\w])(make|lakehouse|dagster|kubectl|helm|dagster-daemon) [a-z-]+", bare.replace("make reads", "")
    )


def check(words: list[str], place: Place) -> None:
    """Fail unless the command is there."""
    program, *arguments = words
    if program == "make":
        assert place is Place.CHECKOUT, words
        targets = re.findall(r"^([a-z-]+):", (repository_root() / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, words
    elif program == "lakehouse":
        assert not (place is Place.POD and words[:2] in WRITES), words
        accepts(main, arguments)
    elif program == "dagster":
        from dagster._cli import create_dagster_cli

        workspace = f"{repository_root()}/orchestration/dagster/dagster_workspace.yaml"
        if place is Place.POD:  # where the chart mounts it in the webserver
            arguments = [workspace if word == "/dagster-workspace/workspace.yaml" else word for word in arguments]
        accepts(create_dagster_cli(), arguments)  # click looks whether a file exists
    elif program == "dagster-daemon":
        assert place is not Place.POD, "the code server's pod is no place for a daemon"
        assert shutil.which(program, path=str(Path(sys.executable).parent)), words
        assert arguments == ["run"]
    elif program == "python":
        module = arguments[arguments.index("-m") + 1]
        assert importlib.util.find_spec(module), words
    elif program == "kubectl":
        assert place is Place.POD, words
        assert arguments[:2] == ["-n", "lake"]
        line = " ".join(arguments[2:])
        if line.startswith("exec "):
            inside = line.partition(" -- ")
            assert re.fullmatch(r"exec \$\(kubectl -n lake get deploy -l component=[a-z-]+ -o name\)", inside[0]), line
            check(shlex.split(inside[2]), place)
        else:
            assert re.fullmatch(r"(logs -l \S+ --tail=\d+|rollout restart deployment -l \S+)", line), line
    elif program == "helm":
        assert (place, arguments) == (Place.POD, ["upgrade"])
    else:
        pytest.fail(f"no rule for {words}")


def accepts(command: click.Command, words: list[str]) -> None:
    """Fail unless click takes these words."""
    context = command.make_context(str(command.name), [*words])
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, found, rest = command.resolve_command(context, rest)
        assert found
        accepts(found, rest)


def test_the_labels_are_those_of_the_chart() -> None:
    """`component` of the daemon's and the webserver's Deployment in charts 1.9.3 and 1.12.19."""
    assert (fixes._DAEMON, fixes._WEBSERVER) == ("component=dagster-daemon", "component=dagster-webserver")


def test_no_probe_has_a_command_of_its_own() -> None:
    """Commands stand in `fixes`, where the test above finds them."""
    command = re.compile(r"\b(make|lakehouse|dagster|kubectl|helm) (-n|[a-z]+)\b")
    for path in sorted(Path(doctor.__file__).parent.glob("*.py")):
        if path.name in ("fixes.py", "coordinator.py"):
            continue
        tree = ast.parse(path.read_text())
        documentation = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body and isinstance(node.body[0], ast.Expr)
        }  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                assert not command.search(node.value) or node.value.startswith("`lakehouse doctor` writes"), (
                    path,
                    node.value,
                )


@pytest.mark.parametrize("place", Place)
def test_ingest_is_named_only_where_it_can_write(place: Place) -> None:
    assert "lakehouse ingest" not in fixes.fill_sources(place, ingest=False)
    assert ("lakehouse ingest" in fixes.fill_sources(place, ingest=True)) == (place is not Place.POD)


def test_the_place_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert fixes.here() is Place.CHECKOUT
    monkeypatch.setattr(fixes, "repository_root", lambda: tmp_path)
    assert fixes.here() is Place.ELSEWHERE
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert fixes.here() is Place.POD
