"""The tables of a run that need not be built (`reuse: true`), and what is recorded of those that it builds.

A reused table is materialized like the others, because it is as up to date as if it had been built. Its tests and row
count are evaluated, as its gates may depend on other tables.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.dbt.relation import Relation, relation_of, written_relation
from lakehouse_analytics.dbt.runner import DbtRunner
from lakehouse_analytics.engines.base import DatabaseError, Engine, FetchAll, Versioned
from lakehouse_analytics.engines.comparison import Comparable
from lakehouse_analytics.engines.content_hash import content_hash
from lakehouse_analytics.engines.engine_type import EngineType
from lakehouse_analytics.keys import asset_key
from lakehouse_analytics.reuse.code import Code
from lakehouse_analytics.reuse.decisions import (
    Decision,
    Versions,
    changed_input,
    decide,
    inputs_of,
    is_view,
    tracked,
)
from lakehouse_analytics.reuse.state import KEY, BuildState

#: The metadata with the run that built a reused table.
REUSED = "lakehouse/reused"
#: Seconds after which the version of an input that the run does not build is read again.
LOOK_AGAIN = 60.0
#: Metadata of a build that does not describe the contents of the table.
_OF_ITS_BUILD = frozenset({"runtime_seconds", "query", KEY, REUSED})


def code_of(dbt: DbtRunner, engine: EngineType) -> Code:
    """Return the code of the project.

    Raises:
        OSError: The manifest cannot be read.
    """
    import orjson

    manifest = orjson.loads((Path(dbt.target_path) / "manifest.json").read_bytes())
    adapter = f"dbt-{engine.name}"
    profiles = Path(dbt.profiles_dir) / "profiles.yml"  # which has settings of the session
    settings = profiles.read_text(errors="replace") if profiles.is_file() else ""
    outside = [dbt.target, f"{adapter} {importlib.metadata.version(adapter)}", settings]
    return Code(manifest, Path(dbt.project_dir), environment={**os.environ, **dbt.environment}, outside=outside)


def states_of(instance: dg.DagsterInstance, tables: Collection[Table]) -> dict[str, dict[str, Any]]:
    """Return the metadata of the last materialization of each table, by unique id."""
    keys = {asset_key(table): table.unique_id for table in tables}
    found = {}
    for record in instance.get_asset_records([*keys]) if keys else ():
        event = record.asset_entry.last_materialization
        if event and event.asset_materialization:
            found[keys[record.asset_entry.asset_key]] = dict(event.asset_materialization.metadata)
    return found


def versions_of(engine: Versioned, graph: Graph, ids: Collection[str], fetch_all: FetchAll | None) -> dict[str, str]:
    """Return the versions of tables and sources by unique id. Those that are not known are missing."""
    relations: dict[Relation, str] = {}
    for unique_id in ids:
        node = graph.resource(unique_id).node
        # dbt-duckdb loads a source of a plugin only when it builds a model that reads it.
        if node.schema and not (node.meta.get("plugin") or node.source_meta.get("plugin")):
            # Trino's names are in lower case.
            relations[relation_of(node) if graph.engine.iceberg else written_relation(node)] = unique_id
    return {
        relations[relation]: version for relation, version in engine.table_versions([*relations], fetch_all).items()
    }


class Outside:
    """The inputs that a run does not build, such as sources, which other programs may change during the run.

    Each is looked at once a minute, because many tables may read it, and its version may be a hash of all its rows.
    """

    def __init__(self, versions: Mapping[str, str], read: Callable[[Collection[str]], Mapping[str, str]]) -> None:
        """
        Args:
            versions: The versions at the start of the run, by unique id.
            read: Returns the versions now.
        """
        self._versions, self._read = versions, read
        self._looked_at, self._changed = dict[str, float](), set[str]()

    def has_changed(self, inputs: Iterable[str]) -> bool:
        """Return whether one of some inputs has changed since the start of the run."""
        known, now = {*inputs} & self._versions.keys(), time.monotonic()
        if due := [one for one in known if now - self._looked_at.get(one, -math.inf) > LOOK_AGAIN]:
            found = self._read(due)
            self._looked_at |= dict.fromkeys(due, now)
            self._changed |= {one for one in due if found.get(one) != self._versions[one]}
        return not self._changed.isdisjoint(known)


class Reuse:
    """What one execution of the op reuses and records.

    Attributes:
        decisions: Whether each selected table is built, by unique id; empty if no table has `reuse: true`.
        graph: The graph with the tables where the run builds them.
        keeps_views: Whether views are there although the run does not build them.
    """

    def __init__(
        self,
        graph: Graph,
        selected: Collection[str],
        *,
        dbt: DbtRunner,
        engine: Engine,
        instance: dg.DagsterInstance,
        run_id: str,
        full_refresh: bool,
        warn: Callable[[str], None],
    ) -> None:
        """
        Args:
            graph: The graph with the tables where the run reads them.
            selected: Unique ids of the tables of the run.
            dbt: Runs dbt with the project.
            engine: The engine that has the tables.
            instance: The Dagster instance, which has the states of earlier builds.
            run_id: The id of the run.
            full_refresh: Whether everything is to be built from scratch.
            warn: Called with the reason if nothing can be reused.
        """
        self.graph, self._engine, self._run_id, self._warn = graph, engine, run_id, warn
        self.keeps_views = not graph.engine.drops_views
        self._fetch_all: FetchAll | None = None
        self._outside: Outside | None = None
        self._metadata: Mapping[str, Mapping[str, Any]] = {}
        self._versions: Versions | None = None
        self._tracked = tracked(graph, selected)
        self._selected = frozenset(selected)
        self._states: Mapping[str, BuildState] = {}
        self._before: dict[str, str] = {}
        #: Tables that turned out not to need a build during the run.
        self._unchanged: set[str] = set()
        self.decisions: Mapping[str, Decision] = {}
        if not self._tracked:
            return
        if not isinstance(engine, Versioned):
            warn(f"`reuse` has no effect on {graph.engine.title}.")
            return
        try:
            engine.wait_until_free(warn)
            self._code = code_of(dbt, graph.engine)
            tables = [graph.tables[one] for one in self._tracked if one in graph.tables]
            self._metadata = states_of(instance, tables)
            self._states = {one: state for one, found in self._metadata.items() if (state := _state(found))}
            own = versions_of(engine, graph, self._tracked, None)
            self._versions = Versions(graph, self._code, own, self._states)
            self._outside = Outside(dict(own), lambda ids: versions_of(engine, graph, ids, self._fetch_all))
            for unique_id in self.recorded:  # before dbt reads the files of seeds
                self._code.fingerprint(unique_id)
            if not full_refresh:
                self.decisions = self._decide(self._versions)
        except Exception as error:  # then everything is built, as without `reuse`
            warn(f"Nothing is reused: {type(error).__name__}: {error}")
            self.decisions, self._versions = {}, None

    def _decide(self, versions: Versions) -> Mapping[str, Decision]:
        return decide(
            self.graph,
            self._selected,
            code=self._code,
            versions=versions,
            states=self._states,
            may_stay=self._may_stay,
            label=self._label,
        )

    @property
    def reused(self) -> frozenset[str]:
        """The unique ids of the tables that are not built."""
        return frozenset(unique_id for unique_id, decision in self.decisions.items() if decision.reused)

    @property
    def undecided(self) -> frozenset[str]:
        """The unique ids of the tables that need not be built if their inputs become what they were."""
        undecided = (unique_id for unique_id, decision in self.decisions.items() if decision.undecided)
        return frozenset(one for one in undecided if self.keeps_views or not is_view(self.graph.tables[one]))

    def _may_stay(self, table: Table) -> bool:
        """Return whether a table can have the same version after a build."""
        by_contents = table.contract.reuse == "contents" if self.graph.engine.iceberg else True
        return by_contents and not is_view(table)

    @cached_property
    def recorded(self) -> frozenset[str]:
        """The unique ids of the tables whose state is recorded when they are built."""
        if self._versions is None:
            return frozenset()
        tables = (self.graph.tables[one] for one in self._tracked & self._selected)
        return frozenset(table.unique_id for table in tables if table.contract.reuse or is_view(table))

    def begin(self, tables: Sequence[Table], fetch_all: FetchAll) -> None:
        """Begin an attempt: forget the versions of the tables that it builds, also those that an earlier one has read.

        Args:
            tables: The tables.
            fetch_all: Runs a statement on the connection of this attempt's dbt process.
        """
        self._fetch_all = fetch_all
        if self._versions:
            for table in tables:
                self._unchanged.discard(table.unique_id)
                self._versions.contents.pop(table.unique_id, None)
                if version := self._versions.own.pop(table.unique_id, None):
                    self._before[table.unique_id] = version

    def inputs(self, table: Table) -> set[str]:
        """Return the unique ids of what a table reads, also behind views that the run does not build."""
        return {*inputs_of(self.graph, table, self._selected)}

    def is_unchanged(self, table: Table) -> bool:
        """Return whether an undecided table need not be built, because the run has made of its inputs what they were.

        Called in threads, after its inputs were `seen`.
        """
        unique_id = table.unique_id
        # Only once: if dbt has begun to build the table, its contents may have changed.
        before = self._before.pop(unique_id, None)
        if not self._versions or before is None:
            return False
        try:
            if changed_input(table, self._versions, self._states[unique_id]) or self._changed_since(table):
                return False
        except Exception as error:
            self._warn(f"{self._label(unique_id)} is built: {type(error).__name__}: {error}")
            return False
        self._versions.own[unique_id] = before
        if contents := self._states[unique_id].contents:
            self._versions.contents[unique_id] = contents
        self._unchanged.add(unique_id)
        return True

    def _changed_since(self, table: Table) -> bool:
        """Return whether an input that the run does not build, such as a source, has changed since its start."""
        outside = self._outside if self.graph.engine.concurrent_writers else None
        return outside is not None and outside.has_changed(self.inputs(table) - self._selected)

    def seen(self, tables: Sequence[Table], fetch_all: FetchAll) -> None:
        """Read the versions of tables that have just been built, and that no other run can change yet.

        Called in threads. If it fails, the tables are built again in the next run.
        """
        built = [t for t in tables if t.unique_id in self._tracked and t.unique_id not in self._unchanged]
        if not self._versions or not built or not isinstance(self._engine, Versioned):
            return
        wanted = [table.unique_id for table in built]
        try:
            found = versions_of(self._engine, self.graph, wanted, fetch_all)
            # After the version: if something else changes the table in between, the next run finds another version.
            self._versions.contents.update(self._contents([t for t in built if t.unique_id in found]))
            self._versions.own.update(found)
        except Exception as error:
            self._warn(f"What was built cannot be reused: {type(error).__name__}: {error}")

    def _contents(self, tables: Sequence[Table]) -> dict[str, str]:
        """Return hashes of the contents of tables that are compared by them, although the engine has other versions."""
        compared = [table for table in tables if table.contract.reuse == "contents" and not is_view(table)]
        if not compared or not self.graph.engine.iceberg or not isinstance(self._engine, Comparable):
            return {}
        found = {}
        with self._engine.comparison() as session:
            for table in compared:
                try:
                    source = session.now(relation_of(table.node))
                    # In their order, which queries with `*` depend on.
                    columns = digest(*session.columns(source))
                    found[table.unique_id] = f"{content_hash(session, source)}-{columns}"
                except DatabaseError as error:  # such as a type that has no text
                    self._warn(f"The rows of {self._label(table.unique_id)} cannot be compared: {error}")
        return found

    def metadata(self, table: Table, sql: str | None) -> dict[str, Any]:
        """Return the metadata that records the state of a table that was built.

        Args:
            table: The table.
            sql: Its compiled SQL, if it has any.
        """
        try:
            return self._recorded(table, sql)
        except Exception as error:  # the table is built, and the next run builds it again
            self._warn(f"The state of {self._label(table.unique_id)} is not recorded: {type(error).__name__}: {error}")
            return {}

    def _recorded(self, table: Table, sql: str | None) -> dict[str, Any]:
        if self._versions is None or table.unique_id not in self.recorded:
            return {}
        output, contents = (of.get(table.unique_id) for of in (self._versions.own, self._versions.contents))
        inputs = {parent: self._versions.of(parent) for parent in table.parents}
        known = {parent: version for parent, version in inputs.items() if version is not None}
        obstacle = self._code.obstacle(table.unique_id)
        # A table that is always built is recorded for those that read it.
        if output is None or (not contents and (obstacle or known.keys() != inputs.keys())):
            return {}
        state = BuildState(
            self._code.fingerprint(table.unique_id),
            known,
            output,
            self._run_id,
            obstacle or self._changing_part(table, sql),
            contents or "",
        )
        self._versions.built(table.unique_id, state)
        return {KEY: dg.MetadataValue.json(state.as_json())}

    def materializations(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Yield the materializations of the reused tables, upstream ones first."""
        for unique_id in sorted(self.reused, key=self.graph.order.__getitem__):
            yield dg.MaterializeResult(
                asset_key=asset_key(self.graph.tables[unique_id]), metadata=self.metadata_of_reused(unique_id)
            )

    def metadata_of_reused(self, unique_id: str) -> dict[str, Any]:
        """Return the metadata of a table that is not built, which is that of its last build."""
        state = self._states[unique_id]
        kept = {key: value for key, value in self._metadata[unique_id].items() if key not in _OF_ITS_BUILD}
        return {
            **kept,
            REUSED: dg.MetadataValue.dagster_run(state.run),
            KEY: dg.MetadataValue.json(state.as_json()),
        }

    def _changing_part(self, table: Table, sql: str | None) -> str:
        if table.node.resource_type == "seed":
            return ""
        if not sql:
            return "dbt did not report its SQL"
        from lakehouse_analytics.reuse.statements import Name, changing_part

        parents = [self.graph.resource(parent).node for parent in table.parents]
        names = {
            Name(*(str(part or "").lower() for part in (node.database, node.schema, node.table_name)))
            for node in parents
        }
        return changing_part(sql, self.graph.engine.sql_dialect, names)

    def _label(self, unique_id: str) -> str:
        return "/".join(self.graph.resource(unique_id).key)


def _state(metadata: Mapping[str, Any]) -> BuildState | None:
    value = metadata.get(KEY)
    data = getattr(value, "data", value)
    return BuildState.read(json.loads(data) if isinstance(data, str) else data)
