"""An upgrade from an older release of the official chart, with runs in the queue: `--chart-before FOLDER`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helm.chart import Chart

from .conftest import Release, objects, until
from .test_cluster import BUILT, DAYS, contents, parent


def test_an_upgrade_of_the_chart_loses_and_doubles_no_run(release: Release, request: pytest.FixtureRequest) -> None:
    before = request.config.getoption("--chart-before")
    if not before:
        pytest.skip("--chart-before names no older chart: an upgrade of the chart has not been tried")
    old = replace(release, chart=Chart(Path(before)))
    old.helm("--wait", "--timeout", "10m")
    release.ui.wait_until_ready(seconds=300)
    [first, *queued] = [release.ui.launch("full_refresh", tags=DAYS) for _ in range(3)]
    runs = [first, *queued]
    until(lambda: release.ui.status(first) == "STARTED", seconds=180, what="the first run's start", release=release)
    assert [release.ui.status(one) for one in queued] == ["QUEUED", "QUEUED"]
    release.helm("--wait", "--timeout", "10m")
    together: Counter[int] = Counter()

    def ended() -> bool:
        pods = objects("pods", "-l", "app.kubernetes.io/component=run_worker")
        ours = [pod for pod in pods if pod["metadata"]["labels"].get("dagster/run-id") in runs]
        together[sum(pod["status"]["phase"] in ("Pending", "Running") for pod in ours)] += 1
        return {release.ui.status(one) for one in runs} <= {"SUCCESS", "FAILURE", "CANCELED"}

    until(ended, seconds=900, what="the end of all three", release=release)
    for one in runs:
        done = release.ui.finished(one)
        assert done.status == "SUCCESS", done.words
        assert done.materialized == BUILT
    # DuckDB's pool lets one run write at a time, before, during and after the upgrade.
    assert max(together) == 1
    jobs = Counter(job["metadata"]["labels"].get("dagster/run-id") for job in objects("jobs"))
    assert {one: jobs[one] for one in runs} == dict.fromkeys(runs, 1)
    children = [one for one in release.ui.run_ids() if one not in runs and parent(release, one) in runs]
    assert children == []
    assert contents(release)
