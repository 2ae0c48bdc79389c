"""`make airbyte-sim` after `make demo`, with its defaults: each sync moves rows, and none makes a table shrink."""

from __future__ import annotations

import pytest
from lakehouse_analytics.devtools.airbyte_sim import first_count
from lakehouse_analytics.ingest.config import load
from lakehouse_analytics.ingest.sync import DEFAULT
from lakehouse_analytics.settings import repository_root


def test_the_first_sync_has_more_users_than_the_demo() -> None:
    demo = load(repository_root() / DEFAULT)
    ingested = demo.config["count"]
    first = first_count(demo, None, 10)
    assert first is not None
    assert first > ingested


def test_a_number_that_is_given_is_the_number() -> None:
    assert first_count(load(repository_root() / DEFAULT), 7, 10) == 7


@pytest.mark.parametrize("config", [{}, {"count": "many"}])
def test_a_connector_that_makes_up_no_users_runs_as_its_file_says(config: dict[str, str]) -> None:
    connection = load(repository_root() / DEFAULT).model_copy(update={"config": config})
    assert first_count(connection, None, 10) is None
