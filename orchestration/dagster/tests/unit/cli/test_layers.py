"""`lakehouse layers`, on a project with a manifest."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from lakehouse_analytics.cli import main
from lakehouse_analytics.cli.layers import NOTHING
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.settings import Settings
from manifests import Manifest

PROJECT = """\
name: shop
profile: shop
models:
  shop:
    +materialized: table  # not views
"""
PROFILE = "shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb}}}"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(tmp_path))
    (tmp_path / "dbt_project.yml").write_text(PROJECT)
    (tmp_path / "profiles.yml").write_text(PROFILE)
    return tmp_path


def make(manifest: Manifest) -> None:
    project = DbtProject.from_settings(Settings.load(complete=False))
    project.target_path.mkdir(parents=True, exist_ok=True)
    project.manifest_path.write_text(json.dumps(manifest.build()))
    project.stamp_path.write_text(json.dumps(project.fingerprint()))


def run(*args: str) -> str:
    result = CliRunner().invoke(main, ["layers", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_lines_are_printed_and_added(shop: Path) -> None:
    manifest = Manifest()
    for n in range(100):
        manifest.model(f"stg_{n}", folder=f"area_{n}")
    make(manifest)
    printed = yaml.safe_load(run())
    assert printed["models"]["shop"].keys() == {f"area_{n}" for n in range(100)}
    assert "lakehouse manifest" in run("--write")
    written = (shop / "dbt_project.yml").read_text()
    assert "# not views" in written
    assert yaml.safe_load(written)["models"]["shop"] == {"+materialized": "table", **printed["models"]["shop"]}
    make(manifest)
    for args in ((), ("--write",)):
        assert run(*args).strip() == NOTHING
    assert (shop / "dbt_project.yml").read_text() == written


def test_a_file_that_cannot_be_edited_stays_and_the_lines_are_shown(shop: Path) -> None:
    file, text = shop / "dbt_project.yml", PROJECT + "models: {shop: {+tags: x}}\n"
    file.write_text(text)
    manifest = Manifest()
    manifest.model("stg")
    make(manifest)
    result = CliRunner().invoke(main, ["layers", "--write"])
    assert result.exit_code == 1
    assert "a key occurs twice in the mapping that begins in line 1" in result.output
    assert "shop: {+meta: {lakehouse: {layer: bronze}}}" in result.output
    assert file.read_text() == text


def test_a_full_disk_leaves_the_project_as_it_is(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest()
    manifest.model("stg", folder="area")
    make(manifest)

    def fill(path: Path, text: str, **_: object) -> int:
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    result = CliRunner().invoke(main, ["layers", "--write"])
    assert result.exit_code == 1
    assert "dbt_project.yml cannot be written: No space left on device" in result.output
    assert (shop / "dbt_project.yml").read_text() == PROJECT
    assert {path.name for path in shop.iterdir() if path.is_file()} == {"dbt_project.yml", "profiles.yml"}
