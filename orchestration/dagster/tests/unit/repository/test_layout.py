"""The layout of the tests themselves."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from lakehouse_analytics.engines.registry import ENGINES

TESTS = Path(__file__).resolve().parents[2]
CODE, ROOT = TESTS.parent, TESTS.parents[2]


def test_no_folder_hides_an_installed_package() -> None:
    """`python -c` and `python -m` put the working directory first in sys.path, and the tests run in this folder."""
    names = {path.stem for path in TESTS.iterdir() if path.is_dir() or path.suffix == ".py"}
    installed = {*packages_distributions(), *sys.stdlib_module_names} - {"tests"}
    assert names >= {"unit", "definitions", "integration"}
    assert not names & installed


def test_only_engines_are_asked_which_engine_they_are() -> None:
    """What builds and checks asks for capabilities (`EngineType`), so that a new engine needs no change there."""
    package = CODE / "lakehouse_analytics"
    # They name engines for people, or look at one engine's own servers and files.
    may = {"engines", "settings", "doctor", "ingest"}
    named = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in may
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ENGINES
    }
    assert {name for name in named if not name.startswith("common/redact.py")} == set()  # schemes of URLs


def test_functions_and_classes_are_short() -> None:
    limits = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 250}
    long = {
        f"{path.relative_to(CODE)}: {node.name} has {length} lines"
        for path in (CODE / "lakehouse_analytics").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and (length := (node.end_lineno or 0) - node.lineno + 1) > limits[type(node)]
    }
    assert long == set()


def test_the_architecture_page_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = CODE / "lakehouse_analytics"
    table = page[page.index("## Where to change what") : page.index("The allowed imports")]
    named = {
        name for name in re.findall(r"`([a-z_/]+(?:\.py|\.sql|/))`", table) if "/" in name or name == "notifications.py"
    }
    assert len(named) > 15
    assert [name for name in sorted(named) if not ((package / name).exists() or (ROOT / name).exists())] == []
    tree = page[page.index("```\nlakehouse_analytics/") : page.index("Four words recur")]
    rows = {line.split()[0].rstrip("/") for line in tree.splitlines()[2:] if line.startswith("  ") and line[2] != " "}
    found = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rows == found - {"__init__.py"}


def _tools(folder: Path) -> dict[str, Any]:
    tools: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]
    return tools


def test_the_root_configures_dagster_and_pytest_as_the_package_does() -> None:
    """pytest, dagster and dg read the nearest pyproject.toml: there is one in the root and one beside the package."""
    root, code = _tools(ROOT), _tools(CODE)
    path = CODE.relative_to(ROOT).as_posix()
    assert root["dagster"] == code["dagster"]
    expected = code["dg"]["project"] | {
        "root_module": f"{path}/{code['dg']['project']['root_module']}".replace("/", ".")
    }
    assert root["dg"]["project"] == expected
    options = code["pytest"]["ini_options"]
    for name in ("testpaths", "pythonpath"):
        options[name] = [f"{path}/{folder}".removesuffix("/.") for folder in options[name]]
    assert root["pytest"]["ini_options"] == options


# Unit tests of something that is not one module of the package.
NO_MODULE = {
    "dbt/test_replace_window.py": "dbt/macros/replace_window.sql, outside the package",
    "reuse/test_histories.py": "the modules of reuse together, in random histories of a project",
}


def test_unit_tests_mirror_the_package() -> None:
    """A file is named after a module or package, and after a topic if there are several: `test_sync_faults.py`."""
    unit, package = TESTS / "unit", CODE / "lakehouse_analytics"
    misplaced = set()
    for path in unit.rglob("test_*.py"):
        folder = path.relative_to(unit).parent
        if folder.parts[:1] == ("repository",):
            continue
        # A folder's own name stands for the tests of the whole package.
        modules = {module.stem.lstrip("_") for module in (package / folder).glob("*")} | {folder.name}
        words = path.stem.removeprefix("test_").split("_")
        if not any("_".join(words[:count]) in modules for count in range(1, len(words) + 1)):
            misplaced.add(path.relative_to(unit).as_posix())
    assert misplaced == NO_MODULE.keys()


def test_folders_of_unit_tests_are_packages() -> None:
    unit, package = TESTS / "unit", CODE / "lakehouse_analytics"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")} - {Path("repository")}
    assert {folder.as_posix() for folder in folders if not (package / folder / "__init__.py").exists()} == set()
