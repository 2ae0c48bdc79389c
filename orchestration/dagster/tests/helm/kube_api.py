"""The part of the Kubernetes API that an install by Helm reads: which kinds there are, and single objects.

`lookup` in a chart needs an API server, which `make helm-check` does not have.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from .rendered import NAMESPACE, Object

#: Kinds of a cluster with both operators, by group and version.
KINDS = {
    "v1": ["ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "batch/v1": ["CronJob", "Job"],
    "networking.k8s.io/v1": ["Ingress", "NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "external-secrets.io/v1": ["ExternalSecret"],
    "monitoring.coreos.com/v1": ["PodMonitor", "PrometheusRule"],
}
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}


def plural(kind: str) -> str:
    """The name of a kind in a path."""
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}es" if lower.endswith("ss") else f"{lower}s"


def config_map(name: str, *keys: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict.fromkeys(keys, "x")}


def secret(name: str, *keys: str, annotations: dict[str, str] | None = None, owner: str | None = None) -> Object:
    labels = {"app.kubernetes.io/managed-by": "Helm"} if annotations else {}
    metadata = {"name": name, "annotations": annotations or {}, "labels": labels}
    owners = [{"kind": owner, "name": name, "apiVersion": "x/v1", "uid": "1"}] if owner else []
    found = {"apiVersion": "v1", "kind": "Secret", "data": dict.fromkeys(keys, "eA==")}
    return {**found, "metadata": {**metadata, "ownerReferences": owners}}


class KubeApi:
    """Serves objects of the namespace on loopback, for as long as it is entered."""

    def __init__(self, *objects: Object, namespace: bool = True) -> None:
        """Every namespace that exists has a service account called default."""
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self.objects = [*objects, *([account] if namespace else [])]

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.objects))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        config = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "here"},
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        }
        self._config = Path(self._folder.name) / "config"
        self._config.write_text(yaml.safe_dump(config))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    def install(self, chart: Path, values: Path, *sets: str) -> str:
        """What `helm install --dry-run=server` prints: the objects and NOTES.txt."""
        done = self._helm(chart, values, sets)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refuse(self, chart: Path, values: Path, *sets: str) -> str:
        """The errors of an install that must fail."""
        done = self._helm(chart, values, sets)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _helm(self, chart: Path, values: Path, sets: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("helm", "install", "support", str(chart), "-n", NAMESPACE, "-f", str(values)),
                *("--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(self._config)),
                *(word for one in sets for word in ("--set", one)),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECACHEDIR": self._folder.name},
        )


def _handler(objects: Sequence[Object]) -> type[BaseHTTPRequestHandler]:
    there = {(plural(item["kind"]), item["metadata"]["name"]): item for item in objects}

    def answer(path: str) -> dict[str, Any] | None:
        match [part for part in path.partition("?")[0].split("/") if part]:
            case ["version"]:
                return VERSION
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(v) for v in KINDS if "/" in v]}
            case ["api", "v1"]:
                return _resources("v1")
            case ["apis", group, version]:
                return _resources(f"{group}/{version}")
            case [*_, "namespaces", _, kind, name]:
                return there.get((kind, name))
        return None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(self.path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    return Handler


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    served = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(version: str) -> dict[str, Any]:
    kinds = [
        {"name": plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "create"]}
        for kind in KINDS.get(version, [])
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds}
