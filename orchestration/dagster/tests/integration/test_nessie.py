"""Branches and publications of a REST catalog: Nessie, which the local stack starts for these tests."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from branch_histories import Action, actions, agrees_with_the_model, publish_at_once
from hypothesis import HealthCheck, given, settings
from lakehouse_analytics.assets.run_branch import remove_dead_branches
from lakehouse_analytics.branches import nessie_api, nessie_history, nessie_leases
from lakehouse_analytics.branches.catalog import BranchBusyError, BranchError, ConflictError, Name, RefusedError
from lakehouse_analytics.branches.nessie_api import Nessie, delete, put
from lakehouse_analytics.branches.nessie_catalog import NessieBranchCatalog
from lakehouse_analytics.branches.opening import open_branches
from lakehouse_analytics.iceberg.catalog import open_catalog

from .conftest import Lakehouse
from .databases import Rest, Trino
from .generations import GOOD, NAMES, ROWS, new_world
from .generations import LAYERS as GENERATIONS
from .run_server import LEASE
from .stack import kill_part, stack_environment, start_part
from .test_publish import LAYERS, command, published_and_compacted, schemas
from .test_publish import test_a_code_location_on_a_branch_writes_nowhere_else as _on_a_branch

pytestmark = pytest.mark.engine("trino")

ORDERS, CUSTOMERS, NEW = Name("silver", "orders"), Name("silver", "customers"), Name("gold", "totals")
#: More with LAKEHOUSE_TEST_KILLS.
KILLS = int(os.environ.get("LAKEHOUSE_TEST_KILLS", "3"))
PUBLICATIONS = 8


@pytest.fixture(scope="module", autouse=True)
def _nessie() -> None:
    start_part("rest")


@pytest.fixture
def database() -> Trino:
    return Rest()


@dataclass
class Lake:
    """A reference of Nessie with two tables, which no other test uses."""

    catalog: Any
    branches: NessieBranchCatalog
    nessie: Nessie

    def ids(self, name: Name) -> list[int]:
        return sorted(self.catalog.load_table((name.schema, name.table)).scan().to_arrow()["id"].to_pylist())

    def append(self, name: Name, *ids: int) -> None:
        self.catalog.load_table((name.schema, name.table)).append(pa.table({"id": [*ids]}))

    def rewrite(self, name: Name) -> None:
        raise NotImplementedError  # pyiceberg has no such commit

    def create(self, name: Name, *ids: int) -> None:
        table = self.catalog.create_table((name.schema, name.table), pa.schema([("id", pa.int64())]))
        table.append(pa.table({"id": [*ids]}))

    def location(self, name: Name) -> str:
        return str(self.catalog.load_table((name.schema, name.table)).location())

    def names(self) -> set[str]:
        return {".".join(key) for key, _ in self.nessie.entries(self.nessie.current())}

    def files(self, folder: str) -> set[str]:
        from pyarrow.fs import FileSelector

        path = folder.removeprefix("s3://")
        system = self.catalog._load_file_io().fs_by_scheme("s3", path.partition("/")[0])
        found = system.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
        return {file.path for file in found if file.is_file}


def new_lake(patch: pytest.MonkeyPatch) -> Lake:
    environment = stack_environment()
    reference = f"test_{uuid.uuid4().hex[:8]}"
    of, checksums = "PYICEBERG_CATALOG__REST__", "AWS_REQUEST_CHECKSUM_CALCULATION"
    patch.setenv(checksums, environment[checksums])
    for name, value in environment.items():
        if name.startswith(of):
            patch.setenv(name, value)
    Nessie("rest").create_reference(reference)
    for name, value in environment.items():
        if name.startswith(of):
            patch.setenv(name.replace("__REST__", "__LAKE__"), value)
    patch.setenv("PYICEBERG_CATALOG__LAKE__URI", environment[f"{of}URI"].rsplit("/", 1)[0] + f"/{reference}")
    branches = open_branches("lake")
    assert isinstance(branches, NessieBranchCatalog)
    lake = Lake(open_catalog("lake"), branches, Nessie("lake"))
    assert lake.nessie.reference == reference
    lake.catalog.create_namespace("silver")
    lake.create(ORDERS, 1, 2)
    lake.create(CUSTOMERS, 1)
    return lake


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    made = new_lake(monkeypatch)
    yield made
    made.nessie.delete_reference(made.nessie.reference, made.nessie.current())


def test_tables_are_published_together(lake: Lake) -> None:
    before = lake.nessie.current()
    folder = lake.location(ORDERS)
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True, NEW: True})
    files = lake.files(folder)
    lake.append(ORDERS.on("b"), 3)
    lake.append(ORDERS.on("b"), 4)
    lake.create(NEW.on("b"), 7)
    assert (lake.ids(ORDERS), lake.ids(ORDERS.on("b"))) == ([1, 2], [1, 2, 3, 4])
    # Nessie's GC tool lists the folder of each table, and deletes what this table does not need.
    assert lake.files(folder) == files
    assert not lake.location(ORDERS.on("b")).startswith(folder)
    published = lake.branches.publish("b", [ORDERS, CUSTOMERS, NEW], "run-1")
    assert (published.tables, published.unchanged) == ([NEW, ORDERS], [CUSTOMERS])
    assert (lake.ids(ORDERS), lake.ids(NEW)) == ([1, 2, 3, 4], [7])
    assert lake.location(ORDERS) == folder
    lake.append(ORDERS, 5)
    assert lake.branches.drop("b") == 1  # the metadata of the copy of customers
    assert lake.names() == {"silver", "silver.orders", "silver.customers", "gold", "gold.totals"}
    assert (lake.ids(ORDERS), lake.ids(CUSTOMERS), lake.ids(NEW)) == ([1, 2, 3, 4, 5], [1], [7])
    old = lake.nessie.contents([ORDERS], before)[ORDERS]
    assert lake.branches._files.is_restorable(old)


def test_a_changed_table_refuses_the_whole(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    lake.append(CUSTOMERS.on("b"), 3)
    lake.append(CUSTOMERS, 9)
    before = lake.nessie.current()
    with pytest.raises(
        ConflictError, match=r"other writers have changed tables since it was created: silver\.customers"
    ):
        lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    assert lake.nessie.current() == before
    assert lake.branches.publications("run-1") == []


@pytest.mark.parametrize("arrives", [True, False])
def test_a_publication_whose_answer_is_lost_is_found(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
) -> None:
    lake.branches.create("b", {ORDERS: True, CUSTOMERS: True})
    lake.append(ORDERS.on("b"), 3)
    session = lake.catalog._session
    request = session.request

    def lost(method: str, url: str, **options: Any) -> Any:
        if not url.endswith("/history/commit"):
            return request(method, url, **options)
        if arrives:
            request(method, url, **options)
        raise requests.ConnectionError("Connection reset by peer")

    with monkeypatch.context() as broken:
        broken.setattr(session, "request", lost)
        if arrives:
            assert lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1").tables == [ORDERS]
        else:
            with pytest.raises(BranchError, match="Whether the branch b was published is not known: Nessie cannot be"):
                lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    assert lake.ids(ORDERS) == ([1, 2, 3] if arrives else [1, 2])


def test_dropping_leaves_neither_keys_nor_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.names()
    lake.branches.create("b", {ORDERS: True, NEW: True})
    lake.append(ORDERS.on("b"), 3)
    lake.create(NEW.on("b"), 7)
    folders = [lake.location(name.on("b")) for name in (ORDERS, NEW)]
    with monkeypatch.context() as broken:

        def fail(*_: object) -> int:
            raise OSError("no connection")

        broken.setattr("lakehouse_analytics.branches.nessie_files.delete", fail)
        with pytest.raises(BranchError, match=r"cannot be deleted yet: OSError: no connection\."):
            lake.branches.drop("b")
    with pytest.raises(BranchError, match="There is no branch b"):
        lake.branches.publish("b", [ORDERS, NEW], "run-1")
    assert lake.branches.delete_dropped() > 0
    assert [lake.files(folder) for folder in folders] == [set(), set()]
    assert lake.names() == before
    assert (lake.ids(ORDERS), lake.branches.branches()) == ([1, 2], [])


def test_a_folder_that_a_published_table_needs_is_kept(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    metadata = lake.catalog.load_table(("silver__b", "orders")).metadata_location
    lake.catalog.register_table(("silver__b", "same"), metadata)
    lake.branches.publish("b", [ORDERS], "run-1")
    lake.branches.drop("b")
    assert lake.ids(ORDERS) == [1, 2, 3]


def test_another_reference_does_not_drop_the_branches_of_this_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference of Nessie that is made from `main` during a run has its branch, too, and later no use for it."""
    lake.branches.create("run_1", {ORDERS: True}, kind="run")
    lake.append(ORDERS.on("run_1"), 3)
    other = f"{lake.nessie.reference}_dev"
    lake.nessie.create_reference(other, lake.nessie.current())
    uri = os.environ["PYICEBERG_CATALOG__LAKE__URI"].replace(lake.nessie.reference, other)
    for name in [name for name in os.environ if name.startswith("PYICEBERG_CATALOG__LAKE__")]:
        monkeypatch.setenv(name.replace("__LAKE__", "__DEV__"), os.environ[name])
    monkeypatch.setenv("PYICEBERG_CATALOG__DEV__URI", uri)
    elsewhere = open_branches("dev")
    assert remove_dead_branches(elsewhere) == []
    assert elsewhere.branches() == []
    lake.branches.publish("run_1", [ORDERS], "run-1")
    assert (remove_dead_branches(elsewhere), elsewhere.delete_dropped()) == ([], 0)
    assert lake.ids(ORDERS) == [1, 2, 3]
    head = lake.nessie.head(other)
    assert head
    lake.nessie.delete_reference(other, head)


def test_a_branch_that_is_being_dropped_is_not_published(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may drop it between two requests of the publication, such as after a pause of this one."""
    lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    create_views = lake.branches._create_views

    def dropped_meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(lake.branches, "_create_views", create_views)
        open_branches("lake").drop("b")
        return create_views(*args)

    monkeypatch.setattr(lake.branches, "_create_views", dropped_meanwhile)
    with pytest.raises(BranchError, match="There is no branch b"):
        lake.branches.publish("b", [ORDERS], "run-1")
    assert lake.ids(ORDERS) == [1, 2]


def test_a_commit_that_a_proxy_sends_twice_is_known(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    session = lake.catalog._session
    request = session.request

    def twice(method: str, url: str, **options: Any) -> Any:
        answer = request(method, url, **options)
        return request(method, url, **options) if url.endswith("/history/commit") else answer

    with monkeypatch.context() as patch:
        patch.setattr(session, "request", twice)
        lake.branches.create("b", {ORDERS: True})
    lake.append(ORDERS.on("b"), 3)
    with monkeypatch.context() as patch:
        patch.setattr(session, "request", twice)
        assert lake.branches.publish("b", [ORDERS], "run-1").tables == [ORDERS]
    assert lake.ids(ORDERS) == [1, 2, 3]


def test_an_expired_token_is_renewed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    session = lake.catalog._session
    request, renewed = session.request, list[bool]()
    refused = requests.Response()
    refused.status_code = 401

    def expired(method: str, url: str, **options: Any) -> Any:
        return request(method, url, **options) if renewed else refused

    monkeypatch.setattr(session, "request", expired)
    monkeypatch.setattr(lake.catalog, "_refresh_token", lambda: renewed.append(True))
    assert lake.nessie.head()
    assert renewed == [True]


def test_a_publication_is_rolled_back_whole(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: True, NEW: True})
    lake.append(ORDERS.on("b"), 3)
    lake.create(NEW.on("b"), 7)
    lake.branches.publish("b", [ORDERS, NEW], "12345678-run")
    lake.branches.drop("b")
    lake.append(ORDERS, 4)
    with pytest.raises(BranchError, match=r"tables have been changed since: silver\.orders"):
        lake.branches.rollback("12345678")
    [publication] = lake.branches.publications("12345678")
    assert (publication.tables, publication.rolled_back) == ([NEW, ORDERS], None)
    [[entry], _] = next(lake.nessie.log("'lakehouse.publication' in commit.properties"))
    operations = lake.nessie.operations(entry["commitMeta"]["hash"])
    published = {tuple(op["key"]["elements"]): op["content"] for op in operations if op["type"] == "PUT"}
    lake.nessie.commit([put(ORDERS, published["silver", "orders"])], lake.nessie.current(), "undo the append")
    assert lake.branches.rollback("12345678").tables == [NEW, ORDERS]
    assert lake.ids(ORDERS) == [1, 2]
    assert "gold.totals" not in lake.names()
    with pytest.raises(BranchError, match="was rolled back already, at "):
        lake.branches.rollback("12345678-run")


def test_the_history_is_read_in_parts_and_not_further_than_needed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        lake.branches.create(f"b{n}", {ORDERS: True})
        lake.append(ORDERS.on(f"b{n}"), 10 + n)
        lake.branches.publish(f"b{n}", [ORDERS], f"0000000{n}-run")
        lake.branches.drop(f"b{n}")
    [[whole, before]] = lake.nessie.log("true")
    assert before is None
    monkeypatch.setattr(nessie_api, "HISTORY_PART", 3)
    parts = [*lake.nessie.log("true")]
    assert [len(entries) for entries, _ in parts[:-1]] == [3] * (len(parts) - 1)
    assert [entry for entries, _ in parts for entry in entries] == whole

    read, log = list[object](), lake.branches._nessie.log

    def observed(condition: str) -> Iterator[Any]:
        for part in log(condition):
            read.append(part)
            yield part

    monkeypatch.setattr(lake.branches._nessie, "log", observed)
    for n in range(4):
        read.clear()
        [publication] = lake.branches.publications(f"0000000{n}")
        assert (publication.run, publication.tables) == (f"0000000{n}-run", [ORDERS])
        assert len(read) == len(parts)  # a run of a week may have published before
    with monkeypatch.context() as patch:
        patch.setattr(nessie_history, "LONGEST_RUN", timedelta())
        read.clear()
        assert lake.branches.publications("00000003")
        assert len(read) < len(parts) / 2
        assert lake.branches.publications("00000000")
    assert lake.branches.publications("0000000") == []
    assert lake.branches.publications("o'clock\\' || true || '") == []
    assert lake.branches.rollback("00000003").tables == [ORDERS]
    assert lake.ids(ORDERS) == [1, 2, 10, 11, 12]
    assert lake.branches.rollback("00000002-run").tables == [ORDERS]
    assert lake.ids(ORDERS) == [1, 2, 10, 11]


def test_a_run_is_rolled_back_also_after_maintenance(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_PUBLISH", "run")
    before, run_id, _ = published_and_compacted(lakehouse)
    lakehouse.sql("create table silver.other as select 1 as id")
    assert command("rollback", run_id[:8], "--yes").output == "Restored 3 tables.\n"
    assert lakehouse.database.contents(LAYERS) == {**before, "silver/other": [("id integer",), (1,)]}
    again = lakehouse.run(assets=["bronze/b", "silver/sb", "gold/gb"])
    assert again.success, again.failure
    lakehouse.sql("insert into silver.sb values (200, 1)")
    lakehouse.sql("alter table silver.sb execute optimize")
    refused = command("rollback", again.run_id, "--yes", exit_code=1).output
    assert "tables have been changed since: silver.sb." in refused


def test_a_view_cannot_replace_a_table(lake: Lake) -> None:
    lake.branches.create("b", {ORDERS: False, CUSTOMERS: True})
    lake.append(CUSTOMERS.on("b"), 3)
    schema = {"schema-id": 0, "type": "struct", "fields": [{"id": 1, "name": "id", "required": False, "type": "long"}]}
    sql = {"type": "sql", "sql": "select id from silver__b.customers", "dialect": "trino"}
    version = {
        "version-id": 1,
        "schema-id": 0,
        "timestamp-ms": int(time.time() * 1000),
        "summary": {},
        "representations": [sql],
        "default-namespace": ["silver__b"],
    }
    view = {"schemas": [schema], "versions": [version], "current-version-id": 1}
    lake.nessie.create_view(ORDERS.on("b"), view)
    with pytest.raises(RefusedError, match=r"Nessie cannot do that in one commit: silver\.orders\."):
        lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    lake.nessie.commit([delete(ORDERS)], lake.nessie.current(), "drop the table")
    with pytest.raises(ConflictError):
        lake.branches.publish("b", [ORDERS, CUSTOMERS], "run-1")
    assert lake.ids(CUSTOMERS) == [1]


def test_of_branches_that_publish_at_once_one_wins_and_nothing_is_half(lake: Lake) -> None:
    publish_at_once(lake, {ORDERS: (1, 2), CUSTOMERS: (1,)}, branches=4)


def test_a_branch_in_use_is_exclusive_or_shared_and_free_after_a_crash(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.branches.create("run_1", {ORDERS: True}, kind="run")
    with lake.branches.in_use("run_1"):
        with pytest.raises(BranchBusyError), lake.branches.in_use("run_1", shared=True):
            pass
        assert remove_dead_branches(lake.branches) == []
    shared = lake.branches.in_use("run_1", shared=True), lake.branches.in_use("run_1", shared=True)
    with shared[0], shared[1], pytest.raises(BranchBusyError), lake.branches.in_use("run_1"):
        pass
    monkeypatch.setattr(nessie_leases, "EXPIRY", timedelta(seconds=6))
    monkeypatch.setattr(nessie_leases, "RENEWAL", 0.5)
    lease = nessie_leases.Lease(lake.nessie, "run_1", shared=False)
    lease._change(lease._acquired)  # a process that dies does no more
    assert remove_dead_branches(lake.branches) == []
    time.sleep(6.1)
    with lake.branches.in_use("run_1"):
        time.sleep(6.5)  # renewed in the meantime
        assert remove_dead_branches(lake.branches) == []
    assert remove_dead_branches(lake.branches) == ["run_1"]
    assert lake.nessie.head(lease._reference) is None


_PUBLISH = """
import sys
import time
from lakehouse_analytics.branches.catalog import Name
from lakehouse_analytics.branches.opening import open_branches
branches = open_branches("lake")
print("begin", flush=True)
branches.publish(sys.argv[1], [Name("silver", "orders"), Name("silver", "customers"), Name("gold", "totals")], "r")
print("end", flush=True)
time.sleep(60)
"""


def test_a_killed_publication_is_whole_or_none(lake: Lake) -> None:
    seconds = 0.0  # of the first one, which is not killed
    for kill in range(KILLS + 1):
        branch, new = f"b{kill}", 100 + kill
        lake.branches.create(branch, {ORDERS: True, CUSTOMERS: True, NEW: True})
        lake.append(ORDERS.on(branch), new)
        lake.append(CUSTOMERS.on(branch), new)
        if "gold.totals" in lake.names():
            lake.append(NEW.on(branch), new)
        else:
            lake.create(NEW.on(branch), new)
        tables = [ORDERS, CUSTOMERS, NEW]
        before = lake.nessie.contents(tables, lake.nessie.current())
        child = subprocess.Popen([sys.executable, "-c", _PUBLISH, branch], stdout=subprocess.PIPE, text=True)
        assert child.stdout
        assert child.stdout.readline() == "begin\n"
        began = time.monotonic()
        if kill:
            time.sleep(random.uniform(0, seconds))
        else:
            assert child.stdout.readline() == "end\n"
            seconds = time.monotonic() - began
        child.send_signal(signal.SIGKILL)
        child.wait()
        after = lake.nessie.contents(tables, lake.nessie.current())
        assert len({after.get(name) == before.get(name) for name in tables}) == 1
        lake.branches.drop(branch)
        assert not [name for name in lake.names() if "__" in name]


@pytest.mark.nightly
def test_nessie_that_dies_during_a_publication_has_published_all_or_nothing(lake: Lake) -> None:
    tables, died, seconds = [ORDERS, CUSTOMERS, NEW], list[str](), 0.0
    lake.catalog.create_namespace("gold")
    lake.create(NEW, 1)
    for kill in range(KILLS + 1):
        branch = f"b{kill}"
        lake.branches.create(branch, dict.fromkeys(tables, True))
        for name in tables:
            lake.append(name.on(branch), 100 + kill)
        before = [lake.ids(name) for name in tables]

        def publish(branch: str = branch) -> None:
            try:
                open_branches("lake").publish(branch, tables, f"run-{branch}")
            except BranchError as error:
                died.append(str(error))

        thread = threading.Thread(target=publish)
        began = time.monotonic()
        thread.start()
        if kill:
            time.sleep(random.uniform(0, seconds))
            kill_part("rest")
            thread.join()
            start_part("rest")
        else:
            thread.join()
            seconds = time.monotonic() - began
        after = [lake.ids(name) for name in tables]
        assert after in (before, [[*ids, 100 + kill] for ids in before])
        published = lake.branches.publications(f"run-{branch}")
        assert [publication.tables for publication in published] == ([sorted(tables)] if after != before else [])
        if after == before:  # the next attempt is that of another run
            lake.branches.publish(branch, tables, f"again-{branch}")
        lake.branches.drop(branch)
        assert [lake.ids(name) for name in tables] == [[*ids, 100 + kill] for ids in before]
        assert not [name for name in lake.names() if "__" in name]
    assert all(re.match("Nessie cannot be used|Whether the branch b. was published is not known", one) for one in died)


@pytest.mark.nightly
def test_runs_that_are_killed_or_lose_nessie_leave_nothing(
    tmp_path: Path, database: Trino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nessie_leases, "EXPIRY", LEASE)
    with new_world(tmp_path, database, monkeypatch) as world:
        world.step(1, "run")
        world.step(2, "kill")
        world.load(3, GOOD)
        job, run_id = world.start()
        while job.is_alive and not job.is_publishing:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        kill_part("rest")
        job.wait()
        start_part("rest")
        assert job.result, job.log[-4000:]  # it ends by itself, and says what it knows
        assert world.publications(run_id) in (0, 3)
        assert job.result["success"] or "Nessie" in job.result["failure"]
        world.step(4, "run")
        for name in NAMES:
            assert database.ask(f"select max(generation), count(*) from {name}") in (
                [(4, 4 * ROWS)],
                [(4, 1)],  # of gold
            )
        time.sleep(LEASE.seconds)
        remove_dead_branches(world.branches)
        assert world.branches.branches() == []
        assert {str(schema) for (schema,) in database.ask("show schemas")} - {"information_schema", "system"} == {
            "raw",
            *GENERATIONS,
        }


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=actions(branches=2, most=10, rewrites=False))
def test_any_order_of_actions_agrees_with_a_model(actions: list[Action]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lake = new_lake(patch)
        agrees_with_the_model(lake, {ORDERS: (1, 2), CUSTOMERS: (1,)}, actions, rollback_restores_state=True)
        lake.nessie.delete_reference(lake.nessie.reference, lake.nessie.current())


@pytest.fixture(autouse=True)
def _publish(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lakehouse" in request.fixturenames:
        monkeypatch.setenv("LAKEHOUSE_PUBLISH", "run")


def test_everything_is_published_or_nothing(lakehouse: Lakehouse) -> None:
    first = lakehouse.run()
    assert first.success, first.failure
    assert lakehouse.sql("select a, b from metrics.m") == [(50600, 50600)]
    before, commit = lakehouse.database.contents(LAYERS), Nessie("rest").current()
    lakehouse.sql("insert into raw.a select 1, 5")  # a duplicate id: bronze/a fails its gate
    failed = lakehouse.run(assets=["bronze/a", "silver/sa"])
    assert not failed.success
    assert "Nothing was published because of bronze/a." in failed.failure
    assert lakehouse.database.contents(LAYERS) == before
    assert failed.built == set()
    assert schemas(lakehouse) == {"raw", *LAYERS}

    lakehouse.sql("delete from raw.a where n = 5")
    lakehouse.sql("insert into raw.b select 101, 0")
    again = lakehouse.run(assets=["bronze/b", "silver/sb", "gold/gb", "metrics/m"])
    assert again.success, again.failure
    # Trino reads a table as of a commit of Nessie, so all tables of a query can be as of one.
    database = lakehouse.database
    assert isinstance(database, Trino)
    assert database.ask(f'select a, b from metrics."m#{commit}"') == [(50600, 50600)]
    assert lakehouse.sql("select a, b from metrics.m") == [(50600, 50601)]
    assert schemas(lakehouse) == {"raw", *LAYERS}


@pytest.mark.nightly
def test_a_code_location_on_a_branch_writes_nowhere_else(lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_branch(lakehouse, monkeypatch)


def test_trino_loses_no_file_of_a_table_on_a_branch(lakehouse: Lakehouse) -> None:
    database = lakehouse.database
    assert isinstance(database, Trino)
    database.ask("create schema silver")
    database.ask(
        "create table silver.orders (id bigint, day date) "
        "with (partitioning = array['month(day)'], sorted_by = array['id'])"
    )
    database.ask("insert into silver.orders values (1, date '2026-11-29'), (2, date '2026-11-30')")
    shown = database.ask("show create table silver.orders")[0][0].replace("silver/orders", "…")
    branches = open_branches("rest")
    branches.create("pr_1", {ORDERS: True})
    for statement in (
        "insert into silver__pr_1.orders values (3, date '2026-12-01')",
        "alter table silver__pr_1.orders execute remove_orphan_files(retention_threshold => '0s')",
        "delete from silver__pr_1.orders where id = 1",
        "merge into silver__pr_1.orders as t using (values 2) as s (id) on t.id = s.id when matched then delete",
    ):
        database.ask(statement)
    assert database.ask("select id from silver__pr_1.orders") == [(3,)]
    branches.publish("pr_1", [ORDERS], "run-1")
    branches.drop("pr_1")
    assert database.ask("select id from silver.orders") == [(3,)]
    assert _without_location(database.ask("show create table silver.orders")[0][0]) == _without_location(shown)
    database.ask("insert into silver.orders values (4, date '2026-12-01')")

    branches.create("pr_2", {ORDERS: True})
    database.ask("create or replace table silver__pr_2.orders as select 9 as id")
    database.ask("drop table silver__pr_2.orders")
    assert database.ask("select id from silver.orders order by 1") == [(3,), (4,)]
    branches.drop("pr_2")
    assert database.ask("select id from silver.orders order by 1") == [(3,), (4,)]


def _without_location(statement: str) -> list[str]:
    return [line for line in statement.splitlines() if "location" not in line]


def test_queries_as_of_a_moment_ago_see_no_mixture(lakehouse: Lakehouse) -> None:
    database = lakehouse.database
    assert isinstance(database, Trino)
    database.ask("create schema silver")
    names = [Name("silver", table) for table in ("a", "b", "c")]
    for name in names:
        database.ask(f"create table {name} as select 0 as id")
    branches, catalog = open_branches("rest"), open_catalog("rest")
    done, seen = threading.Event(), list[tuple[int, ...]]()

    def read() -> None:
        while not done.is_set():
            ago = int((time.time() - 1) * 1000)
            tables = (f'(select max(id) from silver."{name.table}#*{ago}")' for name in names)
            seen.extend(database.ask(f"select {', '.join(tables)}"))

    time.sleep(1.1)  # the tables exist as of then
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(1, PUBLICATIONS + 1):
        branches.create(f"b{n}", dict.fromkeys(names, True))
        for name in names:
            catalog.load_table((name.on(f"b{n}").schema, name.table)).append(
                pa.table({"id": pa.array([n], pa.int32())})
            )
        branches.publish(f"b{n}", names, f"run-{n}")
        branches.drop(f"b{n}")
    time.sleep(2)
    done.set()
    for reader in readers:
        reader.join()
    assert {state for state in seen if len(set(state)) > 1} == set()
    assert len(set(seen)) > PUBLICATIONS / 2
