"""Finds settings of a dbt project that let readers on Trino see a half-replaced table, from the manifest alone.

This module imports neither Dagster nor dbt. It follows the materializations of dbt-trino 1.11 for Iceberg tables, where
every statement is its own commit. A project's override of a built-in macro counts as atomic if its
`meta.lakehouse.atomic` is set. docs/atomic-writes.md describes what is guaranteed and how to fix each finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lakehouse_analytics.common.text import brief
from lakehouse_analytics.dbt.lint.findings import Finding
from lakehouse_analytics.dbt.nodes import Macro, Manifest, Node

#: Values that dbt-trino supports. For other values, it logs a message and uses `rename`.
_ON_TABLE_EXISTS = {
    "table": {"rename", "drop", "replace", "skip"},
    "incremental": {"rename", "drop", "replace"},
}
#: Strategies that dbt-trino runs as DELETE and INSERT, each with the macros that an override can reduce to one
#: statement.
_TWO_COMMITS = {
    "delete_insert": {"get_incremental_delete_insert_sql", "get_delete_insert_merge_sql"},
    "microbatch": {"get_incremental_microbatch_sql"},
}
#: The names of these findings in `meta.lakehouse.accept`.
NOT_ATOMIC = "not_atomic"
REPEATED_INSERTS = "repeated_inserts"


def lint(manifest: Manifest) -> list[Finding]:
    """Return the findings for all enabled models and seeds of a manifest. Other adapters than Trino have none.

    Args:
        manifest: The manifest of the dbt project.
    """
    if manifest.adapter_type != "trino":
        return []
    root = manifest.project_name
    atomic = _declared_atomic(manifest.macros, root)
    # A manifest's nodes do not include disabled ones. Views are replaced in one statement, snapshots in one MERGE;
    # ephemeral models are not relations, and nothing is known about custom materializations.
    nodes = [
        node for node in manifest.of_type("model", "seed") if node.config.materialized in (*_ON_TABLE_EXISTS, "seed")
    ]
    found = []
    for node in nodes:
        if node.resource_type == "model":
            found += [_finding(node, root, *policy, policy=True) for policy in _policies(node, atomic)]
            found += [_finding(node, root, *warning) for warning in _warnings(node)]
        elif node.resource_type == "seed" and not _overridden({"load_csv_rows"}, atomic):
            found.append(
                _finding(
                    node,
                    root,
                    NOT_ATOMIC,
                    "dbt-trino empties a seed and then inserts 1000 rows per statement, so readers see it incomplete; "
                    "copy macros/load_csv_rows.sql into the project, or run seeds separately",
                )
            )
    return found


def _finding(node: Node, root: str, accept: str | None, problem: str, *, policy: bool = False) -> Finding:
    where = _location(node, root)
    return Finding(node.unique_id, where, _name(node), problem, accept, policy, node.resource_type)


def _policies(node: Node, atomic: frozenset[str]) -> Iterator[tuple[str, str]]:
    config = node.config
    on_table_exists = _on_table_exists(node)
    contracted = config.contract_enforced and not _overridden({"create_table_as"}, atomic)
    if on_table_exists == "drop":
        yield (
            NOT_ATOMIC,
            "on_table_exists: drop leaves no table until the new one is built; "
            "set on_table_exists: replace, which is one commit",
        )
    elif on_table_exists == "replace" and contracted:
        yield (
            NOT_ATOMIC,
            "on_table_exists: replace with an enforced contract shows an empty table, because dbt-trino creates it and "
            "then inserts; copy macros/create_table_as.sql into the project, which does it in one commit, or set "
            "on_table_exists: rename, which shows no table for a moment",
        )
    elif on_table_exists == "skip" and contracted:
        yield (
            REPEATED_INSERTS,
            "on_table_exists: skip with an enforced contract inserts all rows again in every run; copy "
            "macros/create_table_as.sql into the project, or set on_table_exists: replace without the contract",
        )
    if config.is_incremental and not _overridden(_TWO_COMMITS.get(_strategy(node), set()), atomic):
        if _strategy(node) == "delete_insert":
            yield (
                NOT_ATOMIC,
                "incremental_strategy: delete+insert is two commits on Iceberg, between which readers miss the deleted "
                "rows; use merge with the same unique_key, or replace_window for a time window",
            )
        if _strategy(node) == "microbatch":
            yield (
                NOT_ATOMIC,
                "incremental_strategy: microbatch deletes each batch, then inserts it: two commits, between which "
                "readers miss the batch; use replace_window with the same event_time",
            )


def _warnings(node: Node) -> Iterator[tuple[str | None, str]]:
    config = node.config
    value = config.on_table_exists
    if value is not None and value not in _ON_TABLE_EXISTS[config.materialized]:
        known = ", ".join(sorted(_ON_TABLE_EXISTS[config.materialized]))
        yield (
            None,
            f"on_table_exists: {brief(value)} is not valid for {config.materialized} ({known}); dbt-trino uses "
            "rename instead",
        )
    if _on_table_exists(node) == "rename":
        yield (
            NOT_ATOMIC,
            "on_table_exists is rename, dbt-trino's default: between its two renames readers get `table does not "
            "exist`, and overlapping runs share its names; set +on_table_exists: replace in dbt_project.yml",
        )
    if not config.is_incremental:
        return
    if config.on_schema_change == "sync_all_columns":
        yield (
            NOT_ATOMIC,
            "on_schema_change: sync_all_columns changes a type with four statements, between which the column is "
            "missing; "
            "use append_new_columns or fail, and --full-refresh when a type changes",
        )
    if _strategy(node) == "replace_window" and "compact_window" not in " ".join(config.post_hooks):
        yield (
            None,
            "replace_window without compact_window() as post_hook leaves its delete files to maintenance; "
            "set post_hook='{{ compact_window() }}'",
        )


def _on_table_exists(node: Node) -> str:
    value = node.config.on_table_exists
    return value if value in _ON_TABLE_EXISTS[node.config.materialized] else "rename"


def _strategy(node: Node) -> str:
    if not node.config.is_incremental:
        return ""
    # The form of the name with which dbt looks up the strategy's macro.
    return (node.config.incremental_strategy or "default").replace("+", "_")


def _declared_atomic(macros: Iterable[Macro], root: str) -> frozenset[str]:
    return frozenset(macro.name for macro in macros if macro.package_name == root and macro.atomic)


def _overridden(macros: Iterable[str], atomic: frozenset[str]) -> bool:
    return any({macro, f"trino__{macro}"} & atomic for macro in macros)


def _location(node: Node, root: str) -> str:
    package = "" if node.package_name == root else f" of package {node.package_name}"
    return f"{node.original_file_path}: {node.resource_type} {_name(node)}{package}"


def _name(node: Node) -> str:
    version = "" if node.version is None else f".v{node.version}"
    return f"{node.name}{version} ({node.schema}.{node.alias})"
