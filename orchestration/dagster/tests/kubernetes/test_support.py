"""charts/lakehouse-support: what it makes, and what it refuses."""

from __future__ import annotations

import pytest

from .rendered import NAMESPACE, ROOT, Rendered, conforms, helm, read
from .test_rendered import restricted

CHART = ROOT / "charts" / "lakehouse-support"
LOGIN = (
    *("login.enabled=true", "login.host=dagster.example", "login.existingSecret=login", "login.tlsSecret=tls"),
    *("login.issuerUrl=https://id.example", "login.emailDomains={example.com}"),
)
MONITORED = ("monitoring.enabled=true", "monitoring.podMonitor.labels.release=prometheus")
VAULT = ("secrets.from=external", "secrets.external.store.name=vault", "secrets.external.keys.LAKEHOUSE_A.key=a")


def template(*sets: str) -> tuple[str, str]:
    """What helm prints and what it complains of."""
    words = [word for one in sets for word in ("--set", one)]
    done = helm("template", "support", str(CHART), "-n", NAMESPACE, "--kube-version", "1.34.0", *words)
    return done.stdout, done.stderr


def made(*sets: str) -> Rendered:
    out, errors = template(*sets)
    assert errors == ""
    return read(out)


def test_it_passes_its_own_lint() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


#: Of the Prometheus Operator.
UNTYPED = ("monitoring.podMonitor.enabled=false", "monitoring.rules.enabled=false")


@pytest.mark.parametrize(
    "sets", [(), LOGIN, ("secrets.from=values", "secrets.data.LAKEHOUSE_A=b"), (*MONITORED, *UNTYPED)], ids=str
)
def test_every_object_is_one_that_kubernetes_knows(sets: tuple[str, ...]) -> None:
    assert [*made(*sets).typed()]


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
def test_kubernetes_has_nothing_against_it(version: str) -> None:
    out, _ = template(*LOGIN, *VAULT, *MONITORED)
    assert conforms(out, version) == ""


def test_every_pod_keeps_to_the_restricted_standard() -> None:
    found = made(*LOGIN, *MONITORED)
    pods = [*found.pods(), *((item["metadata"]["name"], item["spec"]) for item in found.of("Pod"))]
    names = {"instance", "login", "metrics", "prune", "reap", "test-webserver"}
    assert {name for name, _ in pods} == {f"support-{name}" for name in names}
    assert [what for name, pod in pods for what in restricted(name, pod)] == []


def test_there_is_no_ingress_without_a_log_in() -> None:
    assert made().of("Ingress") == []
    [ingress] = made(*LOGIN).of("Ingress")
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == "support-login"
    assert ingress["spec"]["tls"] == [{"hosts": ["dagster.example"], "secretName": "tls"}]
    [deployment] = made(*LOGIN).of("Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert not [word for word in container["args"] if "skip" in word]


@pytest.mark.parametrize("lacking", ["host", "existingSecret", "tlsSecret", "issuerUrl", "emailDomains"])
def test_a_log_in_that_lacks_something_is_refused_by_name(lacking: str) -> None:
    _, errors = template(*(one for one in LOGIN if not one.startswith(f"login.{lacking}=")))
    assert f"login.{lacking}: " in errors


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("instance.image.tag=latest", "/instance/image/tag"),
        ("secrets.from=vault", "/secrets/from"),
        ("secrets.data.lower=x", "'lower' does not match pattern"),
        ("loggin.enabled=true", "loggin"),
        ("networkPolicies.postgresql.cidrs={anywhere}", "/networkPolicies/postgresql/cidrs/0"),
        ("upkeep.prune.olderThanDays=7", "/upkeep/prune/olderThanDays"),
        ("networkPolicies.postgresql.cidrs=[]", "/networkPolicies/postgresql/cidrs"),
        ("instance.backup.size=5", "/instance/backup/size"),
        ("instance.backup.restore=../../etc/passwd", "/instance/backup/restore"),
        ("monitoring.rules.daemonSilentSeconds=30", "/monitoring/rules/daemonSilentSeconds"),
        ("monitoring.podMonitor.interval=30", "/monitoring/podMonitor/interval"),
    ],
)
def test_values_that_are_wrong_are_refused_by_name(wrong: str, named: str) -> None:
    assert named in template(wrong)[1]


def test_everything_is_denied_that_is_not_said() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in made(*LOGIN, *MONITORED).of("NetworkPolicy")}
    assert policies["support-default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    entered = {name for name, spec in policies.items() if spec.get("ingress")}
    assert entered == {"support-code-server", "support-webserver", "support-login", "support-metrics"}
    [allowed] = policies["support-webserver"]["ingress"]
    assert allowed["from"][0]["podSelector"]["matchLabels"]["lakehouse-support/asks"] == "webserver"
    assert made("networkPolicies.enabled=false").of("NetworkPolicy") == []


def test_secrets_come_from_where_it_is_said() -> None:
    assert made().of("Secret") == []
    [secret] = made("secrets.from=values", "secrets.data.LAKEHOUSE_A=b").of("Secret")
    assert (secret["metadata"]["name"], secret["stringData"]) == ("lakehouse-secrets", {"LAKEHOUSE_A": "b"})
    [external] = made(*VAULT).of("ExternalSecret")
    assert external["spec"]["data"] == [{"secretKey": "LAKEHOUSE_A", "remoteRef": {"key": "a"}}]
    assert "secrets.external.store.name" in template("secrets.from=external")[1]


def test_the_instance_is_migrated_and_its_pools_are_limited() -> None:
    [job] = made().of("Job")
    [container] = job["spec"]["template"]["spec"]["containers"]
    words = container["args"][-1]
    assert "dagster instance migrate" in words
    assert "dagster instance concurrency set duckdb 1" in words.split("\n")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"


def test_a_dump_is_made_before_the_migration_and_only_then() -> None:
    [job] = made().of("Job")
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "support-instance"
    assert [rule["subjects"] for rule in made().of("RoleBinding")] == [
        [{"kind": "ServiceAccount", "name": "support-reap"}]
    ]
    [backup] = job["spec"]["template"]["spec"]["initContainers"]
    assert "pg_dump" in backup["command"][-1]
    [claim] = made().of("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}  # it outlives the release
    assert made("instance.backup.existingClaim=mine").of("PersistentVolumeClaim") == []
    for without in ("instance.backup.enabled=false", "instance.migrate=false"):
        [job] = made(without).of("Job")
        assert "initContainers" not in job["spec"]["template"]["spec"]
        assert made(without).of("PersistentVolumeClaim") == []


def test_upkeep_runs_what_the_command_line_has_and_only_the_reaper_talks_to_kubernetes() -> None:
    from click.testing import CliRunner
    from lakehouse_analytics.cli import main

    found = made()
    for item in found.of("CronJob"):
        pod = item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        program, *words = container["args"]
        assert program == "lakehouse"
        assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
        assert item["spec"]["concurrencyPolicy"] == "Forbid"
        reaps = item["metadata"]["name"] == "support-reap"
        assert pod.get("serviceAccountName") == ("support-reap" if reaps else None)
        assert pod.get("automountServiceAccountToken") == (None if reaps else False)
    [role] = found.of("Role")
    assert role["rules"] == [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "delete"]}]
    assert made("upkeep.reap.enabled=false").of("Role") == []


def test_what_is_asked_to_be_put_back_is_never_passed_over() -> None:
    restore = "instance.backup.restore=dagster-20261122T074715Z.dump"
    [job] = made(restore).of("Job")
    [init] = job["spec"]["template"]["spec"]["initContainers"]
    assert init["name"] == "restore"
    for without in ("instance.backup.enabled=false", "instance.migrate=false"):
        assert "instance.backup.restore: needs" in template(restore, without)[1]


def test_every_pod_can_pull_from_a_private_registry() -> None:
    found = made(*LOGIN, *MONITORED, "imagePullSecrets[0].name=mine")
    pods = [*found.pods(), *((item["metadata"]["name"], item["spec"]) for item in found.of("Pod"))]
    assert [name for name, pod in pods if pod.get("imagePullSecrets") != [{"name": "mine"}]] == []


def test_names_are_resolved_in_the_cluster_or_by_a_cache_on_the_node() -> None:
    for sets, peers in (((), 1), (("networkPolicies.dns.cidrs={169.254.20.10/32}",), 2)):
        [spec] = [i["spec"] for i in made(*sets).of("NetworkPolicy") if i["metadata"]["name"] == "support-names"]
        [rule] = spec["egress"]
        assert len(rule["to"]) == peers
        assert rule["ports"] == [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]


def test_peers_stand_beside_networks() -> None:
    inside = (
        "networkPolicies.postgresql.cidrs={10.0.0.0/8}",
        "networkPolicies.postgresql.peers[0].podSelector.matchLabels.a=b",
    )
    [spec] = [i["spec"] for i in made(*inside).of("NetworkPolicy") if i["metadata"]["name"] == "support-postgresql"]
    [rule] = spec["egress"]
    assert rule["to"][-1] == {"podSelector": {"matchLabels": {"a": "b"}}}


def test_metrics_are_of_the_command_and_found_by_prometheus() -> None:
    from click.testing import CliRunner
    from lakehouse_analytics.cli import main

    assert [made().of(kind) for kind in ("PodMonitor", "PrometheusRule", "Deployment")] == [[], [], []]
    found = made(*MONITORED, "monitoring.port=9999")
    [deployment], [monitor] = found.of("Deployment"), found.of("PodMonitor")
    pod = deployment["spec"]["template"]
    [container] = pod["spec"]["containers"]
    program, *words = container["args"]
    assert (program, words[-4:]) == ("lakehouse", ["--host", "0.0.0.0", "--port", "9999"])
    assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"] if port["containerPort"] == 9999}
    [policy] = [i["spec"] for i in found.of("NetworkPolicy") if i["metadata"]["name"] == "support-metrics"]
    assert policy["ingress"] == [{"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 9999}]}]
