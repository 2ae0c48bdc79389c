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

#: Configuration that has no effect on the contents of a table.
_WITHOUT_EFFECT = frozenset({"access", "docs", "enabled", "freshness", "group", "meta", "persist_docs", "tags"})
#: Expressions of Jinja whose value is another one in each run, or not known before dbt compiles the model.
_UNKNOWN = (
    (re.compile(r"\b(run_started_at|invocation_id|modules)\b"), "{} is another one in each run"),
    (re.compile(r"\b(run_query|statement|load_result)\b"), "{} reads the database while dbt compiles it"),
    (
        re.compile(r"\badapter\.(?!dispatch\b|quote\b|get_columns_in_relation\b)\w+"),
        "{} reads the database while dbt compiles it",
    ),
    (re.compile(r"\bthis\b(?!\.(?:schema|database|identifier|name)\b)"), "{} may read what the table contains already"),
)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_JINJA_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_ENV_VAR = re.compile(r"""\benv_var\s*\(\s*(?:'([^']*)'|"([^"]*)")?""")
_VAR = re.compile(r"\bvar\s*[(.]")
#: Macros of dbt itself that run queries.
_QUERIES = frozenset({"run_query", "statement", "run_query_as", "load_relation"})
#: Names and texts in quotes, and Jinja, stay as they are. A comment may contain Jinja, which dbt evaluates.
_TOKEN = re.compile(
    r"""(?P<kept>"(?:[^"]|"")*"|'(?:[^']|'')*'|\{\{.*?\}\}|\{%.*?%\})|(?:\s+|--[^\n{]*$|/\*[^{]*?\*/)+""",
    re.DOTALL | re.MULTILINE,
)


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
        self._macros: Mapping[str, Any] = manifest.get("macros", {})
        self._folder, self._environment = folder, environment
        metadata = manifest["metadata"]
        adapter = metadata.get("adapter_type") or ""
        self._own_packages = {"dbt", f"dbt_{adapter}", "dbt_postgres" if adapter == "redshift" else f"dbt_{adapter}"}
        self._outside = [str(metadata.get("dbt_version")), *outside]
        self._overrides = [*self._find_overrides(adapter)]
        self._macros_of: dict[str, frozenset[str]] = {}
        self._fingerprints: dict[str, dict[str, str]] = {}
        self._obstacles: dict[str, str] = {}

    def fingerprint(self, unique_id: str) -> dict[str, str]:
        """Return the hashes of the parts of a table's code: `sql`, `macros`, `configuration` and `variables`."""
        if unique_id not in self._fingerprints:
            self._fingerprints[unique_id] = self._fingerprint(unique_id)
        return self._fingerprints[unique_id]

    def _fingerprint(self, unique_id: str) -> dict[str, str]:
        nodes = [*self._with_ephemerals(unique_id)]
        macros = self._macros_of_nodes(nodes)
        own = sorted({*(m for m in macros if not self._is_dbts(m)), *self._overrides})
        texts = [self._text(node) for node in nodes]
        written = [*texts, *(str(self._macros[macro].get("macro_sql")) for macro in own)]
        return {
            "sql": _digest(texts),
            "macros": _digest([*self._outside, *(f"{macro}\n{self._macros[macro].get('macro_sql')}" for macro in own)]),
            "configuration": _digest([self._configuration(node) for node in nodes]),
            "variables": _digest(self._variables(written)),
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

    def _jinja_obstacle(self, nodes: Sequence[Mapping[str, Any]]) -> str:
        """Return which expression of Jinja decides what dbt compiles, other than by the code and the variables."""
        macros = self._macros_of_nodes(nodes)
        if queries := sorted({self._macros[macro]["name"] for macro in macros if self._is_dbts(macro)} & _QUERIES):
            return f"{queries[0]} reads the database while dbt compiles it"
        own = [str(self._macros[macro].get("macro_sql")) for macro in sorted(macros) if not self._is_dbts(macro)]
        found = (
            why.format(match[0])
            for text in [*(node.get("raw_code") or "" for node in nodes), *own]
            for jinja in _JINJA.findall(_JINJA_COMMENT.sub("", text))
            for pattern, why in _UNKNOWN
            if (match := pattern.search(jinja))
        )
        return next(found, "")

    def _with_ephemerals(self, unique_id: str) -> Iterator[Any]:
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

    def _text(self, node: Mapping[str, Any]) -> str:
        if node["resource_type"] == "seed":
            # dbt hashes the path of a large seed, not its content.
            file = Path(node.get("root_path") or self._folder) / node["original_file_path"]
            return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        return normalized(str(node.get("raw_code") or ""))

    def _configuration(self, node: Mapping[str, Any]) -> str:
        config = {key: value for key, value in (node.get("config") or {}).items() if key not in _WITHOUT_EFFECT}
        columns = {
            name: [column.get("data_type"), column.get("constraints"), column.get("quote")]
            for name, column in (node.get("columns") or {}).items()
        }
        parts = [config, columns if (config.get("contract") or {}).get("enforced") else None, node.get("alias")]
        return json.dumps(parts, sort_keys=True, default=str)

    def _variables(self, texts: Collection[str]) -> list[str]:
        """Return the values of the variables that texts read. Only their hash is kept, and none of a secret."""
        names = _environment_variables(texts)
        found = [f"{name}={'' if SECRET_NAME.search(name) else self._environment.get(name)}" for name in names]
        if any(_VAR.search(text) for text in texts):
            project = self._folder / "dbt_project.yml"
            found.append(project.read_text(errors="replace") if project.is_file() else "")
            found.append(self._environment.get("LAKEHOUSE_DBT_VARS", ""))
        return found

    def _macros_of_nodes(self, nodes: Iterable[Mapping[str, Any]]) -> set[str]:
        return {macro for node in nodes for called in _macros(node) for macro in self._called(called)}

    def _called(self, macro: str) -> frozenset[str]:
        """Return a macro and all macros that it calls."""
        if macro not in self._macros_of:
            seen, waiting = set[str](), [macro]
            while waiting:
                name = waiting.pop()
                if name in self._macros and name not in seen:
                    seen.add(name)
                    waiting.extend(_macros(self._macros[name]))
            self._macros_of[macro] = frozenset(seen)
        return self._macros_of[macro]

    def _is_dbts(self, macro: str) -> bool:
        return self._macros[macro].get("package_name") in self._own_packages

    def _find_overrides(self, adapter: str) -> Iterator[str]:
        """Yield the macros that replace one of dbt's own, which no model names."""
        names = {macro["name"] for macro in self._macros.values() if macro.get("package_name") in self._own_packages}
        for unique_id, macro in self._macros.items():
            if not self._is_dbts(unique_id) and (
                macro["name"] in names or macro["name"].startswith((f"{adapter}__", "materialization_"))
            ):
                yield unique_id


def _kind_obstacle(node: Mapping[str, Any]) -> str:
    """Return why tables of this kind are always built; empty if they are not."""
    if node["resource_type"] == "snapshot":
        return "a snapshot records the time"
    if node.get("language") == "python":
        return "its code is Python"
    materialized = (node.get("config") or {}).get("materialized")
    known = materialized in ("table", "view", "seed")
    return "" if known else f"it is {materialized}, and depends on what it contained before"


def normalized(code: str) -> str:
    """Return code in which comments and the kind of white space do not count."""

    return _TOKEN.sub(lambda found: found["kept"] or " ", _JINJA_COMMENT.sub(" ", code)).strip()


def _macros(node: Mapping[str, Any]) -> list[str]:
    return (node.get("depends_on") or {}).get("macros") or []


def _environment_variables(texts: Iterable[str]) -> list[str]:
    """Return the names of the variables that are read. An empty name stands for one that is not a literal."""
    return sorted({found[0] or found[1] for text in texts for found in _ENV_VAR.findall(text)})


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
