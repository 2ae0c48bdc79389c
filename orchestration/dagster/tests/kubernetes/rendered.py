"""Objects of a chart, as typed models; and the pod of a run, as Dagster's own launcher makes it of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

ROOT = Path(__file__).parents[4]
VALUES = ROOT / "infrastructure" / "kubernetes" / "dagster"
NAMESPACE = "dagster"
RELEASE = "dagster"
CODE_SERVER = "dagster-dagster-user-deployments-lakehouse-analytics"
Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """Everything that one `helm template` printed."""

    objects: list[Object]
    text: str = ""

    def of(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        [found] = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        return found

    def typed(self) -> Iterator[Any]:
        """Each object as the model of its kind, which refuses what it does not know."""
        for item in self.objects:
            version = item["apiVersion"].rpartition("/")[2]
            model = getattr(kubernetes.client, f"{version[0].upper()}{version[1:]}{item['kind']}")
            yield k8s_model_from_dict(model, k8s_snake_case_dict(model, _without_nulls(item)))

    @property
    def instance(self) -> Object:
        """The rendered dagster.yaml."""
        text = self.one("ConfigMap", f"{RELEASE}-instance")["data"]["dagster.yaml"]
        return dict(yaml.safe_load(text))

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name and pod spec of every workload of ours and of Dagster's; PostgreSQL for trying is neither."""
        for item in self.objects:
            name = item["metadata"]["name"]
            if item["kind"] in ("Deployment", "StatefulSet", "Job") and "postgresql" not in name:
                yield name, item["spec"]["template"]["spec"]
            elif item["kind"] == "CronJob":
                yield name, item["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    @property
    def server(self) -> Object:
        """The container of the code server."""
        [container] = self.one("Deployment", CODE_SERVER)["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def run_job(self, image: str = "registry.example/lakehouse-analytics:0.1.0") -> Object:
        """The Kubernetes Job of a run, made by Dagster's launcher from the rendered instance."""
        from dagster._core.storage.dagster_run import DagsterRun
        from dagster_k8s import K8sRunLauncher
        from dagster_k8s.container_context import K8sContainerContext
        from dagster_k8s.job import construct_dagster_k8s_job

        config = {**self.instance["run_launcher"]["config"], "load_incluster_config": False}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as kubeconfig:
            yaml.safe_dump(NOWHERE, kubeconfig)
            kubeconfig.flush()
            launcher = K8sRunLauncher.from_config_value(None, {**config, "kubeconfig_file": kubeconfig.name})
        run = DagsterRun(job_name="full_refresh", run_id="0" * 8)
        context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
        job = construct_dagster_k8s_job(
            context.get_k8s_job_config(image, launcher),
            args=["dagster", "api", "execute_run"],
            job_name="dagster-run-0",
            component="run_worker",
            pod_name="dagster-run-0",
            user_defined_k8s_config=context.run_k8s_config,
            labels={},
        )
        return dict(kubernetes.client.ApiClient().sanitize_for_serialization(job))


NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "nobody", "user": {}}],
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
    "current-context": "nowhere",
}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """One command of helm's."""
    if not shutil.which("helm"):
        pytest.fail("helm is not installed: https://helm.sh/docs/intro/install/", pytrace=False)
    return subprocess.run(["helm", *words], capture_output=True, text=True, check=False)


def render(chart: str, *values: str) -> Rendered:
    """`helm template`, as `helm upgrade --install` would send it."""
    files = [word for name in values for word in ("-f", str(VALUES / name))]
    # The chart's schema refers to Kubernetes' by address; the objects are read as typed models instead.
    done = helm("template", RELEASE, chart, "-n", NAMESPACE, "--skip-schema-validation", *files)
    if done.returncode:
        advice = "\nIts repository: helm repo add dagster https://dagster-io.github.io/helm" if "/" in chart else ""
        pytest.fail(f"{done.stderr}{advice}", pytrace=False)
    return read(done.stdout)


def wanted(program: str, without: str) -> None:
    """Skip a test, and say what that means, where a program is not installed; users' CI has them all."""
    if not shutil.which(program):
        if os.getenv("GITHUB_ACTIONS"):
            pytest.fail(f"{program} is not installed", pytrace=False)
        pytest.skip(f"{program} is not installed: {without}")


def conforms(text: str, version: str) -> str:
    """What kubeconform has against objects, by the strict schemas of a Kubernetes; it fetches them.

    KUBERNETES_SCHEMAS says where else they are.
    """
    wanted("kubeconform", "the typed models of kubernetes-client have judged alone")
    where = os.getenv("KUBERNETES_SCHEMAS", "default")
    # Of operators of their own: External Secrets, Prometheus.
    others = "ExternalSecret,PodMonitor,PrometheusRule"
    command = ["kubeconform", "-strict", "-skip", others, "-kubernetes-version", version]
    done = subprocess.run(
        [*command, "-schema-location", where, "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def read(text: str) -> Rendered:
    """What helm printed."""
    return Rendered([item for item in yaml.safe_load_all(text) if item], text)


def variables(container: Object, rendered: Rendered) -> dict[str, str]:
    """Environment variables of a container, by name; of a Secret's there is one named after the Secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            name = source["configMapRef"]["name"]
            found |= next(item["data"] or {} for item in rendered.of("ConfigMap") if item["metadata"]["name"] == name)
        elif not source["secretRef"].get("optional"):
            found[f"secret:{source['secretRef']['name']}"] = ""
    for one in container.get("env", []):
        found[one["name"]] = one.get("value", json.dumps(one.get("valueFrom")))
    return found
