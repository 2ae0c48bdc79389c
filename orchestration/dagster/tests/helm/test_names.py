"""Names that charts/lakehouse-support derives from the release of the official chart are the official chart's."""

from __future__ import annotations

import json
import re

import pytest

from .rendered import NAMESPACE, VALUES, helm, read
from .test_support import EVERYTHING, made, workloads


@pytest.mark.parametrize("release", ["dagster", "orchestrator", "my-dagster"])
def test_names_agree_with_the_official_chart(request: pytest.FixtureRequest, release: str) -> None:
    done = helm(
        *("template", release, request.config.getoption("--chart"), "-n", NAMESPACE, "--skip-schema-validation"),
        *("-f", str(VALUES / "values.yaml"), "--set", "dagsterWebserver.enableReadOnly=true"),
    )
    assert done.returncode == 0, done.stderr
    official = read(done.stdout)
    there = {(item["kind"], item["metadata"]["name"]) for item in official.objects}
    found = made(*EVERYTHING, f"dagster.release={release}")
    pods = workloads(found)
    [instance] = [v["configMap"]["name"] for v in pods["prune"]["spec"]["volumes"] if v["name"] == "instance"]
    services = pods["test-webserver"]["spec"]["containers"][0]["args"][3:]
    [daemon] = set(re.findall(r"deployment/(\S+-daemon)\.", json.dumps(found.of("PrometheusRule"))))
    assert len(services) == 2
    assert {("ConfigMap", instance), ("Deployment", daemon), *(("Service", name) for name in services)} <= there
    [env] = [one for one in pods["prune"]["spec"]["containers"][0]["env"] if one["name"] == "DAGSTER_PG_PASSWORD"]
    [pod] = [spec for name, spec in official.pods() if name == daemon]
    [theirs] = [one for one in pod["containers"][0]["env"] if one["name"] == "DAGSTER_PG_PASSWORD"]
    assert env["valueFrom"]["secretKeyRef"] == theirs["valueFrom"]["secretKeyRef"]
