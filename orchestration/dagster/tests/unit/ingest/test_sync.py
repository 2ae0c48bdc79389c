"""What a sync writes when all goes well."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from lakehouse_analytics.ingest import IngestError

from .conftest import ID, KINDS, Lake

LAKES = KINDS

COMPLETE = {"status": ["users", "COMPLETE"]}


def rows(*ids: int, cursor: int) -> list[dict[str, Any]]:
    return [*({"record": ["users", {"id": i}]} for i in ids), {"state": ["users", cursor]}, COMPLETE]


def test_the_layout_is_that_of_an_airbyte_destination(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID | {"name": {"type": ["null", "string"]}}}, steps=rows(1, cursor=1))
    lake.run()
    columns = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'users'"
    assert dict(lake.query(columns)) == {
        "_airbyte_raw_id": "VARCHAR",
        "_airbyte_extracted_at": "TIMESTAMP WITH TIME ZONE",
        "_airbyte_generation_id": "BIGINT",
        "_airbyte_meta": "STRUCT(sync_id BIGINT, changes STRUCT(field VARCHAR, change VARCHAR, reason VARCHAR)[])",
        "id": "BIGINT",
        "name": "VARCHAR",
    }
    assert lake.column(columns)[-2:] == ["id", "name"]
    meta = "_airbyte_raw_id, _airbyte_extracted_at, _airbyte_generation_id, _airbyte_meta"
    [(raw_id, extracted_at, generation, meta, *values)] = lake.query(f"SELECT {meta}, id, name FROM raw.users")
    assert len(raw_id) == 36
    assert extracted_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (generation, meta, values) == (1, {"sync_id": 1, "changes": []}, [1, None])


def test_a_second_sync_reads_on_from_the_state(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, 2, cursor=2))
    first = lake.run().streams[0]
    seen = lake.root / "state-seen.json"
    lake.scenario(schemas={"users": ID}, steps=[{"argument": "--state", "to": str(seen)}, *rows(3, cursor=3)])
    second = lake.run().streams[0]
    assert (first.mode, first.rows_read, first.rows_total) == ("first", 2, 2)
    assert (second.mode, second.rows_read, second.rows_total, second.generation_id) == ("incremental", 1, 3, 1)
    assert json.loads(seen.read_text())[0]["stream"]["stream_state"] == {"cursor": 2}
    assert lake.query("SELECT id, _airbyte_meta.sync_id FROM raw.users ORDER BY id") == [(1, 1), (2, 1), (3, 2)]


def test_a_sync_that_says_nothing_keeps_the_state(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.run()
    lake.scenario(schemas={"users": ID}, steps=[COMPLETE])
    lake.run()
    assert json.loads(lake.column("SELECT state FROM raw._airbyte_state")[0])["stream"]["stream_state"] == {"cursor": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": {"count": 2}}, "config count changed"),
        ({"streams": [{"name": "users", "sync_mode": "full_refresh_overwrite"}]}, "full refresh"),
        (
            {"streams": [{"name": "users", "sync_mode": "incremental_deduped_history", "primary_key": ["id"]}]},
            "sync_mode, key changed",
        ),
    ],
)
def test_what_is_read_differently_is_read_anew(lake: Lake, change: dict[str, Any], reason: str) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, 2, cursor=2))
    lake.run()
    seen = lake.root / "state-seen.json"
    lake.scenario(schemas={"users": ID}, steps=[{"argument": "--state", "to": str(seen)}, *rows(7, cursor=7)])
    lake.config |= change
    stream = lake.run().streams[0]
    assert (stream.mode, stream.generation_id) == ("refresh", 2)
    assert f"users: refresh, because {reason}" in lake.lines
    assert seen.read_text() == "none"
    assert lake.query("SELECT id, _airbyte_generation_id FROM raw.users") == [(7, 2)]


def test_count_replaces_the_config(lake: Lake) -> None:
    seen = lake.root / "config-seen.json"
    lake.scenario(schemas={"users": ID}, steps=[{"argument": "--config", "to": str(seen)}, COMPLETE])
    lake.config["config"] = {"count": 1, "seed": 5}
    lake.run(count=9)
    assert json.loads(seen.read_text()) == {"count": 9, "seed": 5}


def test_a_changed_password_does_not_refresh_and_is_not_stored(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.config["config"] = {"password": "first-secret"}
    lake.run()
    lake.config["config"] = {"password": "other-secret"}
    assert lake.run().streams[0].mode == "incremental"
    assert "secret" not in str(lake.query("FROM raw._airbyte_state"))


def test_a_stream_that_cannot_increment_is_replaced_each_time(lake: Lake) -> None:
    for expected in (1, 2):
        lake.scenario(schemas={"users": ID}, modes=["full_refresh"], steps=rows(1, 2, cursor=2))
        lake.config["streams"] = [{"name": "users", "sync_mode": "incremental_append"}]
        assert lake.run().streams[0].generation_id == expected
    assert lake.column("SELECT id FROM raw.users ORDER BY id") == [1, 2]


def test_deduplication_keeps_the_last_row_of_a_key(lake: Lake) -> None:
    schema = {"users": ID | {"name": {"type": "string"}}}
    lake.config["streams"] = [{"name": "users", "sync_mode": "incremental_deduped_history", "primary_key": ["id"]}]
    names = [(1, "a"), (2, "b"), (1, "c")]
    lake.scenario(schemas=schema, steps=[*({"record": ["users", {"id": i, "name": n}]} for i, n in names), COMPLETE])
    lake.run()
    assert lake.query("SELECT id, name FROM raw.users ORDER BY id") == [(1, "c"), (2, "b")]
    lake.scenario(schemas=schema, steps=[{"record": ["users", {"id": 2, "name": "d"}]}, COMPLETE])
    lake.run()
    assert lake.query("SELECT id, name FROM raw.users ORDER BY id") == [(1, "c"), (2, "d")]


def test_a_new_column_is_added_and_old_rows_have_none(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.run()
    lake.scenario(
        schemas={"users": {"city": {"type": "string"}} | ID},
        steps=[{"record": ["users", {"id": 2, "city": "Ulm"}]}, {"state": ["users", 2]}, COMPLETE],
    )
    assert lake.run().streams[0].mode == "incremental"
    assert lake.query("SELECT id, city FROM raw.users ORDER BY id") == [(1, None), (2, "Ulm")]


def test_a_changed_type_is_a_refresh(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.run()
    lake.scenario(schemas={"users": {"id": {"type": "string"}}}, steps=rows(1, cursor=1))
    assert lake.run().streams[0].mode == "refresh"
    assert lake.column("SELECT id FROM raw.users") == ["1"]


def test_a_dropped_table_is_read_anew(lake: Lake) -> None:
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.run()
    lake.drop("users")
    assert lake.run().streams[0].generation_id == 2
    assert lake.column("SELECT id FROM raw.users") == [1]


def test_a_table_of_someone_else_is_left_alone(lake: Lake) -> None:
    lake.make("users")
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    with pytest.raises(IngestError, match=r"raw\.users exists and was not written by source fake"):
        lake.run()
    assert lake.column("SELECT x FROM raw.users") == ["mine"]


def test_a_global_state_is_stored_whole_and_given_back(lake: Lake) -> None:
    state = {"type": "GLOBAL", "global": {"shared_state": {"lsn": 7}, "stream_states": []}}
    lake.scenario(schemas={"users": ID}, steps=[{"type": "STATE", "state": state}, COMPLETE])
    lake.run()
    seen = lake.root / "state-seen.json"
    lake.scenario(schemas={"users": ID}, steps=[{"argument": "--state", "to": str(seen)}, COMPLETE])
    lake.run()
    assert json.loads(seen.read_text()) == [state]


def test_ten_thousand_rows_arrive_and_progress_is_told(lake: Lake) -> None:
    order = ["u"] * 10_000
    lake.scenario(schemas={"u": ID}, total={"u": 10_000}, order=order)
    lake.config["streams"] = [{"name": "u"}]
    assert lake.run().streams[0].rows_total == 10_000
    assert lake.query("SELECT count(DISTINCT id), count(DISTINCT _airbyte_raw_id) FROM raw.u") == [(10_000, 10_000)]
    assert "u: 10,000 rows read" in lake.lines


def test_the_connector_sees_nothing_of_our_environment(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_SLACK_WEBHOOK_URL", "private")
    monkeypatch.setenv("PYTHONPATH", "ours")
    seen = lake.root / "environment.json"
    lake.scenario(schemas={"users": ID}, steps=[{"environment": str(seen)}, COMPLETE])
    lake.run()
    environ = json.loads(seen.read_text())
    assert environ["DO_NOT_TRACK"] == "1"
    assert not {"LAKEHOUSE_SLACK_WEBHOOK_URL", "PYTHONPATH"} & set(environ)


def test_nothing_is_left_beside_the_database(duckdb_lake: Lake) -> None:
    duckdb_lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    duckdb_lake.run()
    left = sorted(p.relative_to(duckdb_lake.root).as_posix() for p in duckdb_lake.data.rglob("*") if p.is_file())
    assert left == ["data/.ingest-fake/lock", "data/lakehouse.duckdb"]


def test_a_legacy_state_that_one_stream_loses_is_lost_by_all(lake: Lake) -> None:
    state = {"type": "LEGACY", "data": {"a": 1, "b": 1}}
    lake.config["streams"] = [{"name": "a"}, {"name": "b"}]
    sent: list[dict[str, Any]] = [{"record": [name, {"id": 1}]} for name in "ab"] + [{"type": "STATE", "state": state}]
    sent += [{"status": [name, "COMPLETE"]} for name in "ab"]
    lake.scenario(schemas={"a": ID, "b": ID}, steps=sent)
    lake.run()
    lake.scenario(schemas={"a": {"id": {"type": "string"}}, "b": ID}, steps=sent)
    assert [stream.mode for stream in lake.run().streams] == ["refresh", "refresh"]
    assert "b: refresh, because it shares its state with another stream" in lake.lines
    assert lake.query("SELECT count(*) FROM raw.b") == [(1,)]


@pytest.mark.parametrize("order", [("name", "Name"), ("NAME", "name", "Name"), ("name",), ("name", "Name", "id")])
def test_fields_equal_but_for_case_keep_their_values_in_whatever_order_they_are_listed(
    lake: Lake, order: tuple[str, ...]
) -> None:
    text = {"type": "string"}

    def sync(fields: tuple[str, ...], number: int) -> None:
        record = {"record": ["users", {field: f"{field} {number}" for field in fields}]}
        steps = [record, {"state": ["users", number]}, COMPLETE]
        lake.scenario(schemas={"users": dict.fromkeys(fields, text)}, steps=steps)
        lake.run()

    sync(("Name", "name"), 1)
    sync(order, 2)
    columns = [row[0] for row in lake.query("SELECT column_name FROM duckdb_columns() WHERE table_name = 'users'")][4:]
    for column in columns:
        stamps = {str(value).split()[0] for value in lake.column(f'SELECT "{column}" FROM raw.users') if value}
        assert len(stamps) <= 1, column


def test_a_field_that_changes_its_case_and_its_type_is_a_refresh(lake: Lake) -> None:
    lake.scenario(schemas={"users": {"Amount": {"type": "integer"}}}, steps=rows(cursor=1))
    lake.run()
    steps = [{"record": ["users", {"amount": 12.7}]}, {"state": ["users", 2]}, COMPLETE]
    lake.scenario(schemas={"users": {"amount": {"type": "number"}}}, steps=steps)
    lake.run()
    assert lake.column("SELECT amount FROM raw.users") == [12.7]


def test_keys_that_are_not_of_their_type_are_refused_and_not_one_row(lake: Lake) -> None:
    lake.config["streams"] = [{"name": "users", "sync_mode": "incremental_deduped_history", "primary_key": ["id"]}]
    lake.scenario(schemas={"users": ID}, steps=rows(1, cursor=1))
    lake.run()
    strange = [{"record": ["users", {"id": key}]} for key in (2, 2**70, 2**70 + 1, "a-1")]
    lake.scenario(schemas={"users": ID}, steps=[*strange, *rows(cursor=2)])
    with pytest.raises(IngestError, match=r"stream 'users': the primary key does not fit .*'id' of 3 records, of 4"):
        lake.run()
    assert lake.column("SELECT id FROM raw.users") == [1]
    # As they are, they can be appended.
    lake.config["streams"][0]["sync_mode"] = "incremental_append"
    lake.run()
    assert len(lake.query("SELECT * FROM raw.users")) == 4


def test_records_without_a_key_are_still_one_row(lake: Lake) -> None:
    lake.config["streams"] = [{"name": "users", "sync_mode": "incremental_deduped_history", "primary_key": ["id"]}]
    lake.scenario(
        schemas={"users": ID}, steps=[{"record": ["users", {}]}, *rows(1, cursor=1), {"record": ["users", {}]}]
    )
    lake.run()
    assert len(lake.query("SELECT * FROM raw.users")) == 2
