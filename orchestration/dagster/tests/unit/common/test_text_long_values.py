"""If a whole file is pasted into the wrong field, no message quotes all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.assets.accepted_tables import accepted_tables
from lakehouse_analytics.common.text import brief, shortened
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.prepare import _verify_profile
from lakehouse_analytics.dbt.profile import Profile
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.instance.home import HomeError, open_home
from lakehouse_analytics.settings import PREFIX, Settings, SettingsError
from manifests import Manifest

LONG = "x" * 100_000
#: Of a message that quotes a few values, in characters.
BOUND = 2_000


def bounded(message: str) -> None:
    assert len(message) < BOUND, f"{len(message):,} characters: {message[:300]}"
    assert "characters)" in message  # the value is quoted in part


@pytest.mark.parametrize("value", [LONG, [LONG], {LONG: LONG}, [1] * 100_000, "a" * 60, "'\"" * 40])
def test_a_value_is_quoted_in_part(value: object) -> None:
    assert len(shortened(value)) < 100
    assert len(brief(value)) < 100
    assert brief("x" * 60) == "x" * 60
    assert brief("x" * 61) == "x" * 60 + "… (61 characters)"


CONTRACTS: dict[str, dict[str, Any]] = {
    "an unknown key": {LONG: 1},
    "an unknown key of a section": {"rows": {LONG: 1}},
    "a value": {"layer": LONG},
    "an item": {"accept": [LONG]},
    "an object": {"rows": LONG},
    "an owner": {"owner": LONG},
    "a duration": {"freshness": {"within": LONG}},
    "a cron expression": {"freshness": {"within": "26h", "cron": LONG}},
    "a cron expression that is one": {"freshness": {"within": "26h", "cron": ",".join(["0"] * 50_000) + " * * * *"}},
    "two columns of one name": {"distinct": [LONG + "_id", LONG + "_key"]},
    "bounds": {"rows": {"min": 10**4000, "max": 1}},
    "a source": {"partition": "daily", "after": [LONG]},
    "a pool": {"pool": LONG + " "},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "begin": {"begin": LONG},
    "materialized": {"materialized": LONG},
    "a piece of a window": {"meta": {"window_piece": LONG}, "incremental_strategy": "replace_window"},
}
METAS: dict[str, Any] = {
    "asset_key": {"asset_key": [LONG, 1]},
    "group": {"group": f"{LONG} "},
    "owners": {"owners": [LONG]},
    "owners that are no list": {"owners": LONG},
    "auto_materialize_policy": {"auto_materialize_policy": {"type": LONG}},
    "ref": {"ref": {"nam": LONG}},
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_of_a_contract(case: str) -> None:
    m = Manifest()
    m.model("orders", folder="gold", lakehouse=CONTRACTS[case], materialized="incremental", event_time="at")
    with pytest.raises(ContractError) as caught:
        m.graph()
    for line in str(caught.value).splitlines():
        assert len(line) < BOUND
    bounded(str(caught.value))


@pytest.mark.parametrize("case", CONFIGS)
def test_of_a_models_config(case: str) -> None:
    m = Manifest()
    config = {"materialized": "incremental", "event_time": "at", **CONFIGS[case]}
    unique_id = m.model("orders", folder="gold", **{k: v for k, v in config.items() if k != "meta"})
    m.nodes[unique_id]["config"]["meta"] = {"lakehouse": {"partition": "daily"}, **config.get("meta", {})}
    with pytest.raises(ContractError) as caught:
        m.graph()
    bounded(str(caught.value))


@pytest.mark.parametrize("case", METAS)
def test_of_meta_dagster(case: str) -> None:
    m = Manifest()
    if case == "ref":
        node = m.test("of_orders", m.model("orders", folder="gold"))
        m.nodes[node]["config"]["meta"] = {"dagster": METAS[case]}
    else:
        m.model("orders", folder="gold", dagster=METAS[case])
    with pytest.raises(ContractError) as caught:
        m.graph()
    bounded(str(caught.value))


def test_of_meta_dagster_that_is_only_warned_of() -> None:
    m = Manifest()
    orders = m.model("orders", folder="gold", dagster={LONG: 1})
    node = m.test("of_orders", orders)
    m.nodes[node]["config"]["meta"] = {"dagster": {"ref": {"name": LONG, "package": LONG, "version": LONG}}}
    warned = [line for line in m.graph().warnings if "meta.dagster" in line]
    assert len(warned) == 2
    for line in warned:
        bounded(line)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A dbt project with a profile that can be used."""
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    write_profile(tmp_path, {"shop": {"target": "dev", "outputs": {"dev": {"type": "duckdb", "path": "shop.duckdb"}}}})
    return tmp_path


def write_profile(folder: Path, content: object) -> None:
    (folder / "profiles.yml").write_text(yaml.safe_dump(content, width=1_000_000))


def output(**fields: Any) -> dict[str, Any]:
    return {"shop": {"target": "dev", "outputs": {"dev": {"type": "duckdb", "path": "shop.duckdb", **fields}}}}


def trino(**fields: Any) -> dict[str, Any]:
    return output(type="trino", host="trino.example", user="ann", database="lake", schema="shop", **fields)


def load(monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> str:
    """The error of a project, as a code location meets it."""
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(folder))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SettingsError, ManifestError)) as caught:
        DbtProject.from_settings(Settings.load()).manifest()
    return str(caught.value)


PROFILES: dict[str, Any] = {
    "names of profiles": {LONG: {}, LONG + "y": {}},
    "a target": {"shop": {"target": LONG, "outputs": {"dev": {"type": "duckdb"}}}},
    "names of targets": {"shop": {"target": "none", "outputs": {LONG: {"type": "duckdb"}, LONG + "y": {}}}},
    "targets that could be used": {"shop": {"target": "a", "outputs": {"a": {"type": "s"}, LONG: {"type": "duckdb"}}}},
    "many targets": {"shop": {"target": "none", "outputs": {f"target_{i}": {} for i in range(10_000)}}},
    "a type": output(type=LONG),
    "a path": output(path=f"/{LONG}/shop.duckdb"),
    "a log-in": trino(method=LONG),
    "a variable": output(schema=f"{{{{ env_var('{LONG}') }}}}"),
    "a variable of dbt": output(schema=f"{{{{ var('{LONG}') }}}}"),
    "Jinja that is none": output(schema=f"{{{{ 1 {LONG} }}}}"),
    "Jinja that fails": output(schema=f"{{{{ none.{LONG}.x | int(base=1) }}}}"),
    "YAML with an alias of nothing": f"*{LONG}",
}


@pytest.mark.parametrize("case", PROFILES)
def test_of_a_profile(case: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = PROFILES[case]
    if isinstance(content, str):
        (project / "profiles.yml").write_text(content)
    else:
        write_profile(project, content)
    message = load(monkeypatch, project)
    assert len(message) < BOUND, message[:300]
    assert str(project / "profiles.yml") in message


@pytest.mark.parametrize("name", ["LAKEHOUSE_DBT_TARGET", "DBT_TARGET", "DBT_PROFILE", "DBT_PROFILES_DIR"])
def test_of_a_variable_that_names_something(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded(load(monkeypatch, project, **{name: LONG}))


def test_of_the_profile_that_a_project_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "dbt_project.yml").write_text(f"name: shop\nprofile: {LONG}\n")
    bounded(load(monkeypatch, project))
    (project / "profiles.yml").unlink()
    monkeypatch.setenv("HOME", str(project))
    bounded(load(monkeypatch, project))


def test_of_a_home_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "profiles.yml").unlink()
    bounded(load(monkeypatch, project, HOME=f"/{LONG}"))


@pytest.mark.parametrize("name", ["TRINO_HOST", "TRINO_CATALOG"])
def test_of_a_setting_that_the_profile_contradicts(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(project, trino())
    bounded(load(monkeypatch, project, **{PREFIX + name: LONG}))


def test_of_a_profile_that_a_setting_contradicts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(project, trino() | {"shop": {"target": "dev", "outputs": {"dev": {**TRINO, "host": LONG}}}})
    bounded(load(monkeypatch, project, LAKEHOUSE_TRINO_HOST="trino.example"))


TRINO = {"type": "trino", "user": "ann", "database": "lake", "schema": "shop"}


def test_of_a_port_that_no_number_holds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dbt's to refuse: rows are counted at the default."""
    write_profile(project, trino(port="9" * 5_000))
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(project))
    assert Settings.load().trino_port == 8080


CHANGES: dict[str, Callable[[DbtProject], DbtProject]] = {
    "an environment variable": lambda p: replace(p, environment={"COUNTRY": LONG}),
    "a variable": lambda p: replace(p, variables={"country": LONG}),
    "the name of a variable": lambda p: replace(p, variables={LONG: "at"}),
    "the target": lambda p: replace(p, target=LONG),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("back", [False, True])
def test_of_what_makes_a_manifest_stale(case: str, back: bool, tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\n")
    (tmp_path / "target").mkdir()
    short = DbtProject(tmp_path, tmp_path, "local", tmp_path / "target", environment={"COUNTRY": "at"})
    before, after = (CHANGES[case](short), short) if back else (short, CHANGES[case](short))
    before.manifest_path.write_text("{}")
    before.stamp_path.write_text(json.dumps(before.fingerprint({"COUNTRY"})))
    with pytest.raises(ManifestError, match="is stale") as caught:
        after.manifest()
    bounded(str(caught.value))


@pytest.mark.parametrize(("name", "theirs"), [("schema", LONG), ("database", LONG), ("path", f"/{LONG}")])
def test_of_what_dbt_renders_otherwise(name: str, theirs: str, tmp_path: Path) -> None:
    fields = {"path": str(tmp_path / "shop.duckdb"), "schema": LONG if name == "database" else "main"}
    profile = Profile(tmp_path / "profiles.yml", tmp_path, "shop", "dev", "duckdb", fields)
    said = {"type": "duckdb", "database": "shop", "schema": fields["schema"], "path": fields["path"], name: theirs}
    with pytest.raises(ManifestError, match=f"`{name}` of target") as caught:
        _verify_profile(profile, said)
    bounded(str(caught.value))


def test_of_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", f"/{LONG}")
    with pytest.raises(HomeError, match="DAGSTER_HOME") as caught:
        open_home()
    bounded(str(caught.value))


def test_of_the_config_of_a_run() -> None:
    m = Manifest()
    m.model("orders", folder="gold")
    with pytest.raises(ValueError, match="there is no model") as caught:
        accepted_tables(m.graph(), [LONG])
    bounded(str(caught.value))


def test_of_an_unknown_on_table_exists() -> None:
    m = Manifest()
    m.model("orders", folder="gold", on_table_exists=LONG)
    manifest = m.build() | {"metadata": {"adapter_type": "trino", "project_name": "shop"}}
    [line] = [line for line in read(manifest, {}).warnings if "is not valid for table" in line]
    bounded(line)
