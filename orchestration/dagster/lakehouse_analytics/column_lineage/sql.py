"""The lineage of one compiled SQL statement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlglot import exp, parse
from sqlglot.errors import OptimizeError, SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope
from sqlglot.schema import MappingSchema

from lakehouse_analytics.column_lineage.fingerprints import WRITTEN
from lakehouse_analytics.column_lineage.query import Query, Table
from lakehouse_analytics.column_lineage.scopes import Scopes

#: Start of the names of the CTEs that dbt makes of ephemeral models.
EPHEMERAL = "__dbt__cte__"
#: Maximum number of characters of the reason why lineage is not known.
_MAX_PROBLEM = 200

#: Returns the table of a name's parts (database, schema, name), of which the first ones may be empty.
Find = Callable[[tuple[str, ...]], Table]


def lineage_of(sql: str, dialect: str, find: Find, *, through_ephemeral: bool = False) -> Query:
    """Return the lineage of a statement.

    Args:
        sql: One SELECT statement.
        dialect: sqlglot's name of the dialect.
        find: Returns the table of a name in the statement. The CTE of an ephemeral model counts as a table.
        through_ephemeral: Whether the CTE of an ephemeral model does not count as a table, but is followed.

    Returns:
        The lineage. If the statement cannot be analyzed, only `problem` is set.
    """
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of types that it does not know
    try:
        try:
            return _lineage(sql, dialect, find, through_ephemeral, qualified=True)
        except OptimizeError:
            # A column that could be of several tables, because the columns of one of them are not known.
            return _lineage(sql, dialect, find, through_ephemeral, qualified=False)
    except RecursionError:
        return Query(problem="it is nested too deeply")
    except (SqlglotError, AttributeError, KeyError, TypeError, ValueError, IndexError, AssertionError) as error:
        # A statement that sqlglot cannot parse, or parses but does not understand.
        return Query(problem=_brief(error) or type(error).__name__)


def _lineage(sql: str, dialect: str, find: Find, through_ephemeral: bool, *, qualified: bool) -> Query:
    statements = [statement for statement in parse(sql, dialect=dialect) if statement is not None]
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return Query(problem="it is not one SELECT statement")
    _define_windows(statements[0])
    for column in statements[0].find_all(exp.Column):
        column.meta[WRITTEN] = True
    tree, tables = _with_tables(statements[0], find, through_ephemeral=through_ephemeral)
    schema = MappingSchema(dialect=dialect, normalize=False)
    for alias, table in tables.items():
        if table.complete and table.columns:
            types = {name: type_of(text, dialect) for name, text in table.columns.items()}
            schema.add_table(alias, types, match_depth=False)
    tree = qualify(
        tree,
        dialect=dialect,
        schema=schema,
        qualify_columns=qualified,
        validate_qualify_columns=False,
        allow_partial_qualification=True,
        quote_identifiers=False,
    )
    tree = annotate_types(tree, schema=schema, dialect=dialect)
    scope = build_scope(tree)
    return Scopes(scope, dialect, tables).query() if scope else Query(problem="it is not a SELECT statement")


def type_of(text: str, dialect: str) -> Any:
    """Return sqlglot's data type of a type's name, or its unknown type."""
    try:
        return exp.DataType.build(text, dialect=dialect, udt=True) if text else exp.DataType.build("unknown")
    except (SqlglotError, ValueError):
        return exp.DataType.build("unknown")


def column_name(name: str, dialect: str, *, quoted: bool = False) -> str:
    """Return the name of a column as it is in a lineage: in lower case, unless the dialect keeps its case."""
    return str(normalize_identifiers(exp.to_identifier(name, quoted=quoted), dialect=dialect).name)


def _brief(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:_MAX_PROBLEM] if lines else ""


def _with_tables(tree: exp.Query, find: Find, *, through_ephemeral: bool) -> tuple[exp.Query, dict[str, Table]]:
    """Return the statement with a short name for each table, and the tables by that name.

    The CTEs of ephemeral models are removed, so that they are tables too, unless they are followed.
    """
    if not through_ephemeral:
        _remove_ephemeral(tree)
    ctes = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    tables: dict[str, Table] = {}
    names: dict[tuple[str, ...], str] = {}
    for node in [*tree.find_all(exp.Table)]:
        if not isinstance(node.this, exp.Identifier):
            continue  # a table function
        parts = (node.catalog, node.db, node.name)
        if not node.db and node.name.lower() in ctes:
            continue
        if parts not in names:
            names[parts] = f"lakehouse_t{len(names)}"
            tables[names[parts]] = find(parts)
        alias = node.args.get("alias")
        if alias is None:
            node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name, quoted=node.this.args.get("quoted"))))
        for part in ("catalog", "db"):
            node.set(part, None)
        node.set("this", exp.to_identifier(names[parts]))
    return tree, tables


def _define_windows(tree: exp.Query) -> None:
    """Replace the names of windows by their definitions, which sqlglot's qualification does not follow."""
    for select in [*tree.find_all(exp.Select)]:
        definitions: dict[str, exp.Window] = {}
        for window in select.args.get("windows") or ():
            _define(window, definitions)
            definitions[window.name.lower()] = window
        for window in [*select.find_all(exp.Window)] if definitions else ():
            if window.parent is not select and window.parent_select is select:
                _define(window, definitions)
        select.set("windows", None)


def _define(window: exp.Window, definitions: Mapping[str, exp.Window]) -> None:
    definition = definitions.get(str(window.alias).lower()) if window.args.get("alias") else None
    if definition is None:
        return
    window.set("alias", None)
    for part in ("partition_by", "order", "spec"):
        value = definition.args.get(part)
        if value and not window.args.get(part):
            copied = [item.copy() for item in value] if isinstance(value, list) else value.copy()
            window.set(part, copied)


def _remove_ephemeral(tree: exp.Query) -> None:
    for cte in [*tree.find_all(exp.CTE)]:
        if cte.alias_or_name.startswith(EPHEMERAL):
            clause = cte.parent
            cte.pop()
            if clause is not None and not clause.expressions:
                clause.pop()
