"""Each use of Dagster beyond its public API. A failure after an update of Dagster says which modules to look at."""

import ast
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from lakehouse_analytics import _dagster_internals as internals

PACKAGE = Path(internals.__file__).parent
NAMES = [(module, name) for module, names in internals.USED.items() for name in names]
#: Columns of Dagster's tables that our statements name.
COLUMNS = {
    "AssetCheckExecutionsTable": "asset_key check_name evaluation_event_storage_id execution_status id partition",
    "AssetEventTagsTable": "event_id",
    "RunsTable": "create_timestamp run_id status",
    "SqlEventLogStorageTable": "asset_key dagster_event_type id partition run_id",
}


def users(name: str) -> str:
    """The modules that use it."""
    found = (
        path.relative_to(PACKAGE.parent)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "_dagster_internals.py"
    )
    return ", ".join(str(path) for path in found if re.search(rf"\b{name}\b", (PACKAGE.parent / path).read_text()))


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_dagster_has_what_we_use(module: str, name: str) -> None:
    try:
        import_module(module)
        there = hasattr(import_module(module), name)
    except ModuleNotFoundError:
        there = False
    assert there, f"dagster {version('dagster')} has no {module}.{name}. Look at {users(name)}."
    assert getattr(internals, name) is getattr(import_module(module), name)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_what_is_public_or_unused_is_not_listed(module: str, name: str) -> None:
    assert not hasattr(dg, name), f"Import {name} from dagster."
    assert users(name), f"Nothing uses {name}."


def test_types_are_checked_for_the_same_names() -> None:
    tree = ast.parse(Path(internals.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert sorted((node.module, alias.name) for node in imports for alias in node.names) == sorted(NAMES)


@pytest.mark.parametrize("table", COLUMNS)
def test_tables_have_the_columns_that_we_name(table: str) -> None:
    there = {column.name for column in getattr(internals, table).columns}
    assert {*COLUMNS[table].split()} <= there, f"Look at {users(table)}."


CALLS: list[tuple[Callable[[], Any], Any]] = [
    (lambda: internals.is_valid_cron_string("@daily"), True),
    (lambda: internals.is_valid_cron_string("every day"), False),
    (lambda: internals.get_smallest_cron_interval("0 */6 * * *"), timedelta(hours=6)),
    (
        lambda: next(internals.schedule_execution_time_iterator(0.0, "0 12 * * *", "Europe/Athens")).astimezone(UTC),
        datetime(1970, 1, 1, 10, tzinfo=UTC),
    ),
    (lambda: internals.is_valid_name("a_b"), True),
    (lambda: internals.is_valid_name("a.b"), False),
    (lambda: internals.is_valid_tag_key("team/owner"), True),
    (lambda: internals.is_valid_tag_key("a b"), False),
    (lambda: internals.get_current_datetime().tzinfo is not None, True),
]


@pytest.mark.parametrize(("call", "expected"), CALLS)
def test_functions_answer_as_we_expect(call: Callable[[], Any], expected: Any) -> None:
    assert call() == expected


def test_a_step_knows_what_its_whole_run_builds() -> None:
    found: list[Any] = []

    @dg.asset
    def one(context: dg.AssetExecutionContext) -> None:
        found.append(internals.keys_of_run(context))

    @dg.asset(deps=[one])
    def two() -> None: ...

    @dg.asset
    def left_out() -> None: ...

    assert dg.materialize([one, two, left_out], selection=[one, two]).success
    assert found == [{dg.AssetKey("one"), dg.AssetKey("two")}], "Look at assets/build_selection.py."
