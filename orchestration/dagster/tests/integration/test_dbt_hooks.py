"""What `lakehouse manifest` learns from dbt itself: which variables it read, and whether packages are installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.dbt import hooks as dbt_hooks
from lakehouse_analytics.dbt.hooks import DEPS_BECAUSE
from lakehouse_analytics.dbt.run_results import DbtResult
from lakehouse_analytics.dbt.runner import DbtRunner, DbtSession

FILES = {
    "dbt_project.yml": """
name: shop
version: "1.0"
profile: shop
models:
  shop:
    +enabled: "{{ env_var('IN_PROJECT', 'true') == 'true' }}"
    +post-hook: "{{ env_var('IN_POST_HOOK', 'select 1') }}"
query-comment: "{{ env_var('IN_COMMENT', 'none') }}"
on-run-start: "{{ env_var('IN_HOOK', 'select 1') }}"
vars: {day: "{{ env_var('IN_VARS', '1') }}"}
""",
    "profiles.yml": """
shop:
  target: dev
  outputs:
    dev:
      type: duckdb
      path: "{{ env_var('IN_PROFILE', 'shop.duckdb') }}"
      threads: "{{ env_var('IN_THREADS', '2') | as_number }}"
""",
    "packages.yml": "packages: [{local: \"{{ env_var('IN_PACKAGES', '../utils') }}\"}]",
    "../utils/dbt_project.yml": (
        "name: utils\nversion: '1.0'\nmodels: {utils: {+enabled: \"{{ env_var('IN_PACKAGE', 'true') == 'true' }}\"}}"
    ),
    "../utils/macros/utils.sql": "{% macro of_package() %}{{ env_var('IN_MACRO_OF_PACKAGE', 'a') }}{% endmacro %}",
    "../other/dbt_project.yml": "name: other\nversion: '1.0'",
    "models/orders.sql": "select '{{ env_var('IN_MODEL', 'a') }}' as id, '{{ utils.of_package() }}' as other",
    "models/one.yml": """
models:
  - name: orders
    description: "{{ env_var('IN_DESCRIPTION', 'a') }}"
    config: {tags: ["{{ env_var('IN_YAML', 'a') }}"]}
    columns:
      - name: id
        data_tests:
          - accepted_values: {values: [a], config: {where: "{{ env_var('IN_TEST', 'true') }}"}}
""",
    "macros/names.sql": """
{% macro generate_schema_name(custom_schema_name, node) %}{{ env_var('IN_NAMES', 'main') }}{% endmacro %}
{% macro never() %}{{ env_var('IN_UNUSED_MACRO') }}{% endmacro %}
""",
}


class Shop:
    """A dbt project, and one process that has imported dbt."""

    def __init__(self, root: Path, session: DbtSession) -> None:
        self.root, self.project, self.session = root, root / "shop", session

    def dbt(self, command: str, hook: Mapping[str, str] | None = None) -> tuple[DbtResult, list[str]]:
        lines: list[str] = []
        result = self.session.run(
            [command], lambda _, line: lines.append(line), target_path=self.root / "target", hook=hook
        )
        return result, lines

    def deps(self) -> str:
        """Install packages if they are not those declared; why anything had to be done, empty if nothing."""
        packages = str(self.project / "dbt_packages")
        result, lines = self.dbt("deps", {"kind": "deps", "project_dir": str(self.project), "packages_dir": packages})
        assert result.exit_code == 0, result.reason
        reasons = [line.removeprefix(DEPS_BECAUSE) for line in lines if line.startswith(DEPS_BECAUSE)]
        assert len(reasons) == any("Installing" in line for line in lines)
        return "".join(reasons)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("hooks")
    for path, text in FILES.items():
        file = root / "shop" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.resolve().parent.mkdir(parents=True, exist_ok=True)
        file.resolve().write_text(text.lstrip("\n"))
    runner = DbtRunner(
        project_dir=str(root / "shop"), profiles_dir=str(root / "shop"), target="dev", target_path=str(root / "target")
    )
    with runner.session("duckdb") as session:
        yield Shop(root, session)


def test_dbt_is_asked_for_packages_when_and_only_when_they_changed(shop: Shop) -> None:
    packages = shop.project / "packages.yml"
    assert shop.deps() == "there is no package-lock.yml"
    assert not shop.deps()
    packages.write_text("packages: [{local: ../utils}, {local: ../other}]")
    assert shop.deps() == "packages.yml has changed since package-lock.yml was written"
    assert not shop.deps()
    packages.write_text("# A comment changes nothing.\npackages:\n- local: ../utils\n- local: ../other\n")
    assert not shop.deps()
    (shop.project / "dbt_packages" / "other").unlink()
    assert shop.deps() == "other is not installed in dbt_packages"
    packages.write_text("packages: []")
    assert not shop.deps()
    packages.write_text(FILES["packages.yml"])
    assert shop.deps()


def test_packages_of_another_version_than_the_locks_are_not_installed(tmp_path: Path) -> None:
    """As after a `git pull` of a new lock, where no manifest of before says that it was another."""
    from dbt.config.project import package_config_from_data
    from dbt.task.deps import _create_sha1_hash

    hub, git = {"package": "acme/utils", "version": "1.3.0"}, {"git": "https://git.invalid/x", "revision": "v2"}
    declared = {"packages": [hub, git]}
    locked = [{**hub, "name": "utils"}, {**git, "name": "x", "revision": "b" * 40}]
    # dbt writes into what it is given.
    config = package_config_from_data(deepcopy(declared), deepcopy(declared))
    lock = {"packages": locked, "sha1_hash": _create_sha1_hash(config.packages)}
    packages = tmp_path / "dbt_packages"
    (packages / "x" / ".git").mkdir(parents=True)
    (packages / "utils").mkdir()
    (packages / "x" / "dbt_project.yml").write_text("name: x\n")
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "packages.yml").write_text(json.dumps(declared))
    (tmp_path / "package-lock.yml").write_text(json.dumps(lock))

    def why(version: str, commit: str, *, versions: bool = True) -> str:
        (packages / "utils" / "dbt_project.yml").write_text(f"name: utils\nversion: {version}\n")
        (packages / "x" / ".git" / "HEAD").write_text(f"{commit * 40}\n")
        return dbt_hooks._why_deps(tmp_path, packages, versions=versions)

    assert why("1.3.0", "b") == ""
    assert why("1.1.0", "b") == "utils in dbt_packages has another version than in package-lock.yml"
    assert why("1.3.0", "a") == "x in dbt_packages has another version than in package-lock.yml"
    # With the fingerprint of an earlier manifest the lock itself is compared.
    assert why("1.1.0", "a", versions=False) == ""


def test_every_variable_of_the_manifest_is_recorded_and_no_other(shop: Shop) -> None:
    shop.deps()
    path = shop.root / "record.json"
    result, lines = shop.dbt("parse", {"kind": "record", "path": str(path)})
    assert result.exit_code == 0, lines
    found: dict[str, Any] = json.loads(path.read_text())
    assert set(found["yaml"]) == {"IN_PROJECT", "IN_PACKAGE", "IN_DESCRIPTION", "IN_YAML", "IN_TEST"}
    assert set(found["code"]) == {"IN_MODEL", "IN_MACRO_OF_PACKAGE", "IN_NAMES"}
    file = str(shop.project / "shop.duckdb")
    assert found["credentials"] == {"type": "duckdb", "database": "shop", "schema": "main", "path": file}
