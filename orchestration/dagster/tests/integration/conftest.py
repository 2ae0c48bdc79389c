"""A small dbt project of two independent lines, on a real engine, real dbt and a real Dagster instance.

raw.a → bronze a → silver sa → gold ga ┐
                                       ├ metrics m
raw.b → bronze b → silver sb → gold gb ┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from lakehouse_analytics.settings import repository_root

from .databases import Database, new_database
from .forked import ForkedServer

FILES = {
    "dbt_project.yml": """
        name: small
        version: "1.0"
        profile: lakehouse
        query-comment: {comment: "{{ query_comment(node) }}"}
        models:
          small:
            +materialized: table
            +on_table_exists: replace
            bronze: {+schema: bronze}
            silver: {+schema: silver}
            gold: {+schema: gold}
            metrics: {+schema: metrics}
        """,
    "macros/generate_schema_name.sql": """
        {% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}
        """,
    "macros/query_comment.sql": (repository_root() / "dbt" / "macros" / "query_comment.sql").read_text(),
    "models/sources.yml": """
        sources:
          - name: raw
            schema: raw
            tables: [{name: a}, {name: b}]
        """,
    "models/bronze/a.sql": "select id, n from {{ source('raw', 'a') }}",
    "models/bronze/b.sql": "select id, n from {{ source('raw', 'b') }}",
    "models/bronze/bronze.yml": """
        models:
          - name: a
            config: {meta: {lakehouse: {rows: {min: 1, max_drop: 0.5}, distinct: [id]}}}
            columns: [{name: id, data_tests: [unique]}]
          - name: b
            columns: [{name: id, data_tests: [unique]}, {name: n, data_tests: [{not_null: {config: {severity: warn}}}]}]
        """,
    "models/silver/sa.sql": "select id, n + 1 as n from {{ ref('a') }}",
    "models/silver/sb.sql": "select id, n + 1 as n from {{ ref('b') }}",
    "models/gold/ga.sql": "select sum(n) as n from {{ ref('sa') }}",
    "models/gold/gb.sql": "select sum(n) as n from {{ ref('sb') }}",
    "models/metrics/m.sql": "select ga.n as a, gb.n as b from {{ ref('ga') }} as ga cross join {{ ref('gb') }} as gb",
}

#: With `--no-loadscope-reorder` pytest-xdist hands out files in this order; by default it starts with the most tests.
SLOWEST_FILES = (
    "test_backfill",
    "test_failures",
    "test_daemon",
    "test_full_refresh",
    "test_stack",
    "test_airbyte_daemon",
    "test_gates",
    "test_equal_to_dbt",
    "test_random_graphs",
    "test_doctor",
    "test_demo",
)
EVERYTHING = {"bronze/a", "bronze/b", "silver/sa", "silver/sb", "gold/ga", "gold/gb", "metrics/m"}
BELOW_A = {"silver/sa", "gold/ga", "metrics/m"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine", choices=["duckdb", "trino", "postgres"], default="duckdb", help="where the lakehouse is"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of the other engine: tests marked for one, and with Trino those that use no lakehouse.

    The slowest files come first, so that no worker waits for another at the end.
    """
    engine, brief = config.getoption("--engine"), config.getoption("--brief")
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        marked = item.get_closest_marker("engine")
        default = "trino" if item.get_closest_marker("trino") else "duckdb"
        of = marked.args if marked else (default,)
        nightly = item.get_closest_marker("nightly")
        later = brief and nightly is not None and engine in (nightly.args or (engine,))
        (kept if engine in of and not later else left).append(item)
    config.hook.pytest_deselected(items=left)
    order = {name: place for place, name in enumerate(SLOWEST_FILES)}
    items[:] = sorted(kept, key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> str:
    """`duckdb`, `trino` or `postgres`."""
    return str(pytestconfig.getoption("--engine"))


@pytest.fixture(autouse=True)
def _forked_dbt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("new_interpreter"):
        monkeypatch.setattr("lakehouse_analytics.dbt.session.start_server", ForkedServer)


@dataclass
class Outcome:
    """What Dagster stored of a run."""

    run_id: str
    success: bool
    built: set[str]
    checks: dict[str, bool]
    descriptions: dict[str, str]
    metadata: dict[str, Mapping[str, Any]]
    failure: str
    partitions: dict[str, set[str]] = field(default_factory=dict)
    by_partition: dict[str, dict[str, dg.AssetCheckEvaluation]] = field(default_factory=dict)
    partition_metadata: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The row counts of partitions, by asset."""
        return {
            asset: {
                partition: metadata["dagster/partition_row_count"]
                for partition, metadata in partitions.items()
                if "dagster/partition_row_count" in metadata
            }
            for asset, partitions in self.partition_metadata.items()
        }


@dataclass
class Lakehouse:
    """The small project, its database and its instance."""

    root: Path
    database: Database
    instance: dg.DagsterInstance
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))

    @property
    def project(self) -> Path:
        return self.root / "dbt"

    def write(self, **_: str) -> None:
        for name, text in self.files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).lstrip())

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.database.sql(statement)

    def definitions(self) -> dg.Definitions:
        """Load the location as a code server does, parsing first where the project changed."""
        from lakehouse_analytics.dbt.prepare import prepare
        from lakehouse_analytics.dbt.project import DbtProject
        from lakehouse_analytics.definitions import defs
        from lakehouse_analytics.engines.resources import dbt_runner
        from lakehouse_analytics.settings import Settings

        settings = Settings.load()
        project = DbtProject.from_settings(settings)
        if project.changes() != []:
            prepare(project, dbt_runner(settings, project), lambda _: None)
        return defs()

    def run(
        self,
        job: str = "full_refresh",
        assets: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        checks: dg.AssetSelection | None = None,
        windows: tuple[str, str] | None = None,
    ) -> Outcome:
        """Build; `assets` are a subset as the UI selects one, `checks` a selection of checks instead of the default,
        `windows` the first and the last partition."""
        definitions = self.definitions()
        if checks is not None:
            repository = dg.Definitions(
                assets=definitions.assets,
                resources=definitions.resources,
                executor=definitions.executor,
                jobs=[dg.define_asset_job("chosen", checks)],
            )
            definition = repository.resolve_job_def("chosen")
        else:
            definition = definitions.resolve_job_def(job)
        [op] = {node.name for node in definition.nodes} if config else {""}
        result = definition.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(key.split("/")) for key in assets] if assets else None,
            run_config={"ops": {op: {"config": dict(config)}}} if config else None,
            tags={ASSET_PARTITION_RANGE_START_TAG: windows[0], ASSET_PARTITION_RANGE_END_TAG: windows[1]}
            if windows
            else None,
        )
        return self.outcome(result.run_id, result.success)

    def outcome(self, run_id: str, success: bool) -> Outcome:
        logs = self.instance.all_logs(run_id)
        events = [record.dagster_event for record in logs if record.dagster_event]
        materialized = [
            event.step_materialization_data.materialization for event in events if event.is_step_materialization
        ]
        # If counting took long, an observation has the rows of the table.
        observed = [e.asset_observation_data.asset_observation for e in events if e.is_asset_observation]
        reported: list[dg.AssetMaterialization | dg.AssetObservation] = [*materialized, *observed]
        evaluations = [record.asset_check_evaluation for record in logs if record.asset_check_evaluation]
        failures = [event.step_failure_data for event in events if event.is_step_failure]
        names = {id(e): f"{e.asset_key.to_user_string()}:{e.check_name}" for e in evaluations}
        words = [
            f.user_failure_data.description if f.user_failure_data else f.error.to_string() if f.error else ""
            for f in failures
        ]
        return Outcome(
            run_id=run_id,
            success=success,
            built={m.asset_key.to_user_string() for m in materialized},
            checks={names[id(e)]: e.passed for e in evaluations},
            descriptions={names[id(e)]: e.description or "" for e in evaluations},
            metadata={
                m.asset_key.to_user_string(): {
                    k: v.value for o in reported if o.asset_key == m.asset_key for k, v in o.metadata.items()
                }
                for m in materialized
            },
            failure="\n".join(word or "" for word in words),
            partitions={
                m.asset_key.to_user_string(): {
                    o.partition for o in materialized if o.asset_key == m.asset_key and o.partition
                }
                for m in materialized
            },
            by_partition={
                name: {e.partition: e for e in evaluations if e.partition and names[id(e)] == name}
                for name in names.values()
            },
            partition_metadata={
                m.asset_key.to_user_string(): {
                    o.partition: {k: v.value for k, v in o.metadata.items()}
                    for o in reported
                    if o.asset_key == m.asset_key and o.partition and o.metadata
                }
                for m in materialized
            },
        )

    def to_retry(self, run_id: str) -> set[str]:
        """The assets of a retry from the asset failure, as Dagster's daemon and UI compute them."""
        run = self.instance.get_run_by_id(run_id)
        assert run
        assert run.execution_plan_snapshot_id
        snapshot = self.instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        assets, _ = self.instance.run_domain.get_keys_to_reexecute(run_id, snapshot)
        return {key.to_user_string() for key in assets}


@pytest.fixture
def database(tmp_path: Path, engine: str) -> Database:
    """The empty database of `lakehouse`; a module may have another."""
    return new_database(engine, tmp_path / "small.duckdb")


def project_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database, **more: str) -> None:
    """Point the environment at a project in `tmp_path/dbt` on a database."""
    variables = {
        "LAKEHOUSE_DUCKDB_LOCK_TIMEOUT": "3",
        **database.environment,
        "LAKEHOUSE_DBT_PROJECT_DIR": str(tmp_path / "dbt"),
        "LAKEHOUSE_DBT_PROFILES_DIR": str(repository_root() / "dbt"),
        **more,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@contextmanager
def lakehouse_with(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> Iterator[Lakehouse]:
    """A project of one's own in an empty database with the schema `raw`."""
    project_on(tmp_path, monkeypatch, database)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        made = Lakehouse(tmp_path, database, instance, files)
        made.write()
        made.sql("create schema raw")
        yield made


@pytest.fixture
def lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Lakehouse]:
    project_on(tmp_path, monkeypatch, database)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield small_lakehouse(tmp_path, database, instance)


def small_lakehouse(root: Path, database: Database, instance: dg.DagsterInstance) -> Lakehouse:
    """The small project, and its raw tables in an empty database."""
    made = Lakehouse(root, database, instance)
    made.write()
    made.sql("create schema raw")
    for table in ("a", "b"):
        made.sql(
            f"create table raw.{table} as select i as id, i * 10 as n from unnest(generate_series(1, 100)) as r(i)"
        )
    return made
