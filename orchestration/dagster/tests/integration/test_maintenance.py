"""Maintenance of real Iceberg tables on the local stack, as runs of its op."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from lakehouse_analytics.assets.maintenance import SyncGuard, maintenance_assets
from lakehouse_analytics.branches.catalog import BranchCatalog, Name
from lakehouse_analytics.branches.opening import has_branches, open_branches
from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
from lakehouse_analytics.contract.models import ModelContract, SourceContract
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.dbt.nodes import Config, Node
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.trino.client import QueryResult
from lakehouse_analytics.engines.trino.errors import classify_dbt
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.engines.trino.session import failed
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.locks import TableBusyError, TableLocks, lock_name
from lakehouse_analytics.maintenance import plan as maintenance
from lakehouse_analytics.settings import Settings

from .equality_deletes import delete_equal
from .stack import stack_environment

pytestmark = [pytest.mark.integration, pytest.mark.trino]

#: What most tests are not about.
QUIET: dict[str, Any] = {"remove_orphan_files": False, "analyze": False}


#: What Trino says to a commit that came second.
CONFLICT = (
    "TrinoQueryError(type=EXTERNAL, name=ICEBERG_COMMIT_ERROR, "
    'message="Failed to commit the transaction during optimize: Found conflicting files", query_id=20261121_1_1_abcde)'
)


@dataclass
class Outcome:
    """What Dagster stored of a run."""

    success: bool
    #: Metadata of each materialization, by the table's name.
    done: dict[str, Mapping[str, Any]]
    #: Description and metadata of each observation.
    said: dict[str, tuple[str, Mapping[str, Any]]]
    failure: str


class Lake:
    """A schema of its own in the stack's catalog, and an instance."""

    def __init__(self, trino: TrinoResource, instance: dg.DagsterInstance) -> None:
        self.trino, self.instance = trino, instance
        self.schema = f"maintenance_{uuid.uuid4().hex[:8]}"
        self.tables: dict[str, Table] = {}
        self.sources: dict[str, Source] = {}
        self.sql(f"create schema {self.schema}")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.trino.fetch_all(statement.replace("lake.", f"{self.trino.catalog}.{self.schema}."))

    def of(self, name: str, metadata: str, what: str = "count(*)") -> Any:
        ((value,),) = self.sql(f'select {what} from lake."{name}${metadata}"')
        return value

    def relation(self, name: str) -> Relation:
        return Relation(self.trino.catalog, self.schema, name)

    def model(self, name: str, materialized: str = "table", **maintenance: Any) -> None:
        contract = ModelContract.model_validate({"maintenance": maintenance} if maintenance else {})
        node = self._node(name, "model", materialized)
        self.tables[name] = Table(f"model.{name}", ("silver", name), "silver", contract, node, ())

    def source(self, name: str, **contract: Any) -> None:
        parsed = SourceContract.model_validate(contract)
        self.sources[f"source.{name}"] = Source(f"source.{name}", ("shop", name), parsed, self._node(name, "source"))

    def _node(self, name: str, kind: str, materialized: str = "") -> Node:
        return Node(
            f"{kind}.{name}",
            kind,
            name,
            original_file_path="models/models.yml",
            database=self.trino.catalog,
            schema=self.schema,
            config=Config(materialized),
        )

    def look_after(
        self, *, dry_run: bool = False, engine: TrinoResource | None = None, guard: SyncGuard | None = None
    ) -> Outcome:
        graph = Graph(tables=self.tables, sources=self.sources, tests={}, exposures={}, adapter="trino")

        def branches(_: object) -> BranchCatalog | None:
            return open_branches(self.trino.catalog) if has_branches(self.trino.catalog) else None

        assets = maintenance_assets(graph, floor=timedelta(), max_runtime=0, guard=guard, branches=branches)
        result = dg.materialize(
            assets,
            instance=self.instance,
            resources={"engine": engine or self.trino},
            run_config={"ops": {"upkeep": {"config": {"dry_run": dry_run}}}},
            raise_on_error=False,
        )
        done: dict[str, Mapping[str, Any]] = {
            event.materialization.asset_key.path[-1]: _plain(event.materialization.metadata)
            for event in (e.step_materialization_data for e in result.get_asset_materialization_events())
        }
        observations = [
            event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()
        ]
        said: dict[str, tuple[str, Mapping[str, Any]]] = {
            o.asset_key.path[-1]: (o.description or "", _plain(o.metadata)) for o in observations
        }
        words = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        failure = "\n".join(
            (f.user_failure_data.description if f.user_failure_data else f.error.to_string() if f.error else "") or ""
            for f in words
        )
        return Outcome(result.success, done, said, failure)

    def spread(self, name: str, times: int = 3, buckets: int = 10) -> None:
        """A table of many small files, and rows deleted from all of them."""
        self.sql(f"create table lake.{name} (id bigint) with (partitioning = array['bucket(id, {buckets})'])")
        for time in range(times):
            self.sql(f"insert into lake.{name} select n from unnest(sequence({time * 300}, {time * 300 + 299})) t(n)")
        self.sql(f"delete from lake.{name} where id % 7 = 0")

    def snapshots(self, name: str) -> list[int]:
        return [row[0] for row in self.sql(f'select snapshot_id from lake."{name}$snapshots" order by committed_at')]


def _plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    return {key: value.value for key, value in metadata.items()}


@pytest.fixture(scope="module")
def one_lake() -> Iterator[Lake]:
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        for name, value in stack_environment().items():
            patch.setenv(name, value)
        patch.setenv("LAKEHOUSE_ENV", "trino")
        lake = Lake(TrinoResource.of(Settings.load()), instance)
        yield lake
        lake.sql(f"drop schema {lake.schema} cascade")


@pytest.fixture
def lake(one_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    # The fixture that hides a developer's shell is a test's; the module's patch came before it.
    for name, value in stack_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    one_lake.tables, one_lake.sources = {}, {}
    return one_lake


def test_a_dry_run_says_what_it_would_do_and_maintenance_does_it_once(lake: Lake) -> None:
    lake.spread("worn")
    lake.model("worn", **QUIET)
    rows = lake.sql("select id from lake.worn order by id")
    files, snapshots = lake.of("worn", "files"), lake.snapshots("worn")
    assert files == 60

    dry = lake.look_after(dry_run=True)
    assert dry.success
    assert dry.done == {}
    words, metadata = dry.said["worn"]
    assert words.startswith("would optimize (30 files below 64MB, merging removes 20; 129 of 900 rows marked as del")
    assert metadata["dry_run"] is True
    assert metadata["data_files_before"] == metadata["data_files_after"] == 30
    assert (lake.of("worn", "files"), lake.snapshots("worn")) == (files, snapshots)

    real = lake.look_after()
    assert real.success
    metadata = real.done["worn"]
    assert (metadata["data_files_before"], metadata["data_files_after"]) == (30, 10)
    assert (metadata["delete_files_before"], metadata["delete_files_after"]) == (30, 0)
    assert metadata["data_bytes_after"] < metadata["data_bytes_before"]
    assert "| optimize | 30 files below 64MB" in metadata["steps"]
    assert f"]({lake.trino.query_url('')}" in metadata["steps"]
    assert lake.of("worn", "files") == 10
    assert lake.sql("select id from lake.worn order by id") == rows
    # Nothing is old enough to go: every earlier state can still be read.
    assert lake.snapshots("worn")[: len(snapshots)] == snapshots
    ((past,),) = lake.sql(f"select count(*) from lake.worn for version as of {snapshots[-2]}")
    assert past == 900

    again = lake.look_after()
    assert again.done["worn"]["steps"] == "nothing to do"
    assert again.done["worn"]["snapshots_after"] == metadata["snapshots_after"]


def test_more_partitions_than_one_writer_takes(lake: Lake) -> None:
    lake.sql("create table lake.days (id bigint, day date) with (partitioning = array['day'])")
    for _ in range(2):
        for start in (0, 75, 150):
            day = "date '2026-01-01' + n * interval '1' day"
            lake.sql(f"insert into lake.days select n, {day} from unnest(sequence({start}, {start + 74})) t(n)")
    lake.model("days", **QUIET)
    # What Trino itself says to all of it at once.
    at_once = f"alter table {lake.relation('days')} execute optimize(file_size_threshold => '64MB')"
    with pytest.raises(Exception, match="ICEBERG_TOO_MANY_OPEN_PARTITIONS"):
        lake.sql(at_once)
    outcome = lake.look_after()
    assert outcome.success, outcome.failure
    assert (outcome.done["days"]["data_files_before"], outcome.done["days"]["data_files_after"]) == (450, 225)
    assert lake.sql("select count(*), count(distinct day) from lake.days") == [(450, 225)]
    assert lake.look_after().done["days"]["steps"] == "nothing to do"


def test_equality_deletes_are_applied(lake: Lake) -> None:
    lake.sql("create table lake.streamed as select n as id from unnest(sequence(1, 100)) t(n)")
    delete_equal(open_catalog(lake.trino.catalog).load_table((lake.schema, "streamed")), "id", [*range(1, 21)])
    lake.model("streamed", **QUIET)
    outcome = lake.look_after()
    assert outcome.success, outcome.failure
    assert "20 of 100 rows marked as deleted in 1 delete file" in outcome.done["streamed"]["steps"]
    assert lake.sql("select count(*), min(id) from lake.streamed") == [(80, 21)]
    assert lake.of("streamed", "files", "count_if(content <> 0)") == 0
    assert lake.look_after().done["streamed"]["steps"] == "nothing to do"


def test_only_states_beyond_the_retained_time_are_forgotten(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "MARGIN", timedelta())
    lake.sql("create table lake.old (id bigint)")
    lake.sql("insert into lake.old values 1")
    lake.sql("insert into lake.old values 2")
    lake.model("old", expire_snapshots=True, retain="1h", **QUIET)
    snapshots = lake.snapshots("old")
    assert len(snapshots) == 3
    assert lake.look_after().done["old"]["steps"] == "nothing to do"
    assert lake.snapshots("old") == snapshots

    lake.model("old", expire_snapshots=True, retain="1s", **QUIET)
    lake.sql("insert into lake.old values 3")
    outcome = lake.look_after()
    # More than a second may have gone by since the last insert: the newest stays in any case, and what it replaced
    # stays if it was the table a second ago.
    assert "| expire_snapshots |" in outcome.done["old"]["steps"]
    assert lake.snapshots("old")[-1] not in snapshots
    assert snapshots[0] not in lake.snapshots("old")
    assert lake.sql("select count(*) from lake.old") == [(3,)]


def test_orphan_files_go_when_they_are_old_enough_and_no_sooner(lake: Lake) -> None:
    lake.sql("create table lake.littered as select 1 as id")
    ((path,),) = lake.sql('select file_path from lake."littered$files"')
    orphan = f"{path.removeprefix('s3://').rsplit('/', 1)[0]}/orphan.parquet"
    store = _store()
    with store.open_output_stream(orphan) as stream:
        stream.write(b"left by a write that failed")

    def there() -> bool:
        return bool(store.get_file_info(orphan).is_file)

    lake.model("littered", analyze=False, orphans="1h")
    assert "| remove_orphan_files | never searched |" in lake.look_after().done["littered"]["steps"]
    assert there()
    # Searched a moment ago.
    assert lake.look_after().done["littered"]["steps"] == "nothing to do"
    lake.model("littered", analyze=False, orphans="1s")
    assert "| remove_orphan_files | last searched" in lake.look_after().done["littered"]["steps"]
    assert not there()
    assert lake.sql("select id from lake.littered") == [(1,)]


def test_files_of_an_open_branch_are_kept_until_it_has_expired(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "MARGIN", timedelta())
    lake.sql("create table lake.branched as select 1 as id")
    lake.sql("insert into lake.branched select 2")
    lake.model("branched", optimize=False, analyze=False, retain="1s", orphans="1s")
    branches, name = SqlBranchCatalog(lake.trino.catalog), Name(lake.schema, "branched")
    branches.create("pr_7", {name: True})
    on_branch = f"{lake.trino.catalog}.{lake.schema}__pr_7.branched"
    lake.sql(f"insert into {on_branch} select 3")
    lake.sql("delete from lake.branched where id = 1")
    sleep(2.5)

    kept = lake.look_after()
    assert kept.success, kept.failure
    assert "branched" in kept.done["branched"]["files_kept"]
    assert lake.sql(f"select sum(id) from {on_branch}") == [(6,)]

    past = "update lakehouse_branches set expires = now() - interval '1 day' where branch = 'pr_7' returning 1"
    with branches.transaction("The test") as session:
        assert session.run(past)
    done = lake.look_after()
    assert done.success, done.failure
    assert "files_kept" not in done.done["branched"]
    assert [branch for branch in branches.branches() if branch.name == "pr_7"] == []
    assert lake.sql("select sum(id) from lake.branched") == [(2,)]
    assert len(lake.snapshots("branched")) < 3


def test_statistics_are_collected_once_and_again_when_rows_changed(lake: Lake) -> None:
    lake.sql("create table lake.counted as select n as id from unnest(sequence(1, 100)) t(n)")
    lake.model("counted", "incremental", remove_orphan_files=False)
    assert "| analyze | never analyzed |" in lake.look_after().done["counted"]["steps"]
    assert lake.look_after().done["counted"]["steps"] == "nothing to do"
    lake.sql("insert into lake.counted select n from unnest(sequence(101, 105)) t(n)")
    assert lake.look_after().done["counted"]["steps"] == "nothing to do"
    lake.sql("insert into lake.counted select n from unnest(sequence(106, 120)) t(n)")
    assert "| analyze | 20 rows changed since" in lake.look_after().done["counted"]["steps"]
    ((_, _, distinct, *_), *_) = lake.sql("show stats for lake.counted")
    assert distinct == 120


def test_a_table_that_a_run_writes_is_left_alone(lake: Lake) -> None:
    lake.spread("busy")
    lake.sql("create table lake.idle as select 1 as id")
    lake.model("busy", **QUIET)
    lake.model("idle", **QUIET)
    run = create_run_for_test(lake.instance, job_name="full_refresh", status=dg.DagsterRunStatus.STARTED)
    with TableLocks(lake.instance, run.run_id, "build") as locks, locks.locked(lock_name(lake.relation("busy"))):
        outcome = lake.look_after()
        assert outcome.success
        assert outcome.done.keys() == {"idle"}
        assert f"in use by run {run.run_id[:8]} (full_refresh)" in outcome.said["busy"][0]
        assert lake.of("busy", "files") == 60
    assert "optimize" in lake.look_after().done["busy"]["steps"]


def test_maintenance_locks_the_table_while_it_works(lake: Lake) -> None:
    lake.spread("locked")
    lake.model("locked", **QUIET)
    owners: list[str] = []

    def lock() -> None:
        run = create_run_for_test(lake.instance, status=dg.DagsterRunStatus.STARTED)
        with TableLocks(lake.instance, run.run_id, "build") as locks, locks.locked(lock_name(lake.relation("locked"))):
            pass

    class Watching(TrinoResource):
        def execute(self, sql: str, *args: Any) -> QueryResult:
            if "optimize" in sql:
                with pytest.raises(TableBusyError) as caught:
                    lock()
                owners.append(caught.value.owner.step_key)
            return super().execute(sql, *args)

    assert lake.look_after(engine=Watching.of(Settings.load())).success
    assert owners == ["upkeep"]
    lock()


def test_a_raw_table_is_left_alone_until_somebody_knows_that_no_sync_runs(lake: Lake) -> None:
    lake.spread("landed")
    lake.source("landed", airbyte={"connection": "shop to lake"}, maintenance=QUIET)

    class Guard:
        reason: str | None = "job 7 is running"

        def running(self, connection: str) -> str | None:
            assert connection == "shop to lake"
            return self.reason

    assert "it is unknown whether Airbyte's connection shop to lake is syncing" in lake.look_after().said["landed"][0]
    guard = Guard()
    outcome = lake.look_after(guard=guard)
    assert (outcome.success, outcome.done) == (True, {})
    assert outcome.said["landed"][0] == "skipped: job 7 is running"
    assert lake.of("landed", "files") == 60
    guard.reason = None
    assert "optimize" in lake.look_after(guard=guard).done["landed"]["steps"]


def test_a_table_that_fails_stops_no_other(lake: Lake) -> None:
    for name in ("broken", "sound"):
        lake.spread(name)
        lake.model(name, **QUIET)
    lake.model("absent", **QUIET)
    ((path,),) = lake.sql('select file_path from lake."broken$files" where content = 1 limit 1')
    _lose(path)
    outcome = lake.look_after()
    assert not outcome.success
    assert outcome.failure.startswith("Maintenance of 1 table of 3 failed; the others are done.\n✘ silver/broken: ")
    assert outcome.done.keys() == {"sound"}
    assert outcome.said["absent"][0] == "skipped: not built yet"


def test_a_table_whose_metadata_are_lost_stops_no_other(lake: Lake) -> None:
    lake.spread("sound_too")
    lake.sql("create table lake.lost (id bigint)")
    for name in ("lost", "sound_too"):
        lake.model(name, **QUIET)
    ((path,),) = lake.sql('select manifest_list from lake."lost$snapshots"')
    _lose(path)
    outcome = lake.look_after()
    assert not outcome.success
    assert "✘ silver/lost: " in outcome.failure
    assert outcome.done.keys() == {"sound_too"}


def test_who_writes_in_between_wins(lake: Lake) -> None:
    lake.spread("contested")
    lake.model("contested", **QUIET)

    class Late(TrinoResource):
        def execute(self, sql: str, *args: Any) -> QueryResult:
            if "EXECUTE optimize" in sql:
                raise failed(classify_dbt(CONFLICT))
            return super().execute(sql, *args)

    outcome = lake.look_after(engine=Late.of(Settings.load()))
    assert outcome.success
    assert outcome.said["contested"][0] == "skipped: another writer committed first; the next run tries again"


def test_what_dead_builds_left_is_dropped(lake: Lake) -> None:
    lake.sql("create table lake.model as select 1 as id")
    stale, other = "model__dbt_tmp_20260101000000_0123abcd", "model2__dbt_tmp_20260101000000_0123abcd"
    lake.sql(f"create view lake.{stale} as select 1 as id")
    lake.sql(f"create table lake.{other} as select 1 as id")
    lake.model("model", **QUIET)
    assert "| drop_temp_relations | 1 temporary relation of dead builds |" in lake.look_after().done["model"]["steps"]
    left = {name for (name,) in lake.sql(f"show tables from {lake.schema} like 'model%'")}
    assert left == {"model", other}


def _lose(path: str) -> None:
    """Take a file from the folder that the stack serves: pyarrow would put a marker in its place."""
    bucket = Path(stack_environment()["LAKEHOUSE_STACK_DIR"]) / "data" / "s3"
    (bucket / path.removeprefix("s3://")).unlink()


def _store() -> Any:
    from pyarrow.fs import S3FileSystem

    stack, of = stack_environment(), "PYICEBERG_CATALOG__LAKEHOUSE__S3__"
    return S3FileSystem(
        access_key=stack[f"{of}ACCESS_KEY_ID"],
        secret_key=stack[f"{of}SECRET_ACCESS_KEY"],
        endpoint_override=stack[f"{of}ENDPOINT"],
        region=stack[f"{of}REGION"],
    )
