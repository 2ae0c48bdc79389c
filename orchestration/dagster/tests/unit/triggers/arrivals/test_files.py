"""The sensors for files, on real folders and real instances."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import given, settings
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.arrivals.files.storage import FileStorage
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.keys import UNREADABLE_FILES, broken_row_count_tag
from lakehouse_analytics.triggers.arrivals import files
from lakehouse_analytics.triggers.arrivals.files import FileCursor, look_for_files

KEY = dg.AssetKey(["landing", "prices"])


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


class Sensor:
    """A sensor with its cursor, and a folder of files."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance, self.folder, self.cursor = instance, folder, None
        folder.mkdir(exist_ok=True)
        self.clock = time.time() - 10_000

    def put(self, name: str) -> None:
        (self.folder / name).write_text("n\n1\n")
        self.clock += 1
        os.utime(self.folder / name, (self.clock, self.clock))

    def tick(self) -> dg.SensorResult:
        storage = FileStorage(FilePattern(f"{self.folder}/*.csv"))
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = look_for_files(context, storage, KEY, {"dagster/max_runtime": "60"})
        self.cursor = result.cursor or self.cursor  # type: ignore[assignment]
        return result


def test_a_load_is_requested_when_the_files_change_and_not_otherwise(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    sensor = Sensor(instance, tmp_path / "in")
    assert str(sensor.tick().skip_reason) == str(dg.SkipReason("There is no file."))
    sensor.put("a.csv")
    [first] = sensor.tick().run_requests or []
    assert first.asset_selection == [KEY]
    assert not sensor.tick().run_requests
    sensor.put("a.csv")
    [second] = sensor.tick().run_requests or []
    (tmp_path / "in/a.csv").unlink()
    sensor.tick()
    assert len({first.run_key, second.run_key}) == 2


@settings(max_examples=25)
@given(steps=st.lists(st.tuples(st.sampled_from(["put", "delete", "tick"]), st.sampled_from("abc")), max_size=15))
def test_after_any_history_a_load_was_requested_since_the_last_change(
    instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    sensor = Sensor(instance, tmp_path_factory.mktemp("in"))
    seen: dict[str, float] = {}
    keys: list[str | None] = []
    for step, name in [*steps, ("tick", "")]:
        path = sensor.folder / f"{name}.csv"
        if step == "put":
            sensor.put(path.name)
        elif step == "delete":
            path.unlink(missing_ok=True)
        else:
            now = {path.name: path.stat().st_mtime for path in sensor.folder.iterdir()}
            requests = sensor.tick().run_requests or []
            if now:
                assert bool(requests) is (now != seen)
                seen = now
            else:
                assert not requests
            keys += [request.run_key for request in requests]
    assert len(keys) == len(set(keys))


def test_a_load_that_failed_is_requested_again_after_a_while(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = Sensor(instance, tmp_path / "in")
    sensor.put("a.csv")
    [request] = sensor.tick().run_requests or []
    tags = {"dagster/run_key": str(request.run_key)}
    create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.FAILURE, tags=tags)
    assert not sensor.tick().run_requests
    monkeypatch.setattr(files, "RETRY_AFTER", files.RETRY_AFTER * 0)
    [again] = sensor.tick().run_requests or []
    assert again.run_key != request.run_key
    tags = {"dagster/run_key": str(again.run_key)}
    create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    assert not sensor.tick().run_requests


def test_a_load_that_could_not_read_some_files_is_requested_again_after_a_while(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = Sensor(instance, tmp_path / "in")
    sensor.put("a.csv")
    [request] = sensor.tick().run_requests or []
    tags = {"dagster/run_key": str(request.run_key)}
    run = create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    instance.add_run_tags(run.run_id, {UNREADABLE_FILES: "1"})
    assert not sensor.tick().run_requests
    monkeypatch.setattr(files, "RETRY_AFTER", files.RETRY_AFTER * 0)
    [again] = sensor.tick().run_requests or []
    assert again.run_key != request.run_key


def test_a_load_that_failed_by_its_row_count_is_complete(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = Sensor(instance, tmp_path / "in")
    sensor.put("a.csv")
    [request] = sensor.tick().run_requests or []
    tags = {"dagster/run_key": str(request.run_key)}
    failed = create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.FAILURE, tags=tags)
    instance.add_run_tags(failed.run_id, broken_row_count_tag(failed.run_id, ["row_count"]))
    monkeypatch.setattr(files, "RETRY_AFTER", files.RETRY_AFTER * 0)
    assert not sensor.tick().run_requests

    # A new execution inherits the tags. It may fail for another reason, so that its load is not complete.
    inherited = {**tags, **broken_row_count_tag(failed.run_id, ["row_count"])}
    create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.FAILURE, tags=inherited)
    assert sensor.tick().run_requests


def test_a_folder_that_is_missing_fails_the_tick(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    sensor = Sensor(instance, tmp_path / "in")
    sensor.folder.rmdir()
    with pytest.raises(ArrivalError, match=r"does not exist\. Create it"):
        sensor.tick()


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"other": 1}', "null"])
def test_a_cursor_of_any_text_is_read(text: str | None) -> None:
    assert FileCursor.loads(text) == FileCursor()


def test_the_size_of_the_cursor_does_not_depend_on_the_number_of_files() -> None:
    cursor = FileCursor("f" * 32, 10**9, datetime.now(UTC).timestamp())
    assert FileCursor.loads(cursor.dumps()) == cursor
    assert len(cursor.dumps()) < 120
