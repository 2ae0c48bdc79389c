"""Which macros nodes call, directly or by other macros. Pure.

dbt records in `depends_on.macros` only what it calls while it parses, with `execute` being false. So what is called
under `{% if execute %}` is found by its name in the code as well. That may find a macro too many.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


class MacroCalls:
    """The macros of a manifest, and who calls them."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        """
        Args:
            manifest: dbt's `manifest.json`.
        """
        self._macros: Mapping[str, Any] = manifest.get("macros") or {}
        self._dbts = {"dbt", f"dbt_{manifest['metadata'].get('adapter_type')}"}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for unique_id in self._macros:
            if not self.is_dbts(unique_id):
                self._by_name[self.name(unique_id)].append(unique_id)
        self._called: dict[str, frozenset[str]] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the unique ids of all macros."""
        return iter(self._macros)

    def name(self, macro: str) -> str:
        """Return the name of a macro."""
        return str(self._macros[macro].get("name") or macro.rsplit(".", 1)[-1])

    def code(self, macro: str) -> str:
        """Return the code of a macro."""
        return str(self._macros[macro].get("macro_sql") or "")

    def is_dbts(self, macro: str) -> bool:
        """Return whether a macro is of dbt itself or of its adapter, whose version counts instead of its code."""
        return self._macros[macro].get("package_name") in self._dbts

    def of(self, nodes: Iterable[Mapping[str, Any]]) -> set[str]:
        """Return the unique ids of the macros that nodes call, directly or by other macros."""
        return {
            called
            for node in nodes
            for macro in (*_recorded(node), *self._named(str(node.get("raw_code") or "")))
            for called in self.below(macro)
        }

    def below(self, macro: str) -> frozenset[str]:
        """Return the unique ids of a macro and of all macros that it calls. A macro that is missing has none."""
        if macro not in self._called:
            seen, waiting = set[str](), [macro]
            while waiting:
                unique_id = waiting.pop()
                if unique_id in self._macros and unique_id not in seen:
                    seen.add(unique_id)
                    waiting += _recorded(self._macros[unique_id])
                    if not self.is_dbts(unique_id):
                        waiting += self._named(self.code(unique_id))
            self._called[macro] = frozenset(seen)
        return self._called[macro]

    def _named(self, text: str) -> list[str]:
        names = {name for expression in expressions(text) for name in _CALL.findall(expression)}
        return [unique_id for name in names for unique_id in self._by_name.get(name, ())]


def expressions(text: str) -> list[str]:
    """Return the parts of a template that Jinja evaluates."""
    return _EXPRESSION.findall(without_comments(text))


def without_comments(text: str) -> str:
    """Return a template without the comments of Jinja."""
    return _COMMENT.sub("", text)


def _recorded(node: Mapping[str, Any]) -> list[str]:
    return (node.get("depends_on") or {}).get("macros") or []
