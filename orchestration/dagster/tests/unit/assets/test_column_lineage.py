"""The lineage of columns in the metadata of materializations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics.assets.column_lineage import KEY, ColumnLineage
from lakehouse_analytics.column_lineage import sql as analyzer
from lakehouse_analytics.dbt.graph import Graph
from manifests import Manifest

STAGED = 'select id, amount / 100 as amount from "lake"."raw"."orders" where day = \'2026-01-01\''
GOLD = 'with o as (select * from "lake"."main"."stg_orders") select o.*, 1 as one from o'


@pytest.fixture
def graph() -> Graph:
    manifest = Manifest()
    staged = manifest.model("stg_orders", manifest.source("raw", "orders"), folder="bronze")
    manifest.model("orders", staged, folder="gold")
    return manifest.graph()


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were analyzed."""
    found: list[str] = []
    analyze = analyzer.lineage_of

    def counted(sql: str, *args: Any, **options: Any) -> Any:
        found.append(sql)
        return analyze(sql, *args, **options)

    monkeypatch.setattr(analyzer, "lineage_of", counted)
    return found


def _deps(lineage: ColumnLineage, graph: Graph, name: str, sql: str) -> dict[str, list[tuple[str, str]]]:
    metadata = lineage.metadata(graph.tables[f"model.shop.{name}"], sql)
    found = metadata[KEY]
    assert isinstance(found, dg.TableColumnLineage)
    return {
        column: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
        for column, deps in found.deps_by_column.items()
    }


def test_a_star_has_the_columns_that_were_analyzed_before(tmp_path: Path, graph: Graph) -> None:
    lineage = ColumnLineage(graph, tmp_path)
    assert _deps(lineage, graph, "stg_orders", STAGED) == {
        "id": [("raw/orders", "id")],
        "amount": [("raw/orders", "amount")],
    }
    gold = {"id": [("bronze/stg_orders", "id")], "amount": [("bronze/stg_orders", "amount")]}
    assert _deps(lineage, graph, "orders", GOLD) == gold
    # A later run that builds only gold knows the columns of bronze.
    assert _deps(ColumnLineage(graph, tmp_path), graph, "orders", GOLD) == gold


def test_a_statement_is_analyzed_once(tmp_path: Path, graph: Graph, analyses: list[str]) -> None:
    for day in ("2026-01-01", "2026-01-02"):  # another partition
        _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", STAGED.replace("2026-01-01", day))
    assert analyses == [STAGED]
    _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", STAGED.replace("amount /", "price /"))
    assert len(analyses) == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path, graph: Graph) -> None:
    (tmp_path / "file").touch()
    assert _deps(ColumnLineage(graph, tmp_path / "file"), graph, "stg_orders", STAGED)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"digest": 1}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, graph: Graph, content: str) -> None:
    expected = _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", STAGED)
    for path in tmp_path.iterdir():
        path.write_text(content)
    assert _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", STAGED) == expected


@pytest.mark.parametrize("sql", [None, "", "select from where", "def model(dbt, session): ..."])
def test_no_metadata_if_the_lineage_is_not_known(tmp_path: Path, graph: Graph, sql: str | None) -> None:
    assert ColumnLineage(graph, tmp_path).metadata(graph.tables["model.shop.stg_orders"], sql) == {}


def test_an_error_fails_no_run(tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("a new kind of SQL")

    monkeypatch.setattr(analyzer, "lineage_of", fail)
    assert ColumnLineage(graph, tmp_path).metadata(graph.tables["model.shop.stg_orders"], STAGED) == {}


def test_loading_the_code_location_does_not_import_the_parser() -> None:
    code = "import sys, lakehouse_analytics.assets.build_events; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("comment", ["-- the customer's amount\n", "/* the customer's\n amount */"])
def test_an_apostrophe_in_a_comment_begins_no_literal(
    tmp_path: Path, graph: Graph, analyses: list[str], comment: str
) -> None:
    sql = f"{comment} {STAGED}"
    assert _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", sql)["amount"] == [("raw/orders", "amount")]
    other = sql.replace("amount / 100", "price / 100")
    assert _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", other)["amount"] == [("raw/orders", "price")]
    _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", other.replace("2026-01-01", "2026-01-02"))
    assert len(analyses) == 2


def test_a_quoted_name_is_no_literal(tmp_path: Path, graph: Graph) -> None:
    for name in ("it's 1", "it's 2"):
        sql = f"""select "{name}" as amount from "lake"."raw"."orders" where day = '2026-01-01'"""
        deps = _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", sql)
        assert deps == {"amount": [("raw/orders", name)]}


def test_changed_code_is_analyzed_again(tmp_path: Path, analyses: list[str]) -> None:
    for number, column in enumerate(("amount", "price")):
        manifest = Manifest()
        source = manifest.source("raw", "orders")
        staged = manifest.model("stg_orders", source, folder="bronze")
        manifest.nodes[staged]["checksum"] = {"name": "sha256", "checksum": str(number)}
        graph = manifest.graph()
        sql = f"""select $$it's$$ as a, {column} as b from "lake"."raw"."orders" where day = '2026-01-01'"""
        deps = _deps(ColumnLineage(graph, tmp_path), graph, "stg_orders", sql)
        assert deps == {"b": [("raw/orders", column)]}
    assert len(analyses) == 2
