"""Random histories of code and data: what is reused always equals a full rebuild.

The tables are built in a real DuckDB, and their states are recorded in a real instance of Dagster. Only dbt is left
out: the models here are their own compiled SQL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import dagster as dg
import duckdb
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from lakehouse_analytics.assets.reuse import Reuse
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.manifest import read
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.engines.duckdb.versions import table_versions
from lakehouse_analytics.keys import asset_key
from manifests import Manifest

MODELS = 5
SOURCES = 2
#: More with LAKEHOUSE_TEST_HISTORIES.
HISTORIES = int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "15"))


@dataclass
class Model:
    """A model of the random project: it sums what it reads."""

    name: str
    parents: list[str]
    kind: str = "table"
    factor: int = 1
    comment: str = ""
    macro: bool = False
    clock: bool = False

    @property
    def sql(self) -> str:
        """The code, in which `{{ … }}` is what dbt replaces."""
        union = " union all ".join(f"select id, v from {{{{ {parent} }}}}" for parent in self.parents)
        factor = "{{ factor() }}" if self.macro else str(self.factor)
        never = " where random() < 2" if self.clock else ""
        return f"select id, sum(v) * {factor} as v from ({union}){never} group by id {self.comment}"


@dataclass
class Project:
    """The code of all models."""

    models: dict[str, Model] = field(default_factory=dict)
    factor: int = 2

    def manifest(self) -> dict[str, Any]:
        made = Manifest()
        for number in range(SOURCES):
            made.source("raw", f"s{number}")
        for model in self.models.values():
            unique_id = made.model(
                model.name, *map(unique_id_of, model.parents), lakehouse={"reuse": True}, materialized=model.kind
            )
            made.nodes[unique_id]["raw_code"] = model.sql
            made.nodes[unique_id]["depends_on"]["macros"] = ["macro.shop.factor"] if model.macro else []
        factor = {"name": "factor", "package_name": "shop", "macro_sql": str(self.factor)}
        return made.build() | {"macros": {"macro.shop.factor": factor}}

    def compiled(self, model: Model) -> str:
        sql = model.sql.replace("{{ factor() }}", str(self.factor))
        for parent in model.parents:
            sql = sql.replace(f"{{{{ {parent} }}}}", f"raw.{parent}" if parent.startswith("s") else f"main.{parent}")
        return sql


def unique_id_of(name: str) -> str:
    return f"source.shop.raw.{name}" if name.startswith("s") else f"model.shop.{name}"


class Engine:
    """A database in memory."""

    def __init__(self) -> None:
        self.connection = duckdb.connect(config={"threads": 1})
        self.connection.execute("attach ':memory:' as lake; use lake; create schema raw")
        for number in range(SOURCES):
            self.connection.execute(f"create table raw.s{number} as select 1 as id, {number} as v")

    def wait_until_free(self, log: object) -> None:
        return None

    def fetch_all(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def table_versions(self, relations: Collection[Relation], fetch_all: object) -> Mapping[Relation, str]:
        return table_versions(self.fetch_all, relations)

    def build(self, model: Model, sql: str) -> None:
        for kind in ("table", "view"):
            there = self.fetch_all(f"select 1 from duckdb_{kind}s() where {kind}_name = '{model.name}'")
            if there:
                self.connection.execute(f"drop {kind} main.{model.name}")
        self.connection.execute(f"create {model.kind} main.{model.name} as {sql}")

    def contents(self, names: Collection[str]) -> dict[str, list[tuple[Any, ...]]]:
        return {name: self.fetch_all(f"select * from main.{name} order by all") for name in names}


class Histories(RuleBasedStateMachine):
    """Changes of code and data in any order, and runs of all tables or of some."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.folder = TemporaryDirectory()
        self.engine, self.project = Engine(), Project()
        self.instance = dg.DagsterInstance.ephemeral()
        self.runs, self.reused, self.whole = 0, 0, False
        for number in range(MODELS):
            known = [f"s{n}" for n in range(SOURCES)] + [f"m{n}" for n in range(number)]
            parents = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
            self.project.models[f"m{number}"] = Model(
                f"m{number}",
                parents,
                data.draw(st.sampled_from(["table", "table", "view"])),
                macro=data.draw(st.booleans()),
            )
        self.run_all()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.instance.dispose()
            self.engine.connection.close()
            self.folder.cleanup()

    names = st.sampled_from([f"m{number}" for number in range(MODELS)])

    @rule(source=st.integers(0, SOURCES - 1), value=st.integers(0, 3), keep=st.booleans())
    def change_data(self, source: int, value: int, keep: bool) -> None:
        if not keep:
            self.engine.connection.execute(f"delete from raw.s{source}")
        self.engine.connection.execute(f"insert into raw.s{source} values ({value}, {value})")
        self.whole = False

    @rule(source=st.integers(0, SOURCES - 1))
    def write_the_same_data(self, source: int) -> None:
        rows = f"select * from raw.s{source} order by random()"
        self.engine.connection.execute(f"create or replace table raw.s{source} as {rows}")

    @rule(name=names, factor=st.integers(1, 3))
    def change_code(self, name: str, factor: int) -> None:
        self.project.models[name].factor = factor
        self.whole = False

    @rule(name=names, data=st.data())
    def change_inputs(self, name: str, data: st.DataObject) -> None:
        known = [f"s{n}" for n in range(SOURCES)] + [f"m{n}" for n in range(int(name[1:]))]
        self.project.models[name].parents = data.draw(
            st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)
        )
        self.whole = False

    @rule(name=names)
    def comment(self, name: str) -> None:
        self.project.models[name].comment += " -- a comment"

    @rule(name=names, kind=st.sampled_from(["table", "view"]), clock=st.booleans())
    def change_kind(self, name: str, kind: str, clock: bool) -> None:
        self.project.models[name].kind, self.project.models[name].clock = kind, clock
        self.whole = False

    @rule(factor=st.integers(2, 3))
    def change_macro(self, factor: int) -> None:
        self.project.factor = factor
        self.whole = False

    @rule(name=names)
    def tamper(self, name: str) -> None:
        found = self.engine.fetch_all(f"select 1 from duckdb_tables() where table_name = '{name}'")
        if found:
            self.engine.connection.execute(f"insert into main.{name} values (9, 9)")
            self.whole = False

    @rule(chosen=st.sets(names, min_size=1))
    def run_some(self, chosen: set[str]) -> None:
        self.run(chosen)

    @rule(fails=names, counted=st.booleans())
    def run_in_two_attempts(self, fails: str, counted: bool) -> None:
        self.run(set(self.project.models), fails=fails, counted=counted)
        self.whole = True

    @rule(source=st.integers(0, SOURCES - 1), value=st.integers(0, 3), after=st.integers(0, MODELS))
    def run_while_a_source_changes(self, source: int, value: int, after: int) -> None:
        insert = f"insert into raw.s{source} values ({value}, {value})"
        self.run(set(self.project.models), meanwhile=(after, insert))
        self.whole = False  # what was built before has other rows than what was built after

    @rule()
    def run_all(self) -> None:
        self.run(set(self.project.models))
        self.whole = True

    @rule()
    def run_all_again(self) -> None:
        if self.whole:
            built = self.run(set(self.project.models))
            graph = self.graph()
            clocks = [model for model in self.project.models.values() if model.clock]
            always = {unique_id_of(model.name) for model in clocks}
            found = {unique_id_of(name) for name in built}
            # A clock has no effect on the rows here, but a run does not know what has become of a view.
            views = [unique_id_of(model.name) for model in clocks if model.kind == "view"]
            assert always <= found <= {*always, *graph.descendants(views)}

    def graph(self) -> Graph:
        return read(self.project.manifest(), {}, strict=False)

    def run(
        self, chosen: set[str], *, fails: str = "", counted: bool = False, meanwhile: tuple[int, str] | None = None
    ) -> set[str]:
        """Build what is chosen as a run does, and return the names of what was built.

        Args:
            chosen: The names of the models.
            fails: A model whose first attempt leaves wrong rows; what is downstream of it waits for the second.
            counted: Whether these rows are counted, as those of a model with batches are.
            meanwhile: A number of models, after which something else runs a statement.
        """
        self.runs += 1
        manifest, graph = self.project.manifest(), self.graph()
        (Path(self.folder.name) / "manifest.json").write_text(json.dumps(manifest))
        dbt: Any = SimpleNamespace(
            target_path=self.folder.name,
            project_dir=self.folder.name,
            profiles_dir=self.folder.name,
            target="local",
            environment={},
        )
        problems: list[str] = []
        engine: Any = self.engine
        reuse = Reuse(
            graph,
            [unique_id_of(name) for name in chosen],
            dbt=dbt,
            engine=engine,
            instance=self.instance,
            run_id=f"run-{self.runs}",
            full_refresh=False,
            warn=problems.append,
        )
        assert problems == []
        for result in reuse.materializations():
            self.report(result.asset_key, result.metadata or {})
        self.reused += len(reuse.reused)
        order = [graph.tables[one] for one in graph.order if one in {*map(unique_id_of, chosen)} - reuse.reused]
        built = set[str]()
        reuse.begin(order, self.engine.fetch_all)
        if failing := [table for table in order if table.name == fails]:
            waiting = graph.descendants([failing[0].unique_id])
            self.build(reuse, [one for one in order if one.name != fails and one.unique_id not in waiting], built)
            self.fail(reuse, failing[0], counted=counted)
            order = [one for one in order if one.name == fails or one.unique_id in waiting]
            reuse.begin(order, self.engine.fetch_all)
        after, statement = meanwhile or (0, "select 1")
        self.build(reuse, order[:after], built)
        self.engine.connection.execute(statement)
        self.build(reuse, order[after:], built)
        return built

    def fail(self, reuse: Reuse, table: Table, *, counted: bool) -> None:
        """Let dbt begin to build a table, and fail."""
        if table.unique_id in reuse.undecided and reuse.is_unchanged(table):
            return  # and dbt dies
        if self.engine.fetch_all(f"select 1 from duckdb_tables() where table_name = '{table.name}'"):
            self.engine.connection.execute(f"insert into main.{table.name} values (8, 8)")
            if counted:
                reuse.seen([table], self.engine.fetch_all)

    def build(self, reuse: Reuse, order: list[Table], built: set[str]) -> None:
        """Build tables, unless that is not needed after all."""
        for table in order:
            model = self.project.models[table.name]
            if table.unique_id in reuse.undecided and reuse.is_unchanged(table):
                self.report(asset_key(table), reuse.metadata_of_reused(table.unique_id))
                continue
            built.add(table.name)
            sql = self.project.compiled(model)
            self.engine.build(model, sql)
            reuse.seen([table], self.engine.fetch_all)
            self.report(asset_key(table), reuse.metadata(table, sql))

    def report(self, key: dg.AssetKey | None, metadata: Mapping[str, Any]) -> None:
        assert key is not None
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))

    @invariant()
    def equals_a_full_rebuild(self) -> None:
        if not getattr(self, "whole", False):
            return
        expected = Engine()
        for number in range(SOURCES):
            rows = self.engine.fetch_all(f"select id, v from raw.s{number}")
            expected.connection.execute(f"delete from raw.s{number}")
            if rows:
                expected.connection.executemany(f"insert into raw.s{number} values (?, ?)", rows)
        for model in self.project.models.values():
            expected.build(model, self.project.compiled(model))
        names = [*self.project.models]
        assert self.engine.contents(names) == expected.contents(names)
        expected.connection.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=HISTORIES, stateful_step_count=14)
