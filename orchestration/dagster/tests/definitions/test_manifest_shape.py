"""A manifest with a value that dbt does not write there loads, or is one error that names the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.contract.models import ContractError
from lakehouse_analytics.dbt import manifest_shape
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.manifest_shape import ShapeError
from lakehouse_analytics.dbt.nodes import NO_NODES, Column, Macro, manifest_of, node_of
from lakehouse_analytics.dbt.project import ManifestError
from lakehouse_analytics.settings import SettingsError

from .conftest import Location

#: A little of all that dbt parses.
FILES = {
    "dbt_project.yml": """
name: shop
profile: shop
on-run-start: select 1
models: {shop: {gold: {+meta: {lakehouse: {rows: {min: 1}}}}}}
""",
    "profiles.yml": """
shop:
  outputs:
    duckdb: {type: duckdb, path: shop.duckdb}
    trino: {type: trino, host: trino.example, port: 8080, user: ann, database: lake, schema: shop}
""",
    "models/bronze/stg_orders.sql": (
        "{{ config(materialized='incremental', on_table_exists='rename', group='finance', tags=['nightly'], "
        "post_hook='select 1', contract={'enforced': false}) }}\nselect id, day from {{ source('raw', 'orders') }}"
    ),
    "models/bronze/constants.sql": "{{ config(materialized='ephemeral') }}\nselect 1 as id",
    "models/gold/fct_v2.sql": "select id from {{ ref('stg_orders') }} join {{ ref('constants') }} using (id)",
    "models/gold/days.sql": (
        "{{ config(materialized='incremental', incremental_strategy='replace_window', event_time='day', "
        "begin='2026-01-01', meta={'lakehouse': {'partition': 'daily'}}) }}\nselect * from {{ ref('stg_orders') }}"
    ),
    "models/schema.yml": """
groups: [{name: finance, owner: {name: Finance, email: finance@shop.example}}]
sources:
  - name: raw
    meta: {lakehouse: {airbyte: {connection: shop}}}
    tables: [{name: orders, columns: [{name: id, data_type: integer, data_tests: [not_null]}]}]
models:
  - name: stg_orders
    description: Orders
    columns: [{name: id, data_type: integer, description: Key, data_tests: [unique]}]
  - name: fct
    latest_version: 2
    config: {meta: {dagster: {owners: [team:shop], group: finance}}}
    versions: [{v: 2}]
  - name: constants
    columns: [{name: id, data_tests: [not_null]}]
exposures:
  - {name: dashboard, type: dashboard, url: https://bi.example, owner: {name: Ann, email: ann@shop.example},
     depends_on: ["ref('fct')"]}
unit_tests:
  - {name: sums, model: stg_orders, given: [{input: "source('raw', 'orders')", rows: []}], expect: {rows: []}}
""",
    "tests/alone.sql": "select 1 where false",
    "tests/of_orders.sql": "{{ config(meta={'dagster': {'ref': 'fct'}}) }}\nselect * from {{ ref('stg_orders') }}",
    "macros/load_csv_rows.sql": "{% macro trino__load_csv_rows(model, agate_table) %}{% endmacro %}",
    "macros/macros.yml": "macros: [{name: trino__load_csv_rows, config: {meta: {lakehouse: {atomic: true}}}}]",
    "seeds/kinds.csv": "id\n1\n",
    "snapshots/snap.yml": """
snapshots: [{name: snap, relation: ref('kinds'), config: {strategy: check, check_cols: all, unique_key: id}}]
""",
    "analyses/some.sql": "select 1",
    "functions/doubled.sql": "select n * 2",
    "functions/doubled.yml": """
functions: [{name: doubled, arguments: [{name: n, data_type: integer}], returns: {data_type: integer}}]
""",
}
Path_ = tuple[str | int, ...]
DROPPED = object()
VALUES = {"missing": DROPPED, "null": None, "[]": [], "{}": {}, "a number": 3, "a list": [1], "an object": {"a": 1}}


@pytest.fixture(scope="module", params=["duckdb", "trino"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Location:
    root: Path = tmp_path_factory.mktemp("shop")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Location({"LAKEHOUSE_DBT_PROJECT_DIR": str(root), "LAKEHOUSE_DBT_TARGET": request.param}).prepare()


@pytest.fixture(scope="module")
def manifest(shop: Location) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(shop.project.manifest_path.read_bytes())
    kinds = {node["resource_type"] for node in loaded["nodes"].values()}
    assert {"model", "seed", "snapshot", "test", "analysis", "operation"} <= kinds
    assert loaded["functions"]
    assert loaded["groups"]
    # Of hundreds, those that a project can say something of.
    loaded["macros"] = {name: one for name, one in loaded["macros"].items() if one["package_name"] == "shop"}
    loaded["docs"] = loaded["disabled"] = loaded["parent_map"] = loaded["child_map"] = {}
    return loaded


def places(value: Any, at: Path_ = (), depth: int = 5) -> Iterator[Path_]:
    """Every place of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield (*at, key)
        if depth > 1:
            yield from places(below, (*at, key), depth - 1)


@contextmanager
def mutated(document: Any, place: Path_, value: Any) -> Iterator[None]:
    *path, last = place
    for key in path:
        document = document[key]
    before = list(document.items()) if isinstance(document, dict) else list(document)
    if value is DROPPED:
        del document[last]
    else:
        document[last] = value
    try:
        yield
    finally:
        document.clear()
        if isinstance(document, dict):
            document.update(before)
        else:
            document.extend(before)


def refusal(manifest: dict[str, Any], configuration: Mapping[str, Any]) -> str | None:
    """What is said of a manifest that is refused; None of one that loads, or in which only `meta` is wrong."""
    try:
        manifest_shape.check(manifest)
        read(manifest, configuration)
    except ShapeError as error:
        return str(error)
    except ContractError:
        return None  # of what a person writes
    return None


@pytest.mark.parametrize("value", VALUES)
def test_every_place_is_read_or_refused(shop: Location, manifest: dict[str, Any], value: str) -> None:
    configuration, refused = shop.project.configuration(), 0
    for place in [*places(manifest)]:
        with mutated(manifest, place, VALUES[value]):
            said = refusal(manifest, configuration)
        if said:
            refused += 1
            assert ": expected " in said
            # The section or the entry and, inside it, the key: `columns` names the column.
            named = place[:1] if len(place) == 1 else place[1:3]
            assert all(str(part).removesuffix("s") in said for part in named), (place, said)
    assert refused


class Recorded(dict[str, Any]):
    """An object of a manifest that notes which of its keys are read."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("kind", ["model", "seed", "snapshot", "test", "source", "exposure", "function", "analysis"])
def test_what_is_read_is_what_is_checked(manifest: dict[str, Any], kind: str) -> None:
    sections = [section for name, section in manifest.items() if name not in NO_NODES]
    entries = [entry for section in sections for entry in section.values() if entry["resource_type"] == kind]
    assert entries
    for entry in entries:
        keys, config_keys = set(), set()
        # Without a value, `meta` and `group` are looked up in a second place.
        without: list[dict[str, Any]] = [{}, {"meta": {}, "group": None}]
        for empty in without:
            recorded = Recorded(entry | empty)
            config = recorded["config"] = Recorded({**(entry.get("config") or {}), **empty})
            recorded.read.clear()
            node_of(recorded)
            keys |= recorded.read
            config_keys |= config.read
        assert keys == manifest_shape.spec_of(entry).keys()
        if "config" in keys:
            assert config_keys == manifest_shape.CONFIG.keys()


def test_what_is_read_of_a_model_of_another_project_is_what_is_checked(manifest: dict[str, Any]) -> None:
    entry = manifest["nodes"]["model.shop.stg_orders"] | {"original_file_path": "", "path": "", "config": {}}
    recorded = Recorded(entry)
    node_of(recorded)
    assert recorded.read - {"resource_type"} == manifest_shape.spec_of(entry).keys() - {"resource_type"}


def test_a_node_has_the_values_of_its_entry(manifest: dict[str, Any]) -> None:
    typed = manifest_of(manifest)
    orders = typed.nodes["model.shop.stg_orders"]
    assert orders.columns == (Column("id", "integer", "Key"),)
    assert (orders.name, orders.description, orders.group, orders.tags) == (
        "stg_orders",
        "Orders",
        "finance",
        ("nightly",),
    )
    assert orders.config.post_hooks == ("select 1",)
    assert orders.files == ("models/schema.yml", "models/bronze/stg_orders.sql", "dbt_project.yml")
    assert orders.folders == ("bronze",)
    versioned = typed.nodes["model.shop.fct.v2"]
    assert (versioned.version, versioned.latest_version, versioned.folders) == (2, 2, ("gold",))
    source = typed.nodes["source.shop.raw.orders"]
    assert (source.full_name, source.table_name) == ("raw.orders", "orders")
    assert source.source_meta == {"lakehouse": {"airbyte": {"connection": "shop"}}}
    [dashboard] = typed.exposures.values()
    assert (dashboard.type, dashboard.url, dashboard.owner["email"]) == (
        "dashboard", "https://bi.example", "ann@shop.example",
    )  # fmt: skip
    assert typed.group_owners == {"finance": "finance@shop.example"}
    assert [macro for macro in typed.macros if macro.atomic] == [Macro("trino__load_csv_rows", "shop", atomic=True)]


def load(shop: Location) -> str | None:
    """What is said of a location that does not load."""
    try:
        assert isinstance(shop.load(), dg.Definitions)
    except ManifestError as error:
        return str(error)
    except (ContractError, SettingsError):
        return None  # of what a person writes, and of databases that the engine does not know
    return None


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_location_loads_or_says_what_is_wrong(shop: Location, data: st.DataObject) -> None:
    text = shop.project.manifest_path.read_text()
    manifest = json.loads(text)
    section = data.draw(st.sampled_from(["nodes", "nodes", "nodes", "sources", "exposures", "functions", "groups"]))
    node = data.draw(st.sampled_from(sorted(manifest[section])))
    place = data.draw(st.sampled_from([*places(manifest[section][node], (section, node), 2)]))
    value = data.draw(st.sampled_from(sorted(VALUES)))
    with mutated(manifest, place, VALUES[value]):
        shop.project.manifest_path.write_text(json.dumps(manifest))
    try:
        said = load(shop)
    finally:
        shop.project.manifest_path.write_text(text)
    if said:
        assert said.startswith(f"{shop.project.manifest_path} is not a manifest as dbt writes it: {node} in `")
        assert said.endswith(". Make it again: lakehouse manifest")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("nodes", "model.shop.stg_orders"), None, "model.shop.stg_orders in `nodes`: it is null: expected an object"),
        (("nodes", "model.shop.stg_orders"), [], "model.shop.stg_orders in `nodes`: it is []: expected an object"),
        (
            ("nodes", "model.shop.stg_orders", "name"),
            DROPPED,
            "model.shop.stg_orders in `nodes`: `name` is missing: expected a string",
        ),
        (
            ("nodes", "model.shop.stg_orders", "config", "meta"),
            3,
            "model.shop.stg_orders in `nodes`: `config.meta` is 3: expected an object or null",
        ),
        (
            ("nodes", "model.shop.stg_orders", "fqn"),
            ["shop", 3],
            "model.shop.stg_orders in `nodes`: `fqn` has 3: expected only strings",
        ),
        (
            ("sources", "source.shop.raw.orders"),
            {},
            "source.shop.raw.orders in `sources`: `unique_id` is missing: expe",
        ),
        (("functions",), [1], "`functions` is [1]: expected an object or null"),
        (("macros",), [1], "`macros` is [1]: expected an object or null"),
        (("metadata", "adapter_type"), {}, "`metadata.adapter_type` is {}: expected a string or null"),
    ],
)
def test_the_error_names_file_node_key_and_way_out(shop: Location, place: Path_, value: Any, said: str) -> None:
    text = shop.project.manifest_path.read_text()
    manifest = json.loads(text)
    with mutated(manifest, place, value):
        shop.project.manifest_path.write_text(json.dumps(manifest))
    try:
        with pytest.raises(ManifestError) as caught:
            shop.project.manifest()
    finally:
        shop.project.manifest_path.write_text(text)
    assert str(caught.value).startswith(f"{shop.project.manifest_path} is not a manifest as dbt writes it: {said}")
    assert str(caught.value).endswith(". Make it again: lakehouse manifest")
