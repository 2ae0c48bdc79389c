"""infrastructure/kubernetes/dagster/values.yaml by itself; tests/kubernetes holds what a chart makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lakehouse_analytics.settings import REQUIRED_IN_PROD, Settings

ROOT = Path(__file__).parents[4]
VALUES = ROOT / "infrastructure" / "kubernetes" / "dagster"
PROD: dict[str, Any] = yaml.safe_load((VALUES / "values.yaml").read_text())
LOCAL: dict[str, Any] = yaml.safe_load((VALUES / "values-local.yaml").read_text())
INSTANCE: dict[str, Any] = yaml.safe_load((ROOT / "orchestration" / "dagster" / "dagster.yaml").read_text())
#: Of the official chart's release 1.9.3, beside the checkout in our own CI; the project does not depend on it.
SCHEMA = ROOT.parent / "shared" / "dagster-chart" / "values-1.9.3.schema.json"


def deployment(values: dict[str, Any]) -> dict[str, Any]:
    [found] = values["dagster-user-deployments"]["deployments"]
    return dict(found)


def launcher(values: dict[str, Any]) -> dict[str, Any]:
    return dict(values["runLauncher"]["config"]["k8sRunLauncher"])


@pytest.mark.parametrize("values", [PROD, LOCAL], ids=["prod", "local"])
def test_every_variable_is_one_that_is_read(values: dict[str, Any]) -> None:
    names = {f"LAKEHOUSE_{field.upper()}" for field in Settings.model_fields}
    ours = [name for name in deployment(values)["env"] if name.startswith("LAKEHOUSE_")]
    assert [name for name in ours if name not in names] == []
    assert [value for value in deployment(values)["env"].values() if not isinstance(value, str)] == []


def test_production_has_every_variable_that_it_demands() -> None:
    env = deployment(PROD)["env"]
    assert env["LAKEHOUSE_ENV"] == "prod"
    assert {f"LAKEHOUSE_{name.upper()}" for name in REQUIRED_IN_PROD} <= env.keys()


def test_the_local_deployment_differs_in_its_engine_only() -> None:
    prod, local = deployment(PROD), deployment(LOCAL)
    differing = {key for key in prod.keys() | local.keys() if prod.get(key) != local.get(key)}
    assert differing == {"env", "volumes", "volumeMounts"}


@pytest.mark.parametrize("values", [PROD, LOCAL], ids=["prod", "local"])
def test_runs_have_what_the_server_has(values: dict[str, Any]) -> None:
    server, runs = deployment(values), launcher(values)
    for key in ("envSecrets", "volumes", "volumeMounts"):
        assert runs[key] == server[key], key
    assert server["includeConfigInLaunchedRuns"] == {"enabled": False}
    name = f"dagster-dagster-user-deployments-{server['name']}-user-env"
    assert launcher(PROD)["envConfigMaps"] == [{"name": name}]


def test_the_instance_is_limited_as_on_one_machine() -> None:
    ours = PROD["additionalInstanceConfig"]
    assert ours["concurrency"] == INSTANCE["concurrency"]
    for key in ("free_slots_after_run_end_seconds", "max_runtime_seconds"):
        assert ours["run_monitoring"][key] == INSTANCE["run_monitoring"][key]
    retries = PROD["dagsterDaemon"]["runRetries"]
    assert {
        "enabled": retries["enabled"],
        "max_retries": retries["maxRetries"],
        "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
    } == INSTANCE["run_retries"]


def test_what_the_instance_says_itself_the_chart_does_not_say_once_more() -> None:
    daemon = PROD["dagsterDaemon"]
    assert {"concurrency", "run_monitoring"} <= PROD["additionalInstanceConfig"].keys()
    assert not daemon["runCoordinator"]["enabled"]
    assert not daemon["runMonitoring"]["enabled"]


def test_no_secret_stands_in_the_values() -> None:
    settings = {f"LAKEHOUSE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    secret = {name for name, field in settings.items() if "Secret" in str(field.annotation)}
    assert secret
    assert not secret & deployment(PROD)["env"].keys()
    assert PROD["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in PROD["postgresql"]


with_schema = pytest.mark.skipif(
    not SCHEMA.is_file(), reason=f"the official chart's schema is not beside the checkout: {SCHEMA}"
)


def errors_of(values: dict[str, Any]) -> list[str]:
    """What the official schema says of values. What it requires are the chart's defaults, which are not here."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    def without_required(schema: Any) -> Any:
        if isinstance(schema, dict):
            kept = {key: value for key, value in schema.items() if key != "required" or not isinstance(value, list)}
            return {key: without_required(value) for key, value in kept.items()}
        return [without_required(item) for item in schema] if isinstance(schema, list) else schema

    # Kubernetes' own types are referred to by address: not asked for here, tests/kubernetes reads every object.
    registry: Registry[Any] = Registry(retrieve=lambda uri: Resource({}, DRAFT202012))  # type: ignore[call-arg]
    validator = Draft202012Validator(without_required(json.loads(SCHEMA.read_text())), registry=registry)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(values)]


@with_schema
@pytest.mark.parametrize("values", [PROD, LOCAL], ids=["prod", "local"])
def test_the_official_schema_accepts_them(values: dict[str, Any]) -> None:
    assert errors_of(values) == []


@with_schema
def test_the_official_schema_refuses_what_it_does_not_know() -> None:
    [error] = errors_of({"dagsterWebserver": {"replicas": 2}})
    assert error.startswith("dagsterWebserver: ")


def test_the_guide_installs_the_chart_of_our_dagster() -> None:
    [locked] = re.findall(
        r"^dagster==([0-9.]+)", (ROOT / "orchestration" / "dagster" / "requirements.lock").read_text(), re.M
    )
    for name in ("SETUP_GUIDE.md", ".github/workflows/ci.yml"):
        said = re.findall(r"dagster/dagster --version ([0-9.]+)", (ROOT / name).read_text())
        assert said, name
        assert set(said) == {locked}, name
    guide = (ROOT / "SETUP_GUIDE.md").read_text()
    assert len(re.findall(r"helm upgrade.* dagster/dagster", guide)) == len(
        re.findall(r"dagster/dagster --version", guide)
    )
