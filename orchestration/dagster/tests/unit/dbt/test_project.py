from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from lakehouse_analytics.dbt.project import STAMP, DbtProject, ManifestError
from lakehouse_analytics.settings import Settings, repository_root

MANIFEST: dict[str, object] = {"metadata": {}, "nodes": {}, "sources": {}, "exposures": {}}


@pytest.fixture
def project(tmp_path: Path) -> DbtProject:
    """A project whose manifest is fresh."""
    folder = tmp_path / "shop"
    for path, text in {
        "dbt_project.yml": "name: shop\n",
        "profiles.yml": "shop: {}\n",
        "models/stg.sql": "select 1",
        "models/stg.yml": "models: []",
        "models/docs.md": "{% docs a %}{% enddocs %}",
        "models/py_model.py": "def model(dbt, session): ...",
        "macros/m.sql": "{% macro m() %}{% endmacro %}",
        "seeds/s.csv": "a,b\n",
        "README.txt": "not dbt's",
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    project = DbtProject(folder, folder, "local", folder / "target" / "local")
    project.target_path.mkdir(parents=True)
    make(project)
    return project


def make(project: DbtProject) -> None:
    project.manifest_path.write_text(json.dumps(MANIFEST))
    (project.target_path / STAMP).write_text(json.dumps(project.fingerprint()))


def write(project: DbtProject, path: str, text: str) -> None:
    file = project.project_dir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_fresh_manifest_is_read(project: DbtProject) -> None:
    assert project.changes() == []
    assert project.manifest() == MANIFEST


@pytest.mark.parametrize(
    "path", ["models/stg.sql", "models/stg.yml", "models/docs.md", "models/py_model.py", "macros/m.sql", "seeds/s.csv"]
)
def test_changed_content_is_stale(project: DbtProject, path: str) -> None:
    write(project, path, "something else")
    assert project.changes() == [path]


def test_a_new_and_a_deleted_file_are_stale(project: DbtProject) -> None:
    write(project, "models/new/fct.sql", "select 2")
    (project.project_dir / "seeds" / "s.csv").unlink()
    assert project.changes() == ["models/new/fct.sql", "seeds/s.csv"]


def test_a_renamed_file_is_stale_although_its_content_is_the_same(project: DbtProject) -> None:
    (project.project_dir / "models/stg.sql").rename(project.project_dir / "models/stg_renamed.sql")
    assert project.changes() == ["models/stg.sql", "models/stg_renamed.sql"]


def test_touched_times_are_not_stale(project: DbtProject) -> None:
    for file in project.sources():
        os.utime(file, (0, 0))
    assert project.changes() == []


def test_another_target_is_stale(project: DbtProject) -> None:
    assert DbtProject(project.project_dir, project.profiles_dir, "trino", project.target_path).changes() == [
        "the dbt target (it was 'local', is 'trino' now)"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "target/compiled/shop/models/stg.sql",
        "logs/dbt.sql",
        ".venv/lib/x.py",
        "README.txt",
        ".user.yml",  # of dbt itself, where a person lets it send statistics
    ],
)
def test_what_dbt_writes_and_does_not_read_is_not_the_project(project: DbtProject, path: str) -> None:
    write(project, path, "select 1")
    assert project.changes() == []


def test_folders_of_models_may_have_the_names_of_what_dbt_writes(project: DbtProject) -> None:
    for path in ("models/logs/stg_logs.sql", "models/marketing/target/fct_target.sql"):
        write(project, path, "select 1")
    assert project.changes() == ["models/logs/stg_logs.sql", "models/marketing/target/fct_target.sql"]


def test_folders_that_the_project_file_names_for_dbts_output_are_left_out(project: DbtProject) -> None:
    write(project, "dbt_project.yml", "name: shop\ntarget-path: build\npackages-install-path: vendor/dbt\n")
    make(project)
    write(project, "build/run/stg.sql", "select 1")
    write(project, "dbt_packages/utils/dbt_project.yml", "name: utils\n")
    write(project, "dbt_packages/utils/macros/a.sql", "select 1")
    assert project.changes() == []


def test_a_missing_manifest_names_its_path_and_the_command(project: DbtProject) -> None:
    project.manifest_path.unlink()
    assert project.changes() is None
    with pytest.raises(ManifestError) as caught:
        project.manifest()
    assert str(caught.value) == f"There is no manifest at {project.manifest_path}. Make it: lakehouse manifest"


def test_a_stale_manifest_names_its_path_what_changed_and_the_command(project: DbtProject) -> None:
    for i in range(7):
        write(project, f"models/new_{i}.sql", "select 1")
    with pytest.raises(ManifestError) as caught:
        project.manifest()
    message = str(caught.value)
    assert f"The manifest at {project.manifest_path} is stale" in message
    assert "models/new_4.sql and 2 more." in message
    assert "models/new_5.sql" not in message
    assert message.endswith("Make it again: lakehouse manifest")


def test_in_an_image_the_advice_is_what_can_be_done_there(project: DbtProject, monkeypatch: pytest.MonkeyPatch) -> None:
    make(project)
    write(project, "models/stg.sql", "select 2")
    monkeypatch.setattr("os.access", lambda *_: False)  # root, as whom tests may run, can write everywhere
    with pytest.raises(ManifestError) as caught:
        project.manifest()
    message = str(caught.value)
    assert "changed since it was made: models/stg.sql. " in message
    assert message.endswith(
        "Make it by building the image again, or set a variable that differs to the value that the build had: "
        f"{project.target_path} cannot be written here."
    )
    project.stamp_path.unlink()
    with pytest.raises(ManifestError, match=r"again, with `local` among its LAKEHOUSE_TARGETS: .* cannot be written"):
        project.manifest()


def test_a_manifest_without_a_fingerprint_counts_as_missing(project: DbtProject) -> None:
    project.stamp_path.unlink()
    with pytest.raises(ManifestError, match="There is no manifest at"):
        project.manifest()


SHAPES = ["", "{", "null", "[]", "3", '"text"', '{"models/stg.sql": "5f3c"}', '{"version": 2, "files": []}', "\udcff"]


@pytest.mark.parametrize("text", SHAPES)
def test_a_fingerprint_of_another_shape_is_one_error(project: DbtProject, text: str) -> None:
    project.stamp_path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ManifestError) as caught:
        project.manifest()
    assert str(caught.value) == (
        f"The manifest at {project.manifest_path} is stale: changed since it was made: lakehouse_fingerprint.json "
        "(not in the format of this version). Make it again: lakehouse manifest"
    )


@pytest.mark.parametrize("text", SHAPES)
def test_a_manifest_of_another_shape_is_one_error(project: DbtProject, text: str) -> None:
    project.manifest_path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ManifestError) as caught:
        project.manifest()
    assert str(project.manifest_path) in str(caught.value)
    assert str(caught.value).endswith("Make it again: lakehouse manifest")


def test_no_dbt_project_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="LAKEHOUSE_DBT_PROJECT_DIR") as caught:
        DbtProject(tmp_path, tmp_path, "local", tmp_path).manifest()
    assert str(tmp_path / "dbt_project.yml") in str(caught.value)


def test_a_broken_project_file_names_itself(project: DbtProject) -> None:
    write(project, "dbt_project.yml", "name: [shop\n")
    with pytest.raises(ManifestError, match="is not valid YAML") as caught:
        project.manifest()
    assert str(project.project_dir / "dbt_project.yml") in str(caught.value)


def test_paths_of_the_environment_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = DbtProject.from_settings(Settings(dbt_project_dir=Path("p"), dbt_target_path=Path("~/t"), dbt_target="x"))
    # Of the repository's root, not of the folder a process happens to be started in.
    assert (project.project_dir, project.profiles_dir) == (repository_root() / "p", repository_root() / "p")
    assert project.manifest_path == tmp_path / "home" / "t" / "manifest.json"
    assert project.target == "x"


def test_a_readme_of_the_project_is_nobodys_doc_block(project: DbtProject) -> None:
    write(project, "README.md", "# How to")
    assert project.changes() == []


def test_files_beside_the_dbt_folders_do_not_count(project: DbtProject) -> None:
    write(project, "venv/lib/some.py", "x = 1")
    write(project, "data/export.csv", "a,b")
    assert project.changes() == []


def test_the_fingerprint_holds_no_secret_inside_a_variable(project: DbtProject) -> None:
    variables = {"mail": {"user": "ann", "password": "hunter-2"}, "url": "https://ann:hunter-2@db.example/x", "days": 7}
    secretive = replace(project, variables=variables)
    fingerprint = secretive.fingerprint()
    assert "hunter" not in json.dumps(fingerprint)
    assert fingerprint["vars"]["days"] == "7"
    make(secretive)
    assert secretive.changes() == []
    other = replace(project, variables={**variables, "mail": {"user": "bob", "password": "hunter-3"}}).changes()
    assert "hunter" not in str(other)
    assert "the variable `mail`" in str(other)


def test_a_variable_of_any_yaml_has_a_fingerprint(project: DbtProject) -> None:
    odd = replace(project, variables={"odd": {date(2026, 1, 1): {"a": 1}, "b": {2, 1}, None: float("nan")}})
    make(odd)
    assert odd.changes() == []


def test_an_environment_variable_with_the_password_of_an_address_is_not_in_the_fingerprint(project: DbtProject) -> None:
    read = replace(project, environment={"SHOP_URL": "postgres://ann:hunter-2@db.example/x", "SHOP_SCHEMA": "eu"})
    fingerprint = read.fingerprint({"SHOP_URL", "SHOP_SCHEMA"})
    assert "hunter" not in json.dumps(fingerprint)
    assert fingerprint["variables"]["SHOP_SCHEMA"] == "eu"
