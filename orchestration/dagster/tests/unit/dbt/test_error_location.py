from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.dbt.error_location import with_source_line
from lakehouse_analytics.dbt.nodes import Node

NODE = Node("model.shop.dim", "model", "dim", original_file_path="models/silver/dim.sql")
SQL = """with base as (
    select * from {{ ref('stg') }}
)
select
    id,
    naem,   -- a typo
    id as again
from base
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    file = tmp_path / NODE.original_file_path
    file.parent.mkdir(parents=True)
    file.write_text(SQL)
    return tmp_path


def message(quoted: str) -> str:
    return f"Runtime Error\n  Binder Error: no such column\n\nLINE 14: {quoted}\n             ^\n"


@pytest.mark.parametrize(
    ("quoted", "line"),
    [
        ("    naem,   -- a typo", 6),
        ("...  naem, -- a typo...", 6),
        ("naem,", 6),
        ("select * from {{ ref('stg') }}", 2),
    ],
)
def test_the_line_of_the_models_own_file_is_found(project: Path, quoted: str, line: int) -> None:
    text = with_source_line(message(quoted), NODE, project)
    assert text.splitlines()[0] == f"models/silver/dim.sql:{line}: Runtime Error"
    assert f"LINE 14: {quoted}" in text


@pytest.mark.parametrize("quoted", ["id", "select", 'from "lake"."bronze"."stg"', "...", "......"])
def test_without_exactly_one_such_line_only_the_file_is_named(project: Path, quoted: str) -> None:
    assert with_source_line(message(quoted), NODE, project).startswith("models/silver/dim.sql: Runtime Error")


def test_the_file_is_named_once(project: Path) -> None:
    said = "Runtime Error in model dim (models/silver/dim.sql)\n  Binder Error: no such column"
    assert (
        with_source_line(said, NODE, project) == "models/silver/dim.sql: Runtime Error\n  Binder Error: no such column"
    )
    other = "Runtime Error in model other (models/silver/other.sql)"
    assert with_source_line(other, NODE, project) == f"models/silver/dim.sql: {other}"


def test_a_message_without_a_line_names_the_file(project: Path) -> None:
    assert with_source_line("  dbt skipped it \n", NODE, project) == "models/silver/dim.sql: dbt skipped it"


def test_a_file_that_is_gone_or_not_utf8_is_still_named(project: Path) -> None:
    file = project / NODE.original_file_path
    file.write_bytes(b"select 'caf\xe9' as drink,\nnaem from base\n")
    assert with_source_line(message("naem from base"), NODE, project).startswith("models/silver/dim.sql:2: ")
    file.unlink()
    assert with_source_line(message("naem from base"), NODE, project).startswith("models/silver/dim.sql: ")


@pytest.mark.parametrize(
    "said",
    [
        'Binder Error: Referenced column "naem" not found in FROM clause!\nCandidate bindings: "id", "again"',
        "TrinoUserError(type=USER_ERROR, name=COLUMN_NOT_FOUND): line 14:5: Column 'naem' cannot be resolved",
        'Catalog Error: Scalar Function with name NAEM does not exist!\nDid you mean "id"?',
    ],
)
def test_without_a_quoted_line_the_name_complained_of_is_looked_up(project: Path, said: str) -> None:
    assert with_source_line(said, NODE, project) == f"models/silver/dim.sql:6: {said}"


def test_a_name_that_stands_in_several_lines_or_none_points_nowhere(project: Path) -> None:
    for name in ("id", "nowhere"):
        said = f'Binder Error: Referenced column "{name}" not found'
        assert with_source_line(said, NODE, project) == f"models/silver/dim.sql: {said}"
