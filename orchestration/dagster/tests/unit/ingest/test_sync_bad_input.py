"""Bad input of a sync: one error that says where it is, and nothing is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.ingest import IngestError, json_values
from lakehouse_analytics.ingest.broken_records import broken_record
from lakehouse_analytics.ingest.config import load
from lakehouse_analytics.ingest.errors import boundary
from lakehouse_analytics.ingest.staging import Staging

from .conftest import ID, Lake

COMPLETE: dict[str, Any] = {"status": ["users", "COMPLETE"]}


def configured(lake: Lake, config: str) -> Any:
    lake.write()
    with lake.config_path.open("a") as file:
        file.write(f"config:\n{config}\n")
    return load(lake.config_path).config


@pytest.mark.parametrize(
    ("config", "read"),
    [
        ("  start_date: 2024-01-01", {"start_date": "2024-01-01"}),
        ("  start_date: 2024-01-01T00:00:00Z", {"start_date": "2024-01-01T00:00:00Z"}),
        ("  start_date: 2024-02-30", {"start_date": "2024-02-30"}),
        ("  count: 99999999999999999999999", {"count": 99999999999999999999999}),
        ("  count: &b {n: 1}\n  seed: *b", {"count": {"n": 1}, "seed": {"n": 1}}),
    ],
)
def test_a_config_reaches_the_connector_as_it_is_written(lake: Lake, config: str, read: dict[str, Any]) -> None:
    assert configured(lake, config) == read
    received = lake.root / "received.json"
    lake.config["config"] = read
    lake.scenario(schemas={"users": ID}, steps=[{"config": str(received)}, COMPLETE])
    lake.run()
    assert json.loads(received.read_text()) == read


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("  n: !!set {a, b}", "key 'config.n': a YAML set cannot be written as JSON"),
        ("  n: !!binary aGVsbG8=", "key 'config.n': binary data cannot be written as JSON"),
        ("  n: !!timestamp 2024-01-01", "key 'config.n': a value of type date cannot be written as JSON"),
        ("  n: !!timestamp 2024-02-30", "a value cannot be read as YAML: day is out of range"),
        ("  n: !!int x", "a value cannot be read as YAML"),
        ("  n: .nan", "key 'config.n': JSON has no NaN and no infinity"),
        ("  n: [1, -.inf]", "key 'config.n.1': JSON has no NaN and no infinity"),
        ("  n: {200: x}", "key 'config.n': a value of type int as a key"),
        ("  n: {yes: x}", "key 'config.n': true or false as a key"),
        ("  n: &a [*a]", "key 'config.n.0': an alias refers to a value that contains it"),
        ('  n: "\\uD83D"', "key 'config.n': character 1 is a lone surrogate"),
        (
            "\n".join(["  a0: &a0 [1]", *(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]),
            "more than 100,000 values; YAML aliases may repeat them",
        ),
    ],
)
def test_a_config_that_is_no_json_names_file_and_key(lake: Lake, config: str, error: str) -> None:
    with pytest.raises(IngestError, match=re.escape(error)) as caught:
        configured(lake, config)
    assert str(caught.value).startswith(f"{lake.config_path}: ")
    assert "\n" not in str(caught.value)


def test_a_variable_that_is_not_utf_8_is_named(lake: Lake) -> None:
    lake.config["config"] = {"password": "${PASSWORD}"}
    lake.write()
    with pytest.raises(IngestError, match=r"'config\.password' reads the environment variable PASSWORD, which is not"):
        load(lake.config_path, {"PASSWORD": "\udcff"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_accepted_can_be_written_and_read_back(value: Any) -> None:
    try:
        json_values.check(value, "config")
    except json_values.NotJsonError:
        with pytest.raises((TypeError, ValueError, AssertionError)):
            assert json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) == value
    else:
        assert json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (r'{"id":2,"s":"cut \ud83d"}', "field 's': character 5 is a lone surrogate"),
        (r'{"id":2,"\ud83d":1}', r"field '\\\\ud83d': its name has a lone surrogate"),
        ('{"id":2,"n":NaN}', "field 'n': its value is not a finite number"),
        ('{"id":2,"o":{"l":[1,-Infinity]}}', "field 'o.l.1': its value is not a finite number"),
        ('{"id":2,"n":1e400}', "field 'n': its value is not a finite number"),
    ],
)
def test_a_record_that_is_no_json_names_stream_position_and_reason(lake: Lake, data: str, reason: str) -> None:
    one = '{"type":"RECORD","record":{"stream":"users","data":%s,"emitted_at":1700000000000}}'
    lake.scenario(schemas={"users": ID}, steps=[{"print": one % '{"id":1}'}, {"print": one % data}, COMPLETE])
    with pytest.raises(IngestError) as caught:
        lake.run()
    assert str(caught.value).startswith(f"stream 'users', record 2: {reason}".replace("\\\\\\\\", "\\\\"))
    assert not lake.work.exists()


def test_records_that_duckdb_cannot_read_name_their_stream(lake: Lake) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    steps = [{"record": ["users", {"id": 1, "o": deep}]}, COMPLETE]
    lake.scenario(schemas={"users": {**ID, "o": {"type": "object"}}}, steps=steps)
    with pytest.raises(
        IngestError, match=r"^stream 'users': its records cannot be typed, nothing was changed: .*depth"
    ):
        lake.run()
    assert not lake.work.exists()


def test_a_message_that_nothing_can_read_says_where(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=[{"print": '{"type":"RECORD" "record"}'}, COMPLETE])
    with pytest.raises(IngestError, match=r"printed an invalid message \(.+ at character 18\)"):
        lake.run()


def test_a_message_that_is_no_record_is_not_searched() -> None:
    assert broken_record(b'{"type":"LOG","log":{"message":NaN}}') is None
    assert broken_record(b'{"type":"RECORD","record":{"stream":"a","data":{"n":1}}}') is None
    assert broken_record(b'{"type":"RECORD"') is None


GOOD: list[dict[str, Any]] = [{"record": ["users", {"id": 1}]}, {"state": ["users", 1]}, COMPLETE]
BROKEN = {
    "state is not JSON": ("state = '{bad'", "column state of stream 'users'"),
    "state is a list": ("state = '[1]'", "column state of stream 'users'"),
    "state has no stream": ("""state = '{"type": "STREAM"}'""", "column state of stream 'users'"),
    "state is of another stream": (
        """state = '{"type": "STREAM", "stream": {"stream_descriptor": {"name": "x"}}}'""",
        "column state of stream 'users'",
    ),
    "settings are not JSON": ("settings = '{bad'", "column settings of stream 'users'"),
    "settings are a text": ("""settings = '"x"'""", "column settings of stream 'users'"),
    "settings have another shape": ("""settings = '{"config": [1]}'""", "column settings of stream 'users'"),
    "the sync is too high": ("sync_id = 9223372036854775807", "column sync_id is 9223372036854775807"),
    "the sync is negative": ("sync_id = -1", "column sync_id is -1"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_stored_state_that_cannot_be_read_is_one_error(duckdb_lake: Lake, broken: str) -> None:
    import duckdb

    lake = duckdb_lake
    lake.scenario(schemas={"users": ID}, steps=GOOD)
    lake.run()
    change, error = BROKEN[broken]
    with duckdb.connect(str(lake.database)) as connection:
        connection.execute(f"UPDATE raw._airbyte_state SET {change} WHERE stream = 'users'")
    before = lake.query("FROM raw.users")
    with pytest.raises(IngestError, match=re.escape(error)) as caught:
        lake.run()
    assert "raw._airbyte_state" in str(caught.value)
    assert lake.query("FROM raw.users") == before


@pytest.mark.parametrize("column", ["state", "settings"])
def test_a_stored_state_set_to_null_is_a_refresh_and_doubles_nothing(duckdb_lake: Lake, column: str) -> None:
    """What the message above tells people to do."""
    import duckdb

    lake = duckdb_lake
    lake.scenario(schemas={"users": ID}, steps=GOOD)
    lake.run()
    with duckdb.connect(str(lake.database)) as connection:
        connection.execute(f"UPDATE raw._airbyte_state SET {column} = NULL")
    [stream] = lake.run().streams
    assert stream.mode == "refresh"
    assert lake.column("SELECT id FROM raw.users") == [1]


def test_a_state_table_of_somebody_else_is_named(duckdb_lake: Lake) -> None:
    duckdb_lake.make("_airbyte_state")
    with pytest.raises(IngestError, match=r"raw\._airbyte_state in .* has no column source, namespace, stream"):
        duckdb_lake.run()


def test_a_view_in_the_place_of_a_table_is_refused(duckdb_lake: Lake) -> None:
    import duckdb

    duckdb_lake.scenario(schemas={"users": ID}, steps=GOOD)
    duckdb_lake.run()
    with duckdb.connect(str(duckdb_lake.database)) as connection:
        connection.execute("ALTER TABLE raw.users RENAME TO stored; CREATE VIEW raw.users AS FROM raw.stored")
    with pytest.raises(
        IngestError, match=r"^raw\.users is a view, but a sync writes tables\. Drop or rename it, or give "
    ):
        duckdb_lake.run()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_a_database_that_is_no_file_is_refused_before_anything_is_read(duckdb_lake: Lake, kind: str) -> None:
    import os

    lake = duckdb_lake
    lake.data.mkdir(exist_ok=True)
    make: dict[str, Callable[[], None]] = {
        "fifo": lambda: os.mkfifo(lake.database),
        "folder": lake.database.mkdir,
        "link": lambda: lake.database.symlink_to("gone/lakehouse.duckdb"),
    }
    make[kind]()
    with pytest.raises(IngestError, match=r"LAKEHOUSE_DUCKDB_PATH=.*: it is "):
        lake.run()
    assert not lake.lines


def test_a_disk_that_is_full_when_a_file_is_closed_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "0.ndjson").symlink_to("/dev/full")
    staging = Staging(tmp_path, [(None, "users")], lambda _line: None)
    record = {"type": "RECORD", "record": {"stream": "users", "data": {"id": 1}, "emitted_at": 1}}
    with pytest.raises(IngestError, match="No space left on device"):
        staging.consume((message, b"{}") for message in [record])


def test_a_disk_that_is_full_anywhere_else_is_one_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr("lakehouse_analytics.ingest.sync.to_parquet", full)
    lake.scenario(schemas={"users": ID}, steps=GOOD)
    with pytest.raises(IngestError, match="the sync of fake failed: No space left on device"):
        lake.run()
    assert not lake.work.exists()


def test_an_error_that_no_one_foresaw_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), boundary("fake"):
        _ = 1 / 0
