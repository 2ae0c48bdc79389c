"""A connection's file: what is wrong is named, with the key and the nearest valid one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from lakehouse_analytics.ingest import IngestError
from lakehouse_analytics.ingest.config import load

from .conftest import ID, Lake


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"stream": []}, "unknown key 'stream'; did you mean 'streams'?"),
        ({"schema_name": "raw"}, "unknown key 'schema_name'; did you mean 'schema'?"),
        ({"path": "x"}, "unknown key 'path'"),
        ({"streams": [{"name": "users", "sync": "x"}]}, "unknown key 'streams.0.sync'; did you mean 'sync_mode'?"),
        ({"streams": [{"name": "users", "sync_mode": "append"}]}, "key 'streams.0.sync_mode': input should be"),
        ({"streams": [{"name": "user"}]}, "the connector has no stream 'user'; did you mean 'users'?"),
        ({"streams": [{"name": "_Airbyte_State"}]}, "table '_Airbyte_State' is where syncs store their state; give"),
        ({"streams": [{"name": "users"}, {"name": "x", "table": "USERS"}]}, "two streams have table 'USERS'"),
        ({"streams": []}, "key 'streams'"),
        ({"name": "a b"}, "key 'name'"),
        ({"schema": "raw; drop"}, "key 'schema'"),
        ({"config": {"cuont": 1}}, "unknown key 'config.cuont'; did you mean 'count'?"),
        (
            {"config": {"password": "${NOT_SET_HERE}"}},
            "key 'config.password' reads the environment variable NOT_SET_HERE",
        ),
        (
            {"streams": [{"name": "users", "sync_mode": "incremental_deduped_history"}]},
            "stream 'users': key 'primary_key' is required",
        ),
        (
            {"streams": [{"name": "users", "sync_mode": "incremental_deduped_history", "primary_key": ["idd"]}]},
            "no column 'idd'; did you mean 'id'?",
        ),
    ],
)
def test_a_wrong_file_is_one_error(lake: Lake, change: dict[str, Any], error: str) -> None:
    lake.config |= change
    with pytest.raises(IngestError, match=re.escape(error)) as caught:
        lake.run()
    assert str(lake.config_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(lake: Lake) -> None:
    del lake.config["connector"]["version"]
    with pytest.raises(IngestError, match=r"key 'connector\.version' is missing"):
        lake.run()


def test_a_missing_file_names_the_nearest_one(lake: Lake) -> None:
    lake.write()
    with pytest.raises(IngestError, match=r"fak\.yaml: no such file; did you mean 'fake\.yaml'\?"):
        load(lake.root / "fak.yaml")


def test_a_file_that_is_no_yaml_names_the_line(lake: Lake) -> None:
    lake.config_path.write_text("name: fake\nstreams: [\n")
    with pytest.raises(IngestError, match=r"fake\.yaml: not valid YAML in line 3"):
        load(lake.config_path)


def test_the_lock_must_pin_the_version(lake: Lake) -> None:
    lake.config["connector"]["version"] = "1.1"
    with pytest.raises(IngestError, match=r"fake\.lock does not pin source-fake==1\.1"):
        lake.run()


def test_a_missing_lock_is_named(lake: Lake) -> None:
    lake.config["connector"]["lock"] = "other.lock"
    with pytest.raises(IngestError, match=r"key 'connector\.lock': cannot read"):
        lake.run()


def test_variables_are_read_from_the_environment(lake: Lake) -> None:
    lake.config["config"] = {"password": "a${PASSWORD}z", "nested": [{"host": "${HOST}"}]}
    lake.write()
    assert load(lake.config_path, {"PASSWORD": "b", "HOST": "h"}).config == {
        "password": "abz",
        "nested": [{"host": "h"}],
    }


def test_an_option_the_connector_does_not_have_is_refused(lake: Lake) -> None:
    from lakehouse_analytics.ingest.sync import _configured

    lake.write()
    with pytest.raises(IngestError, match="--count: source-fake has no config key 'count'; did you mean 'counter'"):
        _configured(load(lake.config_path), {"properties": {"counter": {}}}, {"count": 1})


def test_table_and_schema_can_be_named(lake: Lake) -> None:
    steps = [{"record": ["users", {"id": 1}]}, {"status": ["users", "COMPLETE"]}]
    lake.scenario(schemas={"users": ID}, steps=steps)
    lake.config |= {"schema": "landing", "streams": [{"name": "users", "table": "people"}]}
    report = lake.run()
    assert (report.schema, report.streams[0].table) == ("landing", "people")
    assert lake.column("SELECT id FROM landing.people") == [1]
