"""The release does what it is for, and goes on when parts of it die."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helm.rules import CODE_SERVER, DAEMON, RUN, STORAGES, SUPPORT
from tests.integration.daemon import last_days

from .conftest import BACKING, NAMESPACE, RELEASE, Release, helper, kubectl, logs_of_pods, objects, pods_of, run, until

DAYS = last_days(30)
BUILT = {
    *("bronze/stg_customers", "bronze/stg_orders", "bronze/stg_products"),
    *("silver/dim_customer", "silver/dim_product", "silver/orders_enriched", "silver/orders_daily"),
    *("silver/car_makes", "silver/dim_customer_history"),
    *("gold/fct_orders", "gold/customer_lifetime_value", "gold/revenue_daily", "metrics/daily_revenue"),
}
CONTENTS = """
import duckdb, json
with duckdb.connect("/data/lakehouse.duckdb", read_only=True) as c:
    tables = c.execute("select schema_name, table_name from duckdb_tables() where schema_name not in ('raw')")
    print(json.dumps({f"{s}.{t}": c.execute(f'select count(*), bit_xor(hash(x)) from "{s}"."{t}" x').fetchone()
        for s, t in sorted(tables.fetchall())}))
"""


def contents(release: Release) -> dict[str, list[int]]:
    """Rows of every table that was built, and a hash of them."""
    with helper(release) as pod:
        return dict(json.loads(kubectl("exec", pod, "--", "python", "-c", CONTENTS)))


def test_a_fresh_install_is_healthy_and_serves_the_ui(release: Release) -> None:
    print(f"helm --wait: {release.seconds:.0f} s")
    page = urllib.request.urlopen(release.ui.url.replace("/graphql", "/"), timeout=30).read().decode()
    assert "<title>Dagster</title>" in page or 'id="root"' in page
    restarts = {c["name"]: c["restartCount"] for p in objects("pods") for c in p["status"]["containerStatuses"]}
    assert restarts == dict.fromkeys(restarts, 0)


def test_the_demo_job_is_green_in_a_pod_of_its_own(release: Release) -> None:
    began = time.time()
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    done = release.ui.finished(run_id, seconds=600)
    assert done.status == "SUCCESS", done.words
    assert done.materialized == BUILT
    assert all(done.checks.values())
    [pod] = pods_of(run_id)
    print(f"launched → started {done.start - began:.1f} s, run {done.end - done.start:.1f} s")
    print(", ".join(f"{what} {seconds:.1f} s" for what, seconds in cold_start(pod).items()))
    assert pod["spec"]["serviceAccountName"] == "lakehouse-runs"
    assert [c["resources"]["limits"]["memory"] for c in pod["spec"]["containers"]] == ["3Gi"]


def cold_start(pod: dict[str, Any]) -> dict[str, float]:
    """What passes from the moment a pod has its node until its first model is built, in seconds and in order.

    Kubernetes tells whole seconds only.
    """
    lines = kubectl("logs", pod["metadata"]["name"], "--timestamps", "--tail=-1").splitlines()

    def moment(word: str) -> datetime:
        return datetime.fromisoformat(next(line.split()[0] for line in lines if word in line)[:26] + "+00:00")

    [scheduled] = [c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "PodScheduled"]
    [state] = [c["state"] for c in pod["status"]["containerStatuses"]]
    moments = {
        "": datetime.fromisoformat(scheduled),
        "image and container": datetime.fromisoformat(next(iter(state.values()))["startedAt"]),
        "Dagster and the location": moment("RUN_START"),
        "the step": moment("== "),
        "dbt, which was imported meanwhile": moment(" START "),
    }
    times = [*moments.values()]
    return {
        name: (after - before).total_seconds()
        for name, before, after in zip([*moments][1:], times, times[1:], strict=False)
    }


def test_two_runs_at_a_limit_of_one_queue(release: Release) -> None:
    first, second = (release.ui.launch("full_refresh", tags=DAYS) for _ in range(2))
    seen: set[tuple[str, str]] = set()

    def ended() -> bool:
        seen.add((release.ui.status(first), release.ui.status(second)))
        return {release.ui.status(first), release.ui.status(second)} == {"SUCCESS"}

    until(ended, seconds=600, what="the end of both", release=release)
    going = {"STARTING", "STARTED"}
    assert not [pair for pair in seen if set(pair) <= going]
    assert [pair for pair in seen if "QUEUED" in pair and set(pair) & going]


@pytest.fixture(scope="module")
def undisturbed(release: Release) -> dict[str, list[int]]:
    """What the runs before have made of the raw data."""
    return contents(release)


def test_a_killed_run_is_noticed_and_made_good_from_where_it_was(
    release: Release, undisturbed: dict[str, list[int]]
) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)

    def in_silver() -> bool:
        [pod] = pods_of(run_id)
        return "incremental model silver.dim_customer" in kubectl("logs", pod["metadata"]["name"], "--tail=-1")

    until(in_silver, seconds=180, what="silver", release=release)
    [pod] = pods_of(run_id)
    # kill -9 of everything but process 1, which ends when its child does.
    kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "kill -9 -1 || true")
    killed = time.time()
    until(lambda: release.ui.status(run_id) == "FAILURE", seconds=300, what="that it is noticed", release=release)
    print(f"noticed after {time.time() - killed:.0f} s")
    done = release.ui.finished(retry_of(release, run_id), seconds=600)
    assert done.status == "SUCCESS", done.words
    assert done.materialized < BUILT  # from where it was
    assert contents(release) == undisturbed


def retry_of(release: Release, run_id: str) -> str:
    """The run that Dagster launches by itself for one that died."""
    found: str = until(
        lambda: next((one for one in release.ui.run_ids() if one != run_id and parent(release, one) == run_id), None),
        seconds=300,
        what="its retry",
        release=release,
    )
    return found


def parent(release: Release, run_id: str) -> str | None:
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { parentRunId } } }"
    found: str | None = release.ui.ask(query, id=run_id)["parentRunId"]
    return found


@pytest.mark.parametrize("component", ["dagster-daemon", "dagster-webserver", "user-deployments"])
def test_a_run_goes_on_while_a_part_of_dagster_dies(release: Release, component: str) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    kubectl("delete", "pod", "-l", f"component={component}", "--force", "--grace-period=0")
    done = release.ui.finished(run_id, seconds=600)
    assert done.status == "SUCCESS", done.words
    release.ui.wait_until_ready(seconds=300)


def lose_the_database(release: Release) -> None:
    run("kubectl", "-n", BACKING, "delete", "pod", "postgres-0", "--force", "--grace-period=0")
    run("kubectl", "-n", BACKING, "rollout", "status", "statefulset/postgres", "--timeout=5m")
    release.ui.wait_until_ready(seconds=300)


def test_the_database_may_die_while_nothing_runs(release: Release) -> None:
    lose_the_database(release)
    done = release.ui.finished(release.ui.launch("bronze_refresh"), seconds=600)
    assert done.status == "SUCCESS", done.words


def test_the_database_may_die_under_a_run(release: Release, undisturbed: dict[str, list[int]]) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    time.sleep(10)  # in the middle
    lose_the_database(release)
    done = release.ui.finished(run_id, seconds=600)
    print(f"a run whose database went: {done.status}")
    if done.status != "SUCCESS":  # where the run was just then decides; a run that died is retried
        done = release.ui.finished(retry_of(release, run_id), seconds=600)
    assert done.status == "SUCCESS", done.words
    assert contents(release) == undisturbed


def test_a_tag_that_is_not_there_is_rolled_back_and_the_old_code_serves_on(release: Release) -> None:
    release.helm("--atomic", "--timeout", "60s", tag="is-not-there", wrong=True)
    release.ui.wait_until_ready(seconds=300)
    [deployment] = [
        d
        for d in objects("deployments")
        if d["metadata"]["name"] == "dagster-dagster-user-deployments-lakehouse-analytics"
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{release.image}:{release.tag}"
    done = release.ui.finished(release.ui.launch("bronze_refresh"), seconds=600)
    assert done.status == "SUCCESS", done.words


def test_a_run_without_memory_says_so(release: Release) -> None:
    little = {"limits": {"memory": "200Mi"}, "requests": {"memory": "200Mi"}}
    config = {"dagster-k8s/config": json.dumps({"container_config": {"resources": little}})}
    done = release.ui.finished(release.ui.launch("bronze_refresh", tags={**config, "dagster/max_retries": "0"}))
    assert done.status == "FAILURE"
    assert "OOMKilled" in done.words, done.words


def test_a_run_whose_pod_dies_before_it_starts_fails_at_once_and_says_why(release: Release) -> None:
    """Dagster itself notices it after `start_timeout_seconds`; the CronJob `reap` runs every two minutes."""
    little = {"limits": {"memory": "32Mi"}, "requests": {"memory": "32Mi"}}
    config = {"dagster-k8s/config": json.dumps({"container_config": {"resources": little}})}
    run_id = release.ui.launch("bronze_refresh", tags={**config, "dagster/max_retries": "0"})

    def dead() -> bool:
        jobs = objects("jobs", "-l", f"dagster/run-id={run_id}")
        return any(one["type"] == "Failed" for job in jobs for one in job["status"].get("conditions", ()))

    until(dead, seconds=180, what="the end of its pod", release=release)
    assert release.ui.status(run_id) == "STARTING"
    kubectl("create", "job", "--from=cronjob/support-reap", "reap-starting")
    kubectl("wait", "--for=condition=Complete", "job/reap-starting", "--timeout=3m")
    done = release.ui.finished(run_id)
    assert done.status == "FAILURE"
    assert "Its pod ended before the run started" in done.words
    assert "OOMKilled" in done.words


def test_a_secret_that_was_replaced_is_that_of_the_next_run(release: Release) -> None:
    fresh = "fresh" + release.secrets["LAKEHOUSE_TRINO_PASSWORD"]
    kubectl(
        "patch", "secret", "lakehouse-secrets", "-p", json.dumps({"stringData": {"LAKEHOUSE_TRINO_PASSWORD": fresh}})
    )
    release.secrets["the fresh one"] = fresh
    run_id = release.ui.launch("bronze_refresh")
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    [pod] = pods_of(run_id)
    assert kubectl("exec", pod["metadata"]["name"], "--", "printenv", "LAKEHOUSE_TRINO_PASSWORD").strip() == fresh
    assert release.ui.finished(run_id).status == "SUCCESS"


def test_an_upgrade_loses_no_run(release: Release) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    waiting = release.ui.launch("full_refresh", tags=DAYS)
    before = {pod["metadata"]["name"] for pod in objects("pods", "-l", "component=user-deployments")}
    release.helm("--set", "dagster-user-deployments.deployments[0].env.LAKEHOUSE_CATCH_UP=6", "--wait")
    for name in before:
        kubectl("wait", "--for=delete", f"pod/{name}", "--timeout=3m")
    assert objects("pods", "-l", "component=user-deployments")
    for one in (run_id, waiting):
        done = release.ui.finished(one, seconds=600)
        assert done.status == "SUCCESS", done.words
    release.ui.wait_until_ready(seconds=300)


def connections(release: Release) -> int:
    """Connections to Dagster's database, those of this question not counted."""
    ask = "select count(*) from pg_stat_activity where datname = 'dagster' and pid <> pg_backend_pid()"
    command = f'PGPASSWORD="$POSTGRES_PASSWORD" psql -h 127.0.0.1 -U dagster -d dagster -Atc "{ask}"'
    return int(run("kubectl", "-n", BACKING, "exec", "postgres-0", "--", "sh", "-c", command))


def test_of_fifty_runs_ten_go_at_once(release: Release) -> None:
    """They wait for a sync each, and need neither DuckDB nor each other."""
    small = "runLauncher.config.k8sRunLauncher.resources.requests"
    release.helm("--set", f"{small}.cpu=20m,{small}.memory=200Mi", "--wait")
    release.ui.wait_until_ready(seconds=300)
    config = {"ops": {"sync": {"config": {"connection": "faker"}}}}
    began = time.time()
    runs = [release.ui.launch("airbyte_sync", config=config) for _ in range(50)]
    most_pods = most_connections = 0

    def ended() -> bool:
        nonlocal most_pods, most_connections
        pods = objects("pods", "-l", "app.kubernetes.io/component=run_worker")
        most_pods = max(most_pods, sum(pod["status"]["phase"] in ("Pending", "Running") for pod in pods))
        most_connections = max(most_connections, connections(release))
        return {release.ui.status(one) for one in runs} <= {"SUCCESS", "FAILURE", "CANCELED"}

    until(ended, seconds=1800, what="the end of all", release=release)
    statuses = [release.ui.status(one) for one in runs]
    print(
        f"50 runs in {time.time() - began:.0f} s, {most_pods} pods and {most_connections} connections at once at most"
    )
    assert statuses == ["SUCCESS"] * 50
    assert 2 <= most_pods <= 10
    # Three connections beyond the first in each of the webserver's pools.
    assert most_connections <= STORAGES * (1 + 3) + DAEMON + 10 * RUN + CODE_SERVER + SUPPORT
    release.helm("--wait")
    release.ui.wait_until_ready(seconds=300)


def test_doctor_sees_the_instance_in_the_pod_of_the_code_server(release: Release) -> None:
    server = f"deploy/{RELEASE}-dagster-user-deployments-lakehouse-analytics"
    said = kubectl("exec", server, "--", "sh", "-c", "lakehouse doctor; echo status $?")
    print(said)
    for what in ("storage", "daemons", "limits", "schedules", "sensors"):
        [line] = [line for line in said.splitlines() if line.split()[1:2] == [what]]
        assert "not checked" not in line, line


def test_a_sync_of_airbyte_and_then_the_schedule_fire_by_themselves(release: Release) -> None:
    before = release.ui.runs_of("dagster/sensor_name", "airbyte_sync_sensor")
    for run_id in before:  # of syncs of another test
        release.ui.finished(run_id, seconds=600)
    run("kubectl", "-n", BACKING, "exec", "deploy/airbyte", "--", "touch", "/tmp/sync")
    began = time.time()
    synced = until(
        lambda: (
            [one for one in release.ui.runs_of("dagster/sensor_name", "airbyte_sync_sensor") if one not in before]
            or None
        ),
        seconds=300,
        what="a run after the sync",
        release=release,
    )
    print(f"sync ended → run requested {time.time() - began:.0f} s")
    done = release.ui.finished(synced[0], seconds=600)
    assert done.status == "SUCCESS", done.words
    assert done.materialized >= {"bronze/stg_customers", "bronze/stg_orders", "bronze/stg_products"}

    # Each minute, of the day that is running: the one of yesterday is requested only at midnight.
    release.ui.switch_schedule("daily_refresh", on=True)
    scheduled = until(
        lambda: release.ui.runs_of("dagster/schedule_name", "daily_refresh") or None,
        seconds=300,
        what="a run of the schedule",
        release=release,
    )
    done = release.ui.finished(scheduled[-1], seconds=600)
    assert done.status == "SUCCESS", done.words
    assert "gold/revenue_daily" in done.materialized

    def off() -> bool:
        """A tick that is going on stores what it read before: the schedule is on again."""
        release.ui.switch_schedule("daily_refresh", on=False)
        time.sleep(20)
        return not release.ui.schedule_is_on("daily_refresh")

    until(off, seconds=180, what="the schedule to stay off", release=release)
    for run_id in release.ui.runs_of("dagster/schedule_name", "daily_refresh"):
        release.ui.finished(run_id, seconds=600)


def test_a_drain_waits_for_the_run_and_moves_the_rest(release: Release) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    [pod] = pods_of(run_id)
    node = pod["spec"]["nodeName"]
    # Of this release only: what else is on the cluster's one node has nowhere to go.
    drain = ["kubectl", "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"]
    drain += [f"--pod-selector=app.kubernetes.io/instance={RELEASE}"]
    gone = {one["metadata"]["name"] for one in objects("pods", "-l", "component in (dagster-daemon,user-deployments)")}
    try:
        said = run(*drain, "--timeout=20s", wrong=True)
        assert "disruption budget" in said
        [still] = pods_of(run_id)
        assert still["status"]["phase"] in ("Running", "Succeeded")
        # An evicted pod is there until it has ended, marked as deleted.
        there = {one["metadata"]["name"] for one in objects("pods") if "deletionTimestamp" not in one["metadata"]}
        assert not gone & there
    finally:
        run("kubectl", "uncordon", node)
    release.ui.wait_until_ready(seconds=300)
    done = release.ui.finished(run_id, seconds=600)
    assert done.status == "SUCCESS", done.words


def test_a_run_that_is_terminated_ends_with_its_pod(release: Release) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    assert pods_of(run_id)
    release.ui.terminate(run_id)
    until(lambda: release.ui.status(run_id) == "CANCELED", seconds=180, what="that it is canceled", release=release)
    until(lambda: not pods_of(run_id), seconds=180, what="the end of its pod", release=release)


CANCELED = """
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    instance.report_run_canceled(instance.get_run_by_id("{run_id}"))
"""


def test_a_job_whose_run_was_given_up_is_reaped(release: Release) -> None:
    run_id = release.ui.launch("full_refresh", tags=DAYS)
    until(lambda: release.ui.status(run_id) == "STARTED", seconds=180, what="its start", release=release)
    [pod] = pods_of(run_id)
    kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "kill -STOP -1")  # a pod that hangs
    # Run monitoring gives up a run like this if its node cannot be reached. The Job is not deleted.
    kubectl("exec", f"deploy/{RELEASE}-daemon", "--", "python", "-c", CANCELED.format(run_id=run_id))
    time.sleep(65)  # its grace
    assert pods_of(run_id)
    kubectl("create", "job", "--from=cronjob/support-reap", "reap-now")
    kubectl("wait", "--for=condition=Complete", "job/reap-now", "--timeout=3m")
    assert "deleted: 1 Jobs" in kubectl("logs", "job/reap-now")
    until(lambda: not pods_of(run_id), seconds=180, what="the end of its pod", release=release)


def dumps_in(pod: str) -> list[str]:
    """Oldest first."""
    return sorted(name for name in kubectl("exec", pod, "--", "ls", "/backup").split() if name.endswith(".dump"))


def test_a_dump_that_is_put_back_brings_the_history_of_its_time(release: Release) -> None:
    before = set(release.ui.run_ids())
    release.support()
    meanwhile = set(release.ui.run_ids())
    with helper(release, claim="support-backup", path="/backup") as name:
        newest = dumps_in(name)[-1]
    lost = release.ui.launch("bronze_refresh")
    release.ui.finished(lost)
    everything = "app.kubernetes.io/instance=dagster"
    kubectl("scale", "deployment", "-l", everything, "--replicas=0")
    kubectl("wait", "--for=delete", "pod", "-l", f"{everything},component", "--timeout=3m")
    try:
        release.support(f"instance.backup.restore={newest}")
    finally:
        kubectl("scale", "deployment", "-l", everything, "--replicas=1")
    kubectl("rollout", "status", "deployment/dagster-dagster-webserver", "--timeout=5m")
    release.ui.wait_until_ready(seconds=300)
    there = set(release.ui.run_ids())
    assert before <= there <= meanwhile
    assert lost not in there
    done = release.ui.finished(release.ui.launch("bronze_refresh"), seconds=600)
    assert done.status == "SUCCESS", done.words


def test_pruning_has_its_way_to_the_database_and_leaves_what_is_young(release: Release) -> None:
    kubectl("create", "job", "--from=cronjob/support-prune", "prune-now")
    kubectl("wait", "--for=condition=Complete", "job/prune-now", "--timeout=5m")
    assert "deleted: 0 runs, 0 events" in kubectl("logs", "job/prune-now")  # nothing is that old here


def test_the_support_chart_has_set_limits_and_kept_a_dump(release: Release) -> None:
    limits = kubectl("exec", f"deploy/{RELEASE}-daemon", "--", "dagster", "instance", "concurrency", "get", "duckdb")
    assert "/ 1 slots" in limits, limits
    release.support()  # an upgrade of it: another dump
    with helper(release, claim="support-backup", path="/backup") as name:
        head = kubectl("exec", name, "--", "sh", "-c", f"head -c 5 /backup/{dumps_in(name)[-1]}")
    assert head == "PGDMP"
    assert "Succeeded" in run("helm", "test", "support", "-n", RELEASE)


CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print("yes")
    except OSError:
        print("no")
"""
PLACES = {
    "webserver": "dagster-dagster-webserver.dagster:80",
    "code server": "lakehouse-analytics.dagster:4000",
    "metrics": "METRICS:9464",
    "kubernetes": "kubernetes.default:443",
    "postgresql": f"postgres.{BACKING}:5432",
    "airbyte": f"airbyte.{BACKING}:8006",
}
#: Which pods reach what. The pod of `helper` has the label of a run.
REACHES = {
    "a pod of another namespace": {"metrics", "kubernetes", "postgresql", "airbyte"},
    "a run": {"postgresql", "airbyte"},
    "the code server": {"postgresql", "airbyte"},
    "the daemon": {"code server", "kubernetes", "postgresql"},
}


def test_nobody_reaches_what_is_not_said(release: Release) -> None:
    [metrics] = objects("pods", "-l", "app.kubernetes.io/component=metrics")
    places = [place.replace("METRICS", metrics["status"]["podIP"]) for place in PLACES.values()]

    def reached(pod: str, namespace: str = NAMESPACE) -> set[str]:
        said = kubectl("exec", pod, "--", "python", "-c", CONNECT, *places, namespace=namespace).split()
        return {name for name, answer in zip(PLACES, said, strict=True) if answer == "yes"}

    found = {"a pod of another namespace": reached("deploy/airbyte", BACKING)}
    if "webserver" in found["a pod of another namespace"]:
        pytest.skip("this cluster's network plugin does not enforce policies: they have not been tried")
    with helper(release) as pod:
        found["a run"] = reached(pod)
    found["the code server"] = reached(f"deploy/{RELEASE}-dagster-user-deployments-lakehouse-analytics")
    found["the daemon"] = reached(f"deploy/{RELEASE}-daemon")
    assert found == REACHES


SCRAPE = "import urllib.request as u; print(u.urlopen('http://localhost:9464/metrics', timeout=30).read().decode())"


def test_metrics_show_a_dead_daemon_a_queue_and_a_lost_database(release: Release) -> None:
    def scraped() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(
            kubectl("exec", "deploy/support-metrics", "--", "python", "-c", SCRAPE)
        )
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def silent() -> float:
        """Seconds, of the daemon that is silent for longest."""
        name = "dagster_daemon_last_heartbeat_timestamp_seconds"
        return time.time() - min(value for key, value in scraped().items() if key[0] == name)

    def up() -> bool:
        return scraped()["dagster_storage_up",] == 1

    kubectl("rollout", "status", "deployment/support-metrics", "--timeout=5m")
    until(lambda: up() and silent() < 60, seconds=120, what="heartbeats", release=release)
    assert scraped()["dagster_runs", "QUEUED"] == 0
    kubectl("scale", f"deployment/{RELEASE}-daemon", "--replicas=0")
    try:
        run_id = release.ui.launch("bronze_refresh")
        until(lambda: silent() > 90, seconds=240, what="silence", release=release)
        assert scraped()["dagster_runs", "QUEUED"] == 1
        # Not of another time zone. The cluster's clock may be another than ours.
        assert abs(time.time() - scraped()["dagster_queue_oldest_run_timestamp_seconds",]) < 600
    finally:
        kubectl("scale", f"deployment/{RELEASE}-daemon", "--replicas=1")
    assert release.ui.finished(run_id, seconds=600).status == "SUCCESS"
    until(lambda: silent() < 60, seconds=120, what="heartbeats", release=release)
    kubectl("scale", "statefulset/postgres", "--replicas=0", namespace=BACKING)
    try:
        until(lambda: not up(), seconds=120, what="word of the database", release=release)
    finally:
        kubectl("scale", "statefulset/postgres", "--replicas=1", namespace=BACKING)
    until(up, seconds=240, what="its return", release=release)
    release.ui.wait_until_ready(seconds=300)


#: What each account may do in the namespace, of all that could be dangerous.
MAY = {
    "dagster": {
        "create jobs.batch",
        "delete jobs.batch",
        "get jobs.batch",
        "delete pods",
        "get pods",
        "list pods",
        "get pods/log",
    },
    "support-instance": set(),
    "support-reap": {"delete jobs.batch", "list pods"},
    "lakehouse-runs": set(),
    "dagster-dagster-user-deployments-user-deployments": set(),
}
REQUESTED = [
    *(
        f"{verb} {what}"
        for what in ("jobs.batch", "pods", "secrets", "configmaps")
        for verb in ("create", "delete", "get")
    ),
    *("list pods", "get pods/log", "create pods/exec", "list secrets", "patch deployments.apps", "create rolebindings"),
]


@pytest.mark.parametrize("account", sorted(MAY))
def test_nobody_may_do_more_than_needed(release: Release, account: str) -> None:
    user = f"--as=system:serviceaccount:{RELEASE}:{account}"
    said = {}
    for question in REQUESTED:
        verb, what = question.split()
        resource, _, sub = what.partition("/")
        answer = run(
            "sh",
            "-c",
            f"kubectl auth can-i {verb} {resource} {f'--subresource={sub}' if sub else ''} -n {RELEASE} {user} || true",
        ).strip()
        said[question] = answer.splitlines()[-1]
    allowed = {question for question, answer in said.items() if answer == "yes"}
    assert allowed == MAY[account]


def test_no_secret_is_in_a_log_an_event_or_an_object(release: Release) -> None:
    texts = {
        "events": kubectl("get", "events", "-o", "yaml"),
        "objects": kubectl("get", "pods,jobs,cronjobs,configmaps,deployments", "-o", "yaml"),
        "dagster": dump(release),
        **logs_of_pods(),
    }
    assert len(texts["dagster"]) > 100_000
    assert release.told_in(texts) == []


def dump(release: Release) -> str:
    """All that Dagster has stored, as text."""
    command = "pg_dump --data-only --host=127.0.0.1 --username=dagster dagster"
    return run(
        "kubectl", "-n", BACKING, "exec", "postgres-0", "--", "sh", "-c", f'PGPASSWORD="$POSTGRES_PASSWORD" {command}'
    )


#: Files that have no business in an image: of git, of a person, of a key.
NAMES = " -o ".join(f"-name '{name}'" for name in (".git", ".env", "*.key", "id_rsa*", ".netrc", ".pgpass"))
FOREIGN = rf"find / -xdev \( {NAMES} \) -print 2>/dev/null"


def test_the_image_has_no_secret_no_compiler_and_no_cache(release: Release) -> None:
    with helper(release) as pod:
        assert kubectl("exec", pod, "--", "sh", "-c", f"{FOREIGN} || true").split() == []
        tools = "for t in gcc cc make git uv; do command -v $t; done; true"
        assert kubectl("exec", pod, "--", "sh", "-c", tools).split() == []
        caches = "ls -d /root/.cache /home/*/.cache /var/lib/apt/lists/* 2>/dev/null || true"
        assert kubectl("exec", pod, "--", "sh", "-c", caches).split() == []
        environment = kubectl("exec", pod, "--", "printenv")
    assert not [line for line in environment.splitlines() if "PASSWORD" in line or "SECRET" in line]
