"""Whether a compiled statement always has the same result for the same inputs.

sqlglot takes 0.2 seconds to import, so that this module is imported only when a table has been built.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

#: Functions whose result depends on the time, on chance, on the session, on files or on other tables, by their names in
#: lower case.
_CHANGING = frozenset((
    "age", "array_sample", "array_shuffle", "clock_timestamp", "current_catalog", "current_database",
    "current_date", "current_groups", "current_localtime", "current_localtimestamp", "current_path",
    "current_query", "current_role", "current_schema", "current_schemas", "current_setting", "current_time",
    "current_timestamp", "current_timezone", "current_transaction_id", "current_user", "current_version",
    "currval", "dblink", "gen_random_bytes", "gen_random_uuid", "gen_salt", "get_current_time",
    "get_current_timestamp", "getdate", "getenv", "getvariable", "glob", "inet_client_addr", "inet_client_port",
    "inet_server_addr", "lastval", "lo_get", "localtime", "localtimestamp", "nextval", "now", "parquet_scan",
    "pg_backend_pid", "pg_conf_load_time", "pg_postmaster_start_time", "pg_read_binary_file", "pg_read_file",
    "pg_relation_size", "pg_sleep", "pg_table_size", "pg_total_relation_size", "query", "query_table",
    "query_to_xml", "rand", "randn", "random", "random_normal", "random_string", "read_blob", "read_csv",
    "read_csv_auto", "read_json", "read_json_auto", "read_parquet", "read_text", "sample", "session_user",
    "setseed", "shuffle", "sniff_csv", "statement_timestamp", "sysdate", "system_user", "systimestamp",
    "table_to_xml", "tablesample", "timeofday", "today", "transaction_timestamp", "txid_current",
    "txid_current_snapshot", "txid_snapshot_xmin", "unix_timestamp", "user", "utc_timestamp", "uuid",
    "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7", "version",
))  # fmt: skip
#: The same as sqlglot's names of its classes, without underscores.
_PLAIN = frozenset(name.replace("_", "") for name in _CHANGING)
#: Those that are called without parentheses, and hidden columns: other names may be names of columns.
_KEYWORDS = frozenset((
    "current_catalog", "current_date", "current_role", "current_schema", "current_time", "current_timestamp",
    "current_user", "localtime", "localtimestamp", "session_user", "sysdate", "system_user", "user",
))  # fmt: skip
_HIDDEN = frozenset({"$path", "$file_modified_time", "$partition", "xmin", "xmax", "ctid", "rowid"})
#: Texts that PostgreSQL reads as a time when they are cast.
_TIMES = frozenset({"now", "today", "tomorrow", "yesterday"})
#: Table functions that read nothing.
_GENERATORS = frozenset({"unnest", "generate_series", "range", "sequence", "explodinggenerateseries", "values"})


@dataclass(frozen=True)
class Name:
    """The full name of a table, in lower case."""

    catalog: str
    schema: str
    table: str


def changing_part(sql: str, dialect: str, tables: Collection[Name]) -> str:
    """Return what makes a statement's result change although its inputs have not; empty if there is nothing.

    Args:
        sql: A compiled SELECT statement.
        dialect: sqlglot's name of the dialect.
        tables: The tables that dbt knows to be read.
    """
    try:
        statements = [one for one in sqlglot.parse(sql, dialect=dialect) if one is not None]
    except (SqlglotError, RecursionError):
        return "its SQL cannot be analyzed"
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return "it is not one SELECT statement"
    names = {cte.alias_or_name.lower() for cte in statements[0].find_all(exp.CTE)}
    return next((why for node in statements[0].walk() if (why := _changing(node, names, tables))), "")


def _changing(node: exp.Expr, names: Collection[str], tables: Collection[Name]) -> str:
    """Return what makes the result of one expression change; empty if it does not."""
    if isinstance(node, exp.Table | exp.Lateral):
        return _unknown_table(node, names, tables)
    if isinstance(node, exp.Command | exp.DML | exp.DDL) and not isinstance(node, exp.Query):
        return "its SQL does more than to read"
    if isinstance(node, exp.Cast) and node.this.is_string and node.this.name.strip().lower() in _TIMES:
        return f"it reads {node.sql()}"
    name = ""
    if isinstance(node, exp.Func | exp.TableSample):
        name = node.name if isinstance(node, exp.Anonymous) else node.key
    elif isinstance(node, exp.Column):
        if node.name.lower() in _HIDDEN:
            return f"it reads {node.name}"
        keyword = not node.table and not node.this.args.get("quoted") and node.name.lower() in _KEYWORDS
        name = node.name if keyword else ""
    plain = name.lower().replace("_", "")
    return f"it calls {node.sql()}" if plain in _PLAIN else ""


def _unknown_table(table: exp.Table | exp.Lateral, names: Collection[str], known: Collection[Name]) -> str:
    if isinstance(table, exp.Lateral) and isinstance(table.this, exp.Subquery | exp.Unnest):
        return ""
    if isinstance(table, exp.Lateral) or isinstance(table.this, exp.Func):
        called = table.this.name if isinstance(table.this, exp.Anonymous) else table.this.sql_name()
        return "" if called.lower().replace("_", "") in _PLAIN_GENERATORS else f"it reads {called.lower()}()"
    catalog, schema, name = table.catalog.lower(), table.db.lower(), table.name.lower()
    if not schema and name in names:
        return ""
    if any((schema, name) == (one.schema, one.table) and catalog in ("", one.catalog) for one in known):
        return ""
    full = ".".join(part for part in (catalog, schema, name) if part)
    return f"it reads {full}, which is neither a ref nor a source"


_PLAIN_GENERATORS = frozenset(name.replace("_", "") for name in _GENERATORS)
