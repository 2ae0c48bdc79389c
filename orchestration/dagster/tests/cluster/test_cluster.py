"""The release does what it is for, and goes on when parts of it die."""

from __future__ import annotations

import json
import time
import urllib.request

import pytest

from tests.integration.daemon import last_days

from .conftest import BACKING, RELEASE, Release, helper, kubectl, objects, pods_of, run, until

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
    assert done.materialised == BUILT
    assert all(done.checks.values())
    [pod] = pods_of(run_id)
    print(f"launched → started {done.start - began:.1f} s, run {done.end - done.start:.1f} s")
    assert pod["spec"]["serviceAccountName"] == "lakehouse-runs"
    assert [c["resources"]["limits"]["memory"] for c in pod["spec"]["containers"]] == ["3Gi"]


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
    kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
    killed = time.time()
    until(lambda: release.ui.status(run_id) == "FAILURE", seconds=300, what="that it is noticed", release=release)
    print(f"noticed after {time.time() - killed:.0f} s")
    retry = until(
        lambda: next((one for one in release.ui.run_ids() if one != run_id and parent(release, one) == run_id), None),
        seconds=180,
        what="its retry",
        release=release,
    )
    done = release.ui.finished(retry, seconds=600)
    assert done.status == "SUCCESS", done.words
    assert contents(release) == undisturbed


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


def test_the_database_may_die_while_nothing_runs(release: Release) -> None:
    run("kubectl", "-n", BACKING, "delete", "pod", "postgres-0", "--force", "--grace-period=0")
    run("kubectl", "-n", BACKING, "rollout", "status", "statefulset/postgres", "--timeout=5m")
    release.ui.wait_until_ready(seconds=300)
    done = release.ui.finished(release.ui.launch("bronze_refresh"), seconds=600)
    assert done.status == "SUCCESS", done.words


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


#: What each account may do in the namespace, of all that could be dangerous.
MAY = {
    "dagster": {"create jobs.batch", "delete jobs.batch", "get jobs.batch", "list pods", "get pods/log"},
    "lakehouse-runs": set(),
    "dagster-dagster-user-deployments-user-deployments": set(),
}
ASKED = [
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
    for question in ASKED:
        verb, what = question.split()
        resource, _, sub = what.partition("/")
        answer = run(
            "sh",
            "-c",
            f"kubectl auth can-i {verb} {resource} {f'--subresource={sub}' if sub else ''} -n {RELEASE} {user} || true",
        ).strip()
        said[question] = answer.splitlines()[-1]
    allowed = {question for question, answer in said.items() if answer == "yes"}
    assert allowed - {"get pods"} == MAY[account]
