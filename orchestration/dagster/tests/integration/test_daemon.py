"""The demo through a real instance: webserver, daemon and code server, driven by GraphQL as the UI drives them.

One `dagster dev` serves all tests, in the order they are written: a dbt start costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dagster_ui import poll

from .daemon import COUNT, Dev, Webhook, alive, dagster_dev, dbt_below, last_days, new_lake

pytestmark = [pytest.mark.engine("duckdb", "trino"), pytest.mark.nightly("trino")]

ALL = {
    "bronze/stg_customers",
    "bronze/stg_orders",
    "bronze/stg_products",
    "silver/car_makes",
    "silver/dim_customer",
    "silver/dim_customer_history",
    "silver/dim_product",
    "silver/orders_daily",
    "silver/orders_enriched",
    "gold/customer_lifetime_value",
    "gold/fct_orders",
    "gold/revenue_daily",
    "metrics/daily_revenue",
}
#: A full refresh evaluates their freshness.
SOURCES = {"faker/products", "faker/purchases", "faker/users"}
BY_DAY = {"silver/orders_daily", "gold/revenue_daily"}
BELOW_PRODUCTS = {
    "silver/dim_product",
    "silver/orders_enriched",
    "silver/orders_daily",
    "gold/revenue_daily",
    "gold/customer_lifetime_value",
    "gold/fct_orders",
    "metrics/daily_revenue",
}
GATE = ("bronze/stg_products", "not_null_stg_products_list_price")
DAYS = last_days(2, "Europe/Berlin")
RETRY = {"dagster/retry_on_asset_or_op_failure": "true", "dagster/max_retries": "1"}


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    server = Webhook()
    yield server
    server.close()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook, engine: str) -> Iterator[Dev]:
    variables = {
        "LAKEHOUSE_NOTIFY": "log,slack",
        "LAKEHOUSE_SLACK_WEBHOOK_URL": webhook.url,
        "LAKEHOUSE_TIMEZONE": "Europe/Berlin",
    }
    with dagster_dev(new_lake(tmp_path_factory.mktemp("daemon"), engine, variables)) as running:
        yield running


@pytest.fixture(autouse=True)
def last_words(dev: Dev, request: pytest.FixtureRequest) -> Iterator[None]:
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        print(dev.child.tail())


def test_schedule_and_sensors_are_listed_with_their_status_and_zone(dev: Dev) -> None:
    repository = dev.ask(
        "query($r: RepositorySelector!) { repositoryOrError(repositorySelector: $r) { ... on Repository { "
        "schedules { name cronSchedule executionTimezone pipelineName scheduleState { status } } "
        "sensors { name sensorType minIntervalSeconds sensorState { status } } } } }",
        r=dev.repository,
    )
    expected = [("daily_refresh", "0 2 * * *", "full_refresh")]
    if dev.lake.database.engine == "trino":
        expected.append(("iceberg_maintenance", "30 4 * * *", "iceberg_maintenance"))
    expected.append(("monthly_refresh", "0 5 1 * *", "monthly_refresh"))
    assert repository["schedules"] == [
        {
            "name": name,
            "cronSchedule": cron,
            "executionTimezone": "Europe/Berlin",
            "pipelineName": job,
            "scheduleState": {"status": "STOPPED"},
        }
        for name, cron, job in expected
    ]
    sensors = {s["name"]: (s["sensorType"], s["sensorState"]["status"]) for s in repository["sensors"]}
    assert sensors["gold_on_silver"] == ("STANDARD", "STOPPED")
    assert sensors["run_failure_notifier"] == ("RUN_STATUS", "RUNNING")
    assert sensors["waiting_schedules"] == ("STANDARD", "RUNNING")
    assert sensors["lost_retries"] == ("STANDARD", "RUNNING")


def test_a_job_and_an_ad_hoc_run_launched_at_once_write_a_table_one_after_the_other(dev: Dev) -> None:
    launched = [dev.launch("full_refresh", tags=DAYS), dev.launch("__ASSET_JOB", assets=["bronze/stg_products"])]
    full, ad_hoc = (dev.finished(run_id) for run_id in launched)

    assert [run.status for run in (full, ad_hoc)] == ["SUCCESS", "SUCCESS"], full.words + ad_hoc.words
    first, second = sorted((full, ad_hoc), key=lambda run: run.start)
    if dev.lake.database.engine == "duckdb":  # one run at a time; Trino has one writer a table
        assert first.end <= second.start, f"they overlap: {first.start}–{first.end} and {second.start}–{second.end}"
    else:
        waited = [run for run in (full, ad_hoc) if "stg_products: in use by run" in run.words]
        assert waited or first.end <= second.start, full.words + ad_hoc.words

    assert full.materialized == ALL
    assert ad_hoc.materialized == {"bronze/stg_products"}
    whole = ALL - BY_DAY
    assert full.row_counts == {
        key: dev.lake.sql(f"from {key.replace('/', '.')} select count(*)")[0][0] for key in whole
    }
    assert full.row_counts["bronze/stg_customers"] == COUNT
    assert {table for table, check in full.checks if check == "freshness"} == SOURCES
    for run in (full, ad_hoc):
        assert run.checks.keys() == dev.planned_checks(run.run_id)
        assert {table for table, _ in run.checks} - SOURCES == run.materialized
    assert full.checks[GATE]
    print(
        f"full_refresh {full.end - full.start:.0f} s, {len(full.checks)} checks; gap {second.start - first.end:.1f} s"
    )


def test_gold_on_silver_asks_for_nothing_after_a_full_refresh(dev: Dev) -> None:
    evaluated = dev.evaluate_sensor("gold_on_silver")
    assert evaluated["runRequests"] in (None, [])
    assert "No silver table is newer" in evaluated["skipReason"]


def test_gold_on_silver_builds_gold_once_after_silver_was_built_alone(dev: Dev) -> None:
    silver = dev.finished(dev.launch("__ASSET_JOB", assets=["silver/dim_product"]))
    assert (silver.status, silver.materialized) == ("SUCCESS", frozenset({"silver/dim_product"})), silver.words
    before = set(dev.run_ids())

    dev.start_sensor("gold_on_silver")
    [run_id] = poll(
        lambda: set(dev.run_ids()) - before or None, seconds=120, what="a run of gold", because=dev.child.tail
    )
    # Every later tick is counted by the last test: the sensor stays on.
    poll(lambda: dev.status(run_id) in ("QUEUED", "STARTED"), seconds=60, what="gold's start", because=dev.child.tail)
    meanwhile = dev.evaluate_sensor("gold_on_silver")
    assert meanwhile["skipReason"] == f"Run {run_id} is about to build them."
    gold = dev.finished(run_id)

    assert (gold.status, gold.tags["dagster/sensor_name"]) == ("SUCCESS", "gold_on_silver"), gold.words
    assert gold.materialized == {"gold/fct_orders", "gold/customer_lifetime_value"}
    assert gold.checks.keys() == dev.planned_checks(run_id)
    assert dev.evaluate_sensor("gold_on_silver")["runRequests"] in (None, [])


def test_terminating_a_run_ends_its_dbt(dev: Dev) -> None:
    so_far = len(dev.child.said)
    run_id = dev.launch("bronze_refresh")
    dev.child.wait_for("START sql table model bronze.", after=so_far)
    dbt = dbt_below(dev.child.process.pid)
    assert dbt
    dev.terminate(run_id)

    assert dev.finished(run_id).status == "CANCELED"
    poll(lambda: not alive(dbt), seconds=25, what="dbt's end", because=dev.child.tail)


def test_a_failed_gate_blocks_its_descendants_is_retried_once_told_once_and_mended_from_there(
    dev: Dev, webhook: Webhook
) -> None:
    assert webhook.texts == []  # neither a success nor a cancelled run is news
    [(product, price)] = dev.lake.sql("from raw.products select id, price order by id limit 1")
    dev.lake.sql(f"update raw.products set price = null where id = {product}")

    failed = dev.finished(dev.launch("full_refresh", tags={**RETRY, **DAYS}))
    assert failed.status == "FAILURE"
    assert failed.materialized == ALL - BELOW_PRODUCTS
    assert failed.checks[GATE] is False
    assert {table for table, _ in failed.checks} - SOURCES == failed.materialized

    retried = dev.finished(_child_of(dev, failed.run_id))
    assert (retried.status, retried.tags["dagster/retry_number"]) == ("FAILURE", "1")
    assert retried.planned == {GATE[0], *BELOW_PRODUCTS}
    assert retried.materialized == {GATE[0]}

    [text] = poll(lambda: list(webhook.texts) or None, seconds=90, what="the alert", because=dev.child.tail)
    assert f"/runs/{retried.run_id}|Run of full_refresh failed after 2 attempts" in text
    assert f"bronze/stg_products failed its gate: {GATE[1]}: Got 1 result" in text
    for table in BELOW_PRODUCTS:
        assert f"{table} was blocked by bronze/stg_products" in text

    dev.lake.sql(f"update raw.products set price = {price} where id = {product}")
    rebuilt = dev.finished(dev.retry_failed_assets(retried.run_id))
    assert rebuilt.status == "SUCCESS", rebuilt.words
    assert rebuilt.materialized == {GATE[0], *BELOW_PRODUCTS}
    assert rebuilt.checks[GATE]
    assert rebuilt.checks.keys() == dev.planned_checks(rebuilt.run_id)


def test_gold_on_silver_does_not_carry_a_failed_silver_gate_into_gold(dev: Dev, webhook: Webhook) -> None:
    before, sent = set(dev.run_ids()), len(webhook.texts)
    # Bronze allows an address without a country; dim_customer does not.
    dev.lake.sql(
        "update raw.users set address = replace(address, 'country_code', 'country') "
        "where id = (select min(id) from raw.users)"
    )
    failed = dev.finished(dev.launch("__ASSET_JOB", assets=["bronze/stg_customers", "silver/dim_customer"]))
    assert failed.status == "FAILURE", failed.words
    assert failed.materialized == {"bronze/stg_customers", "silver/dim_customer"}
    assert failed.checks["silver/dim_customer", "not_null_dim_customer_country_code"] is False

    evaluated = dev.evaluate_sensor("gold_on_silver")
    assert evaluated["runRequests"] in (None, []), "gold would be built from silver that failed its gate"
    assert "not_null_dim_customer_country_code" in evaluated["skipReason"]

    # By default, a failed gate is not retried: the alert comes at once, after one attempt.
    texts = poll(lambda: webhook.texts[sent:] or None, seconds=90, what="the alert", because=dev.child.tail)
    assert len(texts) == 1
    assert f"/runs/{failed.run_id}|Run of __ASSET_JOB failed>" in texts[0]
    assert set(dev.run_ids()) - before == {failed.run_id}


def test_in_the_end_the_sensors_have_acted_once_a_cause_and_no_secret_is_written(dev: Dev, webhook: Webhook) -> None:
    ticks = dev.ticks("gold_on_silver")
    assert sum(len(tick["runIds"]) for tick in ticks) == 1, ticks
    assert {tick["status"] for tick in ticks} <= {"SUCCESS", "SKIPPED", "STARTED"}, ticks
    alerts = [tick for tick in dev.ticks("run_failure_notifier") if tick["error"]]
    assert (alerts, len(webhook.texts)) == ([], 2)

    assert (
        "failed after 2 attempts" in dev.child.said
    )  # the log notifier spoke here, so this is the right place to look
    holders = [path for path in _files(dev.lake.root) if Webhook.secret.encode() in path.read_bytes()]
    assert holders == []


def _child_of(dev: Dev, run_id: str) -> str:
    def found() -> str | None:
        runs = dev.ask("{ runsOrError { ... on Runs { results { runId parentRunId } } } }")["results"]
        return next((run["runId"] for run in runs if run["parentRunId"] == run_id), None)

    return poll(found, seconds=90, what=f"the retry of run {run_id}", because=dev.child.tail)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file())
