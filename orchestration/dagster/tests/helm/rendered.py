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

    def names(self, kind: str) -> list[str]:
        """Names of the objects of a kind, in order."""
        return sorted(item["metadata"]["name"] for item in self.of(kind))

    def typed(self) -> Iterator[Any]:
        """Each object as the model of its kind."""
        yield from map(typed, self.objects)

    @property
    def instance(self) -> Object:
        """The rendered dagster.yaml."""
        [text] = [item["data"]["dagster.yaml"] for item in self.of("ConfigMap") if "dagster.yaml" in item["data"]]
        return dict(yaml.safe_load(text))

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name and pod spec of every workload, without the PostgreSQL that the chart brings for a trial."""
        for item in self.objects:
            name = item["metadata"]["name"]
            if item["kind"] in ("Deployment", "StatefulSet", "Job") and "postgresql" not in name:
                yield name, item["spec"]["template"]["spec"]
            elif item["kind"] == "CronJob":
                yield name, item["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    def every_pod(self) -> Iterator[tuple[str, Object]]:
        """`pods`, and the pod of a run."""
        yield from self.pods()
        yield "a run", self.run_job()["spec"]["template"]["spec"]

    @property
    def server(self) -> Object:
        """The container of the code server."""
        [found] = [
            item for item in self.of("Deployment") if item["metadata"]["labels"].get("component") == "user-deployments"
        ]
        [container] = found["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def run_job(self) -> Object:
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
            context.get_k8s_job_config(self.server["image"], launcher),
            args=["dagster", "api", "execute_run"],
            job_name="dagster-run-0",
            component="run_worker",
            pod_name="dagster-run-0",
            user_defined_k8s_config=context.run_k8s_config,
            labels={},
        )
        return dict(kubernetes.client.ApiClient().sanitize_for_serialization(job))


def typed(item: Object) -> Any:
    """An object as the model of its kind, which refuses what it does not know."""
    version = item["apiVersion"].rpartition("/")[2]
    model = getattr(kubernetes.client, f"{version[0].upper()}{version[1:]}{item['kind']}")
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, _without_nulls(item)))


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
    """Run one command of helm."""
    if not shutil.which("helm"):
        pytest.fail("helm is not installed: https://helm.sh/docs/intro/install/", pytrace=False)
    return subprocess.run(["helm", *words], capture_output=True, text=True, check=False)


def render(chart: Path, release: str, *words: str) -> Rendered:
    """What `helm upgrade --install RELEASE CHART` would send to the cluster.

    Args:
        chart: The folder of the chart.
        release: The name of the release.
        words: More of helm's options, such as `-f FILE`.
    """
    # The chart's schema refers to schemas of Kubernetes by address, which an air-gapped machine cannot reach. Its keys
    # and the objects are checked by `chart.py` and by typed models instead.
    done = helm("template", release, str(chart), "-n", NAMESPACE, "--skip-schema-validation", *words)
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)
    return read(done.stdout)


def wanted(program: str, without: str) -> None:
    """Skip a test if a program is not installed, and say what that leaves unchecked. Users' CI has all of them."""
    if not shutil.which(program):
        if os.getenv("GITHUB_ACTIONS"):
            pytest.fail(f"{program} is not installed", pytrace=False)
        pytest.skip(f"{program} is not installed: {without}")


def conforms(text: str, version: str) -> str:
    """What kubeconform reports about objects, by the strict schemas of a release of Kubernetes.

    It fetches the schemas, or takes them from the location in KUBERNETES_SCHEMAS.
    """
    wanted("kubeconform", "the typed models of kubernetes-client have judged alone")
    where = os.getenv("KUBERNETES_SCHEMAS", "default")
    # Objects of operators: External Secrets, Prometheus.
    others = "ExternalSecret,PodMonitor,PrometheusRule"
    command = ["kubeconform", "-strict", "-skip", others, "-kubernetes-version", version]
    done = subprocess.run(
        [*command, "-schema-location", where, "-"], input=text, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def read(text: str) -> Rendered:
    """The objects in helm's output."""
    return Rendered([item for item in yaml.safe_load_all(text) if item], text)


def variables(container: Object, rendered: Rendered) -> dict[str, str]:
    """Environment variables of a container, by name. A whole Secret counts as one, named `secret:` and its name."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            name = source["configMapRef"]["name"]
            for item in rendered.of("ConfigMap"):  # one that is not there has a rule of its own
                if item["metadata"]["name"] == name:
                    found |= item["data"] or {}
        elif not source["secretRef"].get("optional"):
            found[f"secret:{source['secretRef']['name']}"] = ""
    for one in container.get("env", []):
        found[one["name"]] = one.get("value", json.dumps(one.get("valueFrom")))
    return found
