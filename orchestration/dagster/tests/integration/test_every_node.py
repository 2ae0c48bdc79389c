"""What is neither a table nor a test of one, on real dbt: functions, constants, the project's own tests, models that a
plugin injects from another project.

raw.a → doubled, which calls the function `twice`
constants (ephemeral) → limits
platform.dim, of another project → counts
"""

from __future__ import annotations

from textwrap import dedent

import pytest

from .conftest import FILES, Lakehouse

PLUGIN = """
    from dbt.contracts.graph.node_args import ModelNodeArgs
    from dbt.plugins.manager import dbt_hook, dbtPlugin
    from dbt.plugins.manifest import PluginNodes


    class Neighbor(dbtPlugin):
        def initialize(self): ...

        @dbt_hook
        def get_nodes(self):
            nodes = PluginNodes()
            nodes.add_model(
                ModelNodeArgs(
                    name="dim", package_name="platform", identifier="dim", schema="platform", database="small"
                )
            )
            return nodes


    plugins = [Neighbor]
    """
OURS = {
    "dbt_project.yml": """
        name: small
        version: "1.0"
        profile: lakehouse
        models: {small: {+materialized: table, +schema: silver}}
        """,
    "macros/generate_schema_name.sql": FILES["macros/generate_schema_name.sql"],
    "dependencies.yml": "projects: [{name: platform}]",
    # DuckDB's own form of a function: the adapter has none yet.
    "macros/duckdb__scalar_function_sql.sql": """
        {% macro duckdb__scalar_function_sql(target_relation) %}
        create or replace macro {{ target_relation.render() }}(n) as {{ model.compiled_code }}
        {% endmacro %}
        """,
    "functions/twice.sql": "n * 2",
    "functions/functions.yml": """
        functions:
          - name: twice
            arguments: [{name: n, data_type: integer}]
            returns: {data_type: integer}
        """,
    "models/sources.yml": "sources: [{name: raw, schema: raw, tables: [{name: a}]}]",
    "models/silver/doubled.sql": "select {{ function('twice') }}(n) as n from {{ source('raw', 'a') }}",
    "models/silver/constants.sql": "{{ config(materialized='ephemeral') }} select count(*) as id from raw.b",
    "models/silver/limits.sql": "select * from {{ ref('constants') }}",
    "models/silver/models.yml": """
        models:
          - name: constants
            columns: [{name: id, data_tests: [{accepted_values: {arguments: {values: [100], quote: false}}}]}]
          - name: counts
            columns:
              - name: n
                data_tests:
                  - accepted_values: {arguments: {values: [1], quote: false}, config: {severity: warn}}
        """,
    "models/silver/counts.sql": "select count(*) as n from {{ ref('platform', 'dim') }}",
    "tests/nothing_is_negative.sql": "select * from raw.b where n < 0",
    "tests/clock.sql": "select 1 where current_date < date '2020-01-01'",
}
EVERYTHING = {"silver/doubled", "silver/limits", "silver/counts"}


@pytest.mark.new_interpreter  # which looks for plugins in PYTHONPATH
def test_every_node_of_a_project_is_built_or_checked_or_external(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lakehouse.root / "plugins").mkdir()
    (lakehouse.root / "plugins" / "dbt_neighbour.py").write_text(dedent(PLUGIN))
    monkeypatch.setenv("PYTHONPATH", str(lakehouse.root / "plugins"))
    for name in set(FILES) - set(OURS):
        (lakehouse.project / name).unlink()
    lakehouse.files = dict(OURS)
    lakehouse.write()
    lakehouse.sql("create schema platform")
    lakehouse.sql("create table platform.dim as select 1 as id")

    outcome = lakehouse.run()
    assert outcome.success, outcome.failure
    assert outcome.built == EVERYTHING
    assert outcome.checks.keys() >= {
        "dbt_project/small:clock",
        "dbt_project/small:nothing_is_negative",
        "silver/constants:accepted_values_constants_id__False__100",
    }
    assert all(outcome.checks.values())
    [(doubled,)] = lakehouse.sql("select sum(n) from silver.doubled")
    assert doubled == 2 * sum(range(10, 1001, 10))

    # A function of the last run must not stand in for one that cannot be created, and dbt takes warnings for errors.
    lakehouse.files["functions/twice.sql"] = "n * * 2"
    lakehouse.files["dbt_project.yml"] = dedent(OURS["dbt_project.yml"]) + "flags: {warn_error: true}\n"
    lakehouse.sql("insert into platform.dim values (2)")
    lakehouse.write()
    lakehouse.sql("update raw.b set n = -1 where id = 1")
    lakehouse.sql("insert into raw.b values (101, 1)")
    outcome = lakehouse.run()
    assert not outcome.success
    assert outcome.built == {"silver/counts"}
    assert "function twice was not built: functions/twice.sql" in outcome.failure
    assert "silver/doubled was blocked by function twice" in outcome.failure
    assert "silver/limits was blocked by silver/constants" in outcome.failure
    assert "dbt_project/small failed its gate: nothing_is_negative: Got 1 result" in outcome.failure
    assert outcome.checks["dbt_project/small:clock"] is True
    assert "silver/counts failed its gate: accepted_values_counts_n__False__1: Got 1 result" in outcome.failure
    assert lakehouse.to_retry(outcome.run_id) >= EVERYTHING


def test_a_project_of_tested_sources_runs_its_tests_whatever_its_flags_say_of_artifacts(lakehouse: Lakehouse) -> None:
    for name in FILES:
        (lakehouse.project / name).unlink()
    lakehouse.files = {
        "dbt_project.yml": """
            name: small
            version: "1.0"
            profile: lakehouse
            flags: {write_json: false}
            """,
        "models/sources.yml": """
            sources:
              - name: raw
                schema: raw
                tables: [{name: a, columns: [{name: id, data_tests: [unique]}]}, {name: b}]
            """,
    }
    lakehouse.write()
    outcome = lakehouse.run()
    assert outcome.success, outcome.failure
    assert outcome.checks == {"raw/a:source_unique_raw_a_id": True}

    lakehouse.sql("insert into raw.a values (1, 0)")
    outcome = lakehouse.run()
    assert not outcome.success
    assert "raw/a failed its gate: source_unique_raw_a_id" in outcome.failure
