"""charts/lakehouse-support: which objects it makes, and which values it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .kube_api import KubeApi, config_map, secret
from .rendered import NAMESPACE, ROOT, VALUES, Object, Rendered, conforms, helm, read
from .rules import restricted

CHART = ROOT / "charts" / "lakehouse-support"
MINIMAL = CHART / "ci" / "minimal-values.yaml"
ANYWHERE = "networkPolicies.egress.identityProvider.cidrs={0.0.0.0/0}"
LOGIN = (
    *("login.enabled=true", "login.host=dagster.example", "login.existingSecret=login", "login.tlsSecret=tls"),
    *("login.issuerUrl=https://id.example", "login.emailDomains={example.com}", ANYWHERE),
)
READ_ONLY = (
    *("readOnlyLogin.enabled=true", "readOnlyLogin.host=look.example", "readOnlyLogin.existingSecret=look"),
    *("readOnlyLogin.tlsSecret=tls", "readOnlyLogin.issuerUrl=https://id.example"),
    *("readOnlyLogin.emailDomains={example.org}", ANYWHERE),
)
MONITORED = ("monitoring.enabled=true", "monitoring.podMonitor.labels.release=prometheus")
VAULT = ("secrets.from=external", "secrets.external.store.name=vault", "secrets.external.keys.LAKEHOUSE_A.key=a")
TLS = ("postgresql.sslmode=verify-full", "postgresql.ca.configMap=postgresql-ca")
WEBHOOK = (
    *("webhook.enabled=true", "webhook.ingress.enabled=true", "webhook.ingress.host=report.example"),
    "webhook.ingress.tlsSecret=tls",
)
EVERYTHING = (*LOGIN, *READ_ONLY, *MONITORED, *WEBHOOK, *VAULT, *TLS)
#: Kinds of operators, which `helm template` knows only if it is given them.
OPERATORS = (
    *("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule"),
    "external-secrets.io/v1/ExternalSecret",
)


@cache
def template(
    *sets: str, release: str = "support", apis: tuple[str, ...] = OPERATORS, values: tuple[Path, ...] = (MINIMAL,)
) -> tuple[str, str]:
    """What helm prints, and its errors."""
    words = [word for one in sets for word in ("--set", one)]
    words += [word for api in apis for word in ("--api-versions", api)]
    words += [word for path in values for word in ("-f", str(path))]
    done = helm("template", release, str(CHART), "-n", NAMESPACE, "--kube-version", "1.34.0", *words)
    return done.stdout, done.stderr


def made(*sets: str, release: str = "support") -> Rendered:
    out, errors = template(*sets, release=release)
    assert errors == ""
    return read(out)


def refused(*sets: str, **given: Any) -> str:
    """The errors of values that must be refused."""
    out, errors = template(*sets, **given)
    assert out == ""
    return errors


def workloads(found: Rendered) -> dict[str, Object]:
    """Metadata and specification of each pod, by the name of its workload."""
    pods: dict[str, Object] = {}
    for item in found.objects:
        spec = item.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if item["kind"] == "Pod":
            pods[item["metadata"]["name"]] = item
        elif item["kind"] in ("Deployment", "Job", "CronJob"):
            pods[item["metadata"]["name"]] = spec["template"]
    return {name.removeprefix("support-"): pod for name, pod in pods.items()}


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def policies(found: Rendered, namespace: str = NAMESPACE) -> dict[str, Object]:
    named = [item for item in found.of("NetworkPolicy") if item["metadata"]["namespace"] == namespace]
    return {item["metadata"]["name"].removeprefix("support-"): item["spec"] for item in named}


#: Where the values of each workload are.
WORKLOADS = {
    "instance": "instance",
    "prune": "upkeep.prune",
    "reap": "upkeep.reap",
    "metrics": "monitoring",
    "webhook": "webhook",
    "login": "login",
    "read-only-login": "readOnlyLogin",
    "test-webserver": "helmTest",
}


# --- The chart as a whole


def test_it_passes_its_own_lint() -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.34.0", "-f", str(MINIMAL))
    assert done.returncode == 0, done.stdout


#: Objects of an operator have no typed model.
UNTYPED = ("monitoring.podMonitor.enabled=false", "monitoring.rules.enabled=false")


@pytest.mark.parametrize(
    "sets",
    [
        (),
        (*LOGIN, *READ_ONLY, *WEBHOOK, *TLS),
        ("secrets.from=values", "secrets.data.LAKEHOUSE_A=b", "dagster.runs.namespace=runs"),
        (*MONITORED, *UNTYPED, "instance.backup.enabled=false"),
    ],
    ids=str,
)
def test_every_object_is_one_that_kubernetes_knows(sets: tuple[str, ...]) -> None:
    assert [*made(*sets).typed()]


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
def test_kubernetes_has_nothing_against_it(version: str) -> None:
    out, _ = template(*EVERYTHING, "dagster.runs.namespace=runs")
    assert conforms(out, version) == ""


def test_the_examples_of_the_readme_are_accepted(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    values = [block for block in blocks if "# my-support-values.yaml" in block]
    assert len(values) == 1
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"  # `template` remembers what it has rendered, by path
        path.write_text(block)
        assert template(values=(MINIMAL, path))[1] == "", block


# --- What is the same for every pod


def test_every_workload_is_known_here() -> None:
    assert workloads(made(*EVERYTHING)).keys() == WORKLOADS.keys()


def test_every_pod_keeps_to_the_restricted_standard() -> None:
    pods = workloads(made(*EVERYTHING))
    assert [what for name, pod in pods.items() for what in restricted(name, pod["spec"])] == []


#: Values that an operator of a cluster gives every pod, and where they are in the pod.
PLACEMENT: dict[str, tuple[Any, Any]] = {
    "nodeSelector": ({"pool": "tools"}, lambda pod: pod["spec"].get("nodeSelector")),
    "tolerations": (
        [{"key": "tools", "operator": "Exists", "effect": "NoSchedule"}],
        lambda pod: pod["spec"].get("tolerations"),
    ),
    "affinity": (
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}},
        lambda pod: pod["spec"].get("affinity"),
    ),
    "priorityClassName": ("important", lambda pod: pod["spec"].get("priorityClassName")),
    "podLabels": ({"team": "data"}, lambda pod: {"team": pod["metadata"]["labels"].get("team")}),
    "podAnnotations": ({"a/b": "c"}, lambda pod: {"a/b": pod["metadata"].get("annotations", {}).get("a/b")}),
    "podSecurityContext": ({"fsGroup": 7}, lambda pod: {"fsGroup": pod["spec"]["securityContext"]["fsGroup"]}),
    "securityContext": (
        {"runAsUser": 7},
        lambda pod: {"runAsUser": {c["securityContext"].get("runAsUser") for c in containers(pod)}.pop()},
    ),
}


def set_json(path: str, value: Any) -> tuple[str, str]:
    return "--set-json", f"{path}={json.dumps(value)}"


def made_json(*words: str, sets: tuple[str, ...] = EVERYTHING) -> Rendered:
    plain = [word for one in sets for word in ("--set", one)]
    apis = [word for api in OPERATORS for word in ("--api-versions", api)]
    done = helm(
        *("template", "support", str(CHART), "-n", NAMESPACE, "--kube-version", "1.34.0", "-f", str(MINIMAL)),
        *(*plain, *apis, *words),
    )
    assert done.stderr == ""
    return read(done.stdout)


def test_defaults_of_pods_hold_for_every_workload() -> None:
    words = [word for key, (value, _) in PLACEMENT.items() for word in set_json(f"podDefaults.{key}", value)]
    for name, pod in workloads(made_json(*words)).items():
        assert {key: of(pod) for key, (_, of) in PLACEMENT.items()} == {
            key: value for key, (value, _) in PLACEMENT.items()
        }, name


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_values_of_its_own(name: str) -> None:
    words = [word for key, (value, _) in PLACEMENT.items() for word in set_json(f"{WORKLOADS[name]}.{key}", value)]
    words += set_json("podDefaults.nodeSelector", {"zone": "a"})
    words += set_json(f"{WORKLOADS[name]}.resources", {"limits": {"memory": "77Mi"}})
    words += set_json(f"{WORKLOADS[name]}.extraEnv", [{"name": "MINE", "value": "yes"}])
    pods = workloads(made_json(*words))
    expected = {key: value for key, (value, _) in PLACEMENT.items()} | {"nodeSelector": {"pool": "tools", "zone": "a"}}
    assert {key: of(pods[name]) for key, (_, of) in PLACEMENT.items()} == expected
    container = pods[name]["spec"]["containers"][0]
    assert container["resources"]["limits"]["memory"] == "77Mi"
    assert {"name": "MINE", "value": "yes"} in container["env"]
    for other in pods.keys() - {name}:
        assert pods[other]["spec"]["nodeSelector"] == {"zone": "a"}, other
        assert "tolerations" not in pods[other]["spec"], other


def test_labels_and_annotations_for_all_are_on_every_object_and_pod() -> None:
    found = made_json(*set_json("commonLabels", {"cost": "a"}), *set_json("commonAnnotations", {"a/b": "c"}))
    everything = [*found.objects, *workloads(found).values()]
    assert len(everything) > 30
    for item in everything:
        assert item["metadata"]["labels"]["cost"] == "a", item
        assert item["metadata"]["annotations"]["a/b"] == "c", item
    hook = found.one("Job", "support-instance")["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "post-install,post-upgrade"  # is not lost


def test_labels_that_select_pods_cannot_be_replaced() -> None:
    out = helm(
        *("template", "support", str(CHART), "--kube-version", "1.34.0", "-f", str(MINIMAL)),
        *set_json("podDefaults.podLabels", {"app.kubernetes.io/component": "mine"}),
    )
    assert "/podDefaults/podLabels" in out.stderr


def test_a_digest_wins_over_a_tag_in_every_image() -> None:
    digest = f"sha256:{'a' * 64}"
    sets = (f"image.digest={digest}", f"login.image.digest={digest}", f"readOnlyLogin.image.digest={digest}")
    found = made(*EVERYTHING, *sets, f"instance.backup.image.digest={digest}")
    images = {container["image"] for pod in workloads(found).values() for container in containers(pod)}
    assert images == {
        f"{name}@{digest}"
        for name in (
            *("registry.example/lakehouse-analytics", "quay.io/oauth2-proxy/oauth2-proxy"),
            "docker.io/library/postgres",
        )
    }


def test_every_pod_can_pull_from_a_private_registry_and_ignores_services_of_the_namespace() -> None:
    for name, pod in workloads(made(*EVERYTHING, "imagePullSecrets[0].name=mine")).items():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "mine"}], name
        # A Service called lakehouse-duckdb would set LAKEHOUSE_DUCKDB_PORT.
        assert pod["spec"]["enableServiceLinks"] is False, name


def test_a_finished_job_is_removed_after_an_hour() -> None:
    found = made()
    jobs = [item["spec"] for item in found.of("Job")]
    jobs += [item["spec"]["jobTemplate"]["spec"] for item in found.of("CronJob")]
    assert [job["ttlSecondsAfterFinished"] for job in jobs] == [3600, 3600, 3600]
    [job] = made("instance.ttlSecondsAfterFinished=60").of("Job")
    assert job["spec"]["ttlSecondsAfterFinished"] == 60


def test_replicas_of_a_login_are_spread_over_nodes() -> None:
    [constraint] = workloads(made(*LOGIN))["login"]["spec"]["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "login"


# --- Values that are refused


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("image.tag=latest", "/image/tag"),
        ("image.digest=sha256:1", "/image/digest"),
        ("secrets.from=vault", "/secrets/from"),
        ("secrets.data.lower=x", "'lower' does not match pattern"),
        ("loggin.enabled=true", "loggin"),
        ("networkPolicies.egress.postgresql.cidrs={anywhere}", "/networkPolicies/egress/postgresql/cidrs/0"),
        ("networkPolicies.egress.mine.cidrs={10.0.0.0/8}", "/networkPolicies/egress/mine"),
        ("networkPolicies.egress.trino.from={run}", "/networkPolicies/egress/trino/from/0"),
        ("networkPolicies.egress.trino.peers[0].namespaceSelektor.a=b", "namespaceSelektor"),
        ("upkeep.prune.olderThanDays=7", "/upkeep/prune/olderThanDays"),
        ("upkeep.reap.schedule=hourly", "/upkeep/reap/schedule"),
        ("instance.backup.size=5", "/instance/backup/size"),
        ("instance.backup.restore=../../etc/passwd", "/instance/backup/restore"),
        ("monitoring.rules.daemonSilentSeconds=30", "/monitoring/rules/daemonSilentSeconds"),
        ("monitoring.podMonitor.interval=30", "/monitoring/podMonitor/interval"),
        ("postgresql.sslmode=verify_full", "/postgresql/sslmode"),
        ("dagster.release=Dagster", "/dagster/release"),
        ("login.provider=githb", "/login/provider"),
        ("login.extraArgs={github-org=a}", "/login/extraArgs/0"),
    ],
)
def test_values_that_are_wrong_are_refused_by_name(wrong: str, named: str) -> None:
    assert named in refused(wrong)


#: One typo in each block that every workload has, by the place of the typo.
TYPOS: dict[str, Any] = {
    "nodeSelector": {"pool": 1},
    "tolerations": [{"keyy": "a"}],
    "affinity": {"nodeAffnity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologykey": "a", "whenUnsatisfiable": "DoNotSchedule"}],
    "podLabels": {"a": "not a label!"},
    "podAnnotations": {"a": 1},
    "podSecurityContext": {"runAsUsr": 1},
    "securityContext": {"readOnlyRootFileSystem": True},
    "resources": {"limit": {}},
    "extraEnv": [{"nam": "a"}],
    "priorityClass": "a",
}


@pytest.mark.parametrize("where", [*WORKLOADS.values(), "podDefaults"])
def test_a_typo_in_a_workload_is_refused_wherever_it_is(where: str) -> None:
    words = [word for key, value in TYPOS.items() for word in set_json(f"{where}.{key}", value)]
    done = helm("template", "support", str(CHART), "--kube-version", "1.34.0", "-f", str(MINIMAL), *words)
    path = where.replace(".", "/")
    unknown = {"priorityClass"} | ({"resources", "extraEnv"} if where == "podDefaults" else set())
    for key in TYPOS.keys() - unknown:
        assert f"at '/{path}/{key}" in done.stderr, key
    for key in unknown:
        assert re.search(f"at '/{path}': additional properties .*'{key}'", done.stderr), key


def test_what_every_deployment_must_set_is_named_at_once() -> None:
    errors = refused(*LOGIN[:1], values=())
    for key in (
        *("image: ", "postgresql.host: ", "networkPolicies.egress.postgresql: "),
        *("networkPolicies.egress.kubernetesApi: ", "networkPolicies.egress.identityProvider: ", "login.host: "),
        *("login.existingSecret: ", "login.tlsSecret: ", "login.issuerUrl: ", "login.emailDomains: "),
    ):
        assert f"\n- {key}" in errors, key


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (("secrets.from=external",), "secrets.external.store.name: "),
        (VAULT[:2], "secrets.external.keys: name at least one"),
        (VAULT[2:], "secrets.external.keys: are not used, because secrets.from is none"),
        (("secrets.data.LAKEHOUSE_A=b",), "secrets.data: is not used, because secrets.from is none"),
        (TLS[:1], "postgresql.ca: sslmode verify-full needs"),
        ((*TLS, "postgresql.ca.secret=b"), "postgresql.ca: set configMap or secret, not both"),
        (("networkPolicies.dns.peers=null",), "networkPolicies.dns: "),
        ((*LOGIN, *READ_ONLY, "readOnlyLogin.host=dagster.example"), "readOnlyLogin.host: must differ"),
        ((*LOGIN, "login.extraArgs={--cookie-secret=abc}"), "login.extraArgs: --cookie-secret would put a secret"),
    ],
)
def test_values_that_contradict_each_other_are_named(sets: tuple[str, ...], named: str) -> None:
    errors = refused(*sets)
    assert f"\n- {named}" in errors
    assert "abc" not in errors


# --- Objects of operators


@pytest.mark.parametrize(
    ("sets", "api", "switch"),
    [
        (MONITORED, OPERATORS[0], "monitoring.podMonitor.enabled"),
        (MONITORED, OPERATORS[1], "monitoring.rules.enabled"),
        (VAULT, OPERATORS[2], "secrets.from"),
    ],
)
def test_a_cluster_without_the_operator_is_told_which_switch(sets: tuple[str, ...], api: str, switch: str) -> None:
    others = tuple(one for one in OPERATORS if one != api)
    errors = refused(*sets, apis=others)
    [line] = [line for line in errors.splitlines() if line.startswith("- ")]
    assert line.startswith(f"- {switch}: this cluster does not know {api}.")
    assert f"--api-versions {api}" in line
    assert template(*sets, apis=(api, *others))[1] == ""


def test_an_older_external_secrets_operator_is_served_its_own_version() -> None:
    out, errors = template(*VAULT, apis=("external-secrets.io/v1beta1/ExternalSecret",))
    assert errors == ""
    [external] = read(out).of("ExternalSecret")
    assert external["apiVersion"] == "external-secrets.io/v1beta1"
    [newer] = made(*VAULT).of("ExternalSecret")
    assert newer["apiVersion"] == "external-secrets.io/v1"


# --- The release of the official chart


@pytest.mark.parametrize(
    ("sets", "fullname", "webserver"),
    [
        ((), "dagster", "dagster-dagster-webserver"),
        (("dagster.release=orchestrator",), "orchestrator-dagster", "orchestrator-dagster-webserver"),
        (("dagster.release=my-dagster",), "my-dagster", "my-dagster-dagster-webserver"),
        (("dagster.release=x", "dagster.fullname=y"), "y", "x-dagster-webserver"),
        (("dagster.webserver.service=ui",), "dagster", "ui"),
    ],
)
def test_names_follow_the_release_of_the_official_chart(sets: tuple[str, ...], fullname: str, webserver: str) -> None:
    text, _ = template(*EVERYTHING, *sets)
    found = read(text)
    for name, pod in workloads(found).items():
        for volume in pod["spec"].get("volumes", []):
            if volume["name"] == "instance":
                assert volume["configMap"]["name"] == f"{fullname}-instance", name
        for container in containers(pod):
            for one in container.get("env", []):
                if one["name"] in ("DAGSTER_PG_PASSWORD", "PGPASSWORD"):  # the official chart's default, for any name
                    assert one["valueFrom"]["secretKeyRef"]["name"] == "dagster-postgresql-secret", name
    pods = workloads(found)
    assert f"--upstream=http://{webserver}:80" in pods["login"]["spec"]["containers"][0]["args"]
    assert f"--upstream=http://{webserver}-read-only:80" in pods["read-only-login"]["spec"]["containers"][0]["args"]
    assert pods["test-webserver"]["spec"]["containers"][0]["args"][3:] == [webserver, f"{webserver}-read-only"]
    [rule] = found.of("PrometheusRule")
    alerts = json.dumps(rule)
    assert f"deployment/{fullname}-daemon" in alerts
    assert f"ConfigMap {fullname}-instance" in alerts
    release = dict(one.split("=") for one in sets).get("dagster.release", "dagster")
    for policy in ("dagster", "code-server"):
        labels = policies(found)[policy]["podSelector"]["matchLabels"]
        assert labels["app.kubernetes.io/instance"] == release, policy


def test_no_name_of_the_official_chart_is_written_out() -> None:
    """A name with the release in it comes from _names.tpl alone."""
    names = r"(?<![/\w.-])dagster-(?:instance|daemon|dagster-webserver|postgresql)\b"
    paths = {path.name: re.findall(names, path.read_text()) for path in (CHART / "templates").rglob("*.*")}
    assert [name for name, found in paths.items() if found] == ["_names.tpl"]


def test_objects_can_have_another_name_than_the_release() -> None:
    found = made(*EVERYTHING, "fullnameOverride=tools")
    names = {item["metadata"]["name"] for item in found.objects} - {"lakehouse-secrets"}
    assert [name for name in names if name.removeprefix("tools-") == name != "tools"] == []


# --- Network policies


def test_everything_is_denied_that_is_not_named() -> None:
    found = policies(made(*EVERYTHING))
    assert found["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    # Only this one and the one for DNS select every pod.
    assert {name for name, spec in found.items() if spec["podSelector"] == {}} == {"default-deny", "dns"}
    entered = {name for name, spec in found.items() if spec.get("ingress")}
    assert entered == {
        *("code-server", "webserver", "read-only-webserver", "login-ingress", "read-only-login-ingress", "metrics"),
        "webhook",
    }
    assert made("networkPolicies.enabled=false").of("NetworkPolicy") == []


def networks(spec: Object) -> Iterator[tuple[str, int]]:
    for rule in spec.get("egress", []):
        for to in rule["to"]:
            if "ipBlock" in to:
                yield from ((to["ipBlock"]["cidr"], port["port"]) for port in rule["ports"])


def test_nothing_outside_is_open_by_default() -> None:
    spoken = {name: set(networks(spec)) for name, spec in policies(made()).items()}
    assert {network for found in spoken.values() for network, _ in found} == {"10.0.0.10/32", "10.0.1.0/24"}
    database = {("10.0.1.0/24", 5432)}
    api = {("10.0.0.10/32", 443), ("10.0.0.10/32", 6443)}
    assert {name: found for name, found in spoken.items() if found} == {
        **dict.fromkeys(("runs", "code-server", "support"), database),
        "dagster": database | api,
        "reap": api,
    }
    for rule in (rule for spec in policies(made()).values() for rule in spec.get("egress", [])):
        assert rule["to"], rule  # an empty list would mean every destination
        assert rule["ports"], rule


def test_a_destination_is_open_to_the_pods_it_is_for() -> None:
    found = policies(
        made(
            "networkPolicies.egress.trino.peers[0].namespaceSelector.matchLabels.a=trino",
            "networkPolicies.egress.trino.cidrs={10.9.0.0/16}",
            "networkPolicies.egress.trino.ports={8443}",
            *("networkPolicies.egress.mail.from={codeServer}", "networkPolicies.egress.mail.ports={25}"),
            "networkPolicies.egress.mail.cidrs={10.8.0.1/32}",
        )
    )
    open_to = {name for name, spec in found.items() if ("10.9.0.0/16", 8443) in set(networks(spec))}
    assert open_to == {"runs", "code-server"}
    assert {name for name, spec in found.items() if ("10.8.0.1/32", 25) in set(networks(spec))} == {"code-server"}
    [trino] = [rule for rule in found["runs"]["egress"] if rule["ports"] == [{"protocol": "TCP", "port": 8443}]]
    assert trino["to"][-1] == {"namespaceSelector": {"matchLabels": {"a": "trino"}}}


def test_each_login_reaches_its_own_webserver_only() -> None:
    found = made(*LOGIN, *READ_ONLY)
    pods, rules = workloads(found), policies(found)
    for webserver, component in (("webserver", "login"), ("read-only-webserver", "read-only-login")):
        [allowed] = rules[webserver]["ingress"]
        [peer] = allowed["from"]
        wanted = peer["podSelector"]["matchLabels"].items()
        reaching = {name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items()}
        assert reaching == {component, "test-webserver"}
        assert allowed["ports"] == [{"protocol": "TCP", "port": 80}]


def test_names_are_resolved_in_the_cluster_or_by_a_cache_on_the_node() -> None:
    for sets, peers in (((), 1), (("networkPolicies.dns.cidrs={169.254.20.10/32}",), 2)):
        [rule] = policies(made(*sets))["dns"]["egress"]
        assert len(rule["to"]) == peers
        assert rule["ports"] == [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]


def test_closed_destinations_are_named_after_an_install() -> None:
    rendered = render_notes()
    assert "destinations: kubernetesApi, postgresql." in rendered
    assert "airbyte, identityProvider, notifications, s3, trino." in rendered
    assert "WARNING: Runs cannot reach Trino." in rendered
    opened = render_notes("networkPolicies.egress.trino.cidrs={10.0.0.0/8}")
    assert "WARNING" not in opened
    assert "svc/dagster-dagster-webserver 3000:80" in opened
    assert "svc/a-dagster-webserver 3000:80" in render_notes("dagster.release=a")


def render_notes(*sets: str) -> str:
    """NOTES.txt, by an install that does not happen."""
    with KubeApi(namespace=False) as api:
        return api.install(CHART, MINIMAL, *sets).partition("NOTES:")[2]


# --- Runs


def test_no_run_is_evicted() -> None:
    [budget] = made().of("PodDisruptionBudget")
    spec = budget["spec"]
    # Kubernetes computes `maxUnavailable` and percentages from a scale, which Jobs do not have.
    assert spec.keys() == {"minAvailable", "selector"}
    assert isinstance(spec["minAvailable"], int)
    # Evictions are allowed from the budget's number on: Kubernetes supports 150,000 pods per cluster.
    assert spec["minAvailable"] > 150_000
    [expression] = spec["selector"]["matchExpressions"]
    assert "run_worker" in expression["values"]


def test_a_drain_gets_past_a_login_with_one_replica() -> None:
    budgets = {item["metadata"]["name"]: item["spec"] for item in made(*LOGIN, *READ_ONLY).of("PodDisruptionBudget")}
    for name in ("support-login", "support-read-only-login"):
        assert budgets[name]["maxUnavailable"] == 1
        assert "minAvailable" not in budgets[name]


def test_runs_in_a_namespace_of_their_own_have_everything_there() -> None:
    found = made(*EVERYTHING, "dagster.runs.namespace=runs")
    there = {
        (item["kind"], item["metadata"]["name"]) for item in found.objects if item["metadata"]["namespace"] == "runs"
    }
    assert there == {
        ("PodDisruptionBudget", "support-runs"),
        *(("NetworkPolicy", f"support-{name}") for name in ("default-deny", "dns", "runs")),
        ("ExternalSecret", "lakehouse-secrets"),
        ("ServiceAccount", "lakehouse-runs"),
        *((kind, f"support-{name}") for kind in ("Role", "RoleBinding") for name in ("launcher", "reap")),
    }
    # What else is in that namespace is none of this chart's business.
    for name, spec in policies(found, "runs").items():
        assert spec["podSelector"]["matchExpressions"][0]["values"] == ["run_worker", "step_worker"], name
    subjects = {item["metadata"]["name"]: item["subjects"] for item in found.of("RoleBinding")}
    assert subjects == {
        "support-launcher": [{"kind": "ServiceAccount", "name": "dagster", "namespace": NAMESPACE}],
        "support-reap": [{"kind": "ServiceAccount", "name": "support-reap", "namespace": NAMESPACE}],
    }
    args = workloads(found)["reap"]["spec"]["containers"][0]["args"]
    assert args[args.index("--namespace") + 1] == "runs"
    # The official chart's values make these in the namespace of the release.
    assert ("Role", "support-launcher") not in {(i["kind"], i["metadata"]["name"]) for i in made().objects}


# --- Secrets


def test_secrets_come_from_where_it_is_said() -> None:
    assert made().of("Secret") == []
    [one] = made("secrets.from=values", "secrets.data.LAKEHOUSE_A=b").of("Secret")
    assert (one["metadata"]["name"], one["stringData"]) == ("lakehouse-secrets", {"LAKEHOUSE_A": "b"})
    # `secrets.from: none` or an uninstall must not take the passwords of a running Dagster away.
    assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    [external] = made(*VAULT).of("ExternalSecret")
    assert external["spec"]["data"] == [{"secretKey": "LAKEHOUSE_A", "remoteRef": {"key": "a"}}]


# --- What only a cluster knows: an install asks it


#: What a namespace has before this chart is installed.
READY = (config_map("dagster-instance", "dagster.yaml"), secret("dagster-postgresql-secret", "postgresql-password"))
OURS = {"meta.helm.sh/release-name": "support", "meta.helm.sh/release-namespace": NAMESPACE}
OAUTH = ("OAUTH2_PROXY_CLIENT_ID", "OAUTH2_PROXY_CLIENT_SECRET", "OAUTH2_PROXY_COOKIE_SECRET")
PLAIN = ("secrets.from=values", "secrets.data.LAKEHOUSE_A=b")


@pytest.mark.parametrize(
    ("there", "sets", "named"),
    [
        ((), (), "dagster.release: there is no ConfigMap dagster-instance"),
        (READY, ("dagster.release=other",), "dagster.release: there is no ConfigMap other-dagster-instance"),
        (READY[:1], (), "postgresql.passwordSecret: there is no Secret dagster-postgresql-secret"),
        (READY, ("postgresql.passwordSecret.key=pw",), "postgresql.passwordSecret: the Secret dagster-postgresql-sec"),
        (READY, TLS, "postgresql.ca: there is no ConfigMap postgresql-ca"),
        ((*READY, config_map("postgresql-ca", "ca.crt")), TLS, "postgresql.ca: the ConfigMap postgresql-ca does not"),
        (READY, LOGIN, "login.existingSecret: there is no Secret login"),
        ((*READY, secret("login", *OAUTH[:2])), LOGIN, "login.existingSecret: the Secret login does not have the key"),
        (READY, READ_ONLY, "readOnlyLogin.enabled: there is no Service dagster-dagster-webserver-read-only"),
        (READY, ("instance.backup.existingClaim=mine",), "instance.backup.existingClaim: there is no PersistentVol"),
        ((*READY, secret("lakehouse-secrets", "A")), PLAIN, "secrets.from: values would replace the Secret"),
        ((*READY, secret("lakehouse-secrets", "A")), VAULT, "secrets.from: external would replace the Secret"),
    ],
)  # fmt: skip
def test_an_install_names_what_the_namespace_does_not_have(
    there: tuple[Object, ...], sets: tuple[str, ...], named: str
) -> None:
    with KubeApi(*there) as api:
        assert f"\n- {named}" in api.refuse(CHART, MINIMAL, *sets)


@pytest.mark.parametrize(
    ("there", "sets"),
    [
        (READY, ()),
        ((*READY, secret("lakehouse-secrets", "A")), ()),
        ((*READY, secret("lakehouse-secrets", "A", annotations=OURS)), PLAIN),
        ((*READY, secret("lakehouse-secrets", "A", annotations=OURS)), VAULT),  # from values to external
        ((*READY, secret("lakehouse-secrets", "A", owner="ExternalSecret")), VAULT),
        ((*READY, config_map("postgresql-ca", "ca.pem")), TLS),
    ],
)
def test_an_install_goes_ahead_where_nothing_is_missing(there: tuple[Object, ...], sets: tuple[str, ...]) -> None:
    with KubeApi(*there) as api:
        assert "helm test" in api.install(CHART, MINIMAL, *sets)


def test_before_the_namespace_exists_nothing_is_asked_of_it() -> None:
    with KubeApi(namespace=False) as api:
        assert "helm test" in api.install(CHART, MINIMAL)


# --- The login


def test_there_is_no_ingress_without_a_login() -> None:
    assert made().of("Ingress") == []
    found = made(*LOGIN, *READ_ONLY)
    backends = {}
    for ingress in found.of("Ingress"):
        [rule] = ingress["spec"]["rules"]
        [path] = rule["http"]["paths"]
        backends[rule["host"]] = path["backend"]["service"]["name"]
        assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "tls"}]
    assert backends == {"dagster.example": "support-login", "look.example": "support-read-only-login"}
    for name in ("login", "read-only-login"):
        [container] = workloads(found)[name]["spec"]["containers"]
        assert not [word for word in container["args"] if "skip" in word]


@pytest.mark.parametrize("block", ["login", "readOnlyLogin"])
@pytest.mark.parametrize("missing", ["host", "existingSecret", "tlsSecret", "issuerUrl", "emailDomains"])
def test_a_login_that_misses_something_is_refused_by_name(block: str, missing: str) -> None:
    sets = LOGIN if block == "login" else READ_ONLY
    errors = refused(*(one for one in sets if not one.startswith(f"{block}.{missing}=")))
    [line] = [line for line in errors.splitlines() if line.startswith("- ")]
    assert line.startswith(f"- {block}.{missing}: ")


WITHOUT_ISSUER = tuple(one for one in LOGIN if not one.startswith("login.issuerUrl"))


@pytest.mark.parametrize("provider", ["github", "google", "bitbucket"])
def test_providers_without_an_issuer_need_none(provider: str) -> None:
    found = made(*WITHOUT_ISSUER, f"login.provider={provider}")
    [container] = workloads(found)["login"]["spec"]["containers"]
    assert f"--provider={provider}" in container["args"]
    assert not [word for word in container["args"] if word.startswith("--oidc-issuer-url")]


@pytest.mark.parametrize("provider", ["oidc", "keycloak-oidc", "entra-id", "azure", "adfs", "cidaas", "gitlab"])
def test_providers_with_an_issuer_need_one(provider: str) -> None:
    assert f"- login.issuerUrl: set the address of the OpenID Connect provider, which {provider} needs" in refused(
        *WITHOUT_ISSUER, f"login.provider={provider}"
    )


def test_a_public_provider_does_not_admit_everybody_by_accident() -> None:
    public = (*WITHOUT_ISSUER, "login.provider=github", "login.emailDomains={*}")
    assert "- login.emailDomains: ['*'] admits everybody with an account at github" in refused(*public)
    gitlab = ("login.provider=gitlab", "login.issuerUrl=https://gitlab.com")
    assert "- login.emailDomains: ['*'] admits everybody" in refused(*public, *gitlab)
    found = made(*public, "login.extraArgs={--github-org=example}")
    assert "--github-org=example" in workloads(found)["login"]["spec"]["containers"][0]["args"]
    assert made(*LOGIN, "login.emailDomains={*}")  # a provider of one's own knows who may


def test_a_login_takes_arguments_variables_files_and_redirects() -> None:
    found = made(
        *LOGIN,
        "login.extraArgs={--scope=openid email,--provider-ca-file=/etc/idp/ca.pem}",
        "login.redirectUrl=https://other.example/oauth2/callback",
        "login.whitelistDomains={.example.com}",
        *("login.extraEnv[0].name=HTTPS_PROXY", "login.extraEnv[0].value=http://proxy.example:3128"),
        *("login.extraVolumes[0].name=idp", "login.extraVolumes[0].configMap.name=idp"),
        *("login.extraVolumeMounts[0].name=idp", "login.extraVolumeMounts[0].mountPath=/etc/idp"),
        "login.from[0].namespaceSelector.matchLabels.a=ingress",
    )
    pod = workloads(found)["login"]["spec"]
    [container] = pod["containers"]
    assert {"--scope=openid email", "--provider-ca-file=/etc/idp/ca.pem"} <= set(container["args"])
    assert "--redirect-url=https://other.example/oauth2/callback" in container["args"]
    assert "--whitelist-domain=.example.com" in container["args"]
    assert container["env"] == [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}]
    assert pod["volumes"] == [{"name": "idp", "configMap": {"name": "idp"}}]
    assert container["volumeMounts"] == [{"name": "idp", "mountPath": "/etc/idp"}]
    [rule] = policies(found)["login-ingress"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"a": "ingress"}}}]


def test_a_cookie_of_one_login_is_not_accepted_by_the_other() -> None:
    pods = workloads(made(*LOGIN, *READ_ONLY))
    names = [
        word
        for name in ("login", "read-only-login")
        for word in pods[name]["spec"]["containers"][0]["args"]
        if word.startswith("--cookie-name=")
    ]
    assert len(set(names)) == 2


# --- Dagster's database


def test_the_instance_is_migrated_and_its_pools_are_limited() -> None:
    [job] = made().of("Job")
    [container] = job["spec"]["template"]["spec"]["containers"]
    words = container["args"][-1]
    assert "dagster instance migrate" in words
    for pool in ("duckdb", "exports"):
        assert f"dagster instance concurrency set {pool} 1" in words.split("\n")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"


def test_a_dump_is_made_before_the_migration_and_only_then() -> None:
    [job] = made().of("Job")
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "support-instance"
    subjects = [one["name"] for binding in made().of("RoleBinding") for one in binding["subjects"]]
    assert subjects == ["support-reap"]
    [backup] = job["spec"]["template"]["spec"]["initContainers"]
    assert "pg_dump" in backup["command"][-1]
    [claim] = made().of("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}  # it outlives the release
    assert made("instance.backup.existingClaim=mine").of("PersistentVolumeClaim") == []
    for without in ("instance.backup.enabled=false", "instance.migrate=false"):
        [job] = made(without).of("Job")
        assert "initContainers" not in job["spec"]["template"]["spec"]
        assert made(without).of("PersistentVolumeClaim") == []


def test_a_restore_is_never_ignored() -> None:
    restore = "instance.backup.restore=dagster-20261122T074715Z.dump"
    [job] = made(restore).of("Job")
    [init] = job["spec"]["template"]["spec"]["initContainers"]
    assert init["name"] == "restore"
    for without in ("instance.backup.enabled=false", "instance.migrate=false", "instance.enabled=false"):
        assert "- instance.backup.restore: needs" in refused(restore, without)


@pytest.mark.parametrize(("kind", "source"), [("configMap", "configMap"), ("secret", "secret")])
def test_every_pod_that_opens_the_database_has_the_ca(kind: str, source: str) -> None:
    found = made(*EVERYTHING[:-2], "postgresql.sslmode=verify-full", f"postgresql.ca.{kind}=theirs")
    opening = {
        name: pod
        for name, pod in workloads(found).items()
        if any(one["name"].endswith("PASSWORD") for c in containers(pod) for one in c.get("env", []))
    }
    assert opening.keys() == {"instance", "prune", "reap", "metrics", "webhook"}
    for name, pod in opening.items():
        [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "postgresql-ca"]
        assert "theirs" in volume[source].values(), name
        for container in containers(pod):
            env = {one["name"]: one.get("value") for one in container["env"]}
            assert env["PGSSLMODE"] == "verify-full"
            [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "postgresql-ca"]
            assert env["PGSSLROOTCERT"] == f"{mount['mountPath']}/ca.pem"


def test_the_ca_is_where_the_official_values_say() -> None:
    """The path in dagster.yaml and the path of the file here are one."""
    text = (VALUES / "values.yaml").read_text()
    [example] = re.findall(r"sslrootcert: (\S+)}", text)
    [container] = workloads(made(*TLS))["prune"]["spec"]["containers"]
    assert {"name": "PGSSLROOTCERT", "value": example} in container["env"]


def test_without_a_ca_no_file_is_expected() -> None:
    for pod in workloads(made()).values():
        for container in containers(pod):
            assert "PGSSLROOTCERT" not in {one["name"] for one in container.get("env", [])}


def test_upkeep_runs_what_the_command_line_has_and_only_the_reaper_uses_the_kubernetes_api() -> None:
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
    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
    assert made("upkeep.reap.enabled=false").of("Role") == []


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
    policy = policies(found)["metrics"]
    assert policy["ingress"] == [{"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 9999}]}]


def test_the_webhook_is_off_by_default() -> None:
    assert [name for name in workloads(made()) if "webhook" in name] == []
    assert "webhook" not in policies(made())


def test_the_webhook_is_of_the_command_with_the_environment_of_the_code_server() -> None:
    from click.testing import CliRunner
    from lakehouse_analytics.cli import main

    found = made("webhook.enabled=true", "webhook.port=9999", "webhook.extraEnv[0].name=A", "dagster.release=other")
    pod = workloads(found)["webhook"]
    [container] = pod["spec"]["containers"]
    program, *words = container["args"]
    assert (program, words[-4:]) == ("lakehouse", ["--host", "0.0.0.0", "--port", "9999"])
    assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
    environment = {one["name"]: one for one in container["env"]}
    reference = {"secretKeyRef": {"name": "lakehouse-webhook", "key": "token"}}
    assert environment["LAKEHOUSE_WEBHOOK_TOKEN"]["valueFrom"] == reference
    assert {"DAGSTER_HOME", "DAGSTER_PG_PASSWORD", "PGSSLMODE", "A"} <= environment.keys()
    name = "other-dagster-user-deployments-lakehouse-analytics-user-env"
    assert container["envFrom"] == [{"configMapRef": {"name": name}}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    service = found.one("Service", "support-webhook")["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert [port["targetPort"] for port in service["ports"]] == [port["name"] for port in container["ports"]]
    assert found.of("Ingress") == []
    named = policies(found)
    assert named["webhook"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9999}]}]
    assert "webhook" in named["support"]["podSelector"]["matchExpressions"][0]["values"]


def test_only_reports_reach_the_webhook_from_outside_and_only_with_tls() -> None:
    found = made(*WEBHOOK, "webhook.from[0].podSelector.matchLabels.app=ingress")
    [ingress] = found.of("Ingress")
    assert ingress["spec"]["tls"] == [{"hosts": ["report.example"], "secretName": "tls"}]
    [rule] = ingress["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/arrived"]
    [allowed] = policies(found)["webhook"]["ingress"]
    assert allowed["from"] == [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    errors = refused("webhook.enabled=true", "webhook.ingress.enabled=true")
    assert "webhook.ingress.host: set the name" in errors
    assert "webhook.ingress.tlsSecret: set the Secret" in errors
    assert "webhook.ingress.enabled: needs webhook.enabled." in refused("webhook.ingress.enabled=true")


def test_a_changed_dagster_yaml_reaches_a_running_pod() -> None:
    """Kubernetes updates a mounted ConfigMap, but not a `subPath` of it."""
    for name in ("metrics", "prune", "reap", "instance"):
        container = workloads(made(*MONITORED))[name]["spec"]["containers"][0]
        [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "instance"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert "subPath" not in mount, name
        assert mount["mountPath"] == env["DAGSTER_HOME"], name
