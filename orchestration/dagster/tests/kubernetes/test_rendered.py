"""`make helm-check`: what would be sent to the cluster is right before it is."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from .rendered import NAMESPACE, Object, Rendered, conforms, variables

#: Volumes of the `restricted` Pod Security Standard.
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def test_every_object_is_one_that_kubernetes_knows(either: Rendered) -> None:
    kinds = [type(model).__name__ for model in either.typed()]
    assert {"V1Deployment", "V1ConfigMap", "V1Service", "V1Role", "V1RoleBinding", "V1ServiceAccount"} <= set(kinds)


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
def test_kubernetes_has_nothing_against_it(either: Rendered, version: str) -> None:
    assert conforms(either.text, version) == ""


def test_dagster_accepts_the_instance(either: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._config import process_config, resolve_to_config_type

    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "x")
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(either.instance))
    config, custom = dagster_instance_config(str(tmp_path))
    assert custom is None
    for section in ("run_storage", "event_log_storage", "schedule_storage", "run_launcher", "compute_logs"):
        found = config[section]
        # As Dagster itself reads a module of the time before 1.0.
        module = importlib.import_module(found["module"].replace("dagster.core.", "dagster._core."))
        kind = getattr(module, found["class"])
        checked = process_config(resolve_to_config_type(kind.config_type()), found.get("config") or {})
        assert checked.success, f"{section}: {checked.errors}"
    assert "run_coordinator" not in config


def test_two_places_do_not_limit_the_runs(either: Rendered) -> None:
    assert "run_coordinator" not in either.instance
    assert either.instance["concurrency"]["runs"]["max_concurrent_runs"] == 10


def restricted(name: str, pod: Object) -> list[str]:
    """What the `restricted` Pod Security Standard holds against a pod.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/, Kubernetes 1.34.
    """
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not VOLUMES & v.keys() or "hostPath" in v]
    whole = pod.get("securityContext") or {}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext") or {}
        both = {**whole, **own}
        wanted = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": (both.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": (own.get("capabilities") or {}).get("drop") == ["ALL"],
            "privileged": not own.get("privileged"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        found += [f"{container['name']}: {key}" for key, right in wanted.items() if not right]
    return [f"{name}: {what}" for what in found]


def run_pod(rendered: Rendered) -> Object:
    return dict(rendered.run_job()["spec"]["template"]["spec"])


def test_every_pod_keeps_to_the_restricted_standard(either: Rendered) -> None:
    pods = [*either.pods(), ("a run", run_pod(either))]
    assert len(pods) == 4
    assert [what for name, pod in pods for what in restricted(name, pod)] == []


def test_nobody_listens_where_only_root_may(either: Rendered) -> None:
    """A port below 1024 was refused on the first cluster; newer containerd allows it, others do not."""
    for name, pod in either.pods():
        ports = [port["containerPort"] for c in pod["containers"] for port in c.get("ports", [])]
        allowed = {one["name"]: int(one["value"]) for one in (pod["securityContext"].get("sysctls") or [])}
        lowest = allowed.get("net.ipv4.ip_unprivileged_port_start", 1024)
        assert [port for port in ports if port < lowest] == [], name


def test_the_standard_is_held_against_something() -> None:
    bare: Object = {"containers": [{"name": "c"}], "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}
    assert len(restricted("bare", bare)) == 6


def test_every_container_asks_for_what_it_needs(either: Rendered) -> None:
    pods = [*either.pods(), ("a run", run_pod(either))]
    without = [
        f"{name}/{container['name']}"
        for name, pod in pods
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        if not {"requests", "limits"} <= (container.get("resources") or {}).keys()
    ]
    assert without == []


def test_a_run_is_not_sized_as_the_server_is(either: Rendered) -> None:
    [run] = run_pod(either)["containers"]
    assert run["resources"] != either.server["resources"]
    assert run["resources"]["limits"]["memory"] == "3Gi"


def test_a_run_has_the_environment_of_the_server(either: Rendered) -> None:
    [run] = run_pod(either)["containers"]
    server, runs = variables(either.server, either), variables(run, either)
    ours = {name: value for name, value in server.items() if name.startswith(("LAKEHOUSE_", "secret:", "TMPDIR"))}
    assert len(ours) > 5
    assert {name: runs.get(name) for name in ours} == ours
    assert {"DAGSTER_HOME", "DAGSTER_PG_PASSWORD"} <= runs.keys()


def test_a_run_ends_as_it_should(either: Rendered) -> None:
    job = either.run_job()
    assert job["metadata"].get("namespace", NAMESPACE) == NAMESPACE
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    pod = run_pod(either)
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] in [item["metadata"]["name"] for item in either.of("ServiceAccount")]


def test_images_are_named_by_tag_or_digest(either: Rendered) -> None:
    pods = [*either.pods()]
    images = {c["image"] for _, pod in pods for c in [*pod.get("initContainers", []), *pod["containers"]]}
    loose = [image for image in images if "@" not in image and image.rpartition(":")[2] in (image, "latest", "")]
    assert len(images) >= 3
    assert loose == []


def test_secrets_come_from_outside(rendered: Rendered) -> None:
    assert rendered.of("Secret") == []


def test_the_probes_leave_time_to_load(either: Rendered) -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import lakehouse_analytics.definitions as d; d.defs()"], check=True)
    load = time.monotonic() - began
    startup = either.server["startupProbe"]
    budget = startup["periodSeconds"] * startup["failureThreshold"]
    assert budget >= 10 * load, f"{budget} s for a start that took {load:.1f} s here"
    assert "readinessProbe" not in either.server
    for probe in (startup, either.server["livenessProbe"]):
        assert probe["exec"]["command"][:3] == ["python", "-m", "lakehouse_analytics.health"]


#: Connections of one process at most. Webserver: a pool of 1 and its overflow for each of three storages. Daemon: one
#: for each thread of 4 sensors, 4 schedules, 4 dequeues and 6 daemons, and for half of them one more, while they store
#: an event. Run: one for the runs, and of windows 1 and 2 more for the events that are held.
STORAGES, DAEMON, RUN, CODE_SERVER = 3, 26, 4, 2
#: Of charts/lakehouse-support: pruning, reaping, metrics, and its Job.
UPKEEP = 2 + 2 + 1 + 2
#: For people, and what PostgreSQL keeps for its superuser.
OTHERS = 4 + 3


def test_postgresql_has_connections_for_the_worst_case(rendered: Rendered, request: pytest.FixtureRequest) -> None:
    limit = request.config.getoption("--max-connections")
    deployments = dict(rendered.pods())
    webservers = [name for name in deployments if "webserver" in name]
    overflow = {
        one["name"]: int(one["value"])
        for name in webservers
        for one in deployments[name]["containers"][0]["env"]
        if one["name"] == "DAGSTER_WEBSERVER_DB_POOL_MAX_OVERFLOW"
    }["DAGSTER_WEBSERVER_DB_POOL_MAX_OVERFLOW"]
    replicas = sum(rendered.one("Deployment", name)["spec"].get("replicas", 1) for name in webservers)
    runs = rendered.instance["concurrency"]["runs"]["max_concurrent_runs"]
    worst = replicas * STORAGES * (1 + overflow) + DAEMON + runs * RUN + CODE_SERVER + UPKEEP
    assert worst + OTHERS <= limit, (
        f"{worst} connections at worst and {OTHERS} for others, but max_connections is {limit}"
    )


def test_whoever_may_do_something_is_bound_by_name(either: Rendered) -> None:
    rules = [rule for role in either.of("Role") for rule in role["rules"]]
    verbs = {verb for rule in rules for verb in rule["verbs"]}
    assert verbs == {"create", "delete", "get", "list"}
    may = {verb: {of for rule in rules if verb in rule["verbs"] for of in rule["resources"]} for verb in verbs}
    assert may["create"] == {"jobs"}
    assert may["delete"] == {"jobs", "pods"}  # Dagster deletes a terminated run's pods itself
    subjects = [s["name"] for binding in either.of("RoleBinding") for s in binding["subjects"]]
    accounts = {item["metadata"]["name"] for item in either.of("ServiceAccount")}
    assert subjects == ["dagster"]
    assert "dagster" in accounts
    assert either.of("ClusterRole") == either.of("ClusterRoleBinding") == []
