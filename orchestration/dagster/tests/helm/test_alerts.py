"""When the alerts of charts/lakehouse-support fire, and when they do not: by Prometheus' own promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendered import wanted
from .test_support import MONITORED, made

#: A deployment in which all is well, with one value per minute. Times are seconds since the start.
WELL = {
    "dagster_storage_up": "1x600",
    "dagster_run_queue_enabled": "1x600",
    'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="SENSOR"}': "0+60x600",
    'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="SCHEDULER"}': "0+60x600",
    'dagster_daemon_errors{daemon="SENSOR"}': "0x600",
    'dagster_runs{status="QUEUED"}': "0x600",
    'dagster_runs{status="NOT_STARTED"}': "1x600",
    'dagster_runs{status="STARTING"}': "0x600",
    'dagster_runs{status="STARTED"}': "0x600",
    'dagster_runs{status="CANCELING"}': "0x600",
    'dagster_last_tick_failed{type="schedule",name="daily_refresh",location="l"}': "0x600",
}
GOING = {'dagster_runs{status="STARTED"}': "1x600"}
QUEUED = {'dagster_runs{status="QUEUED"}': "2x600"}
#: Which metrics there are when storage does not answer.
ALONE = dict.fromkeys(WELL, "_x600")


def promtool(*words: str | Path) -> str:
    """What it says if it has something against it."""
    wanted("promtool", "the alerts have not been tried")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The file that the Prometheus Operator would write."""
    [rule] = made(*MONITORED).of("PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    return path


def test_prometheus_reads_them(rules: Path) -> None:
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", rules) == ""


def of(namespace: str, series: Mapping[str, str]) -> list[dict[str, str]]:
    """As they are scraped from a pod there."""
    found = []
    for metric, values in series.items():
        name, _, labels = metric.removesuffix("}").partition("{")
        scraped = ",".join(filter(None, [f'namespace="{namespace}"', 'pod="p"', labels]))
        found.append({"series": f"{name}{{{scraped}}}", "values": values})
    return found


def judged(rules: Path, series: Mapping[str, str], **expected: Any) -> str:
    """What is otherwise than expected, with these series in place of those of a deployment where all is well."""
    # Another namespace's do not say anything of ours.
    scraped = [*of("dagster", {**WELL, **series}), *of("other", WELL)]
    test = {"interval": "1m", "input_series": scraped, **expected}
    path = rules.with_name("test.yaml")
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    return promtool("test", "rules", path)


@pytest.mark.parametrize(
    ("series", "minute", "firing"),
    [
        pytest.param({}, 590, [], id="all is well"),
        pytest.param({**ALONE, "dagster_storage_up": "1x3 _x600"}, 12, [], id="not scraped for a while"),
        pytest.param({**ALONE, "dagster_storage_up": "1x3 _x600"}, 30, ["DagsterMetricsMissing"], id="not scraped"),
        pytest.param({**ALONE, "dagster_storage_up": "0x600"}, 4, [], id="PostgreSQL restarts"),
        pytest.param({**ALONE, "dagster_storage_up": "0x600"}, 6, ["DagsterStorageDown"], id="PostgreSQL is down"),
        pytest.param(
            {'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="SENSOR"}': "0+60x9 600x600"},
            14, [], id="a daemon restarts"),
        pytest.param(
            {'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="SENSOR"}': "0+60x9 600x600"},
            17, ["DagsterDaemonDead"], id="a daemon is dead"),
        pytest.param(
            {'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="FRESHNESS"}': "0x600"},
            7, ["DagsterDaemonDead"], id="a daemon never came"),
        pytest.param({'dagster_daemon_errors{daemon="SENSOR"}': "1x5 0x600"}, 20, [], id="an error once"),
        pytest.param(
            {'dagster_daemon_errors{daemon="SENSOR"}': "5x600"}, 16, ["DagsterDaemonErrors"], id="nothing but errors"),
        pytest.param({"dagster_run_queue_enabled": "0x600"}, 4, [], id="the run queue is off for a moment"),
        pytest.param({"dagster_run_queue_enabled": "0x600"}, 6, ["DagsterRunQueueDisabled"], id="the run queue is off"),
        pytest.param({"dagster_run_queue_enabled": "_x600"}, 590, [], id="an image without the metric"),
        pytest.param(QUEUED, 9, [], id="the queue waits for a moment"),
        pytest.param(QUEUED, 11, ["DagsterQueueStuck"], id="the queue is stuck"),
        pytest.param({**QUEUED, **GOING}, 590, [], id="the queue waits for what is going"),
        pytest.param({"dagster_queue_oldest_run_timestamp_seconds": "600x600"}, 240, [], id="a run waits"),
        pytest.param(
            {"dagster_queue_oldest_run_timestamp_seconds": "600x600"}, 251, ["DagsterRunWaits"], id="a run waits long"),
        pytest.param(
            {'dagster_last_tick_failed{type="schedule",name="daily_refresh",location="l"}': "1x10 0x600"},
            16, [], id="a tick fails once"),
        pytest.param(
            {'dagster_last_tick_failed{type="schedule",name="daily_refresh",location="l"}': "1x600"},
            16, ["DagsterTicksFail"], id="ticks fail"),
    ],
)  # fmt: skip
def test_they_fire_when_they_should(rules: Path, series: dict[str, str], minute: int, firing: list[str]) -> None:
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = [{"expr": query, "eval_time": f"{minute}m", "exp_samples": samples}]
    assert judged(rules, series, promql_expr_test=expected) == ""


def test_a_run_queue_that_is_off_names_what_happens_and_the_value_to_change(rules: Path) -> None:
    expected = {
        "exp_labels": {"severity": "critical", "namespace": "dagster"},
        "exp_annotations": {
            "summary": "Dagster's run queue is off, so no run limit holds",
            "description": (
                "The run coordinator in the ConfigMap dagster-instance is not QueuedRunCoordinator: each run starts at "
                "once, and runs that are queued already never start. Set dagsterDaemon.runCoordinator in the values of "
                "the Dagster chart."
            ),
        },
    }
    test = [{"eval_time": "6m", "alertname": "DagsterRunQueueDisabled", "exp_alerts": [expected]}]
    assert judged(rules, {"dagster_run_queue_enabled": "0x600"}, alert_rule_test=test) == ""


def test_every_alert_fires_in_a_test(rules: Path) -> None:
    [group] = yaml.safe_load(rules.read_text())["groups"]
    tried = Path(__file__).read_text()
    assert [one["alert"] for one in group["rules"] if f'["{one["alert"]}"]' not in tried] == []


@pytest.mark.parametrize(
    ("heartbeats", "minute", "words"),
    [
        ("0+60x9 600x600", 20, "Its last heartbeat was 10m 0s ago."),
        ("-10000000000x600", 20, "It has never sent a heartbeat."),  # 0 to a clock that is far from it
    ],
)
def test_they_say_of_what_and_what_to_do(rules: Path, heartbeats: str, minute: int, words: str) -> None:
    dead = {'dagster_daemon_last_heartbeat_timestamp_seconds{daemon="SENSOR"}': heartbeats}
    expected = {
        "exp_labels": {"severity": "critical", "namespace": "dagster", "daemon": "SENSOR"},
        "exp_annotations": {
            "summary": "Dagster's daemon SENSOR is dead",
            "description": f"{words} See the log of deployment/dagster-daemon.",
        },
    }
    test = [{"eval_time": f"{minute}m", "alertname": "DagsterDaemonDead", "exp_alerts": [expected]}]
    assert judged(rules, dead, alert_rule_test=test) == ""
