"""The image's build makes the manifests of an ordinary dbt project, and the pods accept them.

`image/manifests.sh` runs here as the Dockerfile runs it; `make image-test` tries the image itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakehouse_analytics.cli import main
from lakehouse_analytics.dbt.profile import PLACEHOLDER
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.settings import Settings, SettingsError

from .conftest import environment

CODE = Path(__file__).parents[2]
FILES = {
    "dbt_project.yml": "name: shop\nprofile: shop\n",
    "profiles.yml": """
shop:
  target: dev
  outputs:
    dev: {type: duckdb, path: dev.duckdb}
    prod:
      type: trino
      method: "{{ env_var('TRINO_METHOD') }}"
      host: "{{ env_var('TRINO_HOST') }}"
      port: "{{ env_var('TRINO_PORT') | as_number }}"
      http_scheme: "{{ env_var('TRINO_SCHEME') | lower }}"
      user: "{{ env_var('TRINO_USER') }}"
      password: "{{ env_var('DBT_ENV_SECRET_TRINO') }}"
      threads: "{{ env_var('SHOP_THREADS') | as_number }}"
      catalog: analytics
      schema: "{{ env_var('SHOP_SCHEMA') }}"
    model_reads_host:
      type: trino
      method: none
      host: "{{ env_var('COUNTRY_HOST') }}"
      user: shop
      port: 8080
      catalog: analytics
      schema: main
""",
    "models/bronze/orders.sql": (
        "select '{{ env_var('COUNTRY', 'de') }}' as country, {{ var('factor', 2) }} as factor"
        "{% if target.name == 'model_reads_host' %}, '{{ env_var('COUNTRY_HOST') }}' as host{% endif %}"
    ),
}
BUILD = {"LAKEHOUSE_TARGETS": "prod", "DBT_ENVIRONMENT": "SHOP_SCHEMA=prod COUNTRY='de at'"}
#: What values.yaml gives to the pods, with the Secret.
POD = {
    "LAKEHOUSE_ENV": "prod",
    "LAKEHOUSE_TIMEZONE": "UTC",
    "TRINO_METHOD": "ldap",
    "TRINO_HOST": "trino.example",
    "TRINO_PORT": "443",
    "TRINO_SCHEME": "https",
    "TRINO_USER": "shop",
    "DBT_ENV_SECRET_TRINO": "the-password",
    "SHOP_THREADS": "8",
    "SHOP_SCHEMA": "prod",
    "COUNTRY": "de at",
    "LAKEHOUSE_DBT_VARS": "{factor: 3}",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "shop"
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.lstrip("\n"))
    return folder


def defaults() -> dict[str, str]:
    """The build arguments of the Dockerfile, which a RUN has as variables."""
    stage = (CODE / "Dockerfile").read_text().partition(" AS build\n")[2].partition("\nFROM ")[0]
    found = dict(re.findall(r'^ARG (\w+)="?(.*?)"?$', stage, re.M))
    assert "LAKEHOUSE_TARGETS" in found
    return found


def build(shop: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_", "TRINO_"))}
    return subprocess.run(
        ["sh", str(CODE / "image" / "manifests.sh")],
        env={**bare, **defaults(), "LAKEHOUSE_DBT_PROJECT_DIR": str(shop), "DO_NOT_TRACK": "1",
             "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **arguments},
        cwd=shop.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(shop: Path) -> Path:
    """A build that knows neither the connection nor the password."""
    done = build(shop, **BUILD, LAKEHOUSE_DBT_VARS="{factor: 3}")
    assert done.returncode == 0, done.stderr
    assert "TRINO_HOST" in done.stdout, "the log names the variables that are not set"
    return shop


def in_pod(shop: Path, **changes: str | None) -> str:
    """The error of a code server with this environment; empty where it loads."""
    variables = {"LAKEHOUSE_DBT_PROJECT_DIR": str(shop), **POD, **changes}
    with environment({name: value for name, value in variables.items() if value is not None}):
        try:
            DbtProject.from_settings(Settings.load()).manifest()
        except (ManifestError, SettingsError) as error:
            return str(error)
    return ""


def test_the_build_needs_no_connection_and_the_pods_accept_its_manifest(built: Path) -> None:
    assert in_pod(built) == ""


def test_the_command_checks_the_manifest_and_does_not_start_dbt(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse_analytics.dbt.prepare.prepare", None)
    with environment({"LAKEHOUSE_DBT_PROJECT_DIR": str(built), **POD}):
        done = CliRunner().invoke(main, ["manifest", "--check"])
        assert (done.exit_code, done.output.strip()) == (0, str(built / "target" / "prod" / "manifest.json"))
        done = CliRunner().invoke(main, ["manifest", "--check"], env={"COUNTRY": "fr"})
    assert done.exit_code == 1
    assert "the environment variable COUNTRY (it was 'de at', is 'fr' now)" in done.output


def test_nothing_of_the_connection_is_in_the_manifest(built: Path) -> None:
    text = b"".join(path.read_bytes() for path in (built / "target" / "prod").iterdir())
    assert b"de at" in text
    assert PLACEHOLDER.encode() not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"COUNTRY": "fr"}, "the environment variable COUNTRY (it was 'de at', is 'fr' now)"),
        ({"COUNTRY": None}, "the environment variable COUNTRY (it was 'de at', is not set now)"),
        ({"SHOP_SCHEMA": "qa"}, "the dbt target's schema (it was 'prod', is 'qa' now; it reads SHOP_SCHEMA)"),
        ({"LAKEHOUSE_DBT_VARS": "{factor: 4}"}, "the variable `factor` of LAKEHOUSE_DBT_VARS (it was '3', is '4' now)"),
        ({"LAKEHOUSE_DBT_VARS": None}, "the variable `factor` of LAKEHOUSE_DBT_VARS (it was '3', is not set now)"),
        ({"LAKEHOUSE_TRINO_CATALOG": "lakehouse"}, "LAKEHOUSE_TRINO_CATALOG: is lakehouse, but target `prod`"),
    ],
)
def test_a_value_that_differs_in_the_pods_is_named(built: Path, changes: dict[str, str | None], words: str) -> None:
    assert words in in_pod(built, **changes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "profile `shop` has no target `local`"),
        ({"LAKEHOUSE_TARGETS": "prod"}, "`schema` of target `prod` reads the environment variable SHOP_SCHEMA"),
        ({**BUILD, "LAKEHOUSE_TRINO_CATALOG": "lakehouse"}, "LAKEHOUSE_TRINO_CATALOG: is lakehouse, but target `prod`"),
    ],
)
def test_a_build_that_fails_names_the_build_arguments(shop: Path, arguments: dict[str, str], words: str) -> None:
    done = build(shop, **arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert 'make image BUILD="--build-arg LAKEHOUSE_TARGETS=prod' in done.stderr


def test_a_build_without_targets_fails(shop: Path) -> None:
    done = build(shop, LAKEHOUSE_TARGETS="")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "LAKEHOUSE_TARGETS is empty: name at least one target of profiles.yml.",
    )


@pytest.mark.nightly
def test_a_variable_of_the_connection_that_models_read_too_must_be_set(shop: Path) -> None:
    done = build(shop, LAKEHOUSE_TARGETS="model_reads_host")
    assert done.returncode == 1
    assert "COUNTRY_HOST" in done.stderr
    assert not (shop / "target" / "model_reads_host" / "manifest.json").exists()
