"""The lint of settings under which readers on Trino see half of a table."""

from __future__ import annotations

from typing import Any

import pytest
from lakehouse_analytics.dbt.lint.findings import Finding, warnings
from lakehouse_analytics.dbt.nodes import manifest_of
from lakehouse_analytics.engines.trino.atomic_write_lint import lint
from manifests import PROJECT, Manifest

CONTRACT = {"enforced": True, "alias_types": True}


def findings(
    m: Manifest, *atomic: str, adapter: str = "trino", package: str = PROJECT, declared: object = True
) -> list[Finding]:
    """Lint the manifest, with macros of `package` that declare themselves atomic."""
    macros = {
        f"macro.{package}.{name}": {
            "name": name,
            "package_name": package,
            "meta": {"lakehouse": {"atomic": declared}} if declared is not None else {},
        }
        for name in atomic
    }
    metadata = {"adapter_type": adapter, "project_name": PROJECT}
    return lint(manifest_of({**m.build(), "metadata": metadata, "macros": macros}))


def table(**config: Any) -> Manifest:
    m = Manifest()
    m.model("fct", folder="gold", **config)
    return m


def incremental(strategy: str | None, **config: Any) -> Manifest:
    return table(materialized="incremental", incremental_strategy=strategy, **{"on_table_exists": "replace", **config})


@pytest.mark.parametrize(
    "manifest",
    [
        table(on_table_exists="replace"),
        table(on_table_exists="skip"),
        table(materialized="view", contract=CONTRACT, on_table_exists="drop"),
        table(materialized="ephemeral", on_table_exists="drop"),
        table(materialized="somebody_elses", on_table_exists="drop"),
        table(kind="snapshot", materialized="snapshot", on_table_exists="drop"),
        incremental(None),
        incremental("append"),
        incremental("merge", unique_key="id", on_schema_change="append_new_columns"),
        incremental("somebody_elses"),
        incremental("replace_window", **{"post-hook": [{"sql": "{{ compact_window() }}", "transaction": True}]}),
    ],
)
def test_what_is_atomic_passes(manifest: Manifest) -> None:
    assert findings(manifest) == []


@pytest.mark.parametrize(
    ("manifest", "found", "alternative"),
    [
        (table(on_table_exists="drop"), "on_table_exists: drop", "on_table_exists: replace"),
        (table(on_table_exists="replace", contract=CONTRACT), "enforced contract", "macros/create_table_as.sql"),
        (table(on_table_exists="skip", contract=CONTRACT), "inserts all rows again", "on_table_exists: replace"),
        (incremental("merge", on_table_exists="drop"), "on_table_exists: drop", "on_table_exists: replace"),
        (incremental("merge", contract=CONTRACT), "enforced contract", "macros/create_table_as.sql"),
        (incremental("delete+insert", unique_key="id"), "delete+insert is two commits", "use merge"),
        (incremental("delete_insert", unique_key="id"), "delete+insert is two commits", "use merge"),
        (incremental("microbatch", event_time="at"), "microbatch deletes each batch", "use replace_window"),
    ],
)
def test_what_is_not_is_refused_with_the_alternative(manifest: Manifest, found: str, alternative: str) -> None:
    [finding] = findings(manifest)
    assert finding.policy
    assert finding.where == "models/gold/fct.sql: model fct (main.fct)"
    assert found in finding.problem
    assert alternative in finding.problem
    assert findings(manifest, adapter="duckdb") == []


@pytest.mark.parametrize(
    ("manifest", "macro"),
    [
        (table(on_table_exists="replace", contract=CONTRACT), "trino__create_table_as"),
        (table(on_table_exists="replace", contract=CONTRACT), "create_table_as"),
        (table(on_table_exists="skip", contract=CONTRACT), "trino__create_table_as"),
        (incremental("microbatch"), "trino__get_incremental_microbatch_sql"),
        (incremental("delete+insert"), "get_incremental_delete_insert_sql"),
        (incremental("delete+insert"), "trino__get_delete_insert_merge_sql"),
    ],
)
def test_an_override_passes_when_the_project_declares_it_atomic(manifest: Manifest, macro: str) -> None:
    def refused(*args: str, **kwargs: Any) -> bool:
        return any(one.policy for one in findings(manifest, *args, **kwargs))

    assert not refused(macro)
    # Its being there says nothing; nor does that of a package, which dbt does not dispatch to.
    assert refused(macro, declared=None)
    assert refused(macro, declared="yes")
    assert refused(macro, package="dbt_utils")
    assert refused("another_macro")


def test_every_mistake_is_named_in_one_reading() -> None:
    m = Manifest()
    m.model("orders", folder="gold", on_table_exists="drop", version=2)
    m.model(
        "events",
        package="events_package",
        materialized="incremental",
        incremental_strategy="microbatch",
        on_table_exists="drop",
    )
    first, second, third = [one for one in findings(m) if one.policy]
    assert first.where == "models/gold/orders.sql: model orders.v2 (main.orders)"
    assert first.problem.startswith("on_table_exists: drop")
    assert second.where == "models/events.sql: model events (main.events) of package events_package"
    assert "microbatch" in third.problem


def test_renaming_is_one_warning_for_all_models() -> None:
    m = Manifest()
    for i in range(7):
        m.model(f"m{i}", on_table_exists=[None, "rename"][i % 2])
    m.model("good", on_table_exists="replace")
    assert not [one for one in findings(m) if one.policy]
    [warning] = warnings(findings(m))
    assert "m4 (main.m4) and 2 more" in warning
    assert "+on_table_exists: replace" in warning
    assert "good" not in warning


def test_a_value_dbt_does_not_know_is_a_rename() -> None:
    unknown, renamed = warnings(findings(table(on_table_exists="swap")))
    assert "on_table_exists: swap is not valid for table (drop, rename, replace, skip)" in unknown
    assert "fct" in renamed
    unknown, _ = warnings(findings(incremental("append", on_table_exists="skip")))
    assert "skip is not valid for incremental (drop, rename, replace)" in unknown


def test_seeds_are_warned_of_unless_they_are_loaded_atomically() -> None:
    m = table(kind="seed", materialized="seed", on_table_exists="drop")
    [warning] = warnings(findings(m))
    assert "fct (main.fct)" in warning
    assert findings(m, "trino__load_csv_rows") == []


def test_other_warnings_name_the_way_out() -> None:
    [warning] = warnings(findings(incremental("merge", on_schema_change="sync_all_columns")))
    assert "append_new_columns" in warning
    [warning] = warnings(findings(incremental("replace_window")))
    assert "compact_window()" in warning
