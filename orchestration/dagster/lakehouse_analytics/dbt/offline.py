"""Compiles a project in dbt's process without a connection, for `lakehouse impact`.

Statements of macros get an empty result, and no table exists. Every command has the same id and time, so that SQL which
contains them does not differ. Incremental models are compiled a second time as if their table existed. Nodes whose
macros cannot be compiled like that are recorded, and the others are compiled.
"""

from __future__ import annotations

import copy
import importlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: `run_started_at` and `invocation_id` of every command.
_STARTED, _ID = datetime(2000, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000"


@contextmanager
def offline(path: str) -> Iterator[None]:
    """Compile without a connection during the block.

    Args:
        path: The JSON file that is written at the end: the SQL of incremental models whose table exists, as
            `incremental`, and the errors of nodes that were not compiled, as `problems`.
    """
    factory: Any = importlib.import_module("dbt.adapters.factory").FACTORY
    runner: Any = importlib.import_module("dbt.task.compile").CompileRunner
    context: Any = importlib.import_module("dbt.context.base")
    register, compile_node, get_id = factory.register_adapter, runner.compile, context.get_invocation_id
    exists = threading.local()
    record: dict[str, dict[str, str]] = {"incremental": {}, "problems": {}}

    def register_offline(*args: Any, **options: Any) -> None:
        register(*args, **options)
        context.tracking.active_user.run_started_at = _STARTED
        for adapter in factory.adapters.values():
            _disconnect(adapter, exists)

    def compile_or_record(self: Any, manifest: Any) -> Any:
        before = copy.deepcopy(self.node)
        try:
            compiled = compile_node(self, manifest)
        except Exception as error:  # a macro that needs the result of a query: any error
            record["problems"][before.unique_id] = str(getattr(error, "msg", error)).strip()
            return before
        if str(before.config.materialized) == "incremental" and str(getattr(before, "language", "")) == "sql":
            exists.table = True
            try:
                again = self.compiler.compile_node(before, manifest, {}, write=False)
                record["incremental"][before.unique_id] = again.compiled_code or ""
            except Exception as error:
                record["problems"].setdefault(f"{before.unique_id} (incremental)", str(getattr(error, "msg", error)))
            finally:
                exists.table = False
                manifest.nodes[compiled.unique_id] = compiled
        return compiled

    factory.register_adapter, runner.compile = register_offline, compile_or_record
    context.get_invocation_id = lambda: _ID
    try:
        yield
    finally:
        factory.register_adapter, runner.compile, context.get_invocation_id = register, compile_node, get_id
    Path(path).write_text(json.dumps(record))


def _disconnect(adapter: Any, exists: threading.local) -> None:
    """Replace what needs a connection."""
    from dbt.adapters.contracts.connection import AdapterResponse

    agate: Any = importlib.import_module("dbt_common.clients.agate_helper")

    def execute(*_args: Any, **_options: Any) -> tuple[Any, Any]:
        return AdapterResponse("offline"), agate.empty_table()

    def get_relation(database: str | None, schema: str, identifier: str, **_options: Any) -> Any:
        if not getattr(exists, "table", False):
            return None
        relation: Any = adapter.Relation
        return relation.create(database=database, schema=schema, identifier=identifier, type=relation.Table)

    def nothing(*_args: Any, **_options: Any) -> list[Any]:
        return []

    def always(*_args: Any, **_options: Any) -> bool:
        return True

    adapter.execute = adapter.connections.execute = execute
    adapter.get_relation = get_relation
    adapter.check_schema_exists = always
    for name in ("get_columns_in_relation", "list_relations", "list_relations_without_caching", "list_schemas"):
        setattr(adapter, name, nothing)
