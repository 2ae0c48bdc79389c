"""One of the two sides that are compared: a compiled manifest, with the lineage of its columns. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

from lakehouse_analytics.column_lineage.query import Output, Query, Ref, Table
from lakehouse_analytics.column_lineage.sql import EPHEMERAL, column_name, lineage_of
from lakehouse_analytics.dbt.macro_calls import MacroCalls
from lakehouse_analytics.engines.registry import engine_type
from lakehouse_analytics.impact.nodes import CompiledManifest, CompiledNode, Nodes

_CAST = re.compile(r"(TRY_)?CAST\(")
#: Columns that dbt adds to snapshots, by their key in `snapshot_meta_column_names`.
_SNAPSHOT_COLUMNS = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to")


@dataclass(frozen=True)
class Inputs:
    """What a side is made of.

    Attributes:
        manifest: The manifest, with compiled SQL.
        incremental: The SQL of incremental models when their table exists, by unique id.
        seed_columns: The header of each seed's file, by unique id.
        catalog: dbt's `catalog.json`, or an empty mapping.
    """

    manifest: Mapping[str, Any]
    incremental: Mapping[str, str] = field(default_factory=dict)
    seed_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    catalog: Mapping[str, Any] = field(default_factory=dict)


class Side:
    """A compiled manifest with the lineage of its columns.

    Attributes:
        manifest: The manifest.
        macro_calls: Its macros.
        dialect: sqlglot's name of the dialect.
        nodes: The models, seeds, snapshots and sources by unique id.
        queries: The lineage of each of them.
        incremental: The lineage of incremental models when their table exists.
        casts: The types of columns of models with an enforced contract, where the SQL casts to them.
    """

    def __init__(self, inputs: Inputs, older: Side | None = None) -> None:
        """
        Args:
            inputs: What it is made of.
            older: The other side, which may know tables that this one does not have anymore.
        """
        self.manifest, self._inputs, self._older = CompiledManifest(inputs.manifest), inputs, older
        self.macro_calls = MacroCalls(inputs.manifest)
        self.dialect = engine_type(self.manifest.adapter_type).sql_dialect
        self.nodes = self.manifest.tables
        self._names = {name: unique_id for unique_id, node in self.nodes.items() for name in _names_of(node)}
        self.queries: dict[str, Query] = {}
        self.incremental: dict[str, Query] = {}
        self.casts: dict[str, dict[str, str]] = {}
        self._tables: dict[str, Table] = {}
        self._lineages: dict[str, Query] = {}
        for unique_id in _in_order(self.nodes):
            self.queries[unique_id] = self._query(unique_id)
            if sql := inputs.incremental.get(unique_id):
                self.incremental[unique_id] = lineage_of(sql, self.dialect, self.find)

    def unique_id(self, parts: tuple[str, ...]) -> str | None:
        """Return the unique id of a table's name: database, schema and name, of which the first may be empty."""
        name = tuple(part.lower() for part in parts if part)
        return self._names.get(name) or (self._older.unique_id(parts) if self._older else None)

    def find(self, parts: tuple[str, ...]) -> Table:
        """Return the table of a name in compiled SQL."""
        unique_id = self.unique_id(parts)
        if unique_id is None:
            return Table(".".join(part for part in parts if part), {})
        return self._tables.get(unique_id) or Table(unique_id, {})

    def lineage(self, sql: str) -> Query:
        """Return the lineage of a test's SQL."""
        if sql not in self._lineages:
            self._lineages[sql] = lineage_of(sql, self.dialect, self.find)
        return self._lineages[sql]

    def column_name(self, name: str) -> str:
        """Return the name of a column in a YAML file as it is in a lineage."""
        return column_name(name, self.dialect)

    def contract_columns(self, unique_id: str) -> dict[str, str]:
        """Return the data type of each column of an enforced contract."""
        node = self.nodes[unique_id]
        return self._declared(node) if node.is_contract_enforced else {}

    def _declared(self, node: CompiledNode) -> dict[str, str]:
        """Return the data type of each column in the YAML file, or an empty string."""
        return {
            column_name(column.name, self.dialect, quoted=column.is_quoted): column.data_type or ""
            for column in node.columns.values()
        }

    def _query(self, unique_id: str) -> Query:
        """Return the lineage of a node, and remember it as a table for the nodes downstream."""
        node = self.nodes[unique_id]
        declared, enforced = self._declared(node), node.is_contract_enforced
        known = self._cataloged(unique_id)
        query = self._query_of(node)
        if query is None:  # a source or a seed
            names = [column_name(name, self.dialect) for name in self._inputs.seed_columns.get(unique_id, ())]
            kinds = {**declared, **_lower(node.config.get("column_types") or {})}
            columns = known or ({name: kinds.get(name, "") for name in names} if names else declared)
            complete = bool(known or names)
            query = Query(tuple(_column(name, kind) for name, kind in columns.items()))
            self._tables[unique_id] = Table(unique_id, columns, complete)
        elif query.problem:
            columns = known or declared
            self._tables[unique_id] = Table(unique_id, columns, bool(known) or (enforced and bool(declared)))
        else:
            types = declared if enforced else {}
            if enforced:
                self.casts[unique_id] = {o.name: o.type for o in query.outputs if o.type and _CAST.match(o.expression)}
            outputs = tuple(replace(output, type=types.get(output.name) or output.type) for output in query.outputs)
            query = replace(query, outputs=outputs)
            columns = {output.name: output.type or declared.get(output.name, "") for output in outputs}
            self._tables[unique_id] = Table(unique_id, columns, not query.open)
        return query

    def _query_of(self, node: CompiledNode) -> Query | None:
        """Return the lineage of a model's or snapshot's SQL; None for a source or a seed."""
        if node.resource_type not in ("model", "snapshot"):
            return None
        if node.is_python:
            return Query(problem="it is written in Python")
        if not node.compiled_code:
            return Query(problem="dbt did not compile it without a connection")
        query = lineage_of(node.compiled_code, self.dialect, self.find)
        if node.resource_type == "snapshot" and not query.problem:
            names = node.config.get("snapshot_meta_column_names") or {}
            added = tuple(_column(names.get(name) or name, "") for name in _SNAPSHOT_COLUMNS)
            return replace(query, outputs=(*query.outputs, *added))
        return query

    def _cataloged(self, unique_id: str) -> dict[str, str]:
        entry = self._inputs.catalog.get("sources", {}).get(unique_id) or {}
        found = sorted(entry.get("columns", {}).values(), key=lambda column: column["index"])
        return {column_name(column["name"], self.dialect): column["type"] for column in found}

    @cached_property
    def children(self) -> dict[str, set[str]]:
        """The nodes that dbt or their SQL says to read each node."""
        found: dict[str, set[str]] = {}
        for unique_id, query in self.queries.items():
            read = {ref.relation for ref in query.reads} | query.inputs | query.open
            for parent in {*self.nodes[unique_id].parents, *read} - {unique_id}:
                found.setdefault(parent, set()).add(unique_id)
        return found

    @cached_property
    def readers(self) -> dict[Ref, set[tuple[str, str | None]]]:
        """The columns that are made of each column; None instead of a column whose value decides which rows exist."""
        found: dict[Ref, set[tuple[str, str | None]]] = {}
        for unique_id, query in (*self.queries.items(), *self.incremental.items()):
            pairs = [(ref, output.name) for output in query.outputs for ref in output.reads]
            for ref, column in (*pairs, *((ref, None) for ref in query.filters)):
                found.setdefault(ref, set()).add((unique_id, column))
        for source, ref in self._passed_on(found):
            found.setdefault(source, set()).add((ref.relation, ref.column))
        return found

    @cached_property
    def named(self) -> dict[Ref, set[str]]:
        """The nodes of which the SQL names each column, even if it decides neither values nor rows."""
        found: dict[Ref, set[str]] = {}
        for unique_id, query in (*self.queries.items(), *self.incremental.items()):
            for ref in query.reads:
                found.setdefault(ref, set()).add(unique_id)
        for source, ref in self._passed_on(found):
            found.setdefault(source, set()).add(ref.relation)
        return found

    @cached_property
    def names_read(self) -> dict[str, set[str]]:
        """The columns of each node that the SQL of another one names."""
        found: dict[str, set[str]] = {}
        for ref, readers in self.named.items():
            if readers - {ref.relation}:
                found.setdefault(ref.relation, set()).add(ref.column)
        return found

    def _passed_on(self, read: Iterable[Ref]) -> Iterator[tuple[Ref, Ref]]:
        """Yield the column that a `*` passes on and the column as which it is read, through any number of nodes."""
        stack, seen = [*read], set[Ref]()
        while stack:
            ref = stack.pop()
            parent = self.queries.get(ref.relation)
            if ref in seen or parent is None or ref.column in parent.by_name or not parent.may_have(ref.column):
                continue
            seen.add(ref)
            for source in (Ref(table, ref.column) for table in parent.open):
                if source not in parent.left_out:
                    yield source, ref
                    stack.append(source)


def _column(name: str, kind: str) -> Output:
    return Output(name, frozenset(), True, name, name, kind)


def _lower(values: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in values.items()}


def _names_of(node: CompiledNode) -> Iterable[tuple[str, ...]]:
    """Return the names by which SQL may name a node, in lower case."""
    name = node.table_name.lower()
    database, schema = (str(part or "").lower() for part in node.relation[:2])
    if node.config.get("materialized") == "ephemeral":
        return [(EPHEMERAL + name,)]
    return [tuple(part for part in (database, schema, name) if part), (schema, name)]


def _in_order(nodes: Nodes) -> list[str]:
    """Return the nodes, each after those that it depends on."""
    graph = {name: [parent for parent in node.parents if parent in nodes] for name, node in nodes.items()}
    return [*TopologicalSorter(graph).static_order()]
