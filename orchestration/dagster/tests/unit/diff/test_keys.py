"""Which columns identify a row, as the dbt project declares them."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.diff.keys import Key, candidates, choose_key
from manifests import Manifest


def keys_of(manifest: Manifest, unique_id: str, **entry: Any) -> list[Key]:
    manifest.nodes[unique_id] |= entry
    raw = manifest.build()
    table = read(raw, {}).resource(unique_id)
    return [*candidates(table, raw)]  # type: ignore[arg-type]


def with_test(manifest: Manifest, model: str, name: str, column: str | None = None, **more: Any) -> None:
    test = f"test.shop.{name}_{column}_{len(manifest.nodes)}"
    manifest.nodes[test] = {
        "unique_id": test,
        "resource_type": "test",
        "name": test,
        "package_name": "shop",
        "fqn": ["shop", test],
        "original_file_path": "models/orders.yml",
        "attached_node": model,
        "column_name": column,
        "test_metadata": {"name": name, "kwargs": more.pop("kwargs", {})},
        "depends_on": {"nodes": [model]},
        "config": {"severity": "error", **more},
    }


@pytest.mark.parametrize(("unique_key", "columns"), [("id", ("id",)), (["id", "part"], ("id", "part"))])
def test_the_unique_key_comes_first(unique_key: Any, columns: tuple[str, ...]) -> None:
    manifest = Manifest()
    model = manifest.model("orders", unique_key=unique_key)
    with_test(manifest, model, "unique", "other")
    assert keys_of(manifest, model) == [
        Key(columns, "the config unique_key"),
        Key(("other",), "dbt's test unique"),
    ]


def test_primary_keys_of_contracts() -> None:
    manifest = Manifest()
    model = manifest.model("orders")
    found = keys_of(
        manifest,
        model,
        constraints=[{"type": "primary_key", "columns": ["id", "part"]}, {"type": "check", "columns": ["n"]}],
        columns={
            "id": {"name": "id", "constraints": [{"type": "not_null"}]},
            "sk": {"name": "sk", "constraints": [{"type": "primary_key"}]},
        },
    )
    assert [key.columns for key in found] == [("id", "part"), ("sk",)]


def test_columns_that_are_never_null_come_before_others_and_tests_of_some_rows_do_not_count() -> None:
    manifest = Manifest()
    model, other = manifest.model("orders"), manifest.model("customers")
    with_test(manifest, model, "unique_combination_of_columns", kwargs={"combination_of_columns": ["day", "shop"]})
    with_test(manifest, model, "unique", "code")
    with_test(manifest, model, "unique", "id")
    with_test(manifest, model, "unique", "recent", where="day > '2026-01-01'")
    with_test(manifest, model, "not_null", "id")
    with_test(manifest, other, "unique", "customer_id")
    found = keys_of(manifest, model)
    assert [key.columns for key in found] == [("id",), ("code",), ("day", "shop")]


def test_a_snapshot_has_dbts_own_key() -> None:
    manifest = Manifest()
    model = manifest.model("history", kind="snapshot", unique_key="id")
    assert keys_of(manifest, model) == [Key(("dbt_scd_id",), "the dbt snapshot")]


def test_a_key_that_a_side_does_not_have_is_skipped() -> None:
    declared = [Key(("cast(id as text)",), "the config unique_key"), Key(("ID", "part"), "dbt's test unique")]
    common = {"id": "Id", "part": "part"}
    assert choose_key((), declared, common) == Key(("Id", "part"), "dbt's test unique")
    assert choose_key((), declared[:1], common) == Key((), "")
    assert choose_key(["part", "PART"], declared, common) == Key(("part",), "--key")
