"""A release of the official chart on a real Kubernetes: `make cluster-test CHART=… IMAGE=… TAG=…`, with KUBECONFIG.

It installs into the namespace `dagster`, which must not be there before, and takes it away again.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.dagster_ui import DagsterUI, free_port, poll
from tests.helm.chart import Chart

ROOT = Path(__file__).parents[4]
VALUES = ROOT / "infrastructure" / "kubernetes" / "dagster"
NAMESPACE, BACKING, RELEASE = "dagster", "dagster-test-backing", "dagster"
SUPPORT = "support"
LOCATION = "lakehouse-analytics"
FOLDER = "/var/tmp/dagster-test"
SERVICES = "lakehouse-trino", "lakehouse-airbyte", "lakehouse-duckdb", "lakehouse-notify"
VOLUMES = "dagster-test-data", "dagster-test-postgres", "dagster-test-backup"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chart-before", help="the folder of an older chart, from which an upgrade is tried")
    parser.addoption("--image", default="registry.example/lakehouse-analytics", help="the image, without its tag")
    parser.addoption("--tag", required=False, help="of the image, as the cluster can pull it")
    parser.addoption("--raw", help="a DuckDB file with raw data, as `lakehouse ingest` makes it")
    parser.addoption("--production", help="a file that says where Trino and S3 are: test_production.py")
    parser.addoption("--keep", action="store_true", help="leave the release there")


def run(*command: str, wrong: bool = False, stdin: str | None = None, seconds: float = 600) -> str:
    """One command to its end; its output."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
    assert bool(done.returncode) == wrong, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if wrong else "")


def kubectl(*words: str, namespace: str = NAMESPACE, stdin: str | None = None) -> str:
    return run("kubectl", "-n", namespace, *words, stdin=stdin)


def objects(kind: str, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(kubectl("get", kind, "-o", "json", *words))["items"])


class Forwarded(DagsterUI):
    """The webserver through `kubectl port-forward`, which is started again after its pod has ended."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}/graphql", LOCATION)
        self.process: subprocess.Popen[bytes] | None = None

    def because(self) -> str:
        pods = kubectl("get", "pods", "-o", "wide")
        return f"{pods}\n{kubectl('get', 'events', '--sort-by=.lastTimestamp')[-3000:]}"

    def alive(self) -> None:
        if self.process is None or self.process.poll() is not None:
            command = [
                "kubectl",
                "port-forward",
                "-n",
                NAMESPACE,
                f"svc/{RELEASE}-dagster-webserver",
                f"{self.port}:80",
            ]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, query: str, **variables: Any) -> Any:
        """Repeats only if there is no connection, because a forwarded port breaks with its pod."""
        for _ in range(60):
            self.alive()
            try:
                return super().ask(query, **variables)
            except OSError:
                time.sleep(1)
        raise AssertionError(f"The webserver does not answer\n{self.because()}")

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@dataclass
class Release:
    """The installed release."""

    chart: Chart
    image: str
    tag: str
    seconds: float = 0.0
    secrets: dict[str, str] = field(default_factory=dict)
    nameserver: str = ""
    ui: Forwarded = field(default_factory=Forwarded)

    def told_in(self, texts: dict[str, str]) -> list[tuple[str, str]]:
        """Where a secret stands, and which."""
        return [(where, which) for where, text in texts.items() for which, one in self.secrets.items() if one in text]

    def helm(self, *words: str, tag: str | None = None, wrong: bool = False) -> str:
        """On the embedded engine."""
        deployment = "dagster-user-deployments.deployments[0]"
        return self.install(
            *("-f", str(VALUES / "values.yaml"), "-f", str(VALUES / "values-local.yaml")),
            *("--set", f"{deployment}.env.LAKEHOUSE_TRINO_HTTP_SCHEME=https"),  # or its password is refused
            *("--set", f"{deployment}.env.LAKEHOUSE_DAILY_REFRESH_CRON=* * * * *"),
            *("--set-string", f"{deployment}.env.LAKEHOUSE_PARTITION_END_OFFSET=1"),
            *words,
            tag=tag,
            wrong=wrong,
        )

    def install(self, *words: str, tag: str | None = None, wrong: bool = False) -> str:
        """With our image, and what stands beside the chart."""
        deployment = "dagster-user-deployments.deployments[0]"
        return run(
            *("helm", "upgrade", "--install", RELEASE, str(self.chart.folder), "-n", NAMESPACE),
            "--skip-schema-validation",
            *words,
            *("--set", "postgresql.enabled=false,generatePostgresqlPasswordSecret=false"),
            *("--set", f"postgresql.postgresqlHost=postgres.{BACKING}.svc.cluster.local"),
            *("--set", f"{deployment}.image.repository={self.image},{deployment}.image.tag={tag or self.tag}"),
            *("--set", f"{deployment}.env.LAKEHOUSE_AIRBYTE_URL=http://airbyte.{BACKING}:8006/api/public/v1"),
            *("--set", f"{deployment}.env.LAKEHOUSE_AIRBYTE_CLIENT_ID=id"),
            wrong=wrong,
        )

    def support(self, *values: str) -> str:
        more = [word for value in values for word in ("--set", value)]
        # Objects of the Prometheus Operator, where the cluster knows them.
        operator = "true" if "podmonitors" in run("kubectl", "api-resources", "-o", "name") else "false"
        # Policies see the address of an API server, not that of its Service.
        slices = ("get", "endpointslices", "-l", "kubernetes.io/service-name=kubernetes", "-o", "json")
        [api] = json.loads(kubectl(*slices, namespace="default"))["items"]
        [server] = {address for endpoint in api["endpoints"] for address in endpoint["addresses"]}
        egress, of_backing = "networkPolicies.egress", r"namespaceSelector.matchLabels.kubernetes\.io/metadata\.name"
        return run(
            *("helm", "upgrade", "--install", SUPPORT, str(ROOT / "charts" / "lakehouse-support"), "-n", NAMESPACE),
            *("--set", f"image.repository={self.image},image.tag={self.tag}"),
            *("--set", f"postgresql.host=postgres.{BACKING}"),
            *("--set", "instance.backup.storageClassName=dagster-test,instance.backup.image.tag=14.6"),
            *("--set", "upkeep.reap.graceMinutes=1,upkeep.reap.schedule=0 0 1 1 *"),  # the tests start it
            *("--set", f"{egress}.kubernetesApi.cidrs={{{server}/32}}"),
            *("--set", f"{egress}.postgresql.peers[0].{of_backing}={BACKING}"),
            *("--set", f"{egress}.airbyte.peers[0].{of_backing}={BACKING}"),
            *("--set", f"networkPolicies.dns.cidrs={{{self.nameserver}/32}}"),  # it may be on the node
            *("--set", f"monitoring.enabled=true,monitoring.podMonitor.enabled={operator}"),
            *("--set", f"monitoring.rules.enabled={operator}"),
            *("--timeout", "5m"),
            *more,
        )


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> Iterator[Release]:
    """Everything installed, loaded and healthy; nothing built."""
    option = request.config.getoption
    for program in ("kubectl", "helm"):
        if not shutil.which(program):
            pytest.fail(f"{program} is not installed", pytrace=False)
    if not option("--tag") or not option("--raw"):
        pytest.fail("make cluster-test needs TAG, the image's, and RAW, a DuckDB file with raw data", pytrace=False)
    made = Release(Chart.of(option("--chart"), option("--chart-version")), option("--image"), option("--tag"))
    run("kubectl", "create", "namespace", NAMESPACE)
    try:
        prepare(made, Path(option("--raw")))
        began = time.monotonic()
        made.helm("--wait", "--timeout", "10m")
        made.seconds = time.monotonic() - began
        made.support()
        made.ui.wait_until_ready(seconds=300)
        yield made
    finally:
        made.ui.close()
        if not option("--keep"):
            run("kubectl", "delete", "namespace", NAMESPACE, BACKING, "--ignore-not-found")
            run("kubectl", "delete", "pv", *VOLUMES, "--ignore-not-found")


def secret(name: str, data: dict[str, str]) -> None:
    """Make it, or replace it."""
    made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
    kubectl("apply", "-f", "-", stdin=json.dumps(made))


def logs_of_pods() -> dict[str, str]:
    """All that the pods' containers have printed."""
    names = [pod["metadata"]["name"] for pod in objects("pods")]
    return {name: kubectl("logs", name, "--all-containers", "--prefix", "--tail=-1") for name in names}


def prepare(release: Release, raw: Path) -> None:
    """What a person does before `helm`."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    run("kubectl", "label", "namespace", NAMESPACE, label)
    # A folder of its own on the node: nothing of an earlier time is found again.
    backing = Path(__file__).with_name("backing.yaml").read_text()
    names = ("postgresql-password", "LAKEHOUSE_TRINO_PASSWORD", "LAKEHOUSE_AIRBYTE_CLIENT_SECRET")
    release.secrets = {name: secrets.token_hex(16) for name in names}
    said = {
        FOLDER: f"{FOLDER}-{time.time():.0f}",
        "THE-PASSWORD": release.secrets["postgresql-password"],
        "THE-SECRET-OF-AIRBYTE": release.secrets["LAKEHOUSE_AIRBYTE_CLIENT_SECRET"],
        "THE-IMAGE": f"{release.image}:{release.tag}",
    }
    for word, meant in said.items():
        backing = backing.replace(word, meant)
    kubectl("apply", "-f", "-", stdin=backing, namespace=BACKING)
    claim = (VALUES / "local-data.yaml").read_text().replace("spec:\n", "spec:\n  storageClassName: dagster-test\n", 1)
    kubectl("apply", "-f", "-", stdin=claim)
    ours = {name: value for name, value in release.secrets.items() if name.startswith("LAKEHOUSE_")}
    for name, data in (
        ("dagster-postgresql-secret", {"postgresql-password": release.secrets["postgresql-password"]}),
        ("lakehouse-secrets", ours),
    ):
        secret(name, data)
    # Kubernetes describes Services by variables such as LAKEHOUSE_TRINO_PORT=tcp://10.96.0.7:80 in every pod.
    for name in SERVICES:
        kubectl("create", "service", "clusterip", name, "--tcp=80:80")
    run("kubectl", "-n", BACKING, "rollout", "status", "deployment/airbyte", "--timeout=5m")
    run("kubectl", "-n", BACKING, "rollout", "status", "statefulset/postgres", "--timeout=5m")
    with helper(release) as pod, tempfile.TemporaryDirectory() as folder:
        resolves = kubectl("exec", pod, "--", "cat", "/etc/resolv.conf").split()
        release.nameserver = resolves[resolves.index("nameserver") + 1]
        only = Path(folder) / "lakehouse.duckdb"
        with duckdb.connect(str(only)) as connection:
            connection.execute(f"attach '{raw}' as theirs (read_only); create schema raw")
            tables = "select table_name from duckdb_tables() where database_name = 'theirs' and schema_name = 'raw'"
            for (name,) in connection.execute(tables).fetchall():
                connection.execute(f'create table raw."{name}" as from theirs.raw."{name}"')
        kubectl("cp", str(only), f"{pod}:/data/lakehouse.duckdb")


@contextmanager
def helper(release: Release, *, claim: str = "lakehouse-data", path: str = "/data") -> Iterator[str]:
    """A pod of our image with the lakehouse's volume, or another."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "apiVersion": "v1",
        "kind": "Pod",
        # To network policies it is a run.
        "metadata": {"name": "helper", "labels": {"app.kubernetes.io/component": "run_worker"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                **{"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    **{"name": "helper", "image": f"{release.image}:{release.tag}", "args": ["sleep", "600"]},
                    "securityContext": security,
                    "volumeMounts": [{"name": "volume", "mountPath": path}],
                }
            ],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(spec))
    try:
        kubectl("wait", "--for=condition=Ready", "pod/helper", "--timeout=5m")
        yield "helper"
    finally:
        kubectl("delete", "pod", "helper", "--now")


def pods_of(run_id: str) -> list[dict[str, Any]]:
    """The pods of a run."""
    return objects("pods", "-l", f"dagster/run-id={run_id}")


def until(question: Any, *, seconds: float, what: str, release: Release) -> Any:
    """`poll`, with the cluster's state where it fails."""
    return poll(question, seconds=seconds, what=what, because=release.ui.because)
