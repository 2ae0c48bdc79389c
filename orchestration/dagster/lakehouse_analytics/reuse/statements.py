"""Whether a compiled statement always has the same result for the same inputs.

sqlglot takes 0.2 seconds to import, so that this module is imported only when a table has been built.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

#: Functions whose result depends on the time, on chance, on the session, or on other tables, by their lower-case names.
_CHANGING = frozenset((
    "age", "clock_timestamp", "current_catalog", "current_date", "current_query", "current_role",
    "current_schema", "current_setting", "current_time", "current_timestamp", "current_user", "current_version",
    "currval", "gen_random_uuid", "get_current_time", "get_current_timestamp", "getdate", "getenv",
    "getvariable", "localtime", "localtimestamp", "nextval", "now", "pg_sleep", "query", "query_table", "rand",
    "random", "random_string", "sample", "session_user", "setseed", "shuffle", "statement_timestamp", "sysdate",
    "systimestamp", "tablesample", "timeofday", "today", "transaction_timestamp", "txid_current",
    "txid_current_snapshot", "unix_timestamp", "utc_timestamp", "uuid", "uuid_generate_v1", "uuid_generate_v4",
    "uuidv4", "uuidv7", "version",
))  # fmt: skip
#: The same as sqlglot's names of its classes, without underscores.
_PLAIN = frozenset(name.replace("_", "") for name in _CHANGING)
#: Those that are called without parentheses: other names may be names of columns.
_KEYWORDS = frozenset((
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "localtime", "localtimestamp", "session_user", "sysdate",
))  # fmt: skip
#: Table functions that read nothing.
_GENERATORS = frozenset({"unnest", "generate_series", "range", "sequence", "explodinggenerateseries", "values"})


def changing_part(sql: str, dialect: str, tables: Collection[str]) -> str:
    """Return what makes a statement's result change although its inputs have not; empty if there is nothing.

    Args:
        sql: A compiled SELECT statement.
        dialect: sqlglot's name of the dialect.
        tables: The names of the tables that dbt knows to be read, as `schema.table` in lower case.
    """
    try:
        statements = [one for one in sqlglot.parse(sql, dialect=dialect) if one is not None]
    except (SqlglotError, RecursionError):
        return "its SQL cannot be analyzed"
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return "it is not one SELECT statement"
    names = {cte.alias_or_name.lower() for cte in statements[0].find_all(exp.CTE)}
    return next((why for node in statements[0].walk() if (why := _changing(node, names, tables))), "")


def _changing(node: exp.Expr, names: Collection[str], tables: Collection[str]) -> str:
    """Return what makes the result of one expression change; empty if it does not."""
    if isinstance(node, exp.Table):
        return _unknown_table(node, names, tables)
    if isinstance(node, exp.Command):
        return "its SQL cannot be analyzed"
    name = ""
    if isinstance(node, exp.Func | exp.TableSample):
        name = node.name if isinstance(node, exp.Anonymous) else node.key
    elif isinstance(node, exp.Column) and not node.table and not node.this.args.get("quoted"):
        name = node.name if node.name.lower() in _KEYWORDS else ""
    plain = name.lower().replace("_", "")
    return f"it calls {node.sql()}" if plain in _PLAIN else ""


def _unknown_table(table: exp.Table, names: Collection[str], known: Collection[str]) -> str:
    if isinstance(table.this, exp.Func):
        called = table.this.name if isinstance(table.this, exp.Anonymous) else table.this.sql_name()
        return "" if called.lower() in _GENERATORS else f"it reads {called.lower()}()"
    name = table.name.lower()
    if not table.db and name in names:
        return ""
    full = f"{table.db.lower()}.{name}" if table.db else name
    if full in known or (not table.db and name in {one.rsplit(".", 1)[-1] for one in known}):
        return ""
    return f"it reads {full}, which is neither a ref nor a source"
