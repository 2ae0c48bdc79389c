"""What must hold for a release of the official chart with our values, each rule with its advice for values.yaml.

A rule yields one sentence per problem: the key in values.yaml, what is wrong, and what to set.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import yaml

from .chart import Chart
from .rendered import NAMESPACE, Object, Rendered, typed, variables

#: Ignored by charts that are too old for it; everything else works without it.
NEWER = {"dagster-user-deployments.includeInstance"}
#: Volumes of the `restricted` Pod Security Standard.
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
QUEUE = "dagster._core.run_coordinator.queued_run_coordinator.QueuedRunCoordinator"
LIMITED = ("dagster/backfill", "lakehouse/windows_of")
#: Connections of one process at most. Webserver: a pool of 1 and its overflow for each of three storages. Daemon: one
#: for each thread of 4 sensors, 4 schedules, 4 dequeues and 6 daemons, and for half of them one more, while they store
#: an event. Run: one for the runs, one for the locks of tables, and of windows 1 and 1 more for the events. Code
#: server: `lakehouse doctor` in its pod.
STORAGES, DAEMON, RUN, CODE_SERVER = 3, 26, 4, 4
#: Pods of charts/lakehouse-support: pruning, reaping, metrics, and its Job.
SUPPORT = 2 + 2 + 1 + 2
#: For people, and what PostgreSQL keeps for its superuser.
OTHERS = 4 + 3


@dataclass(frozen=True)
class Subject:
    """One set of values, and what the chart makes of it."""

    chart: Chart
    values: Mapping[str, Any]
    rendered: Rendered
    release: str
    max_connections: int = 100


Rule = Callable[[Subject], Iterator[str]]


def keys_are_known(subject: Subject) -> Iterator[str]:
    """Helm accepts a key that no template reads; the setting then has no effect."""
    for problem in subject.chart.unknown_keys(subject.values):
        if problem.partition(":")[0] not in NEWER:
            yield problem


def objects_are_kubernetes_objects(subject: Subject) -> Iterator[str]:
    """Each object is read as the typed model of its kind, which refuses unknown fields."""
    for item in subject.rendered.objects:
        try:
            typed(item)
        except Exception as error:  # whatever the model raises is the answer
            yield f"{item['kind']} {item['metadata']['name']}: Kubernetes does not know this object: {error}"


def runs_are_queued(subject: Subject) -> Iterator[str]:
    """Without the queue, every run starts at once and no limit of `concurrency` holds."""
    said = subject.rendered.instance.get("run_coordinator")
    if said is None:  # Dagster's own default
        return
    name = f"{said['module'].replace('dagster.core.', 'dagster._core.')}.{said['class']}"
    module, _, kind = name.rpartition(".")
    queue_module, _, queue = QUEUE.rpartition(".")
    base = getattr(importlib.import_module(queue_module), queue)
    if not issubclass(getattr(importlib.import_module(module), kind), base):
        yield (
            f"dagsterDaemon.runCoordinator: the run queue is off. The chart {subject.chart.version} configures "
            f"{said['class']}, which starts every run at once: no limit under `concurrency` holds, and runs that are "
            "queued already stay there. Set dagsterDaemon.runCoordinator as the example does: enabled: true, type: "
            "CustomRunCoordinator, with Dagster's QueuedRunCoordinator as its class."
        )


def runs_are_limited(subject: Subject) -> Iterator[str]:
    """The limits that keep two runs from writing the same window, and a backfill from starting all runs at once."""
    concurrency = subject.rendered.instance.get("concurrency") or {}
    runs = concurrency.get("runs") or {}
    most = runs.get("max_concurrent_runs")
    if not isinstance(most, int) or most < 1:
        yield (
            f"additionalInstanceConfig.concurrency.runs.max_concurrent_runs is {most}: set how many runs, each a pod, "
            "may run at once, for example 10."
        )
    limits = {limit["key"]: limit["limit"] for limit in runs.get("tag_concurrency_limits") or ()}
    for key in LIMITED:
        if limits.get(key) != 1:
            yield (
                f"additionalInstanceConfig.concurrency.runs.tag_concurrency_limits: the limit 1 of {key} is missing. "
                "Two runs would write the same partitions. Take the entry from the example values.yaml."
            )
    if (concurrency.get("pools") or {}).get("granularity") != "run":
        yield (
            "additionalInstanceConfig.concurrency.pools.granularity must be `run`: with `op`, a run that waits for "
            "DuckDB's file holds a pod meanwhile."
        )


def dagster_loads_the_instance(subject: Subject) -> Iterator[str]:
    """Each section of dagster.yaml is checked by the Dagster of this checkout."""
    from dagster._config import process_config, resolve_to_config_type
    from dagster._core.instance.config import dagster_instance_config

    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, DAGSTER_PG_PASSWORD="x"):
        (Path(folder) / "dagster.yaml").write_text(yaml.safe_dump(subject.rendered.instance))
        try:
            config, _ = dagster_instance_config(folder)
        except Exception as error:  # Dagster's message names the section
            yield f"additionalInstanceConfig: Dagster refuses dagster.yaml: {error}"
            return
        for section, value in config.items():
            if not isinstance(value, Mapping) or "class" not in value:
                continue
            # As Dagster reads the names of modules that moved.
            module = importlib.import_module(value["module"].replace("dagster.core.", "dagster._core."))
            kind = getattr(module, value["class"])
            checked = process_config(resolve_to_config_type(kind.config_type()), value.get("config") or {})
            for refusal in checked.errors or ():
                yield f"{section} of dagster.yaml: Dagster refuses it: {refusal.message}"


def sections_are_said_once(subject: Subject) -> Iterator[str]:
    """The chart appends `additionalInstanceConfig` to dagster.yaml; of two sections YAML keeps the last, silently."""
    for config in subject.rendered.of("ConfigMap"):
        if "dagster.yaml" not in config["data"]:
            continue
        document = yaml.compose(config["data"]["dagster.yaml"])
        assert isinstance(document, yaml.MappingNode)
        keys = [key.value for key, _ in document.value]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield (
                f"additionalInstanceConfig.{key}: the chart writes a section `{key}` of dagster.yaml, too, and "
                "YAML keeps only the last one. Set it in one place."
            )


def images_have_one_registry(subject: Subject) -> Iterator[str]:
    """Charts since 1.12 put `postgresql.image.registry`, by default docker.io, before the repository."""
    for name, pod in subject.rendered.pods():
        for container in pod.get("initContainers", []):
            first, _, rest = container["image"].partition("/")
            second = rest.partition("/")[0]
            if "." in first and "/" in rest and ("." in second or ":" in second):
                yield (
                    f"postgresql.image.registry: {name} would pull {container['image']}, which names two registries. "
                    f"Set registry: {second}, and take it out of postgresql.image.repository."
                )


def references_exist(subject: Subject) -> Iterator[str]:
    """Names that the chart derives from its release stand in values.yaml; another release name breaks them."""
    made = subject.rendered.names("ConfigMap")
    launcher = subject.rendered.instance["run_launcher"]["config"]
    suffix = "-user-env"
    for number, name in enumerate(launcher.get("env_config_maps") or ()):
        if name in made:
            continue
        expected = [each for each in made if each.endswith(suffix) and not each.endswith("shared-env")]
        near = (difflib.get_close_matches(name, expected, n=1) or expected or ["a ConfigMap that exists"])[0]
        yield (
            f"runLauncher.config.k8sRunLauncher.envConfigMaps[{number}].name: no ConfigMap is called {name} in the "
            f"release {subject.release}, and no run would start. Set it to {near}."
        )
    for where, name in _mounted_instances(subject.rendered):
        if name not in made:
            [instance] = [each for each in made if each.endswith("-instance")]
            yield (
                f"global.dagsterInstanceConfigMap: {where} mounts the ConfigMap {name}, which the release "
                f"{subject.release} does not make. Set it to {instance}."
            )
    accounts = subject.rendered.names("ServiceAccount")
    account = subject.rendered.run_job()["spec"]["template"]["spec"].get("serviceAccountName")
    if account not in accounts:
        yield (
            f"runLauncher.config.k8sRunLauncher.runK8sConfig.podSpecConfig.serviceAccountName: {account} is not a "
            f"ServiceAccount of this release. It makes: {', '.join(sorted(accounts))}."
        )
    for binding in subject.rendered.of("RoleBinding"):
        for one in binding["subjects"]:
            if one["kind"] == "ServiceAccount" and one["name"] not in accounts:
                yield (
                    f"extraManifests: the RoleBinding {binding['metadata']['name']} binds the ServiceAccount "
                    f"{one['name']}, which this release does not make. It makes: {', '.join(sorted(accounts))}."
                )
    if subject.rendered.instance["run_launcher"]["config"].get("job_namespace", NAMESPACE) != NAMESPACE:
        return  # lakehouse-support makes the role in the namespace of the runs
    launching = {
        pod.get("serviceAccountName")
        for name, pod in subject.rendered.pods()
        if "webserver" in name or "daemon" in name
    }
    bound = {one["name"] for binding in subject.rendered.of("RoleBinding") for one in binding["subjects"]}
    for name in sorted(str(each) for each in launching - bound):
        yield (
            f"serviceAccount.name: the webserver and the daemon use the ServiceAccount {name}, which no RoleBinding of "
            "this release names, so that they cannot launch runs. Name it in extraManifests."
        )


def _mounted_instances(rendered: Rendered) -> Iterator[tuple[str, str]]:
    for name, pod in rendered.pods():
        for volume in pod.get("volumes") or ():
            if volume["name"] == "dagster-instance":
                yield name, volume["configMap"]["name"]


def pull_secrets_are_everywhere(subject: Subject) -> Iterator[str]:
    """The chart and its subchart have a key each, for the same registry."""
    ours = subject.values.get("imagePullSecrets") or []
    code_server = (subject.values.get("dagster-user-deployments") or {}).get("imagePullSecrets") or []
    if ours != code_server:
        yield (
            "dagster-user-deployments.imagePullSecrets: the code server has other pull secrets than the webserver, the "
            "daemon and runs. Set it and imagePullSecrets to the same list."
        )


def pods_are_restricted(subject: Subject) -> Iterator[str]:
    """The `restricted` Pod Security Standard, which the guide's namespace enforces."""
    for name, pod in subject.rendered.every_pod():
        yield from (f"{problem}. The namespace has the label `restricted`." for problem in restricted(name, pod))


def restricted(name: str, pod: Object) -> list[str]:
    """What the `restricted` Pod Security Standard refuses in a pod.

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


def ports_need_no_root(subject: Subject) -> Iterator[str]:
    """Some container runtimes refuse ports below 1024 to users other than root."""
    for name, pod in subject.rendered.pods():
        allowed = {one["name"]: int(one["value"]) for one in (pod["securityContext"].get("sysctls") or [])}
        lowest = allowed.get("net.ipv4.ip_unprivileged_port_start", 1024)
        for container in pod["containers"]:
            for port in container.get("ports", []):
                if port["containerPort"] < lowest:
                    yield (
                        f"{name}: it listens on port {port['containerPort']} without being root. Set the sysctl "
                        "net.ipv4.ip_unprivileged_port_start in its podSecurityContext, as the example does."
                    )


def containers_have_resources(subject: Subject) -> Iterator[str]:
    """A container without requests and limits is the first that a full node evicts."""
    for name, pod in subject.rendered.every_pod():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            missing = {"requests", "limits"} - (container.get("resources") or {}).keys()
            if missing:
                yield f"{name}: set resources.{' and resources.'.join(sorted(missing))} of {container['name']}."


def images_are_pinned(subject: Subject) -> Iterator[str]:
    """A tag that moves changes a run that is retried."""
    for name, pod in subject.rendered.pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            image = container["image"]
            if "@" not in image and image.rpartition(":")[2] in (image, "latest", ""):
                yield f"{name}: {image} is not pinned. Set a tag that never moves, or a digest."


def runs_have_the_environment_of_the_code_server(subject: Subject) -> Iterator[str]:
    """`includeConfigInLaunchedRuns` is off, so that runs get their environment from the launcher's values."""
    [run] = subject.rendered.run_job()["spec"]["template"]["spec"]["containers"]
    server, runs = variables(subject.rendered.server, subject.rendered), variables(run, subject.rendered)
    for name, value in server.items():
        if name.startswith(("LAKEHOUSE_", "secret:", "TMPDIR")) and runs.get(name) != value:
            yield (
                f"runLauncher.config.k8sRunLauncher: runs do not have {name} of the code server. Give the launcher the "
                "same envConfigMaps, envSecrets, volumes and volumeMounts as the deployment."
            )
    if run["resources"] == subject.rendered.server["resources"]:
        yield (
            "runLauncher.config.k8sRunLauncher.resources: runs have the resources of the code server. Set their own, "
            "and keep includeConfigInLaunchedRuns off."
        )


def settings_exist(subject: Subject) -> Iterator[str]:
    """A variable that the package does not read is a typo or of another release; others must fit dbt's profile."""
    from lakehouse_analytics.dbt.profile import ProfileError
    from lakehouse_analytics.engines.registry import ENGINES
    from lakehouse_analytics.settings import Settings, SettingsError
    from lakehouse_analytics.settings.against_profile import named_by_profile

    known = {f"LAKEHOUSE_{field.upper()}" for field in Settings.model_fields}
    said = variables(subject.rendered.server, subject.rendered)
    env = {name for name, value in said.items() if name.startswith("LAKEHOUSE_") and value}
    named: set[str] = set()
    required = ENGINES["trino"].required_in_prod
    with mock.patch.dict(os.environ, _in_pod(said), clear=True):
        try:
            settings = Settings.load(complete=False)
            named, required = named_by_profile(settings), settings.engine_type.required_in_prod
            # dbt's profile may read variables of its own, as that of this repository does for PostgreSQL.
            known |= {name for names in settings.profile.reads.values() for name in names}
        except SettingsError as error:
            for line in map(str.strip, str(error).splitlines()[1:]):
                if line.partition(":")[0] in env & known:
                    yield f"dagster-user-deployments.deployments[0].env.{line}"
        except ProfileError:
            pass  # `lakehouse manifest` reports it
    for name in sorted(env - known):
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {near[0]}?" if near else ".env.example has all of them."
        yield f"dagster-user-deployments.deployments[0].env.{name}: there is no such setting. {advice}"
    if said.get("LAKEHOUSE_ENV") == "prod":
        for field in sorted({*required, "timezone"} - named):
            if (name := f"LAKEHOUSE_{field.upper()}") not in env:
                yield f"dagster-user-deployments.deployments[0].env.{name}: it is missing, and required in production."


def _in_pod(said: Mapping[str, str]) -> dict[str, str]:
    """The environment of the code server, with the dbt project of this checkout."""
    theirs = {name: value for name, value in said.items() if value is not None and not name.startswith("secret:")}
    project = {name: value for name, value in os.environ.items() if name == "LAKEHOUSE_DBT_PROJECT_DIR"}
    others = {k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "DAGSTER_", "DBT_"))}
    return {**others, **theirs, **project}


def runs_end_as_they_should(subject: Subject) -> Iterator[str]:
    """Dagster retries a run, not Kubernetes; dbt has the time to cancel its queries."""
    job = subject.rendered.run_job()
    pod = job["spec"]["template"]["spec"]
    config = "runLauncher.config.k8sRunLauncher.runK8sConfig"
    if job["spec"].get("backoffLimit") != 0:
        yield f"{config}.jobSpecConfig.backoffLimit: set 0, or Kubernetes repeats a run that Dagster retries already."
    if not job["spec"].get("ttlSecondsAfterFinished"):
        yield f"{config}.jobSpecConfig.ttlSecondsAfterFinished: set it, for example to 3600, or finished Jobs stay."
    if pod.get("terminationGracePeriodSeconds", 30) < 60:
        yield f"{config}.podSpecConfig.terminationGracePeriodSeconds: set 90; dbt needs 25 s to cancel its queries."
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{config}.podSpecConfig.automountServiceAccountToken: set false; a run does not use the Kubernetes API."
    if pod.get("enableServiceLinks") is not False:
        yield (
            f"{config}.podSpecConfig.enableServiceLinks: set false, or a Service called lakehouse-trino sets "
            "LAKEHOUSE_TRINO_PORT of a run."
        )


def probes_leave_time_to_load(subject: Subject) -> Iterator[str]:
    """Loading takes 4 s on a free core, and many times that on a node that starts everything at once."""
    server = subject.rendered.server
    deployment = "dagster-user-deployments.deployments[0]"
    startup = server.get("startupProbe") or {}
    budget = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
    if budget < 120:
        yield f"{deployment}.startupProbe: it gives {budget} s to load. Set periodSeconds: 5 and failureThreshold: 36."
    if "readinessProbe" in server:
        yield f"{deployment}.readinessProbe.enabled: set false; the chart's probe imports Dagster every 20 s."
    for name in ("startupProbe", "livenessProbe"):
        if server.get(name, {}).get("exec", {}).get("command", [])[:3] != [
            "python",
            "-m",
            "lakehouse_analytics.health",
        ]:
            yield f"{deployment}.{name}.exec.command: set [python, -m, lakehouse_analytics.health, PORT]."


def postgresql_has_enough_connections(subject: Subject) -> Iterator[str]:
    """The sum of what every process may open at once."""
    webservers = [(name, pod) for name, pod in subject.rendered.pods() if "webserver" in name]
    pools = 0
    for name, pod in webservers:
        replicas = subject.rendered.one("Deployment", name)["spec"].get("replicas", 1)
        pools += replicas * STORAGES * (1 + _overflow(pod["containers"][0]))
    runs = subject.rendered.instance["concurrency"]["runs"]["max_concurrent_runs"]
    worst = pools + DAEMON + runs * RUN + CODE_SERVER + SUPPORT
    if worst + OTHERS > subject.max_connections:
        fewer = math.floor((subject.max_connections - OTHERS - worst) / RUN) + runs
        yield (
            f"additionalInstanceConfig.concurrency.runs.max_concurrent_runs: {runs} runs, {len(webservers)} webservers "
            f"and the rest may open {worst} connections to PostgreSQL, and {OTHERS} are kept for others, but its "
            f"max_connections is {subject.max_connections}. Set at most {max(fewer, 0)} runs, or raise "
            "max_connections and say so: make helm-check ARGS='--max-connections 200'."
        )


def _overflow(container: Object) -> int:
    """As `dagster-webserver` reads it: the option, then its variable, then Dagster's default."""
    words = " ".join([*container.get("command", []), *container.get("args", [])]).split()
    if "--db-pool-max-overflow" in words:
        return int(words[words.index("--db-pool-max-overflow") + 1])
    variable = "DAGSTER_WEBSERVER_DB_POOL_MAX_OVERFLOW"
    return next((int(one["value"]) for one in container.get("env", []) if one["name"] == variable), 20)


def webserver_forgets_old_connections(subject: Subject) -> Iterator[str]:
    """After a restart of PostgreSQL a pooled connection fails once: HTTP 500 for the user who launches a run."""
    for name, pod in subject.rendered.pods():
        if "webserver" not in name:
            continue
        container = pod["containers"][0]
        words = " ".join([*container.get("command", []), *container.get("args", [])]).split()
        recycle = int(words[words.index("--db-pool-recycle") + 1]) if "--db-pool-recycle" in words else 3600
        if not 0 < recycle <= 2:
            yield (
                f"dagsterWebserver.dbPoolRecycle: connections are kept for {recycle} s, and the first launch after a "
                "restart of PostgreSQL fails with HTTP 500. Set 1."
            )


def certificates_are_mounted(subject: Subject) -> Iterator[str]:
    """Every pod that opens the instance needs the CA that `sslrootcert` names, at the same path."""
    params = subject.rendered.instance["run_storage"]["config"]["postgres_db"].get("params") or {}
    path = params.get("sslrootcert")
    if not path or path == "system":
        return
    for name, pod in subject.rendered.every_pod():
        if "migrate" in name:
            continue
        mounts = [mount["mountPath"] for one in pod["containers"] for mount in one.get("volumeMounts") or ()]
        if not any(PurePosixPath(path).is_relative_to(mount) for mount in mounts):
            yield (
                f"postgresql.postgresqlParams.sslrootcert: {name} mounts nothing at {path}. Mount the ConfigMap "
                "postgresql-ca in the volumes of the code server, the run launcher, the webserver and the daemon."
            )


def secrets_come_from_outside(subject: Subject) -> Iterator[str]:
    """Helm stores the values that it was given, in the cluster and in a terminal's history."""
    for item in subject.rendered.of("Secret"):
        yield (
            f"Secret {item['metadata']['name']}: the chart makes it from values. Make it yourself, and set "
            "generatePostgresqlPasswordSecret and generateCeleryConfigSecret to false."
        )


def roles_allow_what_the_launcher_needs(subject: Subject) -> Iterator[str]:
    """Least privilege: https://docs.dagster.io/deployment/oss/deployment-options/kubernetes."""
    needed = {
        "create": {"jobs"},
        # Dagster deletes the pods of a run that it terminates itself.
        "delete": {"jobs", "pods"},
    }
    rules = [rule for role in subject.rendered.of("Role") for rule in role["rules"]]
    for verb in sorted({verb for rule in rules for verb in rule["verbs"]} - {"get", "list"}):
        may = {of for rule in rules if verb in rule["verbs"] for of in rule["resources"]}
        if may != needed.get(verb):
            yield (
                f"extraManifests: a Role allows `{verb}` on {', '.join(sorted(may))}; the launcher needs it on "
                f"{', '.join(sorted(needed.get(verb, {'nothing'})))}. Keep rbacEnabled: false."
            )
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        for item in subject.rendered.of(kind):
            yield f"extraManifests: {kind} {item['metadata']['name']} is not needed."


def nothing_is_left_of_the_example(subject: Subject) -> Iterator[str]:
    """Values marked SET are the word itself, or names under `.example`, which is reserved (RFC 6761)."""

    def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, below in value.items():
                yield from leaves(below, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list):
            for number, below in enumerate(value):
                yield from leaves(below, f"{path}[{number}]")
        elif isinstance(value, str):
            yield path, value

    for path, value in leaves(subject.values, ""):
        host = value.partition("://")[2] or value
        if value == "SET" or host.partition("/")[0].partition(":")[0].endswith(".example"):
            yield f"{path}: {value} is the example's. Set your own."


EVERYWHERE: tuple[Rule, ...] = (
    keys_are_known,
    objects_are_kubernetes_objects,
    runs_are_queued,
    runs_are_limited,
    dagster_loads_the_instance,
    sections_are_said_once,
    images_have_one_registry,
    references_exist,
    pull_secrets_are_everywhere,
    pods_are_restricted,
    ports_need_no_root,
    containers_have_resources,
    images_are_pinned,
    runs_have_the_environment_of_the_code_server,
    settings_exist,
    runs_end_as_they_should,
    probes_leave_time_to_load,
    webserver_forgets_old_connections,
    certificates_are_mounted,
    roles_allow_what_the_launcher_needs,
)
#: Not for a trial on one machine.
PRODUCTION: tuple[Rule, ...] = (
    postgresql_has_enough_connections,
    secrets_come_from_outside,
    nothing_is_left_of_the_example,
)
