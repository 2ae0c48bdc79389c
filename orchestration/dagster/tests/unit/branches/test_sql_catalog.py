"""Branches in a SQL catalog on a real PostgreSQL, with tables that pyiceberg writes to a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from branch_histories import Action, actions, agrees_with_the_model, publish_at_once
from hypothesis import HealthCheck, given, settings
from lakehouse_analytics.branches.catalog import BranchBusyError, BranchError, ConflictError, Name
from lakehouse_analytics.branches.files import delete
from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog
from lakehouse_analytics.branches.sql_publications import KEPT_AFTER_ROLLBACK
from lakehouse_analytics.iceberg.catalog import open_catalog
from postgres_server import PostgresServer, postgres_server
from pyiceberg.types import StringType
from sqlalchemy.engine import Connection

ORDERS, CUSTOMERS, NEW = Name("silver", "orders"), Name("silver", "customers"), Name("gold", "totals")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as made:
        yield made


@dataclass
class Lake:
    """A catalog with two tables, and its files."""

    folder: Path
    server: PostgresServer
    database: str
    catalog: Any
    branches: SqlBranchCatalog

    def table(self, name: Name) -> Any:
        return self.catalog.load_table((name.schema, name.table))

    def rewrite(self, name: Name) -> None:
        """Commit a snapshot with the same rows, as a compaction does, for which pyiceberg has no writer."""
        self.append(name)
        location = self.table(name).metadata_location
        metadata = json.loads(Path(location.removeprefix("file://")).read_text())
        metadata["snapshots"][-1]["summary"]["operation"] = "replace"
        rewritten = location.replace(".metadata.json", "-rewritten.metadata.json")
        Path(rewritten.removeprefix("file://")).write_text(json.dumps(metadata))
        self.sql(
            "update iceberg_tables set metadata_location = %s where metadata_location = %s returning 1",
            rewritten,
            location,
        )

    def ids(self, name: Name) -> list[int]:
        return sorted(self.catalog.load_table((name.schema, name.table)).scan().to_arrow()["id"].to_pylist())

    def append(self, name: Name, *ids: int) -> None:
        self.catalog.load_table((name.schema, name.table)).append(pa.table({"id": pa.array([*ids], pa.int64())}))

    def create(self, name: Name, *ids: int, folder: str | None = None) -> None:
        location = f"file://{self.folder}/{folder}" if folder else None
        table = self.catalog.create_table((name.schema, name.table), pa.schema([("id", pa.int64())]), location)
        table.append(pa.table({"id": [*ids]}))

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.server.ask(statement, *parameters, database=self.database)

    def files(self) -> set[str]:
        return {str(path) for path in self.folder.rglob("*") if path.is_file()}

    def names(self) -> set[str]:
        return {
            f"{schema}.{table}" for schema, table in self.sql("select table_namespace, table_name from iceberg_tables")
        }


@pytest.fixture
def lake(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    return new_lake(server, tmp_path, monkeypatch)


def new_lake(server: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    database = server.new_database()
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", server.url(database).replace("://", "+psycopg2://"))
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{folder}")
    create_catalog("lake")
    catalog = open_catalog("lake")
    lake = Lake(folder, server, database, catalog, SqlBranchCatalog("lake"))
    for schema in ("silver", "gold"):
        catalog.create_namespace(schema)
    lake.create(ORDERS, 1, 2)
    lake.create(CUSTOMERS, 1)
    return lake


def create_catalog(name: str) -> None:
    from pyiceberg.catalog.sql import SqlCatalogBaseTable
    from sqlalchemy import create_engine

    engine = create_engine(os.environ[f"PYICEBERG_CATALOG__{name.upper()}__URI"])
    SqlCatalogBaseTable.metadata.create_all(engine)
    engine.dispose()


def test_a_branch_reads_the_tables_and_leaves_them_as_they_are(lake: Lake) -> None:
    before = lake.files()
    lake.branches.create("pr_42", {ORDERS: True, CUSTOMERS: True})
    assert lake.files() == before
    lake.append(ORDERS.on("pr_42"), 3)
    assert lake.ids(ORDERS) == [1, 2]
    assert lake.ids(ORDERS.on("pr_42")) == [1, 2, 3]
    assert lake.ids(CUSTOMERS.on("pr_42")) == [1]


def test_tables_are_published_together_and_their_history_continues(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True, NEW: True})
    first = lake.catalog.load_table(("silver", "orders")).current_snapshot().snapshot_id
    lake.append(ORDERS.on("b"), 2)
    lake.append(ORDERS.on("b"), 3)
    lake.create(NEW.on("b"), 7)
    published = lake.branches.publish("b", [ORDERS, CUSTOMERS, NEW], "run-1")
    assert (published.tables, published.unchanged) == ([NEW, ORDERS], [CUSTOMERS])
    assert (lake.ids(ORDERS), lake.ids(NEW)) == ([1, 2, 2, 3], [7])
    logs = [lake.catalog.load_table((name.schema, name.table)).history() for name in (ORDERS, NEW)]
    assert logs[0][-1].timestamp_ms == logs[1][-1].timestamp_ms
    assert logs[0][0].snapshot_id == first
    assert len(logs[0]) == 2  # the state between was current on the branch only
    assert lake.catalog.load_table(("silver", "orders")).scan(snapshot_id=first).to_arrow().num_rows == 2
    lake.append(ORDERS, 4)
    assert lake.branches.drop("b") == 0
    assert lake.ids(ORDERS) == [1, 2, 2, 3, 4]
    assert lake.names() == {"silver.orders", "silver.customers", "gold.totals"}
    assert lake.catalog.load_table(("gold", "totals")).location().startswith(f"file://{lake.folder}/gold/")


def test_a_changed_table_refuses_the_whole(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    lake.append(CUSTOMERS, 9)
    files = lake.files()
    with pytest.raises(ConflictError, match=r"Nothing of the branch b was published.*: silver\.customers\.") as error:
        lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    assert error.value.tables == [CUSTOMERS]
    assert lake.files() == files
    assert (lake.ids(ORDERS), lake.ids(CUSTOMERS)) == ([1, 2], [1, 9])
    assert lake.ids(ORDERS.on("b")) == [1, 2, 3]


def test_a_table_that_another_branch_created_first_is_a_conflict(lake: Lake) -> None:
    for branch in ("one", "two"):
        lake.branches.create(branch, {NEW: True})
        lake.create(NEW.on(branch), 1)
    lake.branches.publish("one", [NEW], "one")
    with pytest.raises(ConflictError):
        lake.branches.publish("two", [NEW], "two")


def test_a_part_of_a_branch_may_be_published_and_the_rest_dropped(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    before = lake.files()
    lake.append(CUSTOMERS.on("b"), 3)
    lake.branches.publish("b", [ORDERS], "run-1")
    published = lake.catalog.load_table(("silver", "orders")).metadata_location.removeprefix("file://")
    assert lake.branches.drop("b") > 0
    assert lake.files() == before | {published}
    assert (lake.ids(ORDERS), lake.ids(CUSTOMERS)) == ([1, 2, 3], [1])


def test_dropping_leaves_neither_rows_nor_files(lake: Lake) -> None:
    before, names = lake.files(), lake.names()
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True, NEW: True})
    lake.append(ORDERS.on("b"), 3)
    lake.catalog.load_table(("silver__b", "orders")).overwrite(pa.table({"id": [8]}))
    lake.create(NEW.on("b"), 5)
    lake.create(Name("gold__b", "totals__dbt_tmp_1"), 5)  # of a killed dbt
    lake.branches.drop("b")
    assert (lake.files(), lake.names()) == (before, names)
    assert lake.branches.branches() == []
    assert lake.sql("select count(*) from iceberg_namespace_properties where namespace like '%%\\_\\_b'") == [(0,)]
    for table in ("lakehouse_branch_tables", "lakehouse_dropped_tables"):
        assert lake.sql(f"select count(*) from {table}") == [(0,)]
    assert lake.ids(ORDERS) == [1, 2]


def test_dropping_continues_where_it_was_killed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.files()
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)

    def die(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("lakehouse_analytics.branches.sql_catalog.delete", die)
        with pytest.raises(KeyboardInterrupt):
            lake.branches.drop("b")
    assert lake.files() > before
    lake.branches.delete_dropped()
    assert lake.files() == before


@pytest.mark.parametrize(
    "statement",
    [
        "delete from iceberg_tables where table_namespace = 'silver__b' and table_name = 'orders'",
        "update iceberg_tables set table_name = 'x' where table_namespace = 'silver__b' and table_name = 'orders'",
    ],
)
def test_a_copy_can_neither_be_dropped_nor_renamed_by_others(lake: Lake, statement: str) -> None:
    lake.branches.create("b", {ORDERS: True, NEW: True})
    lake.create(NEW.on("b"), 5)
    with pytest.raises(psycopg2.Error, match=r"silver__b\.orders is a copy of silver\.orders on the branch b"):
        lake.sql(statement)
    assert lake.ids(ORDERS.on("b")) == [1, 2]
    lake.catalog.drop_table(("gold__b", "totals"))  # its own
    lake.append(ORDERS.on("b"), 3)
    assert lake.ids(ORDERS.on("b")) == [1, 2, 3]


def test_a_publication_is_rolled_back_whole(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True, NEW: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    lake.create(NEW.on("b"), 5)
    lake.branches.publish("b", [ORDERS, CUSTOMERS, NEW], "run-1")
    lake.branches.drop("b")
    assert lake.branches.rollback("run-1").tables == [NEW, CUSTOMERS, ORDERS]
    assert (lake.ids(ORDERS), lake.ids(CUSTOMERS)) == ([1, 2], [1])
    assert "gold.totals" not in lake.names()
    with pytest.raises(BranchError, match="The run run-1 was rolled back already"):
        lake.branches.rollback("run-1")
    lake.append(ORDERS, 4)
    assert lake.ids(ORDERS) == [1, 2, 4]


def test_a_step_that_publishes_twice_is_rolled_back_to_what_was_before_it(lake: Lake) -> None:
    for n in (3, 4):
        lake.branches.create("b", {ORDERS: True, NEW: True})
        lake.append(ORDERS.on("b"), n)
        lake.branches.publish("b", [ORDERS], "run-1")
        lake.branches.drop("b")
    assert lake.ids(ORDERS) == [1, 2, 3, 4]
    lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2]


@pytest.mark.parametrize("publish", [False, True])
def test_files_of_expired_snapshots_that_the_table_still_has_are_kept(lake: Lake, publish: bool) -> None:
    lake.append(ORDERS, 3)
    table = lake.table(ORDERS)
    for snapshot in table.snapshots()[:-1]:
        table.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()
    before = lake.files()
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 4)
    lake.append(ORDERS.on("b"), 5)
    if publish:
        lake.branches.publish("b", [ORDERS], "run-1")
        lake.branches.rollback("run-1")
    lake.branches.drop("b")
    lake.branches.delete_dropped()
    assert lake.ids(ORDERS) == [1, 2, 3]
    if not publish:
        assert lake.files() == before


def test_a_created_table_that_was_rolled_back_loses_its_files_later(lake: Lake) -> None:
    before = lake.files()
    lake.branches.create("b", {NEW: True})
    lake.create(NEW.on("b"), 5)
    lake.branches.publish("b", [NEW], "run-1")
    lake.branches.rollback("run-1")
    assert lake.branches.delete_dropped() == 0
    lake.sql("update lakehouse_dropped_tables set delete_after = delete_after - %s", KEPT_AFTER_ROLLBACK)
    assert lake.branches.delete_dropped() > 0
    assert lake.files() == before


def test_a_table_whose_files_are_being_deleted_is_not_restored(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: False})
    lake.create(ORDERS.on("b"), 7, folder="silver/orders-2")
    lake.branches.publish("b", [ORDERS], "run-1")
    lake.sql("update lakehouse_dropped_tables set delete_after = now() returning 1")
    with pytest.raises(BranchError, match=r"the snapshot of silver\.orders before it has expired"):
        lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [7]
    assert lake.branches.delete_dropped() > 0


def test_files_of_a_table_that_somebody_registered_again_are_kept(lake: Lake) -> None:
    lake.branches.create("b", {NEW: True})
    lake.create(NEW.on("b"), 5)
    lake.branches.publish("b", [NEW], "run-1")
    location = lake.catalog.load_table(("gold", "totals")).metadata_location
    lake.branches.rollback("run-1")
    lake.catalog.register_table(("gold", "kept"), location)
    lake.sql("update lakehouse_dropped_tables set delete_after = now()")
    assert lake.branches.delete_dropped() == 0
    assert lake.ids(Name("gold", "kept")) == [5]


def test_a_rollback_is_refused_if_a_table_has_changed_since(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    lake.append(CUSTOMERS, 4)
    with pytest.raises(BranchError, match=r"tables have been changed since: silver\.customers\."):
        lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2, 3]
    with pytest.raises(BranchError, match="The run run-2 has published nothing"):
        lake.branches.rollback("run-2")


def test_a_rollback_is_a_new_state_and_what_was_published_can_be_read(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    with lake.table(CUSTOMERS.on("b")).update_schema() as update:
        update.add_column("name", StringType())
    lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    published = lake.table(ORDERS).current_snapshot().snapshot_id
    lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2]
    assert lake.table(CUSTOMERS).schema().column_names == ["id"]
    assert sorted(lake.table(ORDERS).scan(snapshot_id=published).to_arrow()["id"].to_pylist()) == [1, 2, 3]
    times = [entry.timestamp_ms for entry in lake.table(ORDERS).metadata.snapshot_log]
    assert times == sorted(times)
    assert times[-1] == lake.table(CUSTOMERS).metadata.snapshot_log[-1].timestamp_ms


def test_maintenance_does_not_prevent_a_rollback(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True, NEW: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    lake.create(NEW.on("b"), 5)
    lake.branches.publish("b", [ORDERS, CUSTOMERS, NEW], "run-1")
    for name in (ORDERS, NEW):
        lake.rewrite(name)
        lake.rewrite(name)
    lake.branches.rollback("run-1")
    assert (lake.ids(ORDERS), lake.ids(CUSTOMERS)) == ([1, 2], [1])
    assert "gold.totals" not in lake.names()
    lake.append(ORDERS, 4)
    assert lake.ids(ORDERS) == [1, 2, 4]


def test_the_run_before_one_that_was_rolled_back_can_be_too(lake: Lake) -> None:
    for run, n in (("run-1", 3), ("run-2", 4)):
        lake.branches.create("b", {ORDERS: True})
        lake.append(ORDERS.on("b"), n)
        lake.branches.publish("b", [ORDERS], run)
        lake.branches.drop("b")
        lake.rewrite(ORDERS)
    with pytest.raises(BranchError, match="tables have been changed since"):
        lake.branches.rollback("run-1")
    lake.branches.rollback("run-2")
    assert lake.ids(ORDERS) == [1, 2, 3]
    lake.rewrite(ORDERS)
    lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2]


@pytest.mark.parametrize("change", ["rows", "columns", "properties"])
def test_a_change_after_maintenance_still_refuses_a_rollback(lake: Lake, change: str) -> None:
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.branches.publish("b", [ORDERS], "run-1")
    lake.rewrite(ORDERS)
    table = lake.table(ORDERS)
    if change == "rows":
        table.append(pa.table({"id": [4]}))
    elif change == "columns":
        table.update_schema().add_column("name", StringType()).commit()
    else:
        table.transaction().set_properties(owner="finance").commit_transaction()
    lake.rewrite(ORDERS)
    with pytest.raises(BranchError, match=r"tables have been changed since: silver\.orders\."):
        lake.branches.rollback("run-1")


def test_a_snapshot_that_maintenance_has_removed_is_not_restored(lake: Lake) -> None:
    before = lake.table(ORDERS).current_snapshot().snapshot_id
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.branches.publish("b", [ORDERS], "run-1")
    lake.branches.drop("b")
    lake.table(ORDERS).maintenance.expire_snapshots().by_id(before).commit()
    with pytest.raises(BranchError, match=r"the snapshot of silver\.orders before it has expired"):
        lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2, 3]


def test_a_rollback_to_an_expired_snapshot_is_refused(lake: Lake) -> None:
    expired = lake.catalog.load_table(("silver", "orders")).current_snapshot().manifest_list
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.branches.publish("b", [ORDERS], "run-1")
    Path(expired.removeprefix("file://")).unlink()
    with pytest.raises(BranchError, match=r"the snapshot of silver\.orders before it has expired"):
        lake.branches.rollback("run-1")
    assert lake.ids(ORDERS) == [1, 2, 3]


def test_views_are_published_with_the_names_of_the_tables(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, NEW: False})
    folder = lake.folder / "gold" / "totals-1" / "metadata"
    folder.mkdir(parents=True)
    sql = "SELECT * FROM lake.silver__b.orders JOIN lake.silver__bc.orders"
    view = {"view-uuid": "1", "versions": [{"representations": [{"type": "sql", "sql": sql, "dialect": "trino"}]}]}
    (folder / "v1.metadata.json").write_text(json.dumps(view))
    lake.sql(
        "insert into iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type) "
        "values ('lake', 'gold__b', 'totals', %s, 'VIEW')",
        f"file://{folder}/v1.metadata.json",
    )
    lake.branches.publish("b", [NEW], "run-1")
    [(location, kind)] = lake.sql(
        "select metadata_location, iceberg_type from iceberg_tables where table_namespace = 'gold'"
    )
    published = json.loads(Path(location.removeprefix("file://")).read_text())
    [representation] = published["versions"][0]["representations"]
    assert representation["sql"] == "SELECT * FROM lake.silver.orders JOIN lake.silver__bc.orders"
    assert kind == "VIEW"


def test_the_names_of_branches(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True}, expires=datetime.now(UTC) + timedelta(days=7))
    with pytest.raises(BranchError, match="The branch b exists already"):
        lake.branches.create("b", {ORDERS: True})
    for name in ("", "PR-42", "a__b", "x" * 49, "b'; drop table iceberg_tables"):
        with pytest.raises(BranchError, match="is not a name of a branch"):
            lake.branches.create(name, {ORDERS: True})
    [branch] = lake.branches.branches()
    assert (branch.name, branch.kind, branch.tables) == ("b", "branch", 1)
    with pytest.raises(BranchError, match=r"The branch b has no table silver\.customers"):
        lake.branches.publish("b", [CUSTOMERS], "x")
    lake.branches.create("c", {NEW: True})
    with pytest.raises(BranchError, match=r"The branch c has not built gold\.totals"):
        lake.branches.publish("c", [NEW], "x")


def test_a_schema_of_somebody_else_is_neither_used_nor_dropped(lake: Lake) -> None:
    lake.catalog.create_namespace("silver__dev")
    lake.create(Name("silver__dev", "precious"), 1)
    with pytest.raises(BranchError, match="needs the schema silver__dev, which exists and is not of a branch"):
        lake.branches.create("dev", {ORDERS: True})
    lake.catalog.create_namespace("sales__b")
    lake.create(Name("sales__b", "precious"), 1)
    lake.branches.create("b", {ORDERS: True})
    lake.branches.drop("b")
    lake.branches.drop("dev")
    assert lake.ids(Name("sales__b", "precious")) == lake.ids(Name("silver__dev", "precious")) == [1]


def test_a_table_whose_commits_delete_old_metadata_is_refused(lake: Lake) -> None:
    with lake.catalog.load_table(("silver", "orders")).transaction() as transaction:
        transaction.set_properties({"write.metadata.delete-after-commit.enabled": "true"})
    with pytest.raises(BranchError, match=r"silver\.orders cannot be on a branch, because of the table property"):
        lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    assert lake.branches.branches() == []
    assert lake.names() == {"silver.orders", "silver.customers"}


def test_a_refused_publication_leaves_the_branch_as_it_is(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    with lake.catalog.load_table(("silver__b", "orders")).transaction() as transaction:
        transaction.set_properties({"comment": "without a new snapshot"})
    lake.append(CUSTOMERS, 9)
    with pytest.raises(ConflictError):
        lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    assert lake.ids(ORDERS.on("b")) == [1, 2]
    lake.branches.publish("b", [ORDERS], "run-1")
    assert lake.catalog.load_table(("silver", "orders")).properties["comment"] == "without a new snapshot"
    assert lake.ids(ORDERS) == [1, 2]


def test_after_an_unknown_end_of_the_transaction_no_file_is_deleted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    exchange = lake.branches._exchange

    @contextmanager
    def lose_the_answer(what: str) -> Iterator[Any]:
        with SqlBranchCatalog.transaction(lake.branches, what) as session:
            yield session
        if exchanged:
            raise BranchError("the connection was lost after the commit")

    exchanged: list[bool] = []

    def remember(*args: Any, **options: Any) -> None:
        exchange(*args, **options)
        exchanged.append(True)

    monkeypatch.setattr(lake.branches, "transaction", lose_the_answer)
    monkeypatch.setattr(lake.branches, "_exchange", remember)
    with pytest.raises(BranchError, match="the connection was lost"):
        lake.branches.publish("b", [ORDERS], "run-1")
    assert lake.ids(ORDERS) == [1, 2, 3]


def test_a_table_that_was_registered_again_and_changed_keeps_its_files(lake: Lake) -> None:
    lake.branches.create("b", {NEW: True})
    lake.create(NEW.on("b"), 5)
    lake.branches.publish("b", [NEW], "run-1")
    location = lake.catalog.load_table(("gold", "totals")).metadata_location
    lake.branches.rollback("run-1")
    lake.catalog.register_table(("gold", "totals"), location)
    lake.append(NEW, 6)
    lake.sql("update lakehouse_dropped_tables set delete_after = now()")
    assert lake.branches.delete_dropped() == 0
    assert lake.ids(NEW) == [5, 6]
    assert lake.sql("select count(*) from lakehouse_dropped_tables") == [(0,)]


def test_a_deletion_that_was_interrupted_in_the_middle_is_continued(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lake.files()
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)

    def fail(io: Any, files: list[str]) -> int:
        if any(file.endswith("metadata.json") for file in files):
            raise OSError("the storage is away")
        return delete(io, files)

    with monkeypatch.context() as broken:
        broken.setattr("lakehouse_analytics.branches.sql_catalog.delete", fail)
        with pytest.raises(BranchError, match="The files of 2 dropped tables cannot be deleted yet: file://"):
            lake.branches.drop("b")
    assert lake.files() > before
    assert lake.branches.delete_dropped() == 2
    assert lake.files() == before


def test_a_branch_in_use_is_exclusive_or_shared(lake: Lake) -> None:
    other = SqlBranchCatalog("lake")
    with lake.branches.in_use("b"):
        for shared in (True, False):
            with pytest.raises(BranchBusyError, match="The branch b is in use"), other.in_use("b", shared=shared):
                pass
        with other.in_use("c"):
            pass
    with lake.branches.in_use("b", shared=True), other.in_use("b", shared=True), pytest.raises(BranchBusyError):
        other.in_use("b").__enter__()
    with other.in_use("b"):
        pass


def test_a_branch_is_free_before_its_session_has_ended(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL releases the locks of a closed session only when it has noticed, which takes longer under load."""
    locks: list[Any] = []
    invalidate = Connection.invalidate

    def count_first(self: Connection, *args: Any) -> None:
        locks.extend(lake.sql("select count(*) from pg_locks where locktype = 'advisory'"))
        invalidate(self, *args)

    monkeypatch.setattr(Connection, "invalidate", count_first)
    with lake.branches.in_use("b"):
        assert lake.sql("select count(*) from pg_locks where locktype = 'advisory'") == [(1,)]
    assert locks == [(0,)]


def test_a_clock_that_is_behind_does_not_make_times_go_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    now = time.time()
    monkeypatch.setattr("lakehouse_analytics.branches.sql_publications.time.time", lambda: now - 3600)
    lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    monkeypatch.undo()
    for name in (ORDERS, CUSTOMERS):
        table = lake.catalog.load_table((name.schema, name.table))
        times = [entry.timestamp_ms for entry in table.history()]
        assert times == sorted(times)
        assert table.metadata.last_updated_ms == times[-1] >= int(now * 1000) - 60_000


def test_a_rollback_does_not_undo_another_run_in_between(lake: Lake) -> None:
    for run, n in (("run-a", 3), ("run-b", 4), ("run-a", 5)):
        lake.branches.create("b", {ORDERS: True})
        lake.append(ORDERS.on("b"), n)
        lake.branches.publish("b", [ORDERS], run)
        lake.branches.drop("b")
    lake.branches.rollback("run-a")
    assert lake.ids(ORDERS) == [1, 2, 3, 4]


def test_a_table_that_replaces_another_one_can_be_rolled_back(lake: Lake) -> None:
    before = lake.files()
    for _ in range(2):
        lake.branches.create("b", {ORDERS: False})
        lake.create(ORDERS.on("b"), 7, folder="silver/orders-2")  # as Trino does, whose locations are unique
        lake.branches.publish("b", [ORDERS], "run-1")
        assert lake.ids(ORDERS) == [7]
        assert lake.branches.drop("b") == 0
        lake.branches.rollback("run-1")
        assert lake.ids(ORDERS) == [1, 2]
        lake.sql("update lakehouse_dropped_tables set delete_after = now()")
        assert lake.branches.delete_dropped() > 0
        assert lake.files() == before
    lake.branches.create("b", {ORDERS: False})
    lake.create(ORDERS.on("b"), 7, folder="silver/orders-2")
    lake.branches.publish("b", [ORDERS], "run-2")
    lake.sql("update lakehouse_dropped_tables set delete_after = now()")
    assert lake.branches.delete_dropped() > 0
    assert lake.files().isdisjoint(file for file in before if "/silver/orders/" in file)
    with pytest.raises(BranchError, match=r"the snapshot of silver\.orders before it has expired"):
        lake.branches.rollback("run-2")
    assert lake.ids(ORDERS) == [7]


def test_a_branch_is_extended_and_its_results_are_recorded(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(CUSTOMERS.on("b"), 3)
    lake.branches.extend("b", {ORDERS: False, CUSTOMERS: True, NEW: True})
    assert "silver__b.orders" not in lake.names()
    assert lake.ids(CUSTOMERS.on("b")) == [1, 3]
    lake.branches.record_results("b", [CUSTOMERS], [NEW, ORDERS])
    assert lake.branches.failed("b") == [NEW, ORDERS]
    lake.branches.record_results("b", [NEW, ORDERS], [])
    assert lake.branches.failed("b") == []
    with pytest.raises(BranchError, match="There is no branch c"):
        lake.branches.extend("c", {})


def test_others_may_still_drop_their_tables_without_rights_on_branches(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True})
    role = f"trino_{lake.database}"
    lake.sql(f"create role {role} login")
    lake.sql(f"grant all on iceberg_tables, iceberg_namespace_properties to {role}")
    connection = psycopg2.connect(lake.server.url(lake.database, role))
    with connection, connection.cursor() as cursor:
        cursor.execute("delete from iceberg_tables where table_namespace = 'silver' and table_name = 'customers'")
        with pytest.raises(psycopg2.Error, match="is a copy of"):
            cursor.execute("delete from iceberg_tables where table_namespace = 'silver__b'")
    connection.close()


def test_a_role_that_may_not_create_the_trigger_is_told_what_is_missing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"reader_{lake.database}"
    lake.sql(f"create role {role} login")
    lake.sql(f"grant all on iceberg_tables, iceberg_namespace_properties to {role}")
    url = lake.server.url(lake.database, role).replace("://", "+psycopg2://")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", url)
    with pytest.raises(BranchError, match="needs the right to create tables and functions, and must own"):
        SqlBranchCatalog("lake").create("b", {ORDERS: True})


def test_branches_need_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__SMALL__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__SMALL__URI", f"sqlite:///{tmp_path}/catalog.db")
    create_catalog("small")
    with pytest.raises(BranchError, match="The Iceberg catalog small is in sqlite: branches need a SQL catalog in"):
        SqlBranchCatalog("small").create("b", {ORDERS: True})


def test_of_branches_that_publish_at_once_one_wins_and_nothing_is_half(lake: Lake) -> None:
    publish_at_once(lake, {ORDERS: (1, 2), CUSTOMERS: (1,)}, branches=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=actions(branches=3, most=25, rewrites=True))
def test_any_order_of_actions_agrees_with_a_model(
    server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, actions: list[Action]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lake = new_lake(server, tmp_path_factory.mktemp("lake"), patch)
        agrees_with_the_model(lake, {ORDERS: (1, 2), CUSTOMERS: (1,)}, actions, rollback_restores_state=False)
