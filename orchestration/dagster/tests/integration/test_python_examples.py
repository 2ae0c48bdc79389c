"""docs/python.md: each example, as the text has it, in a real run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.devtools.airbyte_simulator import Simulator
from lakehouse_analytics.devtools.simulated_airbyte import Store
from lakehouse_analytics.settings import repository_root

from tests.own_defs import own_defs

from .conftest import Lakehouse, Outcome

TEXT = (repository_root() / "docs" / "python.md").read_text()
#: The files that the text shows, by their path.
SHOWN = dict(re.findall(r"^`(\S+)`(?: [^`\n]*)?:\n\n```\w+\n(.*?)^```$", TEXT, re.M | re.S))
DEFS = "lakehouse_analytics/defs/"
ORDERS = "select id % 10 as customer_id, n from {{ source('raw', 'a') }} where id % 10 > 0 or id = 10"


@pytest.fixture
def as_shown(lakehouse: Lakehouse, tmp_path: Path) -> Iterator[Lakehouse]:
    """The small project with the models and the Python files of the text."""
    models = {path: text for path, text in SHOWN.items() if path.startswith("models/")}
    lakehouse.files |= {"models/silver/orders_enriched.sql": ORDERS, **models}
    lakehouse.write()
    with own_defs(tmp_path / "defs", {p.removeprefix(DEFS): t for p, t in SHOWN.items() if p.startswith(DEFS)}):
        yield lakehouse


def build(lakehouse: Lakehouse, *keys: str) -> Outcome:
    """Build assets that are in no job of the lakehouse."""
    job = lakehouse.definitions().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=lakehouse.instance,
        raise_on_error=False,
        asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
    )
    return lakehouse.outcome(result.run_id, result.success)


def metadata(outcome: Outcome, key: str) -> Mapping[str, Any]:
    assert outcome.success, outcome.failure
    return outcome.metadata[key]


def test_the_text_shows_an_example_of_each_resource() -> None:
    assert {path for path in SHOWN if path.startswith(DEFS)} == {
        f"{DEFS}{name}.py" for name in ("segments", "dbt_docs", "order_report", "sync_crm")
    }


def test_models_read_what_a_python_asset_makes_with_duckdb_and_dbt_documents_them(as_shown: Lakehouse) -> None:
    outcome = as_shown.run()
    assert metadata(outcome, "python/customer_segments")["dagster/row_count"] == 10
    assert outcome.checks["python/customer_segments:source_not_null_python_customer_segments_segment"] is True
    assert sorted(as_shown.sql("select * from gold.regular_customers")) == [(customer,) for customer in range(1, 10)]
    assert "dbt_docs" not in outcome.built

    documented = metadata(build(as_shown, "dbt_docs"), "dbt_docs")
    tables = as_shown.sql("select count(*) from information_schema.tables where table_schema not in ('raw', 'python')")
    assert [(documented["tables"],)] == tables


@pytest.mark.nightly
def test_airbyte_syncs_a_connection(as_shown: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.add_connection("crm")
    simulator = Simulator(store, client=("id", "the-secret"), run_sync=lambda _, job: store.end(job, rows=42))
    with simulator.serving():
        monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", simulator.url)
        monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_ID", "id")
        monkeypatch.setenv("LAKEHOUSE_AIRBYTE_CLIENT_SECRET", "the-secret")
        outcome = build(as_shown, "crm_is_synced")
    assert metadata(outcome, "crm_is_synced")["rows"] == 42


@pytest.mark.nightly
def test_dg_lists_components_that_a_user_can_add() -> None:
    listed = subprocess.run(
        [Path(sys.executable).with_name("dg"), "list", "components", "--json"],
        cwd=repository_root() / "orchestration" / "dagster",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "dagster.FunctionComponent" in listed.stdout


@pytest.mark.engine("trino")
@pytest.mark.nightly("trino")
def test_trino_answers_the_report(as_shown: Lakehouse) -> None:
    assert as_shown.run(assets=["silver/orders_enriched"]).success
    assert metadata(build(as_shown, "order_report"), "order_report")["orders"] == 91
