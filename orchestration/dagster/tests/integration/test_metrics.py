"""The metrics of an instance that loses its PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
import yaml
from lakehouse_analytics.instance.metrics import InstanceMetrics

from .stack import empty_database

pytestmark = [pytest.mark.integration, pytest.mark.trino]  # for the stack's PostgreSQL


def test_a_database_that_went_is_told_in_one_line_and_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with empty_database() as address:
        written = {"storage": {"postgres": {"postgres_url": address}}, "telemetry": {"enabled": False}}
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(written))
        instance = dg.DagsterInstance.from_config(str(tmp_path))
        metrics = InstanceMetrics(instance)
        names = {family.name for family in metrics.collect()}
        assert {"dagster_daemon_last_heartbeat_timestamp_seconds", "dagster_runs", "dagster_last_tick_failed"} <= names
    with instance:
        [up] = metrics.collect()
    assert [(sample.name, sample.value) for sample in up.samples] == [("dagster_storage_up", 0)]
    [line] = [record.getMessage() for record in caplog.records if record.name == "lakehouse_analytics.instance.metrics"]
    parts = urlsplit(address)
    assert line.startswith("Dagster's storage does not answer: ")
    assert f'database "{parts.path[1:]}" does not exist' in line
    assert "\n" not in line
    assert parts.password
    assert parts.password not in caplog.text
