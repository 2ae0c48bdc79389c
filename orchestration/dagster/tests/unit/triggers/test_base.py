"""Triggers: the example of docs/triggers.md as it is written there, in real sensor ticks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.settings import Settings, repository_root
from lakehouse_analytics.triggers import registry
from lakehouse_analytics.triggers.base import LoadCursor
from lakehouse_analytics.triggers.registry import configured_triggers, guard_of
from manifests import Manifest

DOCUMENT = repository_root() / "docs" / "triggers.md"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The module that the document shows."""
    [source] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    module = ModuleType("markers_of_the_document")
    sys.modules[module.__name__] = module
    exec(compile(source, str(DOCUMENT), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def project(folder: Path) -> Graph:
    """shop.orders → stg_orders → dim; shop.items → stg_items; shop.log, which names no marker; shop.raw, unread."""
    m = Manifest()
    orders, items, log, unread = (m.source("shop", name) for name in ("orders", "items", "log", "unread"))
    for unique_id in (orders, items, unread):
        m.sources[unique_id]["config"]["meta"]["marker"] = str(folder / unique_id.rpartition(".")[2])
    stg = m.model("stg_orders", orders, folder="bronze")
    m.model("stg_items", items, folder="bronze")
    m.model("stg_log", log, folder="bronze")
    m.model("dim", stg, folder="silver")
    return m.graph()


class World:
    """The definitions of the triggers, an instance, and the folder with the marker files."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance, self.folder, self.time = instance, folder, 10**18
        self.cursor: str | None = None
        graph = project(folder)
        self.triggers = configured_triggers(Settings.load(), graph)
        assets = [dg.AssetSpec(dg.AssetKey(source.key)) for source in graph.sources.values()]
        built = [_asset(table.key) for table in graph.tables.values()]
        parts = [trigger.definitions() for trigger in self.triggers]
        self.definitions = dg.Definitions.merge(dg.Definitions(assets=[*assets, *built]), *parts)

    def load(self, table: str) -> None:
        """What a batch job does when it is done."""
        self.time += 1000
        (self.folder / table).touch()
        os.utime(self.folder / table, ns=(self.time, self.time))

    def evaluate(self) -> Any:
        """What the daemon asks of the code location."""
        repository = self.definitions.get_repository_def()
        sensor = repository.get_sensor_def("markers_sensor")
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=repository, sensor_name=sensor.name
        ) as context:
            return sensor.evaluate_tick(context)

    def tick(self) -> Any:
        """As the daemon: events one by one, then the cursor."""
        found = self.evaluate()
        self.store(found.asset_events)
        self.cursor = found.cursor
        return found

    def store(self, events: Sequence[Any]) -> None:
        for event in events:
            self.instance.report_runless_asset_event(event)

    def versions(self, table: str) -> list[str]:
        """Data versions of a table's materializations, the oldest first."""
        records = self.instance.fetch_materializations(dg.AssetKey(["shop", table]), limit=100).records
        found = [record.asset_materialization for record in reversed(records)]
        return [(one.tags or {})["dagster/data_version"] for one in found if one]


def _asset(key: Sequence[str]) -> dg.AssetsDefinition:
    @dg.asset(key=key)
    def built() -> None: ...

    return built


@pytest.fixture
def world(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(registry, "TRIGGERS", (*registry.TRIGGERS, example.marker_trigger))
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance, tmp_path)


def built(tick: Any) -> list[tuple[str, list[str]]]:
    return [(r.run_key, [key.to_user_string() for key in r.asset_selection]) for r in tick.run_requests]


def test_a_load_is_recorded_on_its_source_and_requests_a_run_of_the_bronze_models(world: World) -> None:
    assert world.tick().skip_message == "No marker file was written."
    world.load("orders")
    tick = world.tick()
    [version] = world.versions("orders")
    assert version == f"shop.orders-{world.time}"
    assert built(tick) == [(f"markers_{version}", ["bronze/stg_orders"])]
    [request] = tick.run_requests
    assert (request.tags["source"], request.tags["markers/load_id"]) == ("markers", version)
    assert request.tags["dagster/max_runtime"] == str(Settings.load().max_runtime)
    assert not world.tick().asset_events
    world.load("orders")
    world.load("items")
    assert [selection for _, selection in built(world.tick())] == [["bronze/stg_orders"], ["bronze/stg_items"]]
    assert len(world.versions("orders")) == 2


def test_a_load_that_no_bronze_model_reads_is_recorded_and_requests_no_run(world: World) -> None:
    world.load("unread")
    assert not world.tick().run_requests
    assert len(world.versions("unread")) == 1


@pytest.mark.parametrize("stored", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_a_tick_whose_daemon_died_records_no_load_twice(world: World, stored: int, first: bool) -> None:
    if not first:
        world.tick()
    world.load("orders")
    world.load("items")
    events = world.evaluate().asset_events
    assert len(events) == 2
    world.store(events[:stored])
    again = world.tick()
    assert len(again.asset_events) == 2 - stored
    assert len(again.run_requests) == 2  # their run keys are those of the tick that died
    assert [len(world.versions(table)) for table in ("orders", "items")] == [1, 1]


def test_a_cursor_that_a_person_sets_is_the_triggers_own(world: World) -> None:
    world.load("orders")
    world.tick()
    assert not world.tick().run_requests
    world.cursor = str(world.time - 1)
    assert [selection for _, selection in built(world.tick())] == [["bronze/stg_orders"]]
    assert len(world.versions("orders")) == 1


@pytest.mark.parametrize("text", ["", "7", '"7"', "[1]", "soon", "{", "2026-11-20T00:00Z", "null"])
def test_any_text_is_a_cursor(text: str) -> None:
    assert LoadCursor.loads(text) == LoadCursor(text or None)


def test_a_trigger_that_is_not_configured_adds_nothing(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TRIGGERS", (*registry.TRIGGERS, example.marker_trigger))
    m = Manifest()
    m.source("shop", "orders")
    assert configured_triggers(Settings.load(), m.graph()) == []
    assert guard_of([]) is None


def test_maintenance_hears_of_running_loads_from_the_trigger_that_can_tell(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert guard_of(world.triggers) is None
    monkeypatch.setenv("LAKEHOUSE_AIRBYTE_URL", "http://127.0.0.1:1/api/public/v1")
    airbyte, markers = configured_triggers(Settings.load(), project(tmp_path))
    assert guard_of([markers, airbyte]) is airbyte.guard
    assert airbyte.guard is not None
