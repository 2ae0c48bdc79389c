"""The probe of limits: the pool of exports, on an engine without one."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.doctor.limits import limits
from lakehouse_analytics.doctor.probe import Finding, ProbeContext, Status
from manifests import Manifest

COPIED = {"arrives": {"database": "shop", "to": "reports", "primary_key": "id", "mode": "full"}}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as made:
        yield made


def probe(instance: dg.DagsterInstance, limit: int | None, *, serve: bool = False, source: bool = False) -> Finding:
    manifest = Manifest()
    manifest.model("m", folder="gold", lakehouse={"serve": {"to": "reports", "table": "t"}} if serve else {})
    if source:
        manifest.source("shop", "customers", lakehouse=COPIED)
    context = ProbeContext(timeout=15)
    document = manifest.build()
    document["metadata"]["adapter_type"] = "trino"
    context.graph = read(document, {})
    context.instance = instance
    storage = instance.event_log_storage
    storage.delete_concurrency_limit("exports") if limit is None else storage.set_concurrency_slots("exports", limit)
    return limits(context)


@pytest.mark.parametrize("what", [{"serve": True}, {"source": True}])
@pytest.mark.parametrize(
    ("limit", "url", "problem"),
    [
        (None, "clickhouse://u@host/d", "the limit of the pool exports is not set"),
        (4, "chdb:///data", "the limit of the pool exports is 4, not 1"),
        (4, "clickhouse://u@host/d", None),
        (1, "chdb:///data", None),
    ],
)
def test_exports_need_a_limit(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    what: dict[str, bool],
    limit: int | None,
    url: str,
    problem: str | None,
) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_REPORTS", url)
    found = probe(instance, limit, **what)
    assert found.status is (Status.FAILED if problem else Status.OK)
    if problem:
        assert found.message == problem
        assert found.fix == "Run `dagster instance concurrency set exports 1`."
    else:
        assert "at a time in the pool exports" in found.message


def test_a_project_without_exports_needs_none(instance: dg.DagsterInstance) -> None:
    assert probe(instance, None).message == "this project needs no limits"
