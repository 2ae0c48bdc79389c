"""Engines by registry: what a folder of `engines/` says of a database, and how the environment chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.engines.postgres.errors import classify
from lakehouse_analytics.engines.postgres.resource import parameters_of
from lakehouse_analytics.engines.registry import ENGINES, UnsupportedEngineError, engine_type
from lakehouse_analytics.settings import Settings, SettingsError, repository_root

PROFILES = """
shop:
  target: dev
  outputs:
    dev: {type: duckdb, path: shop.duckdb}
    local: {type: duckdb, path: local.duckdb}
    trino: {type: trino, host: trino.example, port: 8080, user: a, catalog: lake, schema: s}
    postgres: {type: postgres, host: pg.example, port: 5432, user: a, pass: hunter-3, dbname: lake, schema: s}
    prod: {type: postgres, host: pg.example, port: 5432, user: a, password: hunter-3, dbname: big, schema: s}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dbt_project.yml").write_text("{name: shop, profile: shop}")
    (tmp_path / "profiles.yml").write_text(PROFILES)
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(tmp_path))
    return tmp_path


def settings_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
    return Settings.load()


@pytest.mark.parametrize(
    ("variables", "target", "engine"),
    [
        ({}, "dev", "duckdb"),
        ({"ENV": "local"}, "local", "duckdb"),
        ({"ENV": "trino"}, "trino", "trino"),
        ({"ENGINE": "trino"}, "trino", "trino"),
        ({"ENGINE": "duckdb"}, "local", "duckdb"),
        ({"ENGINE": "postgres"}, "postgres", "postgres"),
        ({"ENV": "trino", "ENGINE": "trino"}, "trino", "trino"),
        ({"ENV": "prod", "TIMEZONE": "UTC", "DBT_TARGET": "prod"}, "prod", "postgres"),
        ({"ENV": "prod", "TIMEZONE": "UTC", "ENGINE": "postgres"}, "postgres", "postgres"),
        ({"ENV": "prod", "TIMEZONE": "UTC", "ENGINE": "duckdb"}, "local", "duckdb"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_the_environment_chooses_a_target_and_so_an_engine(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], target: str, engine: str
) -> None:
    settings = settings_with(monkeypatch, **variables)
    assert (settings.target, settings.engine_type.name) == (target, engine)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ENGINE": "snowflake"}, "LAKEHOUSE_ENGINE: expected one of: duckdb, trino, postgres"),
        (
            {"ENGINE": "postgres", "DBT_TARGET": "dev"},
            "LAKEHOUSE_ENGINE: is postgres, but target `dev` of profile `shop` in {shop}/profiles.yml has type duckdb; "
            "name a target of type postgres in LAKEHOUSE_DBT_TARGET",
        ),
        (
            {"ENV": "trino", "ENGINE": "postgres"},
            "LAKEHOUSE_ENGINE: is postgres, but LAKEHOUSE_ENV=trino means trino; set LAKEHOUSE_ENV=local or prod",
        ),
        (
            {"ENV": "prod", "TIMEZONE": "UTC", "DBT_TARGET": "dev"},
            "name a target of type trino or postgres in LAKEHOUSE_DBT_TARGET, or set LAKEHOUSE_ENGINE=duckdb to run "
            "on one machine",
        ),
        ({"ENV": "prod", "ENGINE": "postgres"}, "LAKEHOUSE_TIMEZONE: not set, needed because LAKEHOUSE_ENV=prod"),
    ],
)
def test_an_environment_that_contradicts_itself_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, shop: Path, variables: Mapping[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_with(monkeypatch, **variables)
    assert message.format(shop=shop) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_an_adapter_that_no_engine_is_for_is_named_with_those_that_are() -> None:
    with pytest.raises(
        UnsupportedEngineError, match="dbt's adapter is snowflake; this version runs on duckdb, trino and"
    ):
        engine_type("snowflake")


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_a_folder_a_target_to_develop_with_and_a_place_in_the_docs(name: str) -> None:
    engine = ENGINES[name]
    assert type(engine).__module__ == f"lakehouse_analytics.engines.{name}"
    assert f"  {engine.local_target}:\n      type: {name}\n" in (repository_root() / "dbt" / "profiles.yml").read_text()
    assert f"| {engine.title} |" in (repository_root() / "docs" / "engines.md").read_text()
    assert {*engine.same_as_profile, *engine.required_in_prod} <= Settings.model_fields.keys()
    assert type(engine).bucketed is not EngineType.bucketed


@pytest.mark.parametrize(
    ("message", "transient", "queue_full"),
    [
        ("server closed the connection unexpectedly", True, False),
        ("deadlock detected\nDETAIL: Process 1 waits for ShareLock", True, False),
        ("terminating connection due to administrator command", True, False),
        ('connection to server at "127.0.0.1", port 1 failed: Connection refused', True, False),
        ('connection to server at "a", port 1 failed: FATAL:  the database system is starting up', True, False),
        ("FATAL:  sorry, too many clients already", True, True),
        ('connection to server at "a" failed: FATAL:  password authentication failed for user "a"', False, False),
        ('connection to server at "a" failed: FATAL:  database "b" does not exist', False, False),
        ('relation "raw.a" does not exist', False, False),
        ("division by zero", False, False),
    ],
)
def test_failures_of_postgresql_that_may_pass(message: str, transient: bool, queue_full: bool) -> None:
    failure = classify(message)
    assert (failure.transient, failure.queue_full) == (transient, queue_full)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"host": "a", "port": 5432, "pass": "b", "dbname": "c"},
            {"host": "a", "port": 5432, "password": "b", "dbname": "c"},
        ),
        (
            {"password": "b", "database": "c", "sslmode": "require"},
            {"password": "b", "dbname": "c", "sslmode": "require"},
        ),
        ({"host": "", "schema": "s", "threads": 4}, {}),
    ],
)
def test_parameters_of_libpq_are_those_of_the_profile(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parameters_of(fields) == expected


# --- docs/add-an-engine.md, step by step


class Warehouse(EngineType):
    """An engine that this repository does not have."""

    name = "warehouse"
    title = "Warehouse"
    connection_fields = ("host",)
    local_target = "warehouse"


@pytest.mark.usefixtures("shop")
def test_an_engine_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch, shop: Path) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: dev, outputs: {dev: {type: warehouse, host: a.example, database: d, schema: s}}}"
    )
    with pytest.raises(ValueError, match="expected one of: duckdb, trino, postgres"):
        settings_with(monkeypatch, ENGINE="warehouse")
    monkeypatch.setitem(ENGINES, "warehouse", Warehouse())
    settings = settings_with(monkeypatch, ENGINE="warehouse")
    assert settings.engine_type.concurrent_writers
    assert not settings.engine_type.iceberg
    assert settings.profile.names() == {"target": "dev", "type": "warehouse", "database": "d", "schema": "s"}
