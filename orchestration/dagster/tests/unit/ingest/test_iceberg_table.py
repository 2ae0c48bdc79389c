"""What is so of Iceberg tables alone: their layout, and syncs that die or are disturbed between two commits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.ingest import IngestError

from .conftest import ID, IcebergLake

STREAMS = ("a", "b")
INCREMENTAL = [{"name": name} for name in STREAMS]
DEDUPLICATED = [{"name": name, "sync_mode": "incremental_deduped_history", "primary_key": ["id"]} for name in STREAMS]
OVERWRITTEN = [{"name": name, "sync_mode": "full_refresh_overwrite"} for name in STREAMS]
#: A process that syncs, and is killed just before the catalog takes the commit of this number.
KILLED = """
import os, signal, sys
from pathlib import Path
from pyiceberg.catalog.sql import SqlCatalog
from lakehouse_analytics.ingest import run_ingest
from lakehouse_analytics.settings import Settings

left, commit = int(sys.argv[2]), SqlCatalog.commit_table

def count(*arguments, **named):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return commit(*arguments, **named)

SqlCatalog.commit_table = count
run_ingest(Settings.load(), config_path=Path(sys.argv[1]))
"""


def source(lake: IcebergLake, total: int, **scenario: Any) -> None:
    """A source with this many records a stream, sent whole from the state on."""
    order = [name for name in STREAMS for _ in range(total)]
    lake.scenario(schemas=dict.fromkeys(STREAMS, ID), total=dict.fromkeys(STREAMS, total), order=order, **scenario)


def ids(lake: IcebergLake, stream: str) -> list[int]:
    return lake.column(f"SELECT id FROM raw.{stream} ORDER BY id")


def killed(lake: IcebergLake, before_commit: int) -> None:
    lake.write()
    command = [sys.executable, "-c", KILLED, str(lake.config_path), str(before_commit)]
    done = subprocess.run(command, env=lake.environ(), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_table_is_that_of_airbytes_iceberg_destination(iceberg_lake: IcebergLake) -> None:
    kinds: dict[str, Any] = {
        "Name": {"type": "string"},
        "number": {"type": "number"},
        "integer": {"type": "integer"},
        "flag": {"type": "boolean"},
        "day": {"type": "string", "format": "date"},
        "time": {"type": "string", "format": "time", "airbyte_type": "time_without_timezone"},
        "zoned": {"type": "string", "format": "date-time"},
        "naive": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"},
        "object": {"type": "object"},
        "array": {"type": "array"},
        "union": {"type": ["string", "integer"]},
    }
    iceberg_lake.scenario(schemas={"Users": kinds}, steps=[{"status": ["Users", "COMPLETE"]}])
    iceberg_lake.config["streams"] = [{"name": "Users"}]
    iceberg_lake.run()
    table = iceberg_lake.catalog.load_table(("raw", "users"))
    assert [(f.name, str(f.field_type), f.required) for f in table.schema().fields if f.name != "_airbyte_meta"] == [
        ("_airbyte_raw_id", "string", True),
        ("_airbyte_extracted_at", "timestamptz", True),
        ("_airbyte_generation_id", "long", True),
        ("Name", "string", False),
        ("number", "double", False),
        ("integer", "long", False),
        ("flag", "boolean", False),
        ("day", "date", False),
        ("time", "time", False),
        ("zoned", "timestamptz", False),
        ("naive", "timestamp", False),
        ("object", "string", False),
        ("array", "string", False),
        ("union", "string", False),
    ]
    meta = table.schema().find_field("_airbyte_meta")
    assert [field.name for field in table.schema().fields].index("_airbyte_meta") == 2
    assert meta.required
    sync_id, changes = meta.field_type.fields
    assert (str(sync_id.field_type), sync_id.required, changes.required) == ("long", True, True)
    change = changes.field_type.element_type
    assert [(f.name, str(f.field_type)) for f in change.fields] == [
        ("field", "string"),
        ("change", "string"),
        ("reason", "string"),
    ]
    assert table.format_version == 2
    assert table.spec().is_unpartitioned()


def test_each_sync_is_one_snapshot_that_names_it_and_nothing_new_is_none(iceberg_lake: IcebergLake) -> None:
    source(iceberg_lake, 2)
    iceberg_lake.config["streams"] = INCREMENTAL
    iceberg_lake.run()
    iceberg_lake.run()  # nothing new
    source(iceberg_lake, 3)
    iceberg_lake.run()
    iceberg_lake.config["config"] = {"count": 1}
    iceberg_lake.run()
    table = iceberg_lake.catalog.load_table(("raw", "a"))
    summaries = [snapshot.summary for snapshot in table.snapshots()]
    assert [
        (s.operation.value, s["lakehouse.source"], s["lakehouse.sync-id"], s["lakehouse.generation-id"])
        for s in summaries
    ] == [("append", "fake", "1", "1"), ("append", "fake", "3", "1"), ("overwrite", "fake", "4", "2")]
    assert summaries[-1]["total-records"] == "3"
    assert summaries[-1]["lakehouse.connector"] == "source-fake 1.0"


@pytest.mark.parametrize(
    ("streams", "before_commit"),
    [(INCREMENTAL, 1), (INCREMENTAL, 2), (DEDUPLICATED, 1), (OVERWRITTEN, 1)],
    ids=["append", "append, before the state", "deduped", "overwrite"],
)
def test_a_sync_killed_between_two_commits_is_done_again_without_a_trace(
    iceberg_lake: IcebergLake, streams: list[dict[str, Any]], before_commit: int
) -> None:
    iceberg_lake.config["streams"] = streams
    source(iceberg_lake, 3)
    iceberg_lake.run()
    state = iceberg_lake.query("SELECT stream, sync_id, state FROM raw._airbyte_state ORDER BY 1")
    source(iceberg_lake, 5)
    killed(iceberg_lake, before_commit)
    # Two tables, then the state: whole tables, each as before or as after.
    assert [len(ids(iceberg_lake, name)) for name in STREAMS] == [5 if i < before_commit else 3 for i in (0, 1)]
    assert iceberg_lake.query("SELECT stream, sync_id, state FROM raw._airbyte_state ORDER BY 1") == state
    source(iceberg_lake, 6)
    report = iceberg_lake.run()
    assert {stream.rows_total for stream in report.streams} == {6}
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2, 3, 4, 5, 6]] * 2


def test_a_first_sync_that_is_killed_leaves_tables_the_next_one_takes(iceberg_lake: IcebergLake) -> None:
    iceberg_lake.config["streams"] = INCREMENTAL
    source(iceberg_lake, 2)
    killed(iceberg_lake, 1)
    assert ids(iceberg_lake, "a") == [1, 2]
    assert [stream.mode for stream in iceberg_lake.run().streams] == ["first", "first"]
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2]] * 2


def test_a_refresh_that_is_killed_is_done_again_even_when_it_is_no_longer_wanted(iceberg_lake: IcebergLake) -> None:
    iceberg_lake.config["streams"] = INCREMENTAL
    source(iceberg_lake, 4)
    iceberg_lake.run()
    iceberg_lake.config["config"] = {"count": 2}
    source(iceberg_lake, 2)
    killed(iceberg_lake, 1)
    assert ids(iceberg_lake, "a") == [1, 2]
    # As it was configured before: stream a cannot be read on, its rows of then are gone.
    del iceberg_lake.config["config"]
    source(iceberg_lake, 5)
    assert {stream.stream: stream.mode for stream in iceberg_lake.run().streams} == {"a": "refresh", "b": "incremental"}
    assert "a: refresh, because the last refresh did not finish" in iceberg_lake.lines
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2, 3, 4, 5]] * 2


class Died(BaseException):
    """As good as a kill: nothing catches it."""


@contextmanager
def dying(before_commit: int | None) -> Iterator[None]:
    from pyiceberg.catalog.sql import SqlCatalog

    left, commit = before_commit, SqlCatalog.commit_table

    def count(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        if left == 0:
            raise Died
        left = left - 1 if left is not None else None
        return commit(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqlCatalog, "commit_table", count)
        yield


SYNC = st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2), st.booleans())


@given(syncs=st.lists(SYNC, min_size=1, max_size=4), mode=st.sampled_from([INCREMENTAL, DEDUPLICATED, OVERWRITTEN]))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_syncs_die_no_row_is_lost_or_doubled(
    bin_directory: Path, temporary: Path, syncs: list[tuple[int, int | None, bool]], mode: list[dict[str, Any]]
) -> None:
    with TemporaryDirectory(dir=bin_directory.parent) as data:
        lake = IcebergLake(bin_directory.parent, Path(data))
        lake.config["streams"] = mode
        total = 0
        for new, dies_at, other_config in [*syncs, (1, None, False)]:
            total += new
            source(lake, total)
            lake.config["config"] = {"seed": 1} if other_config else {}
            with dying(dies_at):
                try:
                    lake.run()
                except Died:
                    continue
            assert [ids(lake, name) for name in STREAMS] == [list(range(1, total + 1))] * 2


def test_what_others_commit_meanwhile_is_not_lost(iceberg_lake: IcebergLake, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse_analytics.ingest.iceberg_table import Change

    iceberg_lake.config["streams"] = OVERWRITTEN
    source(iceberg_lake, 2)
    iceberg_lake.run()
    write = Change.write

    def disturbed(change: Change, rows: Any) -> None:
        write(change, rows)
        if change.name[1] == "b":
            table = iceberg_lake.catalog.load_table(("raw", "a"))
            table.append(table.scan(row_filter="id = 1").to_arrow())

    with monkeypatch.context() as patch:
        patch.setattr(Change, "write", disturbed)
        with pytest.raises(
            IngestError, match=r"Iceberg catalog lake: CommitFailedException: .*\. The stored state is unchanged"
        ):
            iceberg_lake.run()
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 1, 2], [1, 2]]
    iceberg_lake.run()
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2], [1, 2]]


def test_a_load_that_fails_leaves_no_file_behind(iceberg_lake: IcebergLake, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse_analytics.ingest.iceberg_table import Change

    iceberg_lake.config["streams"] = INCREMENTAL
    source(iceberg_lake, 2)
    iceberg_lake.run()
    before = sorted(iceberg_lake.data.rglob("*.parquet"))
    write = Change.write

    def full(change: Change, rows: Any) -> None:
        write(change, rows)
        if change.name[1] == "b":
            raise OSError(28, "No space left on device")

    source(iceberg_lake, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Change, "write", full)
        with pytest.raises(IngestError, match=r"No space left on device\. Nothing was changed"):
            iceberg_lake.run()
    assert sorted(iceberg_lake.data.rglob("*.parquet")) == before
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("disturb", "error"),
    [
        (lambda lake: lake.drop("a"), r"raw\.a was dropped while this sync read its source; nothing was written"),
        (lambda lake: lake.run(), r"another sync of fake ended, perhaps on another machine, while this sync"),
    ],
)
def test_a_sync_that_was_overtaken_writes_nothing(
    iceberg_lake: IcebergLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disturb: Any, error: str
) -> None:
    from lakehouse_analytics.ingest.iceberg_catalog import IcebergCatalog

    iceberg_lake.config["streams"] = INCREMENTAL
    source(iceberg_lake, 2)
    iceberg_lake.run()
    source(iceberg_lake, 3)
    load = IcebergCatalog.load

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(IcebergCatalog, "load", load)
        with pytest.MonkeyPatch.context() as elsewhere:
            other = tmp_path / "other-machine"
            other.mkdir()
            elsewhere.setattr("tempfile.tempdir", str(other))
            disturb(iceberg_lake)
        return load(*arguments)

    monkeypatch.setattr(IcebergCatalog, "load", overtaken)
    with pytest.raises(IngestError, match=error):
        iceberg_lake.run()
    assert iceberg_lake.run().streams[1].rows_total == 3
    assert [ids(iceberg_lake, name) for name in STREAMS] == [[1, 2, 3]] * 2


def test_without_a_catalog_the_variable_is_named(iceberg_lake: IcebergLake) -> None:
    iceberg_lake.settings = iceberg_lake.settings.model_copy(update={"iceberg_catalog": None})
    with pytest.raises(IngestError, match=r"^LAKEHOUSE_ICEBERG_CATALOG is not set, but target trino has"):
        iceberg_lake.run()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URI", "postgresql+psycopg2://lakehouse:s3cr3t-pw@127.0.0.1:1/none"),
        ("URI", "nonsense://lakehouse:s3cr3t-pw@[broken"),
        ("WAREHOUSE", "s3://s3cr3t-pw/here"),
    ],
)
def test_a_catalog_that_cannot_be_used_is_one_line_without_secrets(
    iceberg_lake: IcebergLake, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name}", value)
    storage = {"ENDPOINT": "http://127.0.0.1:1", "ACCESS_KEY_ID": "k3y-id", "SECRET_ACCESS_KEY": "s3cr3t-pw"}
    for key, text in (storage | {"REGION": "local", "CONNECT_TIMEOUT": "1"}).items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__S3__{key}", text)
    iceberg_lake.scenario(
        schemas={"users": ID}, steps=[{"record": ["users", {"id": 1}]}, {"status": ["users", "COMPLETE"]}]
    )
    with pytest.raises(IngestError, match=r"LAKEHOUSE_ICEBERG_CATALOG|Iceberg catalog lake") as caught:
        iceberg_lake.run()
    said = "".join([str(caught.value), *iceberg_lake.lines])
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_temporary_folder_of_someone_else_is_refused(iceberg_lake: IcebergLake, temporary: Path) -> None:
    (temporary / f"lakehouse-ingest-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(IngestError, match=r"^TMPDIR=.*: cannot write in .*: .* is not a private folder of this user"):
        iceberg_lake.run()
