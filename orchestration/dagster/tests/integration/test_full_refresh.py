"""A full refresh of the demo: equal tables on every engine, also after a killed run and after lost tables."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

import duckdb
import pytest

from tests.dagster_ui import poll

from .daemon import Child, Lake, alive, dbt_below, full_refresh, new_lake
from .databases import DuckDB, Row, Trino

pytestmark = pytest.mark.engine("duckdb", "trino")

#: A run in a process of its own, as launchers start it; and as a person does, who may press Ctrl-C.
RUN = full_refresh(days=30)  # enough for some orders
IN_SILVER = "START sql incremental model silver.dim_customer"
LOST = {"gold/fct_orders", "silver/dim_customer"}
#: A hash of the row as text, and engines write times as text in their own ways.
NOT_COMPARED = {"silver/dim_customer_history": {"dbt_scd_id"}}
LAYERS = ("bronze", "silver", "gold", "metrics")


class Scene:
    """One lake whose database is reset to the raw tables, and what an undisturbed run makes of them."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.raw = lake.root / "raw.duckdb"
        if isinstance(lake.database, DuckDB):
            shutil.copy(lake.database.path, self.raw)
        self.children: list[Child] = []
        assert self.run().wait() == 0, self.children[-1].tail()
        self.undisturbed = lake.contents()

    def reset(self) -> None:
        database = self.lake.database
        if isinstance(database, DuckDB):
            database.path.with_suffix(".duckdb.wal").unlink(missing_ok=True)
            shutil.copy(self.raw, database.path)
        elif isinstance(database, Trino):
            database.wipe(keep=["raw"])

    def nobody_holds_it(self) -> None:
        """No connection to the file; no query of a run in Trino."""
        database = self.lake.database
        if isinstance(database, DuckDB):
            duckdb.connect(str(database.path)).close()
        elif isinstance(database, Trino):
            running = "select query from system.runtime.queries where state = 'RUNNING' and source like 'dbt%'"
            poll(lambda: database.ask(running) == [], seconds=20, what="the end of dbt's queries")

    def run(self) -> Child:
        child = Child(self.lake, self.lake.root / f"run-{len(self.children)}.log", *RUN)
        self.children.append(child)
        return child

    def compare(self, child: Child) -> None:
        """The run ends well, and the contents equal the undisturbed ones."""
        assert child.wait() == 0, child.tail()
        contents = self.lake.contents()
        assert contents.keys() == self.undisturbed.keys()
        different = [table for table, rows in self.undisturbed.items() if contents[table] != rows]
        assert different == [], child.tail()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("kill")
    leftovers = tmp_path_factory.mktemp("leftovers")  # of those killed, who cannot tidy up
    made = Scene(new_lake(root, engine, {"TMPDIR": str(leftovers)}))
    yield made
    for child in made.children:
        child.stop()


def test_an_undisturbed_run_fills_every_table(scene: Scene) -> None:
    models = {f"{path.parts[-2]}/{path.stem}" for path in scene.lake.project.glob("models/*/*.sql")}
    seed_and_snapshot = {"silver/car_makes", "silver/dim_customer_history"}
    # Thirty days need not make a whole month.
    assert scene.undisturbed.keys() == (models | seed_and_snapshot) - {"metrics/revenue_monthly"}
    assert {table: len(rows) - 1 for table, rows in scene.undisturbed.items() if len(rows) < 2} == {}


@pytest.mark.nightly("trino")
def test_a_run_killed_with_its_dbt_in_silver_is_made_good_by_the_next(scene: Scene) -> None:
    scene.reset()
    child = scene.run()
    child.wait_for(IN_SILVER)
    dbt = dbt_below(child.process.pid)
    assert dbt
    child.kill_group()
    assert child.wait() == -signal.SIGKILL
    poll(lambda: not alive(dbt), seconds=10, what="dbt's end", because=child.tail)
    assert "gold/fct_orders" not in scene.lake.contents()

    scene.compare(scene.run())


@pytest.mark.engine("duckdb")
@pytest.mark.nightly
def test_a_run_killed_without_its_dbt_is_made_good_by_one_that_waits_for_the_orphan(scene: Scene) -> None:
    scene.reset()
    child = scene.run()
    child.wait_for(IN_SILVER)
    dbt = dbt_below(child.process.pid)
    assert dbt
    for process in dbt:
        process.suspend()  # the orphan holds the database until it is let go
    os.kill(child.process.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert isinstance(scene.lake.database, DuckDB)
    with pytest.raises(duckdb.IOException, match="lock"):
        duckdb.connect(str(scene.lake.database.path))

    second = scene.run()
    second.wait_for("== 13 tables")  # from here on it needs the database
    said = second.said
    for process in alive(dbt):
        process.resume()
    scene.compare(second)
    assert "START sql" not in said
    assert alive(dbt) == []


@pytest.mark.nightly("trino")
def test_lost_tables_are_missing_until_the_next_run(scene: Scene) -> None:
    """A gold table, and an incremental silver one; the tests below interrupt that run, and then let it be."""
    for table in LOST:
        scene.lake.sql(f"drop table {table.replace('/', '.')}")
    assert scene.undisturbed.keys() - scene.lake.contents().keys() == LOST


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(lambda child: child.kill_group(signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda child: child.process.terminate(), id="sigterm"),
    ],
)
@pytest.mark.nightly("trino")
def test_an_interrupted_run_takes_its_dbt_along(scene: Scene, interrupt: Callable[[Child], None]) -> None:
    child = scene.run()
    child.wait_for("START sql table model bronze.")
    dbt = dbt_below(child.process.pid)
    assert dbt
    interrupt(child)
    assert child.wait(seconds=60) != 0
    assert alive(dbt) == []
    scene.nobody_holds_it()


@pytest.mark.nightly("trino")
def test_the_run_after_lost_tables_and_interruptions_leaves_what_an_undisturbed_one_leaves(scene: Scene) -> None:
    assert scene.undisturbed.keys() - scene.lake.contents().keys() == LOST
    scene.compare(scene.run())


@pytest.fixture(scope="module")
def contents(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Row]]]:
    """Every table of every layer, by engine: its column names, then its rows."""
    found = {"trino": _comparable(scene.undisturbed)}
    for engine in ("duckdb", "postgres"):
        lake = new_lake(tmp_path_factory.mktemp(engine), engine)
        lake.command(*RUN)
        found[engine] = _comparable(lake.contents())
    return found


def _comparable(contents: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    found = {}
    for table, (heading, *rows) in contents.items():
        names = [column.split()[0] for column in heading]
        kept = [i for i, name in enumerate(names) if name not in NOT_COMPARED.get(table, ())]
        found[table] = [tuple(names[i] for i in kept), *(tuple(row[i] for i in kept) for row in rows)]
    return found


@pytest.mark.engine("trino")
@pytest.mark.parametrize("engine_name", ["trino", "postgres"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_engine_builds_the_same_rows(
    contents: dict[str, dict[str, list[Row]]], layer: str, engine_name: str
) -> None:
    expected = {table: rows for table, rows in contents["duckdb"].items() if table.startswith(f"{layer}/")}
    found = {table: rows for table, rows in contents[engine_name].items() if table.startswith(f"{layer}/")}
    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        assert len(rows) > 1, table
        assert found[table] == rows, table
