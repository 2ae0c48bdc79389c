"""A run builds what bare `dbt build` builds: the same tables with the same rows, the same statuses of tables and tests.

Three projects of different shapes, each on two copies of one database: Dagster runs on the first, dbt on the second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.project import DbtProject
from lakehouse_analytics.keys import asset_key, check_key
from lakehouse_analytics.settings import Settings

from .conftest import Lakehouse
from .daemon import last_days, new_lake
from .databases import Database, DuckDB, Row

#: A layout that knows no layers, dbt's own schemas, versions, views and an ephemeral model.
MARTS = {
    "dbt_project.yml": """
        name: marts
        version: "1.0"
        profile: own
        models: {marts: {staging: {+materialized: view, +schema: stage}, core: {+materialized: table}}}
        """,
    "profiles.yml": """
        own: {target: here, outputs: {here: {
          type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}", schema: wh, threads: 3}}}
        """,
    "seeds/customers.csv": "id,name\n1,Ann\n2,Bob\n3,\n",
    "seeds/payments.csv": "id,customer,cents\n1,1,100\n2,1,50\n3,2,900\n4,9,1\n",
    "seeds/seeds.yml": """
        seeds:
          - name: payments
            columns: [{name: customer, data_tests: [{relationships: {arguments: {
              to: ref('customers'), field: id}, config: {severity: warn}}}]}]
        """,
    "models/staging/stg_customers.sql": "select id as customer_id, name from {{ ref('customers') }}",
    "models/staging/stg_payments.sql": "select customer as customer_id, cents from {{ ref('payments') }}",
    "models/core/per_customer.sql": """
        {{ config(materialized='ephemeral') }}
        select customer_id, sum(cents) as cents from {{ ref('stg_payments') }} group by all
        """,
    "models/core/dim_customers_v1.sql": "select customer_id, name from {{ ref('stg_customers') }}",
    "models/core/dim_customers_v2.sql": """
        select c.customer_id, c.name, coalesce(p.cents, 0) as cents
        from {{ ref('stg_customers') }} as c left join {{ ref('per_customer') }} as p using (customer_id)
        """,
    "models/core/top.sql": "select customer_id from {{ ref('dim_customers') }} where cents > 100",
    "models/core/named.sql": "select name from {{ ref('dim_customers', v=1) }}",
    "models/core/core.yml": """
        models:
          - name: dim_customers
            latest_version: 2
            columns: [{name: customer_id, data_tests: [unique, not_null]}]
            versions:
              - v: 1
                columns: [{include: all}, {name: name, data_tests: [not_null]}]
              - v: 2
        """,
    "tests/no_cent_is_lost.sql": """
        select 1 where (select sum(cents) from {{ ref('payments') }}) <> (select sum(cents) from {{ ref('top') }}) * 0
        """,
}
#: Everything that dbt can materialize, hooks, and faults of every kind.
KINDS = {
    "dbt_project.yml": """
        name: kinds
        version: "1.0"
        profile: own
        on-run-start: ["create schema if not exists audit", "create table if not exists audit.runs (at varchar)"]
        on-run-end: ["insert into audit.runs select 'end of {{ results | length }}'"]
        models: {kinds: {+materialized: table}}
        """,
    "profiles.yml": MARTS["profiles.yml"],
    "seeds/events.csv": "id,kind,at\n1,a,2024-01-01\n2,b,2024-01-02\n3,b,2024-01-02\n",
    "models/bronze/events_b.sql": "select *, 1 as one from {{ ref('events') }}",
    "models/bronze/fails.sql": "select * from no_such_table",
    "models/bronze/with_a_failed_test.sql": "select null as x",
    "models/silver/merged.sql": """
        {{ config(materialized='incremental', unique_key='id') }} select id, kind from {{ ref('events_b') }}
        """,
    "models/silver/below_fails.sql": "select * from {{ ref('fails') }}",
    "models/silver/below_a_test.sql": "select * from {{ ref('with_a_failed_test') }}",
    "models/silver/python.py": """
        def model(dbt, session):
            dbt.config(materialized="table")
            return dbt.ref("events_b").project("id + one as id")
        """,
    "models/gold/of_all.sql": """
        select m.id, p.id as next from {{ ref('merged') }} as m left join {{ ref('python') }} as p on p.id = m.id + 1
        """,
    "models/gold/of_a_snapshot.sql": "select kind from {{ ref('history') }}",
    "models/gold/below_both.sql": "select * from {{ ref('below_a_test') }} join {{ ref('of_all') }} on true",
    "snapshots/history.yml": """
        snapshots:
          - name: history
            relation: ref('events_b')
            config: {schema: snap, unique_key: id, strategy: timestamp, updated_at: at}
        """,
    "models/models.yml": """
        models:
          - name: events_b
            columns: [{name: kind, data_tests: [unique: {config: {severity: warn}}, accepted_values: {arguments: {
              values: [a, b]}}]}]
          - name: with_a_failed_test
            columns: [{name: x, data_tests: [not_null]}]
          - name: below_a_test
            columns: [{name: x, data_tests: [not_null]}]
          - name: of_all
            columns: [{name: next, data_tests: [not_null: {config: {warn_if: ">0", error_if: ">5"}}]}]
          - name: of_a_snapshot
            columns: [{name: kind, data_tests: [no_such_column: {column: x}]}]
        """,
    "tests/generic/no_such_column.sql": """
        {% test no_such_column(model, column_name, column) %} select {{ column }} from {{ model }} {% endtest %}
        """,
}
#: The demo's raw rows are spread over two decades.
DAYS = 150
#: Of the demo: its windows are months, which runs of their own build.
MONTHLY = "revenue_monthly"


@dataclass(frozen=True)
class Built:
    """What a build left: each table with its rows, and dbt's status of each node, by unique id."""

    tables: Mapping[str, list[Row]]
    statuses: Mapping[str, str]


@pytest.fixture(params=["demo", "marts", "kinds"])
def lakehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lakehouse]:
    """One of the projects, and nothing built. Its database is called what the copy's is, for dbt names it in SQL."""
    if request.param == "demo":
        new_lake(tmp_path, "duckdb")
        files: dict[str, str] = {}
    else:
        files = MARTS if request.param == "marts" else KINDS
        (tmp_path / "target").mkdir()
    database = DuckDB(tmp_path / "lakehouse.duckdb")
    for name, value in {
        **database.environment,
        "LAKEHOUSE_DBT_PROJECT_DIR": str(tmp_path / "dbt"),
        "LAKEHOUSE_DBT_TARGET_PATH": str(tmp_path / "target"),
    }.items():
        monkeypatch.setenv(name, value)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        made = Lakehouse(tmp_path, database, instance, files)
        made.write()
        yield made


def ours(lakehouse: Lakehouse, windows: tuple[str, str] | None) -> Built:
    lakehouse.definitions()
    settings = Settings.load()
    project = DbtProject.from_settings(settings)
    graph = read(project.manifest(), project.configuration(), strict=settings.strict)
    outcome = lakehouse.run(windows=windows)
    reported = {}
    for record in lakehouse.instance.all_logs(outcome.run_id):
        if (evaluation := record.asset_check_evaluation) and (status := evaluation.metadata.get("status")):
            reported[evaluation.asset_check_key] = str(status.value)
    tests = {test.unique_id: reported.get(check_key(graph, test), "skipped") for test in graph.tests.values()}
    [*lines] = outcome.failure.splitlines()
    tables = {}
    for table in graph.tables.values():
        name = asset_key(table).to_user_string()
        failed = any(line.startswith(f"✘ {name} was not built:") for line in lines)
        tables[table.unique_id] = "success" if name in outcome.built else "error" if failed else "skipped"
    return Built(contents(lakehouse.database), {**tables, **tests})


def dbts(database: DuckDB, project: Path, options: list[str]) -> Built:
    target = project.parent / "of-dbt"
    command = [str(Path(sys.executable).parent / "dbt"), "build", "--exclude-resource-type", "unit_test", *options]
    environment = {"LAKEHOUSE_DUCKDB_PATH": str(database.path), "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    with pytest.MonkeyPatch.context() as variables:
        for name, value in environment.items():
            variables.setenv(name, value)
        subprocess.run([*command, "--target-path", str(target)], cwd=project, capture_output=True, check=False)
    results = json.loads((target / "run_results.json").read_text())["results"]
    others = ("operation.", "exposure.")  # hooks, and what dbt only mentions
    statuses = {one["unique_id"]: one["status"] for one in results if not one["unique_id"].startswith(others)}
    return Built(contents(database), statuses)


def contents(database: Database) -> dict[str, list[Row]]:
    schemas = {str(row[0]) for row in database.sql("select schema_name from information_schema.schemata")}
    return database.contents(schemas - {"information_schema", "pg_catalog"})


def test_both_builds_are_equal(lakehouse: Lakehouse) -> None:
    database = lakehouse.database
    assert isinstance(database, DuckDB)
    copy = DuckDB(lakehouse.root / "copy" / database.path.name)
    copy.path.parent.mkdir()
    if database.path.exists():
        copy.path.write_bytes(database.path.read_bytes())
    windows: tuple[str, str] | None = None
    options: list[str] = []
    if not lakehouse.files:  # the demo
        first, last = last_days(DAYS).values()
        windows = (first, last)
        begin, end = (f"{day}T00:00:00" for day in windows)
        options = ["--event-time-start", begin, "--event-time-end", end, "--exclude", MONTHLY]

    one = ours(lakehouse, windows)
    other = dbts(copy, lakehouse.project, options)

    if lakehouse.files is KINDS:
        assert {*other.statuses.values()} == {"success", "error", "skipped", "pass", "warn", "fail"}
    assert {k: v for k, v in one.statuses.items() if MONTHLY not in k} == other.statuses
    assert one.tables.keys() == other.tables.keys()
    for table, rows in other.tables.items():
        assert one.tables[table] == rows, table
