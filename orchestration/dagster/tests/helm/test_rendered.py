"""`make helm-check`: every rule holds for the values, and each rule finds what it is there for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .chart import Chart
from .conftest import Made
from .rendered import VALUES, Object, conforms
from .rules import (
    EVERYWHERE,
    PRODUCTION,
    Rule,
    Subject,
    nothing_is_left_of_the_example,
    restricted,
    settings_exist,
)

EXAMPLE = (VALUES / "values.yaml",)


def names(rules: tuple[Rule, ...]) -> list[str]:
    return [rule.__name__ for rule in rules]


def demand(problems: Iterator[str]) -> None:
    """Fail with what is wrong and what to set, and nothing else."""
    found = [*problems]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("rule", [*EVERYWHERE, *PRODUCTION], ids=names((*EVERYWHERE, *PRODUCTION)))
def test_production(production: Subject, rule: Rule, request: pytest.FixtureRequest) -> None:
    if rule is nothing_is_left_of_the_example and request.config.getoption("--example"):
        assert [*rule(production)], "--example: these are not the example's values any more"
        return
    demand(rule(production))


@pytest.mark.parametrize("rule", EVERYWHERE, ids=names(EVERYWHERE))
def test_trial(local: Subject, rule: Rule) -> None:
    demand(rule(local))


@pytest.mark.parametrize("version", ["1.30.0", "1.34.0"])
@pytest.mark.parametrize("which", ["production", "local"])
def test_kubernetes_accepts_the_objects(which: str, version: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(which)
    assert conforms(subject.rendered.text, version) == ""


DEPLOYMENT = "dagster-user-deployments.deployments[0]"
LAUNCHER = "runLauncher.config.k8sRunLauncher"
POD = f"{LAUNCHER}.runK8sConfig.podSpecConfig"


@pytest.mark.parametrize(
    ("rule", "sets", "words"),
    [
        (
            "pods_are_restricted",
            ("dagsterDaemon.podSecurityContext.runAsUser=0", "dagsterWebserver.securityContext.privileged=true"),
            ("dagster-daemon", "runAsUser", "privileged"),
        ),
        ("ports_need_no_root", ("dagsterWebserver.podSecurityContext.sysctls=null",), ("port 80", "sysctl")),
        ("containers_have_resources", ("dagsterDaemon.resources=null",), ("dagster-daemon", "resources.limits")),
        ("images_are_pinned", ("dagsterDaemon.image.tag=latest",), ("latest is not pinned",)),
        ("runs_are_limited", ("additionalInstanceConfig.concurrency.runs.max_concurrent_runs=-1",), ("set how many",)),
        (
            "runs_are_limited",
            ("additionalInstanceConfig.concurrency.runs.tag_concurrency_limits=null",),
            ("the limit 1 of lakehouse/windows_of is missing", "dagster/backfill"),
        ),
        ("runs_are_limited", ("additionalInstanceConfig.concurrency.pools.granularity=op",), ("must be `run`",)),
        ("dagster_loads_the_instance", ("additionalInstanceConfig.run_monitorring.on=true",), ("run_monitorring",)),
        ("sections_are_said_once", ("additionalInstanceConfig.telemetry.enabled=false",), ("telemetry", "one place")),
        (
            "dagster_loads_the_instance",
            ("dagsterDaemon.runCoordinator.config.customRunCoordinator.config.max_concurrent_runs=5",),
            ("concurrency",),
        ),
        ("runs_have_the_environment_of_the_code_server", (f"{LAUNCHER}.envSecrets=null",), ("lakehouse-secrets",)),
        ("settings_exist", (f"{DEPLOYMENT}.env.LAKEHOUSE_TIMEZON=UTC",), ("Did you mean LAKEHOUSE_TIMEZONE?",)),
        ("settings_exist", (f"{DEPLOYMENT}.env.LAKEHOUSE_TRINO_HOST=null",), ("LAKEHOUSE_TRINO_HOST: it is missing",)),
        ("runs_end_as_they_should", (f"{POD}.enableServiceLinks=true",), ("lakehouse-trino",)),
        ("runs_end_as_they_should", (f"{POD}.terminationGracePeriodSeconds=30",), ("set 90",)),
        ("probes_leave_time_to_load", (f"{DEPLOYMENT}.startupProbe.failureThreshold=3",), ("15 s to load",)),
        ("postgresql_has_enough_connections", ("dagsterWebserver.replicaCount=4",), ("max_connections is 100",)),
        (
            "postgresql_has_enough_connections",
            ("additionalInstanceConfig.concurrency.runs.max_concurrent_runs=50",),
            ("50 runs", "Set at most"),
        ),
        ("webserver_forgets_old_connections", ("dagsterWebserver.dbPoolRecycle=null",), ("3600 s", "Set 1.")),
        (
            "certificates_are_mounted",
            ("postgresql.postgresqlParams.sslrootcert=/etc/postgresql-ca/ca.pem",),
            ("dagster-daemon mounts nothing", "a run mounts nothing"),
        ),
        ("secrets_come_from_outside", ("generatePostgresqlPasswordSecret=true",), ("dagster-postgresql-secret",)),
        ("roles_allow_what_the_launcher_needs", ("rbacEnabled=true",), ("Keep rbacEnabled: false",)),
        (
            "references_exist",
            ("serviceAccount.name=other",),
            ("the ServiceAccount other", "extraManifests"),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_finds_what_is_wrong(make: Made, rule: str, sets: tuple[str, ...], words: tuple[str, ...]) -> None:
    changed = make(EXAMPLE, *(word for one in sets for word in ("--set", one)))
    [check] = [each for each in (*EVERYWHERE, *PRODUCTION) if each.__name__ == rule]
    found = "\n".join(check(changed))
    for each in words:
        assert each in found


LITERAL = """
shop:
  target: prod
  outputs:
    prod: {type: trino, method: none, host: "{{ env_var('TRINO_HOST') }}", port: 443, user: me, catalog: analytics,
           schema: main}
"""


def test_the_values_fit_a_profile_that_names_the_catalog_itself(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "profiles.yml").write_text(LITERAL)
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(tmp_path))
    found = [*settings_exist(make(EXAMPLE, "--set", f"{DEPLOYMENT}.env.TRINO_HOST=other.example"))]
    assert {problem.partition(":")[0].rpartition(".")[2] for problem in found} == {
        "LAKEHOUSE_TRINO_HOST", "LAKEHOUSE_TRINO_PORT", "LAKEHOUSE_TRINO_CATALOG"
    }  # fmt: skip
    assert "LAKEHOUSE_TRINO_CATALOG: is lakehouse, but target `prod` of profile `shop`" in "".join(found)
    names = ("HOST", "PORT", "USER", "CATALOG")
    unset = [word for name in names for word in ("--set", f"{DEPLOYMENT}.env.LAKEHOUSE_TRINO_{name}=null")]
    assert [*settings_exist(make(EXAMPLE, "--set", f"{DEPLOYMENT}.env.TRINO_HOST=trino.example", *unset))] == []
    [missing] = settings_exist(make(EXAMPLE, *unset))
    assert "LAKEHOUSE_TRINO_HOST: it is missing" in missing


def test_values_for_postgresql_are_those_of_its_target(make: Made) -> None:
    changed = {"ENGINE": "postgres", "POSTGRES_HOST": "postgres.example", "POSTGRES_DATABASE": "lake"}
    unset = [
        word
        for name in ("HOST", "PORT", "USER", "CATALOG", "HTTP_SCHEME")
        for word in ("--set", f"{DEPLOYMENT}.env.LAKEHOUSE_TRINO_{name}=null")
    ]
    said = [word for name, value in changed.items() for word in ("--set", f"{DEPLOYMENT}.env.LAKEHOUSE_{name}={value}")]
    assert [*settings_exist(make(EXAMPLE, *unset, *said))] == []
    [typo] = settings_exist(make(EXAMPLE, *unset, *said, "--set", f"{DEPLOYMENT}.env.LAKEHOUSE_POSTGRES_HOTS=a"))
    assert "Did you mean LAKEHOUSE_POSTGRES_HOST?" in typo


def test_a_run_queue_that_is_off_is_named_in_plain_words(make: Made) -> None:
    """Charts since 1.12 replace it with a coordinator that launches every run at once; older ones keep the queue."""
    changed = make(EXAMPLE, "--set", "dagsterDaemon.runCoordinator.enabled=false")
    [rule] = [each for each in EVERYWHERE if each.__name__ == "runs_are_queued"]
    found = "\n".join(rule(changed))
    if "run_coordinator" not in changed.rendered.instance:
        assert found == ""
        return
    assert "dagsterDaemon.runCoordinator: the run queue is off" in found
    assert "starts every run at once" in found
    assert "Set dagsterDaemon.runCoordinator as the example does" in found


def test_an_image_of_two_registries_is_named(make: Made) -> None:
    changed = make(EXAMPLE, "--set", "postgresql.image.repository=registry.local/postgres")
    [rule] = [each for each in EVERYWHERE if each.__name__ == "images_have_one_registry"]
    found = "\n".join(rule(changed))
    images = {c["image"] for _, pod in changed.rendered.pods() for c in pod.get("initContainers", [])}
    if "docker.io/registry.local/postgres:14.6" in images:
        assert "Set registry: registry.local" in found
    else:  # charts before 1.12 take the repository as it is
        assert found == ""


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("postgresqll: {a: b}", "postgresqll: the chart {} does not read this key. Did you mean postgresql?"),
        ("rbacEnable: false", "Did you mean rbacEnabled?"),
        ("dagsterDaemon: {heartbeatTollerance: 1}", "dagsterDaemon.heartbeatTollerance"),
        ("retention: {schedules: {purgeAfterDays: 1}}", "Did you mean schedule?"),
        ("dagster-user-deployments: {deployments: [{name: a, envSecretz: []}]}", f"{DEPLOYMENT}.envSecretz"),
        ("runLauncher: {config: {k8sRunLauncher: {runK8sConfig: {podSpec: {}}}}}", "Did you mean podSpecConfig?"),
    ],
)  # fmt: skip
def test_a_key_that_the_chart_does_not_read_is_named(make: Made, chart: Chart, extra: str, words: str) -> None:
    found = "\n".join(chart.unknown_keys(yaml.safe_load(extra)))
    assert words.format(chart.version) in found


def test_another_release_name_needs_other_references(make: Made) -> None:
    found = "\n".join(problem for rule in EVERYWHERE for problem in rule(make(EXAMPLE, release="analytics")))
    made = "analytics-dagster-user-deployments-lakehouse-analytics-user-env"
    assert f"envConfigMaps[0].name: no ConfigMap is called dagster-{made.partition('-')[2]}" in found
    assert f"Set it to {made}." in found


def test_another_release_name_works_with_the_advice(make: Made) -> None:
    release = "analytics"
    advice = (
        *("--set", f"{LAUNCHER}.envConfigMaps[0].name={release}-dagster-user-deployments-lakehouse-analytics-user-env"),
        *("--set", f"global.dagsterInstanceConfigMap={release}-dagster-instance"),
    )
    subject = make(EXAMPLE, *advice, release=release)
    assert [problem for rule in EVERYWHERE for problem in rule(subject)] == []


def test_pull_secrets_of_the_code_server_only_are_named(make: Made) -> None:
    [rule] = [each for each in EVERYWHERE if each.__name__ == "pull_secrets_are_everywhere"]
    assert [*rule(make(EXAMPLE))] == []
    [problem] = rule(make(EXAMPLE, extra="imagePullSecrets: [{name: a}]"))
    assert problem.startswith("dagster-user-deployments.imagePullSecrets: ")
    both = "imagePullSecrets: [{name: a}]\ndagster-user-deployments: {imagePullSecrets: [{name: a}]}"
    assert [*rule(make(EXAMPLE, extra=both))] == []


def test_runs_in_a_namespace_of_their_own_need_no_role_here(make: Made) -> None:
    text = EXAMPLE[0].read_text()
    accounts = yaml.safe_load(text)["extraManifests"][:1]
    elsewhere = make(
        EXAMPLE, "--set", f"{LAUNCHER}.jobNamespace=dagster-runs", extra=yaml.safe_dump({"extraManifests": accounts})
    )
    assert [problem for rule in EVERYWHERE for problem in rule(elsewhere)] == []


def test_what_is_left_of_the_example_is_named(make: Made, tmp_path: Path) -> None:
    subject = make(EXAMPLE)
    found = [problem.partition(":")[0] for problem in nothing_is_left_of_the_example(subject)]
    text = EXAMPLE[0].read_text()
    marked = [line for line in text.splitlines() if "# SET" in line and (".example" in line or ": SET " in line)]
    assert len(found) == len(marked) >= 5
    assert {"postgresql.postgresqlHost", f"{DEPLOYMENT}.image.tag"} <= {*found}


def test_the_standard_refuses_a_bare_pod() -> None:
    bare: Object = {"containers": [{"name": "c"}], "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}
    assert len(restricted("bare", bare)) == 6
