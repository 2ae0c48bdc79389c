"""values.yaml as it is for production: Trino behind TLS of a private CA, what runs print on S3.

Needs both, reachable from the cluster's pods, with the raw data of `lakehouse ingest` in them: `--production FILE`, of
lines NAME=value as in .env.example, and S3_ENDPOINT, S3_BUCKET, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import RELEASE, VALUES, Release, kubectl, logs_of_pods, objects, secret, until
from .test_cluster import BUILT, DAYS, dump

SECRET = ("LAKEHOUSE_TRINO_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
CA = "/etc/trino-ca/ca.pem"


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of the file."""
    path = request.config.getoption("--production")
    if not path:
        pytest.skip("--production names no Trino and no S3: values.yaml has been tried with the embedded engine only")
    lines = [line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def production(release: Release, environment: dict[str, str]) -> Release:
    """The same release, of values.yaml alone; the password of Trino is not the right one."""
    wrong = secrets.token_hex(16)
    release.secrets |= {name: environment[name] for name in SECRET} | {"the wrong one": wrong}
    given = {name: value for name, value in release.secrets.items() if name.startswith("LAKEHOUSE_")}
    keys = {name: environment[name] for name in SECRET[1:]}
    secret("lakehouse-secrets", given | keys | {"LAKEHOUSE_TRINO_PASSWORD": wrong})
    secret("dagster-logs", keys)
    kubectl("delete", "configmap", "trino-ca", "--ignore-not-found")
    kubectl("create", "configmap", "trino-ca", f"--from-file=ca.pem={environment['LAKEHOUSE_TRINO_CA_BUNDLE']}")
    s3 = environment["S3_ENDPOINT"].rpartition(":")[2]
    egress = "networkPolicies.egress"
    release.support(
        *(f"{egress}.{name}.cidrs={{0.0.0.0/0}}" for name in ("trino", "s3")),
        f"{egress}.trino.ports={{{environment['LAKEHOUSE_TRINO_PORT']}}}",
        f"{egress}.s3.ports={{{s3}}}",
    )
    release.install(
        *("-f", str(VALUES / "values.yaml")),
        *(word for one in settings(environment) for word in ("--set-string", one)),
        *("--wait", "--timeout", "10m"),
    )
    release.ui.wait_until_ready(seconds=300)
    return release


def settings(environment: dict[str, str]) -> Iterator[str]:
    """What a person edits in values.yaml."""
    deployment, launcher = "dagster-user-deployments.deployments[0]", "runLauncher.config.k8sRunLauncher"
    for name in ("HOST", "PORT", "USER", "CATALOG"):
        yield f"{deployment}.env.LAKEHOUSE_TRINO_{name}={environment[f'LAKEHOUSE_TRINO_{name}']}"
    yield f"{deployment}.env.LAKEHOUSE_TRINO_HTTP_SCHEME=https"
    yield f"{deployment}.env.LAKEHOUSE_TRINO_CA_BUNDLE={CA}"
    for where in (deployment, launcher):
        yield f"{where}.volumes[1].name=trino-ca,{where}.volumes[1].configMap.name=trino-ca"
        yield f"{where}.volumeMounts[1].name=trino-ca,{where}.volumeMounts[1].mountPath={Path(CA).parent}"
    logs = "computeLogManager.config.s3ComputeLogManager"
    yield f"{logs}.bucket={environment['S3_BUCKET']},{logs}.endpointUrl={environment['S3_ENDPOINT']}"
    for part in ("dagsterWebserver", "dagsterDaemon"):
        yield f"{part}.envSecrets[0].name=dagster-logs"


def printed(release: Release, run_id: str) -> str:
    """What the run's page shows of the output of its steps."""
    query = (
        "query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection(limit: 1000) { events { "
        "... on LogsCapturedEvent { fileKey } } } } } }"
    )
    events = release.ui.ask(query, id=run_id)["eventConnection"]["events"]
    texts = []
    for key in (event["fileKey"] for event in events if event.get("fileKey")):
        logs: dict[str, Any] = release.ui.ask(
            "query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }",
            key=[run_id, "compute_logs", key],
        )
        texts += [logs["stdout"] or "", logs["stderr"] or ""]
    return "\n".join(texts)


def test_a_password_that_expired_is_named_and_its_successor_needs_no_new_install(
    production: Release, environment: dict[str, str]
) -> None:
    failed = production.ui.finished(production.ui.launch("bronze_refresh"), seconds=600)
    assert failed.status == "FAILURE"
    assert "LAKEHOUSE_TRINO_PASSWORD" in failed.words, failed.words
    revision = json.loads(kubectl("get", "deployment", f"{RELEASE}-daemon", "-o", "json"))["metadata"]["generation"]
    servers = [pod["metadata"]["name"] for pod in objects("pods", "-l", "component=user-deployments")]
    right = {"stringData": {"LAKEHOUSE_TRINO_PASSWORD": environment["LAKEHOUSE_TRINO_PASSWORD"]}}
    kubectl("patch", "secret", "lakehouse-secrets", "-p", json.dumps(right))
    done = production.ui.finished(production.ui.retry_failed_assets(failed.run_id), seconds=600)
    assert done.status == "SUCCESS", done.words
    assert {"bronze/stg_customers", "bronze/stg_orders", "bronze/stg_products"} <= done.materialized
    assert [pod["metadata"]["name"] for pod in objects("pods", "-l", "component=user-deployments")] == servers
    now = json.loads(kubectl("get", "deployment", f"{RELEASE}-daemon", "-o", "json"))["metadata"]["generation"]
    assert now == revision


def test_the_demo_is_green_on_trino_and_its_output_is_on_s3(production: Release) -> None:
    run_id = production.ui.launch("full_refresh", tags=DAYS)
    done = production.ui.finished(run_id, seconds=900)
    assert done.status == "SUCCESS", done.words
    assert done.materialized == BUILT
    print(f"full_refresh of 30 days on Trino: {done.end - done.start:.0f} s")
    said = until(lambda: printed(production, run_id) or None, seconds=120, what="its output", release=production)
    assert "fct_orders" in said


def test_no_secret_of_trino_or_s3_is_told(production: Release) -> None:
    texts = {"dagster": dump(production), "events": kubectl("get", "events", "-o", "yaml"), **logs_of_pods()}
    texts |= {f"output of {run_id}": printed(production, run_id) for run_id in production.ui.run_ids()}
    assert production.told_in(texts) == []
