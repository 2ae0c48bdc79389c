"""The lineage of columns in the metadata of materializations, which Dagster shows on each asset.

It is analyzed when a table is built, and only if its SQL or the columns upstream have changed since. An error never
fails a run: the metadata is then missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse_analytics.dbt.graph import Graph, Table
from lakehouse_analytics.keys import asset_key

#: Dagster's key of the metadata (https://docs.dagster.io/guides/build/assets/metadata-and-tags).
KEY = "dagster/column_lineage"
#: Comments and quoted names, in which an apostrophe begins no literal, and literals, which differ between the
#: partitions of one model, and whose values no lineage depends on.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)|(?P<name>"(?:[^"]|"")*")|'(?:[^']|'')*'|\b\d[\d.]*\b""", re.DOTALL
)
#: Version of the files' format.
_VERSION = 2

_log = logging.getLogger(__name__)


class ColumnLineage:
    """Finds the lineage of tables that a run has built."""

    def __init__(self, graph: Graph, folder: Path) -> None:
        """
        Args:
            graph: The manifest's graph.
            folder: Where results are kept between runs. If it cannot be written, they are not.
        """
        self._graph, self._folder = graph, folder
        self._known: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[str, ...], str] = {}

    def metadata(self, table: Table, sql: str | None) -> dict[str, Any]:
        """Return the metadata of a table's materialization; empty if the lineage is not known.

        Args:
            table: The table.
            sql: Its compiled SQL; None if dbt did not report it.
        """
        if not sql or table.node.language == "python":
            return {}
        try:
            found = self._lineage(table, sql)
            deps = {
                column: [dg.TableColumnDep(asset_key(self._graph.resource(name)), of) for name, of in reads]
                for column, reads in found["reads"].items()
                if reads
            }
            return {KEY: dg.TableColumnLineage(deps)} if deps else {}
        except Exception as error:  # any SQL may be new to the parser, and the table is built
            _log.debug("The column lineage of %s is not known: %s", table.unique_id, error)
            return {}

    def _lineage(self, table: Table, sql: str) -> dict[str, Any]:
        upstream = {name: self._columns(name) for name in table.parents}
        # The checksum, because the end of a literal is not always found, such as of one between dollar signs.
        parts = [_VERSION, self._graph.adapter, table.node.checksum, _without_literals(sql), upstream]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        known = self._read(table.unique_id)
        if known.get("digest") != digest:
            known = {**self._analyzed(table, sql, upstream), "digest": digest}
            self._write(table.unique_id, known)
        self._known[table.unique_id] = known
        return known

    def _analyzed(self, table: Table, sql: str, upstream: Mapping[str, Any]) -> dict[str, Any]:
        from lakehouse_analytics.column_lineage.query import Table as Columns
        from lakehouse_analytics.column_lineage.sql import lineage_of

        def find(parts: tuple[str, ...]) -> Columns:
            name = self._unique_id(parts)
            known = upstream.get(name) or {"columns": {}, "complete": False}
            return Columns(name, known["columns"], known["complete"])

        query = lineage_of(sql, self._graph.engine.sql_dialect, find, through_ephemeral=True)
        ours = {*table.parents}
        reads = {
            output.name: sorted([ref.relation, ref.column] for ref in output.reads if ref.relation in ours)
            for output in query.outputs
        }
        types = {output.name: output.type for output in query.outputs}
        return {"reads": reads, "columns": types, "complete": not query.problem and not query.open}

    def _unique_id(self, parts: tuple[str, ...]) -> str:
        if not self._names:
            for name, thing in (*self._graph.tables.items(), *self._graph.unbuilt.items()):
                node = thing.node
                own = (node.database or "", node.schema, node.identifier or node.alias or node.name)
                lower = tuple(part.lower() for part in own)
                for key in (lower, ("", *lower[1:])):
                    self._names[key] = name
        return self._names.get(tuple(part.lower() for part in parts), ".".join(parts))

    def _columns(self, unique_id: str) -> dict[str, Any]:
        """Return the known columns of a table: as analyzed, or else as documented."""
        known = self._known.get(unique_id) or (self._read(unique_id) if unique_id in self._graph.tables else {})
        if known:
            return {"columns": known["columns"], "complete": known["complete"]}
        node = self._graph.resource(unique_id).node
        # What is documented may not be all.
        return {"columns": {column.name.lower(): "" for column in node.columns}, "complete": False}

    def _path(self, unique_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(unique_id.encode()).hexdigest()[:32]}.json"

    def _read(self, unique_id: str) -> dict[str, Any]:
        try:
            found = json.loads(self._path(unique_id).read_bytes())
        except (OSError, ValueError):
            return {}
        keys = ("digest", "reads", "columns", "complete")
        return found if isinstance(found, dict) and all(key in found for key in keys) else {}

    def _write(self, unique_id: str, found: Mapping[str, Any]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=".", delete=False) as file:
                json.dump(found, file)
            os.replace(file.name, self._path(unique_id))
        except OSError:
            pass  # in an image, the folder may be read-only


def _without_literals(sql: str) -> str:
    return _TOKEN.sub(lambda match: match["name"] or (" " if match["comment"] else "?"), sql)
