"""A run whose step failed for want of Dagster's database is marked for a retry; another is not."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster_postgres.utils import DagsterPostgresException
from lakehouse_analytics.runs.retry_on_lost_storage import retry_after_a_lost_database
from sqlalchemy.exc import OperationalError

LOST = OperationalError("INSERT", {}, Exception("server closed the connection unexpectedly"))
#: After some tries to connect.
REFUSED = DagsterPostgresException("too many retries for DB connection")


@pytest.mark.parametrize(
    ("error", "retried"),
    [(LOST, "true"), (REFUSED, "true"), (dg.Failure("a gate"), None), (ValueError("a bug"), None)],
    ids=repr,
)
def test_only_a_lost_database_is_worth_a_retry(error: Exception, retried: str | None) -> None:
    @dg.asset
    def table() -> None:
        raise error

    job = dg.define_asset_job("job", [table], hooks={retry_after_a_lost_database})
    definitions = dg.Definitions([table], jobs=[job])
    config = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}
    with dg.instance_for_test(overrides=config) as instance:
        done = definitions.resolve_job_def("job").execute_in_process(instance=instance, raise_on_error=False)
        found = instance.get_run_by_id(done.run_id)
    assert found
    assert found.tags.get("dagster/retry_on_asset_or_op_failure") == retried
    assert found.tags.get("dagster/will_retry") == (retried or "false")
