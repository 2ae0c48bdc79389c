"""A table that dbt built under another name than the manifest's is a failure, and is never counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lakehouse_analytics.relations import refuse_other_relations
from lakehouse_analytics.run_results import DbtResult, read_results
from manifests import Manifest


def result(tmp_path: Path, unique_id: str, relation: str | None, status: str = "success") -> DbtResult:
    path = tmp_path / "run_results.json"
    item = {"unique_id": unique_id, "status": status, "message": "said", "relation_name": relation}
    path.write_text(json.dumps({"results": [item]}))
    return DbtResult(0, read_results(path))


@pytest.mark.parametrize("relation", ['"lake"."prod"."orders"', '"other"."main"."orders"', '"lake"."main"."orders_2"'])
def test_another_relation_is_an_error_with_both_names(tmp_path: Path, relation: str) -> None:
    manifest = Manifest()
    orders = manifest.model("orders")
    found = refuse_other_relations(manifest.graph().tables.values(), result(tmp_path, orders, relation))
    assert found.nodes[orders].status == "error"
    assert found.nodes[orders].message.startswith(
        f'dbt built {relation}, but the manifest of this location has "lake"."main"."orders": '
    )


@pytest.mark.parametrize(
    ("relation", "status"), [('"lake"."main"."orders"', "success"), (None, "success"), ('"other"."x"."y"', "error")]
)
def test_the_same_relation_none_and_a_failure_stay_as_they_are(
    tmp_path: Path, relation: str | None, status: str
) -> None:
    manifest = Manifest()
    orders = manifest.model("orders")
    given = result(tmp_path, orders, relation, status)
    assert refuse_other_relations(manifest.graph().tables.values(), given) == given


@pytest.mark.parametrize("log", [True, False])
def test_the_relation_of_a_seed_is_read_from_the_log(tmp_path: Path, *, log: bool) -> None:
    manifest = Manifest()
    kinds = manifest.model("kinds", kind="seed")
    if log:
        node = {"unique_id": kinds, "node_relation": {"relation_name": '"lake"."prod"."kinds"'}}
        lines = [
            "LogSeedResult, but not JSON",
            json.dumps({"info": {"name": "Other", "msg": "LogSeedResult"}, "data": {}}),
            json.dumps({"info": {"name": "LogSeedResult"}, "data": {"node_info": node}}),
        ]
        (tmp_path / "dbt.log").write_text("\n".join(lines))
    found = refuse_other_relations(manifest.graph().tables.values(), result(tmp_path, kinds, None))
    assert found.nodes[kinds].status == ("error" if log else "success")
