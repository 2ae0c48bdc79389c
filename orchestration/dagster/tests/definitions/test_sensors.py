"""`gold_on_silver` against a real instance: what it asks for, and what it does not ask for twice."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from lakehouse_analytics.sensors import gold_on_silver
from manifests import Manifest

FACT, VALUE, SILVER = (dg.AssetKey(key) for key in (["gold", "fct"], ["gold", "clv"], ["silver", "s"]))


def _definitions() -> dg.Definitions:
    manifest = Manifest()
    silver = manifest.model("s", folder="silver")
    fact = manifest.model("fct", silver, folder="gold")
    manifest.model("clv", silver, fact, folder="gold")

    @dg.multi_asset(
        specs=[dg.AssetSpec(key) for key in (FACT, VALUE, SILVER)],
        check_specs=[dg.AssetCheckSpec("row_count", asset=FACT)],
        can_subset=True,
    )
    def build():  # type: ignore[no-untyped-def]
        yield from ()

    return dg.Definitions(assets=[build], sensors=gold_on_silver(manifest.graph(), max_runtime=60))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def _built(instance: dg.DagsterInstance, *keys: dg.AssetKey) -> None:
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(key))


def _tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    definitions = _definitions()
    sensor = definitions.resolve_sensor_def("gold_on_silver")
    with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def _asked(requests: list[dg.RunRequest]) -> list[set[dg.AssetKey]]:
    return [set(request.asset_selection or []) for request in requests]


def test_gold_follows_silver_and_retries_from_the_failed_asset(instance: dg.DagsterInstance) -> None:
    _built(instance, SILVER)
    requests = _tick(instance)
    assert _asked(requests) == [{FACT, VALUE}]
    assert requests[0].tags["dagster/retry_strategy"] == "FROM_ASSET_FAILURE"


def test_its_runs_are_of_the_job_of_all_assets_with_the_checks_of_what_they_build(instance: dg.DagsterInstance) -> None:
    _built(instance, SILVER)
    [request] = _tick(instance)
    assert request.job_name == "__ASSET_JOB"
    assert request.asset_check_keys == [dg.AssetCheckKey(FACT, "row_count")]
    # A job of its own would be resolved and described at each start of a code server.
    assert [job.name for job in _definitions().resolve_all_job_defs()] == ["__ASSET_JOB"]


def test_the_same_question_has_the_same_key_and_a_newer_silver_another(instance: dg.DagsterInstance) -> None:
    _built(instance, SILVER)
    [first], [again] = _tick(instance), _tick(instance)
    assert first.run_key == again.run_key
    _built(instance, SILVER)
    [newer] = _tick(instance)
    assert newer.run_key != first.run_key


def test_what_a_run_left_unbuilt_is_asked_for_again(instance: dg.DagsterInstance) -> None:
    _built(instance, SILVER)
    [whole] = _tick(instance)
    _built(instance, FACT)
    [rest] = _tick(instance)
    assert _asked([rest]) == [{VALUE}]
    assert rest.run_key != whole.run_key, "Dagster drops a key it has seen: the table would stay stale"


def test_nothing_is_asked_for_once_gold_is_newer(instance: dg.DagsterInstance) -> None:
    _built(instance, SILVER, FACT, VALUE)
    assert _tick(instance) == []
