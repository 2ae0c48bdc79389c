"""A manifest is stale when, and only when, something that dbt rendered into it has changed.

Every input is drawn, changed or left alone; what counts must make the manifest stale, and what may differ between an
image's build and a run must not.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.settings import Settings

FILES = {
    "dbt_project.yml": "name: shop\nprofile: shop\nmodel-paths: [models, ../shared/models]\n",
    "packages.yml": "packages: [{local: ../local}]\n",
    "package-lock.yml": "packages: [{local: ../local, name: local}]\n",
    "selectors.yml": "selectors: []\n",
    ".dbtignore": "models/old/",
    "models/stg.sql": "select 1",
    "models/UPPER.SQL": "select 1",
    "models/mixed.Yml": "models: []",
    "models/stg.yml": "models: []",
    "macros/m.sql": "{% macro m() %}{% endmacro %}",
    "seeds/s.csv": "a\n",
    "../shared/models/shared.sql": "select 1",
    "../linked/linked.sql": "select 1",
    "../local/dbt_project.yml": "name: local\nmodel-paths: [sql]\n",
    "../local/sql/lp.sql": "select 1",
    "dbt_packages/utils/dbt_project.yml": "name: utils\n",
    "dbt_packages/utils/macros/u.sql": "{% macro u() %}{% endmacro %}",
}
LINKS = {"models/linked": "../../linked", "dbt_packages/local": "../../local"}
PROFILES = """
shop:
  target: dev
  outputs:
    dev:
      type: duckdb
      path: "{{ env_var('LAKE', '/data/lake') }}.duckdb"
      schema: "{{ env_var('SHOP_SCHEMA', 'dev') }}"
      threads: "{{ env_var('THREADS', '2') | as_number }}"
      attach: [{path: "/data/{{ env_var('ERP_FILE', 'erp') }}.duckdb", alias: "{{ env_var('ERP', 'erp') }}"}]
      secrets: [{type: s3, secret: "{{ env_var('DBT_ENV_SECRET_S3', 'none') }}"}]
    other:
      type: duckdb
      path: /data/lake.duckdb
      schema: other
    on_trino:
      type: trino
      host: "{{ env_var('HOST', 'localhost') }}"
      port: 8080
      user: "{{ env_var('USER_OF_TRINO', 'a') }}"
      password: "{{ env_var('DBT_ENV_SECRET_PASSWORD', 'none') }}"
      catalog: "{{ env_var('CATALOG', 'lake') }}"
      schema: "{{ env_var('SHOP_SCHEMA', 'dev') }}"
"""
#: What dbt read, other than for the connection.
READ = ("COUNTRY", "ENABLED")

TARGETS = st.sampled_from(["dev", "other", "on_trino"])
VALUES = st.sampled_from(["a", "b", "c d"])
COUNTS_ALWAYS = st.sampled_from(READ)
NEVER = st.sampled_from(
    [
        "THREADS",
        "HOST",
        "USER_OF_TRINO",
        "ERP_FILE",
        "DBT_ENV_SECRET_PASSWORD",
        "DBT_ENV_SECRET_S3",
        "HOSTNAME",
        "PATH2",
    ]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("freshness")
    for path, text in FILES.items():
        file = Path(os.path.normpath(root / "shop" / path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for link, to in LINKS.items():
        (root / "shop" / link).symlink_to(to)
    (root / "profiles").mkdir()
    (root / "profiles" / "profiles.yml").write_text(PROFILES)
    return root


def project(root: Path, environment: dict[str, str], target: str = "dev", variables: str = "") -> DbtProject:
    ours = {
        "LAKEHOUSE_DBT_PROJECT_DIR": str(root / "shop"),
        "LAKEHOUSE_DBT_PROFILES_DIR": str(root / "profiles"),
        "LAKEHOUSE_DBT_TARGET": target,
        "LAKEHOUSE_DBT_TARGET_PATH": str(root / "target"),
        "LAKEHOUSE_DBT_VARS": variables,
    }
    with mock.patch.dict(
        os.environ, {"PATH": os.environ["PATH"], "HOME": str(root), **environment, **ours}, clear=True
    ):
        return DbtProject.from_settings(Settings.load())


def make(project: DbtProject) -> None:
    """As `lakehouse manifest`, without dbt."""
    project.target_path.mkdir(exist_ok=True)
    project.manifest_path.write_text("{}")
    project.stamp_path.write_text(json.dumps(project.fingerprint(READ)))


environments = st.dictionaries(st.one_of(COUNTS_ALWAYS, NEVER), VALUES, max_size=4)


@settings(max_examples=25)
@given(environments, TARGETS, st.randoms(use_true_random=False))
def test_the_same_inputs_in_any_order_are_fresh(
    root: Path, environment: dict[str, str], target: str, random: Any
) -> None:
    make(project(root, environment, target, '{"a": 1, "b": {"c": 2, "d": 3}}'))
    shuffled = list(environment.items())
    random.shuffle(shuffled)
    assert project(root, dict(shuffled), target, "{b: {d: 3, c: 2}, a: 1}").changes() == []


@settings(max_examples=25)
@given(environments, TARGETS, NEVER, VALUES)
def test_what_may_differ_between_build_and_run_does_not_count(
    root: Path, environment: dict[str, str], target: str, name: str, value: str
) -> None:
    make(project(root, environment, target))
    assert project(root, {**environment, name: value}, target).changes() == []
    assert project(root, {k: v for k, v in environment.items() if k != name}, target).changes() == []


@settings(max_examples=25)
@given(environments, TARGETS, COUNTS_ALWAYS, st.none() | VALUES)
def test_a_variable_that_dbt_rendered_counts(
    root: Path, environment: dict[str, str], target: str, name: str, value: str | None
) -> None:
    make(project(root, environment, target))
    changed = {k: v for k, v in environment.items() if k != name} | ({name: value} if value else {})
    found = project(root, changed, target).changes()
    if changed == environment:
        assert found == []
    else:
        was = f"it was {environment[name]!r}" if name in environment else "it was not set"
        now = f"is {value!r} now" if value else "is not set now"
        assert found == [f"the environment variable {name} ({was}, {now})"]


@pytest.mark.parametrize(
    ("target", "variable", "value", "message"),
    [
        ("dev", "SHOP_SCHEMA", "prod", "schema (it was 'dev', is 'prod' now; it reads SHOP_SCHEMA)"),
        ("dev", "LAKE", "/data/other", "database (it was 'lake', is 'other' now; it reads LAKE)"),
        ("on_trino", "CATALOG", "other", "database (it was 'lake', is 'other' now; it reads CATALOG)"),
        ("on_trino", "SHOP_SCHEMA", "prod", "schema (it was 'dev', is 'prod' now; it reads SHOP_SCHEMA)"),
    ],
)
def test_names_of_the_target_count(root: Path, target: str, variable: str, value: str, message: str) -> None:
    make(project(root, {}, target))
    assert project(root, {variable: value}, target).changes() == [f"the dbt target's {message}"]


def test_an_alias_of_an_attached_database_counts(root: Path) -> None:
    make(project(root, {}))
    assert project(root, {"ERP": "crm"}).changes() == [
        "the databases that the dbt target attaches (it was ['erp'], is ['crm'] now; it reads ERP, ERP_FILE)"
    ]


def test_another_folder_of_the_same_database_does_not_count(root: Path) -> None:
    make(project(root, {}))
    assert project(root, {"LAKE": "/mnt/volume/lake"}).changes() == []


@settings(max_examples=25)
@given(TARGETS, TARGETS)
def test_another_target_counts(root: Path, then: str, now: str) -> None:
    make(project(root, {}, then))
    assert bool(project(root, {}, now).changes()) == (then != now)


variables = st.dictionaries(st.sampled_from(["day", "go"]), st.one_of(st.integers(0, 2), st.sampled_from(["a", "b"])))


@settings(max_examples=25)
@given(variables, variables)
def test_variables_of_dbt_count(root: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    make(project(root, {}, variables=json.dumps(then)))
    found = project(root, {}, variables=json.dumps(now)).changes() or []
    assert len(found) == sum(then.get(name) != now.get(name) for name in {*then, *now})
    assert all("of LAKEHOUSE_DBT_VARS" in change for change in found)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("change", ["content", "gone", "touched"])
def test_every_file_that_dbt_reads_counts(root: Path, tmp_path: Path, path: str, change: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    make(project(copy, {}))
    file = Path(os.path.normpath(copy / "shop" / path))
    if change == "touched":
        os.utime(file, (0, 0))
    elif change == "gone" and path != "dbt_project.yml":
        file.unlink()
    else:
        file.write_text(f"{FILES[path]}\n# changed\n")
    assert bool(project(copy, {}).changes()) == (change != "touched")


def test_what_may_be_secret_is_never_written(root: Path) -> None:
    environment = {"DBT_ENV_SECRET_PASSWORD": "hunter-2", "DBT_ENV_SECRET_S3": "hunter-3", "API_TOKEN": "hunter-4"}
    made = project(root, environment, "on_trino", '{"api_token": "hunter-5"}')
    made.stamp_path.parent.mkdir(exist_ok=True)
    text = json.dumps(made.fingerprint([*READ, *environment]))
    assert "hunter" not in text
    assert "hunter" not in repr(made)


def test_the_profile_may_change_where_the_manifest_does_not_name_it(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    make(project(copy, {}))
    file = copy / "profiles" / "profiles.yml"
    file.write_text(file.read_text().replace("env_var('THREADS', '2')", "env_var('THREADS', '16')") + "\n# a comment\n")
    assert project(copy, {}).changes() == []


def test_links_that_lead_in_a_circle_end(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    (copy / "shop" / "models" / "again").symlink_to(".")
    make(project(copy, {}))
    assert project(copy, {}).changes() == []
