"""Maintenance deletes no file that something else may need. Each kind of claim, on real tables of the local stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.engines.trino.client import QueryResult
from lakehouse_analytics.engines.trino.resource import TrinoResource
from lakehouse_analytics.iceberg.catalog import open_catalog
from lakehouse_analytics.maintenance import plan as maintenance
from lakehouse_analytics.settings import Settings
from pyiceberg.table import Table

from .stack import stack_environment
from .test_maintenance import Lake, Outcome, _store

# The rules themselves are tested in unit/maintenance/test_protection.py; the tables here take two minutes to make.
pytestmark = [pytest.mark.integration, pytest.mark.trino, pytest.mark.nightly]

#: Everything may go at once.
EAGER: dict[str, Any] = {"optimize": False, "analyze": False, "retain": "1s", "orphans": "1s"}
STALE = "__dbt_tmp_20260101000000_0123abcd"


@dataclass
class Claimed:
    """What one run of maintenance did to tables, each with another claim on its files."""

    lake: Lake
    outcome: Outcome
    orphans: dict[str, str]
    snapshots: dict[str, list[int]]

    def kept(self, name: str) -> str:
        """Why the table's files were kept. Nothing of it was deleted."""
        assert self.lake.snapshots(name) == self.snapshots[name]
        assert _exists(self.orphans[name])
        steps = self.outcome.done[name]["steps"]
        assert "| remove_orphan_files | never searched | files kept: " in steps
        assert "| expire_snapshots |" in steps
        return str(self.outcome.done[name]["files_kept"])


def _exists(path: str) -> bool:
    return bool(_store().get_file_info(path).is_file)


def _location(lake: Lake, name: str) -> str:
    ((location,),) = lake.sql(f"select value from lake.\"{name}$properties\" where key = 'location'")
    return str(location)


def _litter(lake: Lake, name: str) -> str:
    orphan = f"{_location(lake, name).removeprefix('s3://')}/data/left-by-a-write-that-failed.parquet"
    with _store().open_output_stream(orphan) as stream:
        stream.write(b"left by a write that failed")
    return orphan


def _iceberg(lake: Lake, name: str) -> Table:
    return open_catalog(lake.trino.catalog).load_table((lake.schema, name))


def _set(**properties: str) -> Callable[[Lake, str], None]:
    def change(lake: Lake, name: str) -> None:
        changes = {key.replace("_", "."): value for key, value in properties.items()}
        with _iceberg(lake, name).transaction() as transaction:
            transaction.set_properties(changes)

    return change


def _branch(lake: Lake, name: str) -> None:
    table = _iceberg(lake, name)
    snapshot = table.current_snapshot()
    assert snapshot
    table.manage_snapshots().create_branch(snapshot.snapshot_id, "audit").commit()
    table = table.refresh()
    table.append(table.scan().to_arrow(), branch="audit")


def _tag(lake: Lake, name: str) -> None:
    table = _iceberg(lake, name)
    table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "closing_2025").commit()


def _register_twice(lake: Lake, name: str) -> None:
    catalog = open_catalog(lake.trino.catalog)
    copy = catalog.register_table((f"{lake.schema}_other", f"{name}_copy"), _iceberg(lake, name).metadata_location)
    copy.append(copy.scan().to_arrow())


def _nest(lake: Lake, name: str) -> None:
    inner = f"location = '{_location(lake, name)}/inner'"
    lake.sql(f"create table lake.{name}_inner with ({inner}) as select 7 as id")


def _add_files(lake: Lake, name: str, lender: str) -> None:
    """A table adds the files of another one, as `add_files` of Spark does."""
    borrower, source = _iceberg(lake, name), _iceberg(lake, lender)
    with borrower.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        for task in source.scan().plan_files():
            append.append_data_file(task.file)


def _lend(lake: Lake, name: str) -> None:
    lake.sql(f"create table lake.{name}_borrower (id integer)")
    _add_files(lake, f"{name}_borrower", name)


def _borrow_and_rewrite(lake: Lake, name: str) -> None:
    """Only an old snapshot has the files of the other table."""
    lake.sql(f"create table lake.{name}_lender as select 10 as id")
    _add_files(lake, name, f"{name}_lender")
    lake.sql(f"alter table lake.{name} execute optimize")


CLAIMS: dict[str, tuple[Callable[[Lake, str], None], str]] = {
    "collected": (_set(gc_enabled="false"), "its table property gc.enabled is false, which means that other branches"),
    "versioned": (
        _set(nessie_commit_id="fe4cae93"),
        "its table property nessie.commit.id means that it is in Nessie",
    ),
    "branched": (_branch, "it has the branch audit"),
    "tagged": (_tag, "it has the tag closing_2025"),
    "elsewhere": (
        _set(write_data_path="s3://lakehouse/somewhere-else"),
        "its table property write.data.path is s3://lakehouse/somewhere-else, outside its location s3://",
    ),
    "twin": (_register_twice, '_other"."twin_copy" uses the same files: its location is s3://'),
    "nested": (_nest, '"nested_inner" uses the same files: its location is s3://'),
    "rewritten": (_borrow_and_rewrite, "it has files outside its location s3://"),
    "lent": (_lend, '"lent_borrower" uses the same files: s3://'),
}


@pytest.fixture(scope="module")
def claimed() -> Iterator[Claimed]:
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        for name, value in {**stack_environment(), "LAKEHOUSE_ENV": "trino"}.items():
            patch.setenv(name, value)
        patch.setattr(maintenance, "MARGIN", timedelta())
        lake = Lake(TrinoResource.of(Settings.load()), instance)
        lake.sql(f"create schema {lake.schema}_other")
        for name in (*CLAIMS, "free", "lost_model", f"lost_model{STALE}"):
            lake.sql(f"create table lake.{name} as select 1 as id")
            lake.sql(f"insert into lake.{name} values 2")
        for name, (claim, _) in CLAIMS.items():
            claim(lake, name)
        _set(gc_enabled="false")(lake, f"lost_model{STALE}")
        for name in (*CLAIMS, "free"):
            lake.model(name, **EAGER)
            lake.sql(f"insert into lake.{name} values 3")
        lake.model("lent_borrower", **EAGER)
        lake.model("lost_model", optimize=False, analyze=False, remove_orphan_files=False, expire_snapshots=False)
        orphans = {name: _litter(lake, name) for name in (*CLAIMS, "free")}
        snapshots = {name: lake.snapshots(name) for name in (*CLAIMS, "free")}
        yield Claimed(lake, lake.look_after(), orphans, snapshots)
        # Trino deletes a table's whole location when it drops it: what shares one goes from the catalog only.
        for schema, table in ((f"{lake.schema}_other", "twin_copy"), (lake.schema, "nested_inner")):
            lake.sql(f"call {lake.trino.catalog}.system.unregister_table('{schema}', '{table}')")
        lake.sql(f"drop schema {lake.schema} cascade")
        lake.sql(f"drop schema {lake.schema}_other cascade")


@pytest.fixture
def lake(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> Lake:
    for name, value in {**stack_environment(), "LAKEHOUSE_ENV": "trino"}.items():
        monkeypatch.setenv(name, value)
    return claimed.lake


@pytest.mark.parametrize("name", CLAIMS)
def test_files_that_something_else_may_need_are_kept(claimed: Claimed, lake: Lake, name: str) -> None:
    assert CLAIMS[name][1] in claimed.kept(name)


def test_a_table_without_a_claim_is_cleaned(claimed: Claimed, lake: Lake) -> None:
    assert claimed.outcome.success, claimed.outcome.failure
    assert not _exists(claimed.orphans["free"])
    assert lake.snapshots("free") != claimed.snapshots["free"]
    assert "files_kept" not in claimed.outcome.done["free"]


def test_a_table_that_reads_the_files_of_another_deletes_none(claimed: Claimed, lake: Lake) -> None:
    assert "it has files outside its location s3://" in claimed.outcome.done["lent_borrower"]["files_kept"]


def test_a_temporary_table_with_a_claim_is_not_dropped(claimed: Claimed, lake: Lake) -> None:
    assert "gc.enabled is false" in claimed.outcome.done["lost_model"]["files_kept"]
    assert lake.sql(f"select count(*) from lake.lost_model{STALE}") == [(2,)]


def test_what_the_others_read_can_still_be_read(claimed: Claimed, lake: Lake) -> None:
    branch = _iceberg(lake, "branched").scan().use_ref("audit").to_arrow()
    assert sorted(branch["id"].to_pylist()) == [1, 1, 2, 2]
    assert _iceberg(lake, "tagged").scan().use_ref("closing_2025").to_arrow()["id"].to_pylist() == [1]
    assert lake.sql(f"select sum(id) from {lake.trino.catalog}.{lake.schema}_other.twin_copy") == [(6,)]
    assert lake.sql("select id from lake.nested_inner") == [(7,)]
    assert lake.sql("select sum(id) from lake.lent_borrower") == [(3,)]
    assert lake.sql("select id from lake.rewritten_lender") == [(10,)]


def test_a_dry_run_says_what_it_would_keep(claimed: Claimed, lake: Lake) -> None:
    words, metadata = lake.look_after(dry_run=True).said["collected"]
    assert "would not expire_snapshots: its table property gc.enabled is false" in words
    assert "would not remove_orphan_files: its table property gc.enabled is false" in words
    assert "gc.enabled is false" in metadata["files_kept"]


def test_the_table_is_asked_immediately_before_each_statement_that_deletes(claimed: Claimed, lake: Lake) -> None:
    """A branch that is made while maintenance runs is seen, and every deletion had its question."""
    lake.sql("create table lake.late as select 1 as id")
    lake.sql("insert into lake.late values 2")
    lake.sql("insert into lake.late values 3")
    lake.tables = {}
    lake.model("late", **EAGER)
    snapshots, orphan = lake.snapshots("late"), _litter(lake, "late")
    executed: list[str] = []

    class Late(TrinoResource):
        def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
            if "'version'" in sql and not executed:
                executed.append("branch")
                _branch(lake, "late")
            return super().fetch_all(sql)

        def execute(self, sql: str, *args: Any) -> QueryResult:
            if sql.startswith("ALTER"):  # not the queries before it
                executed.append(sql)
            return super().execute(sql, *args)

    outcome = lake.look_after(engine=Late.of(Settings.load()))
    assert "it has the branch audit" in outcome.done["late"]["files_kept"]
    assert executed == ["branch"]
    assert lake.snapshots("late")[: len(snapshots)] == snapshots
    assert _exists(orphan)


def test_what_cannot_be_read_is_kept(claimed: Claimed, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.sql("create table lake.readable as select 1 as id")
    lake.tables = {}
    lake.model("readable", **EAGER)
    orphan = _litter(lake, "readable")

    class Blind(TrinoResource):
        """Some other table of the catalog cannot be read."""

        def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
            if '"free$properties"' in sql:
                raise RuntimeError("Access Denied: Cannot select from table free$properties")
            return super().fetch_all(sql)

    outcome = lake.look_after(engine=Blind.of(Settings.load()))
    assert outcome.done["readable"]["files_kept"] == (
        "whether another table needs its files is unknown, because the metadata of "
        f"{lake.relation('free')} could not be read: Access Denied: Cannot select from table free$properties"
    )
    assert _exists(orphan)
    # It is searched the next time, not a week later.
    assert "files_kept" not in lake.look_after().done["readable"]
    assert not _exists(orphan)
