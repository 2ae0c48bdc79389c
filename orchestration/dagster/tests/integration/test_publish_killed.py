"""A run with LAKEHOUSE_PUBLISH=run that is killed at a random moment: readers see nothing of it, nothing is left."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog

from tests.dagster_ui import poll

from .daemon import Child, Lake, alive, dbt_below, full_refresh, new_lake
from .databases import Trino

# On each push, test_publish_readers.py kills runs.
pytestmark = [pytest.mark.engine("trino"), pytest.mark.nightly]

RUN = full_refresh(days=30)
#: Files of replaced views are kept for a rollback.
_TO_DELETE = "select 1 from lakehouse_dropped_tables where catalog_name = :catalog and delete_after <= now()"
#: More with LAKEHOUSE_TEST_KILLS.
KILLS = int(os.environ.get("LAKEHOUSE_TEST_KILLS", "2"))


@pytest.fixture
def lake(tmp_path: Path, engine: str) -> Lake:
    return new_lake(tmp_path, engine, {"LAKEHOUSE_PUBLISH": "run"})


def _have_ended(processes: list[psutil.Process]) -> bool:
    return not alive(processes)


def test_a_killed_run_publishes_nothing_and_the_next_one_removes_what_it_left(lake: Lake) -> None:
    first = Child(lake, lake.root / "first.log", *RUN)
    assert first.wait() == 0, first.tail()
    seconds = _seconds(first)
    published = lake.contents()
    for kill in range(KILLS):
        child = Child(lake, lake.root / f"kill-{kill}.log", *RUN)
        child.wait_for(" START ")
        time.sleep(random.uniform(0, seconds))
        dbt = dbt_below(child.process.pid)
        child.kill_group()
        child.wait()
        poll(partial(_have_ended, dbt), seconds=10, what="dbt's end", because=child.tail)
        if child.process.returncode == -signal.SIGKILL:
            assert lake.contents() == published, child.tail()
    last = Child(lake, lake.root / "last.log", *RUN)
    assert last.wait() == 0, last.tail()
    assert lake.contents() == published
    assert "Published " in last.said
    database = lake.database
    assert isinstance(database, Trino)
    assert [schema for (schema,) in database.ask("show schemas") if "__" in str(schema)] == []
    with patch.dict(os.environ, database.environment):
        branches = SqlBranchCatalog(database.catalog)
        assert branches.branches() == []
        with branches.transaction("The test") as session:
            assert session.run(_TO_DELETE) == []


def _seconds(run: Child) -> float:
    """How long the run has built tables."""
    times = re.findall(r"in (\d+\.\d\d)s\]", run.said)
    return max(5.0, sum(map(float, times)) / 2)
