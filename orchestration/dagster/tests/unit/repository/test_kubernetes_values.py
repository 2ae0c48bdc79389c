"""infrastructure/kubernetes/dagster/values.yaml by itself; tests/helm renders a chart with it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.settings import Settings

ROOT = Path(__file__).parents[5]
VALUES = ROOT / "infrastructure" / "kubernetes" / "dagster"
PROD: dict[str, Any] = yaml.safe_load((VALUES / "values.yaml").read_text())
LOCAL: dict[str, Any] = yaml.safe_load((VALUES / "values-local.yaml").read_text())
INSTANCE: dict[str, Any] = yaml.safe_load((ROOT / "orchestration" / "dagster" / "dagster.yaml").read_text())
#: Schemas of the official chart, beside the checkout in our own CI; the project does not depend on them.
SCHEMAS = ROOT.parent / "shared" / "dagster-chart"
VERSIONS = ("1.9.3", "1.12.19")


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
    assert {f"LAKEHOUSE_{name.upper()}" for name in (*ENGINES["trino"].required_in_prod, "timezone")} <= env.keys()


def test_the_local_deployment_differs_in_its_engine_and_tag_only() -> None:
    prod, local = deployment(PROD), deployment(LOCAL)
    differing = {key for key in prod.keys() | local.keys() if prod.get(key) != local.get(key)}
    assert differing == {"env", "image", "volumes", "volumeMounts"}
    assert {**prod["image"], "tag": ""} == {**local["image"], "tag": ""}


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


def test_the_run_queue_is_named() -> None:
    """`runCoordinator.enabled: false` launches every run at once, with charts since 1.12."""
    coordinator = PROD["dagsterDaemon"]["runCoordinator"]
    assert coordinator["enabled"] is True
    custom = coordinator["config"]["customRunCoordinator"]
    kind = getattr(importlib.import_module(custom["module"]), custom["class"])
    assert issubclass(kind, QueuedRunCoordinator)
    assert coordinator["type"] == "CustomRunCoordinator"
    queue = kind(**custom["config"])
    assert queue.dequeue_use_threads is True


def test_limits_and_monitoring_stand_in_one_place() -> None:
    assert {"concurrency", "run_monitoring"} <= PROD["additionalInstanceConfig"].keys()
    assert (
        "max_concurrent_runs" not in PROD["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]["config"]
    )
    assert "concurrency" not in PROD
    assert not PROD["dagsterDaemon"]["runMonitoring"]["enabled"]


def test_no_secret_stands_in_the_values() -> None:
    settings = {f"LAKEHOUSE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    secret = {name for name, field in settings.items() if "Secret" in str(field.annotation)}
    assert secret
    assert not secret & deployment(PROD)["env"].keys()
    assert PROD["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in PROD["postgresql"]


with_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason=f"the schemas of the official chart are not beside the checkout: {SCHEMAS}"
)


def errors_of(values: dict[str, Any], version: str) -> list[str]:
    """What the official schema refuses in values. Keys that it requires are in the chart's defaults, not here."""
    from jsonschema import Draft202012Validator

    def relaxed(schema: Any) -> Any:
        """Without required keys, and without schemas of Kubernetes, which are referred to by address."""
        if isinstance(schema, dict):
            kept = {
                key: value
                for key, value in schema.items()
                if not (key == "required" and isinstance(value, list))
                and not (key == "$ref" and str(value).startswith("http"))
            }
            return {key: relaxed(value) for key, value in kept.items()}
        return [relaxed(item) for item in schema] if isinstance(schema, list) else schema

    validator = Draft202012Validator(relaxed(json.loads((SCHEMAS / f"values-{version}.schema.json").read_text())))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(values)]


@with_schemas
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [PROD, LOCAL], ids=["prod", "local"])
def test_the_official_schema_accepts_them(values: dict[str, Any], version: str) -> None:
    assert errors_of(values, version) == []


@with_schemas
@pytest.mark.parametrize("version", VERSIONS)
def test_the_official_schema_refuses_an_unknown_key(version: str) -> None:
    [error] = errors_of({"dagsterWebserver": {"replicas": 2}}, version)
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
