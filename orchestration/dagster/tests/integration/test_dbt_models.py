"""The demo's incremental models after many syncs: equal to a full rebuild, on real data that changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.dbt.runner import DbtSession
from lakehouse_analytics.engines.resources import dbt_runner
from lakehouse_analytics.settings import Settings

from .daemon import new_lake
from .databases import Database, Row

pytestmark = pytest.mark.engine("duckdb", "trino")

EQUAL = "dim_customer_equals_full_rebuild"
SELECTION = ["--select", "stg_customers", "dim_customer", "dim_customer_history"]


class Customers:
    """Raw users that change, and what dbt makes of them."""

    def __init__(self, database: Database, dbt: DbtSession, target_path: Path) -> None:
        self.database, self.dbt, self.target_path = database, dbt, target_path

    def sql(self, statement: str) -> list[Row]:
        return self.database.sql(statement)

    def build(self, *options: str) -> dict[str, str]:
        """Build the customers' tables; the status of each node and test, by name."""
        args = ["build", *SELECTION, *options]
        result = self.dbt.run(args, lambda _level, _message: None, target_path=self.target_path)
        assert not result.crashed, result.errors
        return {unique_id.split(".")[2]: node.status for unique_id, node in result.nodes.items()}

    def count(self, relation: str, where: str = "true") -> object:
        return self.sql(f"select count(*) from {relation} where {where}")[0][0]

    def dimension(self) -> list[Row]:
        return self.sql("select * from silver.dim_customer order by customer_id")


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Customers]:
    lake = new_lake(tmp_path_factory.mktemp("models"), engine)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in lake.environment.items():
            environment.setenv(name, value)
        settings = Settings.load()
        project = DbtProject.from_settings(settings)
        runner = dbt_runner(settings, project)
        # The password too: a test's own fixture takes it out of the environment again.
        with runner.session(engine, {**lake.environment, **runner.database_environment}) as session:
            yield Customers(lake.database, session, project.target_path)


def _all_well(statuses: dict[str, str]) -> None:
    assert statuses[EQUAL] == "pass"
    assert not {name for name, status in statuses.items() if status in ("fail", "error", "skipped")}


def test_a_first_build_has_every_customer_and_a_second_changes_nothing(customers: Customers) -> None:
    _all_well(customers.build())
    first = customers.dimension()
    assert len(first) == 200

    _all_well(customers.build())
    assert customers.dimension() == first
    assert customers.count("silver.dim_customer_history") == 200


@pytest.mark.nightly("trino")
def test_a_changed_customer_gets_a_new_version(customers: Customers) -> None:
    customers.database.insert_changed(
        "raw.users",
        "id = 1",
        email="'changed@example.com'",
        updated_at="updated_at + interval 1 hour",
        _airbyte_raw_id="'changed'",
        _airbyte_extracted_at="_airbyte_extracted_at + interval 1 hour",
    )
    _all_well(customers.build())

    assert customers.sql("select email from silver.dim_customer where customer_id = 1") == [("changed@example.com",)]
    assert customers.count("silver.dim_customer_history", "customer_id = 1") == 2
    assert customers.count("silver.dim_customer_history", "customer_id = 1 and dbt_valid_to is null") == 1


@pytest.mark.nightly("trino")
def test_a_late_row_is_not_missed(customers: Customers) -> None:
    customers.database.insert_changed(
        "raw.users",
        "id = 2",
        id="9001",
        email="'late@example.com'",
        _airbyte_raw_id="'late'",
        _airbyte_extracted_at="_airbyte_extracted_at - interval 2 day",
    )
    _all_well(customers.build())
    assert customers.count("silver.dim_customer", "customer_id = 9001") == 1


def test_a_cdc_delete_leaves_bronze_and_silver(customers: Customers) -> None:
    customers.sql("alter table raw.users add column _ab_cdc_deleted_at varchar")
    customers.database.insert_changed(
        "raw.users",
        "id = 3",
        _airbyte_raw_id="'deleted'",
        _airbyte_extracted_at="_airbyte_extracted_at + interval 2 hour",
        _ab_cdc_deleted_at="'2026-01-01T00:00:00Z'",
    )
    _all_well(customers.build())

    assert customers.count("bronze.stg_customers", "customer_id = 3") == 0
    assert customers.count("silver.dim_customer", "customer_id = 3") == 0
    assert customers.count("silver.dim_customer_history", "customer_id = 3 and dbt_valid_to is null") == 0


@pytest.mark.nightly("trino")
def test_a_new_generation_replaces_the_old_one_whole(customers: Customers) -> None:
    customers.database.insert_changed(
        "raw.users",
        "id between 11 and 160",
        _airbyte_raw_id="_airbyte_raw_id || '-2'",
        _airbyte_generation_id="_airbyte_generation_id + 1",
        _airbyte_extracted_at="_airbyte_extracted_at + interval 3 hour",
    )
    _all_well(customers.build())
    assert customers.count("silver.dim_customer") == 150

    incremental = customers.dimension()
    _all_well(customers.build("--full-refresh", "--exclude", "dim_customer_history"))
    assert customers.dimension() == incremental


def test_the_comparison_with_the_full_rebuild_can_fail(customers: Customers) -> None:
    customers.sql("update silver.dim_customer set city = 'Nowhere' where customer_id = 20")
    # Older than the overlap: the incremental build has no reason to look at it again.
    customers.sql("update raw.users set _airbyte_extracted_at = _airbyte_extracted_at - interval 30 day where id = 20")
    assert customers.build()[EQUAL] == "fail"
