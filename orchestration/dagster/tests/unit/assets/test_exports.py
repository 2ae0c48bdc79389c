"""Which exports a project has, and which checks are their gates."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import dagster as dg
import pytest
from lakehouse_analytics.assets import exports as module
from lakehouse_analytics.assets import transfer_retries
from lakehouse_analytics.assets.exports import export_assets, exports_of
from lakehouse_analytics.assets.external import external_assets
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.exports.base import ExportError
from lakehouse_analytics.keys import EXPORTS_POOL
from lakehouse_analytics.settings import Settings
from manifests import Manifest


def serve(table: str, to: str = "ch") -> dict[str, str]:
    return {"to": to, "table": table}


def test_an_export_has_the_owner_tags_and_gates_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_PG", "postgresql://u:secret@h/d")
    manifest = Manifest()
    lakehouse = {
        "owner": "team:growth",
        "freshness": {"within": "2h", "cron": "0 6 * * *"},
        "rows": {"min": 1, "drift": {"severity": "warn"}},
        "serve": [serve("reporting.days"), serve("days", "pg")],
        "partition": "daily",
    }
    days = manifest.model(
        "days", folder="gold", lakehouse=lakehouse, event_time="day", begin="2026-01-01",
        incremental_strategy="replace_window", materialized="incremental",
    )  # fmt: skip
    manifest.nodes[days]["tags"] = ["finance"]
    manifest.test("not_null_days_day", days, attached=days)
    manifest.test("odd_days", days, attached=days, severity="warn")
    graph = manifest.graph()

    exports = exports_of(graph)
    key = dg.AssetKey(["gold", "days"])
    gates = {dg.AssetCheckKey(key, "not_null_days_day"), dg.AssetCheckKey(key, "row_count")}
    assert [set(one.gates) for one in exports] == [gates, gates]
    assets = export_assets(graph, exports, Settings(timezone="Europe/Rome"))
    specs = {spec.key.to_user_string(): spec for one in assets for spec in one.specs}
    assert specs.keys() == {"ch/reporting/days", "pg/days"}
    for spec in specs.values():
        assert (spec.group_name, spec.owners, {name: tag for name, tag in spec.tags.items() if "kind" not in name}) == (
            "exports",
            ["team:growth"],
            {"finance": ""},
        )
        assert spec.partitions_def is None
        assert spec.freshness_policy == dg.FreshnessPolicy.cron(
            deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=2), timezone="Europe/Rome"
        )
        assert [dep.asset_key for dep in spec.deps] == [key]
    assert specs["pg/days"].kinds == {"postgresql"}
    assert specs["ch/reporting/days"].kinds == set()  # its connection is not set
    assert {one.op.pool for one in assets} == {graph.engine.pool or EXPORTS_POOL}
    assert {check.name for one in assets for check in one.check_specs} == {"rows_served"}


def test_two_tables_cannot_have_one_copy() -> None:
    manifest = Manifest()
    manifest.model("a", folder="gold", lakehouse={"serve": serve("reporting.t")})
    manifest.model("b", folder="gold", lakehouse={"serve": serve("reporting.t")})
    with pytest.raises(
        ContractError,
        match=r"models/gold/b\.sql: model b: meta\.lakehouse\.serve: ch and reporting\.t are also those of model a\.",
    ):
        exports_of(manifest.graph())


def of_exposure(serve: object, **more: object) -> dict[str, Any]:
    return {"config": {"meta": {"lakehouse": {"serve": serve}}}, **more}


def test_a_copy_for_an_exposure_has_its_owner_and_the_rest_of_its_table() -> None:
    manifest = Manifest()
    lakehouse = {"owner": "team:growth", "freshness": {"within": "2h"}, "serve": serve("a")}
    days = manifest.model("days", folder="gold", lakehouse=lakehouse)
    manifest.nodes[days]["tags"] = ["finance"]
    manifest.test("not_null_days_day", days, attached=days)
    manifest.exposure("sales", days, **of_exposure(serve("b"), owner={"email": ["ann@shop.com", "sales"]}))
    manifest.exposure("anonymous", days, **of_exposure(serve("c"), owner={"name": "Finance"}))
    graph = manifest.graph()

    exports = {one.serve.table: one for one in exports_of(graph)}
    assert {table: one.owner for table, one in exports.items()} == {
        "a": "model days",
        "b": "exposure sales",
        "c": "exposure anonymous",
    }
    assert exports["a"].gates == exports["b"].gates != []
    specs = {spec.key: spec for one in export_assets(graph, [*exports.values()], Settings()) for spec in one.specs}
    a, b, c = (specs[dg.AssetKey(["ch", table])] for table in "abc")
    assert (a.owners, b.owners, c.owners) == (["team:growth"], ["ann@shop.com"], ["team:growth"])
    assert b.description == "Copy of gold/days for exposure sales, made after each build whose gates passed."
    of_table = [spec.replace_attributes(key=a.key, owners=[], description="") for spec in (a, b, c)]
    assert of_table == [of_table[0]] * 3


def test_a_dashboard_is_downstream_of_its_copy() -> None:
    manifest = Manifest()
    days = manifest.model("days", folder="gold")
    manifest.exposure("sales", days, **of_exposure(serve("reporting.days")))
    manifest.exposure("other", days)
    graph = manifest.graph()

    def above(graph: Graph, *, loads: bool = True) -> dict[str, list[str]]:
        specs = external_assets(graph, loads=loads)
        return {
            spec.key.to_user_string(): sorted(dep.asset_key.to_user_string() for dep in spec.deps) for spec in specs
        }

    assert above(graph) == {"exposures/sales": ["ch/reporting/days", "gold/days"], "exposures/other": ["gold/days"]}
    # A branch makes no copies.
    assert above(graph.with_prefix("pr_42"), loads=False)["pr_42/exposures/sales"] == ["pr_42/gold/days"]


@pytest.mark.parametrize(
    ("on_model", "other", "expected"),
    [
        (
            True,
            [],
            r"exposure sales: meta\.lakehouse\.serve: ch and t are also those of model days\. Remove one of the",
        ),
        (
            False,
            ["days"],
            r"exposure b: meta\.lakehouse\.serve: ch and t are also those of exposure sales\. Remove one",
        ),
        (False, ["hours"], r"exposure b: .* are also those of exposure sales\. Each copy needs a name of its own\."),
    ],
)
def test_an_exposure_cannot_have_the_copy_of_another_contract(on_model: bool, other: list[str], expected: str) -> None:
    manifest = Manifest()
    days = manifest.model("days", folder="gold", lakehouse={"serve": serve("t")} if on_model else None)
    manifest.model("hours", folder="gold")
    manifest.exposure("sales", days, **of_exposure(serve("t")))
    for name in other:
        manifest.exposure("b", f"model.shop.{name}", **of_exposure(serve("t")))
    with pytest.raises(ContractError, match=rf"models/exposures\.yml: {expected}"):
        exports_of(manifest.graph())


def test_a_copy_cannot_have_the_key_of_a_table() -> None:
    manifest = Manifest()
    manifest.model("a", folder="gold", lakehouse={"serve": serve("a", "gold")})
    with pytest.raises(ContractError, match="gold/a is the key of another asset; rename the copy"):
        exports_of(manifest.graph())


@pytest.mark.parametrize(
    ("error", "retries"),
    [
        (ExportError("connection lost", transient=True), 2),
        (ExportError("no such database"), 0),
        (RuntimeError("a bug"), 0),
        (KeyboardInterrupt(), 0),
    ],
)
def test_only_a_failure_that_may_pass_is_retried(
    error: BaseException, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def destination(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(module, "destination", destination)
    monkeypatch.setattr(transfer_retries, "RETRIES", dg.RetryPolicy(max_retries=2))
    monkeypatch.setenv("LAKEHOUSE_CONNECTION_PG", "postgresql://u@h/d")
    manifest = Manifest()
    manifest.model("a", folder="gold", lakehouse={"serve": serve("a", "pg")})
    graph = manifest.graph()
    assets = export_assets(graph, exports_of(graph), Settings())
    with dg.DagsterInstance.ephemeral() as instance:
        with suppress(KeyboardInterrupt):
            dg.materialize(assets, instance=instance, resources={"engine": object()}, raise_on_error=False)
        [run] = instance.get_runs()
        assert len(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)) == retries
        [failed] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        event = failed.dagster_event
        assert event is not None
        reason = event.step_failure_data.error
        assert reason is not None
        assert str(error) in reason.to_string()
