"""The code of a dbt project's tables, as far as it decides what they contain.

dbt compiles a model only when it builds it. So the fingerprint is of everything from which dbt compiles it: the model,
its macros and ephemeral parents, its configuration, and the variables that they read. Pure, except that seeds are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.redact import SECRET_NAME
from lakehouse_analytics.common.text import digest
from lakehouse_analytics.dbt.macro_calls import MacroCalls
from lakehouse_analytics.reuse import jinja

Node = Mapping[str, Any]

#: Configuration that has no effect on the contents of a table, unless its code reads it.
_WITHOUT_EFFECT = frozenset({"access", "docs", "enabled", "freshness", "group", "meta", "persist_docs", "tags"})
#: Names of macros with which dbt creates tables, views and seeds.
_CREATES = re.compile(r"create|csv|materialization_(table|view|seed)")
#: Macros of dbt itself that run queries.
_QUERIES = frozenset({"run_query", "statement", "run_query_as", "load_relation"})


class Code:
    """The code of the tables of a manifest."""

    def __init__(
        self, manifest: Mapping[str, Any], folder: Path, *, environment: Mapping[str, str], outside: Iterable[str] = ()
    ) -> None:
        """
        Args:
            manifest: dbt's `manifest.json`.
            folder: The folder of the project, which has the files of seeds.
            environment: The environment variables that dbt sees.
            outside: What else decides what dbt compiles, such as the target and the version of the adapter.
        """
        self._nodes: Mapping[str, Any] = {**manifest["nodes"], **manifest.get("functions", {})}
        self._macros = MacroCalls(manifest)
        self._folder, self._environment = folder, environment
        self._outside = [str(manifest["metadata"].get("dbt_version")), *outside]
        overrides = [*self._find_overrides(manifest["metadata"].get("adapter_type") or "")]
        self._overrides = {called for macro in overrides for called in self._macros.below(macro)}
        #: Not with what they call: that may be for incremental models only.
        self._creating = {macro for macro in overrides if _CREATES.search(macro)}
        self._fingerprints: dict[str, dict[str, str]] = {}
        self._obstacles: dict[str, str] = {}

    def fingerprint(self, unique_id: str) -> dict[str, str]:
        """Return the hashes of the parts of a table's code: `sql`, `macros`, `configuration` and `variables`."""
        if unique_id not in self._fingerprints:
            self._fingerprints[unique_id] = self._fingerprint(unique_id)
        return self._fingerprints[unique_id]

    def _fingerprint(self, unique_id: str) -> dict[str, str]:
        nodes = [*self._with_ephemerals(unique_id)]
        at_start = [node for node in self._nodes.values() if node["resource_type"] == "operation"]
        called, overrides = self._texts(self._macros.of([*nodes, *at_start])), self._texts(self._overrides)
        macros = sorted({*called, *overrides})
        own = [*(str(node.get("raw_code") or "") for node in nodes), *called]
        written = [*own, *overrides]
        # Macros that replace dbt's read the types of columns, which count anyway.
        described = jinja.reads_description(own)
        return {
            "sql": digest(*(self._text(node) for node in nodes)),
            "macros": digest(*self._outside, *macros, *(str(node.get("raw_code")) for node in at_start)),
            "configuration": digest(*(_configuration(node, described=described) for node in nodes)),
            "variables": digest(*self._variables(written)),
        }

    def obstacle(self, unique_id: str) -> str:
        """Return why the contents of a table may change although its code and inputs have not; empty if they do not."""
        if unique_id not in self._obstacles:
            node = self._nodes.get(unique_id)
            self._obstacles[unique_id] = (
                _kind_obstacle(node) or self._jinja_obstacle([*self._with_ephemerals(unique_id)])
                if node
                else "its code is not in the manifest"
            )
        return self._obstacles[unique_id]

    def _jinja_obstacle(self, nodes: Sequence[Node]) -> str:
        """Return which expression of Jinja decides what dbt compiles, other than by the code and the variables."""
        macros = self._macros.of(nodes)
        dbts = {self._macros.name(macro) for macro in macros if self._macros.is_dbts(macro)}
        if queries := sorted(dbts & _QUERIES):
            return f"{queries[0]} reads the database while dbt compiles it"
        texts = [*(str(node.get("raw_code") or "") for node in nodes), *self._texts(macros)]
        if why := jinja.unknown(texts) or jinja.clock(self._texts(self._creating)):
            return why
        secrets = sorted(name for name in jinja.environment_variables(texts) if SECRET_NAME.search(name))
        return f"it reads {secrets[0]}, of which no hash is stored" if secrets else ""

    def _with_ephemerals(self, unique_id: str) -> Iterator[Node]:
        """Yield a node, its functions, and the ephemeral models that dbt writes into its SQL, in a stable order."""
        seen, waiting = set[str](), [unique_id]
        while waiting:
            name = waiting.pop()
            node = self._nodes.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            yield node
            for parent in sorted((node.get("depends_on") or {}).get("nodes") or ()):
                below = self._nodes.get(parent, {})
                ephemeral = (below.get("config") or {}).get("materialized") == "ephemeral"
                if ephemeral or below.get("resource_type") == "function":
                    waiting.append(parent)

    def _text(self, node: Node) -> str:
        if node["resource_type"] == "seed":
            # dbt hashes the path of a large seed, not its content.
            file = Path(node.get("root_path") or self._folder) / node["original_file_path"]
            return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        return jinja.normalized(str(node.get("raw_code") or ""))

    def _texts(self, macros: Collection[str]) -> list[str]:
        """Return the code of macros other than dbt's own, whose version counts."""
        own = sorted(macro for macro in macros if not self._macros.is_dbts(macro))
        return [f"{macro}\n{self._macros.code(macro)}" for macro in own]

    def _variables(self, texts: Collection[str]) -> list[str]:
        """Return the values of the variables that texts read. Only their hash is kept, and none of a secret."""
        names = sorted(jinja.environment_variables(texts))
        found = [f"{name}={'' if SECRET_NAME.search(name) else self._environment.get(name)}" for name in names]
        if jinja.reads_vars(texts):
            project = self._folder / "dbt_project.yml"
            found.append(project.read_text(errors="replace") if project.is_file() else "")
            found.append(self._environment.get("LAKEHOUSE_DBT_VARS", ""))
        return found

    def _find_overrides(self, adapter: str) -> Iterator[str]:
        """Yield the macros that replace one of dbt's own, which no model names."""
        names = {self._macros.name(macro) for macro in self._macros if self._macros.is_dbts(macro)}
        for macro in self._macros:
            name = self._macros.name(macro)
            if not self._macros.is_dbts(macro) and (
                name in names or name.startswith((f"{adapter}__", "materialization_"))
            ):
                yield macro


def _kind_obstacle(node: Node) -> str:
    """Return why tables of this kind are always built; empty if they are not."""
    if node["resource_type"] == "snapshot":
        return "a snapshot records the time"
    if node.get("language") == "python":
        return "its code is Python"
    config = node.get("config") or {}
    if config.get("materialized") not in ("table", "view", "seed"):
        return f"it is {config.get('materialized')}, and depends on what it contained before"
    return "it has hooks, which run with each build" if config.get("pre-hook") or config.get("post-hook") else ""


def _configuration(node: Node, *, described: bool) -> str:
    """Return the configuration as text, with how the model is described if its code reads that."""
    config = {key: value for key, value in (node.get("config") or {}).items() if key not in _WITHOUT_EFFECT}
    columns = [
        [name, column.get("data_type"), column.get("constraints"), column.get("quote")]
        for name, column in (node.get("columns") or {}).items()
    ]
    parts = [
        config,
        columns if (config.get("contract") or {}).get("enforced") else None,
        node.get("alias"),
        node.get("arguments"),
        node.get("returns"),
    ]
    if described:
        parts += [node.get(key) for key in ("config", "meta", "tags", "description", "columns")]
    return json.dumps(parts, sort_keys=True, default=str)
