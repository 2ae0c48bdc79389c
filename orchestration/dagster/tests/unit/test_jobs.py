from __future__ import annotations

import pytest
from lakehouse_analytics.assets.own import OwnAssets
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.jobs import build_jobs
from manifests import Manifest


@pytest.mark.parametrize(("project", "expected"), [("lakehouse", True), ("shop", False)])
def test_customer_pipeline_is_a_job_of_the_demo_alone(project: str, *, expected: bool) -> None:
    m = Manifest()
    m.model("stg_customers", m.source("raw", "customers"), folder="bronze")
    built = m.build()
    graph = read({**built, "metadata": {**built["metadata"], "project_name": project}}, {})
    names = {job.name for job in build_jobs(graph, {}, OwnAssets(graph), max_runtime=1, maintenance=False)}
    assert names == {"full_refresh", "bronze_refresh"} | ({"customer_pipeline"} if expected else set())


def test_full_refresh_has_the_checks_of_what_no_run_builds() -> None:
    m = Manifest()
    raw = m.source("raw", "customers")
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    foreign = m.foreign("dim")
    m.model("stg", raw, constants, foreign, folder="bronze")
    for name, parent in (("of_source", raw), ("of_constants", constants), ("of_foreign", foreign)):
        m.test(name, parent)
    m.test("of_project")
    graph = m.graph()
    [job] = [
        job
        for job in build_jobs(graph, {}, OwnAssets(graph), max_runtime=1, maintenance=False)
        if job.name == "full_refresh"
    ]
    selected = repr(job.selection)
    assert all(name in selected for name in ("of_source", "of_constants", "of_foreign", "of_project"))
