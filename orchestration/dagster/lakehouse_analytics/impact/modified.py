"""Which nodes of the project differ from the base, as dbt's `state:modified`, and what is downstream of them. Pure.

dbt's own selector compares code and configurations as they are written, so it misses a changed variable, of which the
SQL of a model is made. This comparison also has the compiled SQL, and it is the one of `lakehouse impact`, so that a
comment on a pull request and its build name the same changes. It does not need the lineage of columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from lakehouse_analytics.dbt.macro_calls import MacroCalls
from lakehouse_analytics.impact.changes import reasons_of
from lakehouse_analytics.impact.nodes import CompiledManifest, CompiledNode
from lakehouse_analytics.impact.side import Inputs

#: The reason of a node that the base does not have.
NEW = "new"


def modified(base: Inputs, current: Inputs) -> dict[str, list[str]]:
    """Return what was modified of each model, seed, snapshot, function, source and test that differs, by unique id.

    Removed nodes are not included: what reads them differs as well, or does not compile.
    """
    before, after = _nodes(base.manifest), _nodes(current.manifest)
    macros = MacroCalls(base.manifest), MacroCalls(current.manifest)
    found = {}
    for unique_id in sorted(after):
        if unique_id not in before:
            found[unique_id] = [NEW]
        elif reasons := (
            reasons_of(before[unique_id], after[unique_id], *macros)
            or _other_reasons(unique_id, before[unique_id], after[unique_id], base, current)
        ):
            found[unique_id] = reasons
    return found


def downstream(manifest: Mapping[str, Any], unique_ids: Iterable[str]) -> set[str]:
    """Return the given nodes and all nodes downstream of them."""
    children: dict[str, list[str]] = defaultdict(list)
    for unique_id, node in _nodes(manifest).items():
        for parent in node.parents:
            children[parent].append(unique_id)
    found, stack = set[str](), [*unique_ids]
    while stack:
        unique_id = stack.pop()
        if unique_id not in found:
            found.add(unique_id)
            stack += children[unique_id]
    return found


def _nodes(manifest: Mapping[str, Any]) -> dict[str, CompiledNode]:
    compiled = CompiledManifest(manifest)
    return {**compiled.tables, **compiled.tests, **compiled.functions}


def _other_reasons(unique_id: str, old: CompiledNode, new: CompiledNode, base: Inputs, current: Inputs) -> list[str]:
    """Return what differs although the code and the configuration that dbt compares do not."""
    if old.config.get("column_types") != new.config.get("column_types"):
        return ["config column_types"]
    pairs = (
        (old.compiled_code, new.compiled_code),
        (base.incremental.get(unique_id), current.incremental.get(unique_id)),
    )
    # A side may not be compiled: a manifest as the base, or a macro that needs a connection.
    differs = any(one and other and one.strip() != other.strip() for one, other in pairs)
    return ["compiled SQL"] if differs else []
