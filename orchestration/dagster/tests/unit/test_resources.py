"""What the user's own assets may require: each resource, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_dbt import DbtCliResource
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.resources import Airbyte, DuckDBResource, TrinoResource, resources
from lakehouse_analytics.settings import Settings, repository_root

DUCKDB = DuckDBResource(path=None)
TRINO = TrinoResource.model_validate({"host": "trino.example", "user": "shop", "catalog": "lakehouse"})
URL = "http://127.0.0.1:9/api/public/v1"


PROJECT = str(repository_root() / "dbt")


def made(engine: Any, adapter: str, **settings: Any) -> dict[str, Any]:
    runner = DbtRunner(project_dir=PROJECT, profiles_dir=PROJECT, target="local", target_path="target")
    return resources(Settings(**settings), runner, engine, adapter)


def failure(resource: Any) -> str:
    with pytest.raises(dg.DagsterResourceFunctionError) as error, dg.build_resources({"it": resource}):
        pass
    assert isinstance(error.value.__cause__, dg.Failure)
    return error.value.__cause__.description or ""


def test_dbt_is_the_resource_of_dagster_dbt_under_each_annotation() -> None:
    found: list[Any] = []

    @dg.asset
    def typed(dbt: DbtCliResource) -> None:
        found.append(dbt)

    @dg.asset
    def untyped(dbt: dg.ResourceParam[Any]) -> None:
        found.append(dbt)

    @dg.asset(required_resource_keys={"dbt"})
    def by_key(context):  # type: ignore[no-untyped-def]  # Dagster does not resolve the text of an annotation
        found.append(context.resources.dbt)

    assert dg.materialize([typed, untyped, by_key], resources={"dbt": made(DUCKDB, "duckdb")["dbt"]}).success
    assert [isinstance(one, DbtCliResource) for one in found] == [True] * 3
    assert {(one.project_dir, one.profiles_dir, one.target) for one in found} == {(PROJECT, PROJECT, "local")}


def test_the_engine_has_the_name_of_its_database_and_the_other_says_what_it_needs() -> None:
    embedded, server = made(DUCKDB, "duckdb"), made(TRINO, "trino")
    assert (embedded["duckdb"], server["trino"]) == (DUCKDB, TRINO)
    assert embedded.keys() == server.keys() == {"dbt", "airbyte", *ENGINES}
    assert failure(embedded["trino"]) == (
        "The resource trino does not exist here, because dbt's adapter is duckdb. It needs a target of type trino."
    )
    assert "because dbt's adapter is trino. It needs a target of type duckdb." in failure(server["duckdb"])


def test_airbyte_is_a_client_where_its_address_is_set() -> None:
    assert "because LAKEHOUSE_AIRBYTE_URL is not set" in failure(made(DUCKDB, "duckdb")["airbyte"])
    there = made(DUCKDB, "duckdb", airbyte_url=URL, airbyte_token="the-secret")["airbyte"]
    with dg.build_resources({"airbyte": there}) as built:
        assert isinstance(built.airbyte, Airbyte)
        assert built.airbyte.server.url == URL
        assert "the-secret" not in repr(built.airbyte.server)


def test_a_duckdb_file_is_opened_for_a_block(tmp_path: Path) -> None:
    resource = DuckDBResource(path=str(tmp_path / "a.duckdb"))
    with resource.get_connection() as connection:
        connection.execute("create table t as select 1 as n")
    with resource.get_connection(read_only=True) as one, resource.get_connection(read_only=True) as other:
        assert one.execute("from t").fetchall() == other.execute("from t").fetchall() == [(1,)]
    with pytest.raises(DatabaseError, match=r"not a file: connect with `duckdb\.connect`"), DUCKDB.get_connection():
        pass
