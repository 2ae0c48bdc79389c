"""The two sides of a comparison: a table of the dbt project, and the states that `--base` and `--head` name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from lakehouse_analytics.branches.catalog import branch_schema
from lakehouse_analytics.branches.names import branch_name
from lakehouse_analytics.common.names import some
from lakehouse_analytics.common.text import brief, did_you_mean
from lakehouse_analytics.dbt.graph import Graph, Source, Table
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.diff.errors import DiffError
from lakehouse_analytics.engines.comparison import Comparison

#: What `--base` and `--head` accept, for messages.
EXPECTED = (
    "`main` (the table as it is), `schema:<name>` (a table of the same name there), `branch:<name>`, "
    "`snapshot:<id>`, a time such as `2026-11-29T00:00:00Z`, or `file:<path>` (another DuckDB file)"
)
Kind = Literal["main", "schema", "branch", "snapshot", "time", "file"]
#: The kinds that precede their value.
_PREFIXES: Mapping[str, Kind] = {"schema": "schema", "branch": "branch", "snapshot": "snapshot", "file": "file"}


@dataclass(frozen=True)
class State:
    """A state of a table.

    Attributes:
        kind: What the value is.
        value: The name, id, path or time; empty for `main`.
    """

    kind: Kind
    value: str = ""

    def __str__(self) -> str:
        """Return the state as `--base` accepts it."""
        return "main" if self.kind == "main" else self.value if self.kind == "time" else f"{self.kind}:{self.value}"


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: The state, as people wrote it.
        source: The table in that state, as it follows `from`.
        columns: The types of its columns by name.
    """

    label: str
    source: str
    columns: Mapping[str, str]


def parse_state(text: str, option: str) -> State:
    """Read a state.

    Args:
        text: The value of the option.
        option: The option, for messages.

    Raises:
        DiffError: The text is not a state.
    """
    if text == "main":
        return State("main")
    kind, colon, value = text.partition(":")
    if colon and value and kind in _PREFIXES:
        if kind == "snapshot" and not re.fullmatch(r"\d{1,19}", value):
            raise DiffError(f"{option} {brief(text)}: a snapshot's id is a number, as in `snapshot:123456789`.")
        return State(_PREFIXES[kind], value)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        hint = did_you_mean(text, ["main"], quoted="`{}`".format, otherwise=".")
        raise DiffError(f"{option} {brief(text)} is not a state{hint} Expected {EXPECTED}.") from None
    if time.tzinfo is None:
        day = time.replace(microsecond=0).isoformat()
        raise DiffError(f"{option} {brief(text)}: a time needs its offset from UTC, such as {day}Z or {day}+01:00.")
    return State("time", text)


def find_table(graph: Graph, name: str) -> Table | Source:
    """Return the table of an asset key such as `gold/fct_orders`, or of a dbt name such as `fct_orders`.

    Raises:
        DiffError: There is no such table, or the name has several.
    """
    everything: list[Table | Source] = [*graph.tables.values(), *graph.sources.values()]
    by_key = {"/".join(table.key): table for table in everything}
    if name in by_key:
        return by_key[name]
    found = [table for table in everything if name in (table.node.full_name, table.unique_id)]
    if len(found) == 1:
        return found[0]
    if found:
        keys = some(["/".join(table.key) for table in found])
        raise DiffError(f"{brief(name)} is the name of {len(found)} tables: use the asset key of one, {keys}.")
    # Names without their layer are compared, too: `gold/fct_order` and `fct_order` both suggest `gold/fct_orders`.
    names = {table.node.full_name: key for key, table in by_key.items()}
    near = did_you_mean(name, by_key) or did_you_mean(name.rpartition("/")[2], names, quoted=names.__getitem__)
    hint = near or f". The tables are {some(sorted(by_key), 10)}."
    raise DiffError(f"The dbt project has no table {brief(name)}{hint}")


def read_side(session: Comparison, relation: Relation, state: State, option: str) -> Side:
    """Return one side of a comparison.

    Args:
        session: The engine.
        relation: The table on main.
        state: The state of the table.
        option: The option that has the state, for messages.

    Raises:
        DiffError: There is no such table in that state. The message says where the engine has it.
        DatabaseError: The engine has no such states, or cannot be used.
    """
    if state.kind == "file":
        relation = replace(relation, catalog=session.attach(Path(state.value).expanduser()))
    elif state.kind == "schema":
        relation = replace(relation, schema=state.value)
    elif state.kind == "branch":
        relation = replace(relation, schema=branch_schema(relation.schema, branch_name(state.value)))
    relation = _existing(session, relation, state, option)
    if state.kind == "snapshot":
        source = session.at_snapshot(relation, int(state.value))
    elif state.kind == "time":
        source = session.at_time(relation, datetime.fromisoformat(state.value))
    else:
        source = session.now(relation)
    return Side(str(state), source, session.columns(source))


def _existing(session: Comparison, relation: Relation, state: State, option: str) -> Relation:
    """Return the relation as the engine spells it."""

    def same(one: str, other: str) -> bool:
        return one.lower() == other.lower() if session.ignores_case else one == other

    found = session.tables(relation.catalog)
    for schema, name in found:
        if same(schema, relation.schema) and same(name, relation.name):
            return Relation(relation.catalog, schema, name)
    elsewhere = sorted({schema for schema, name in found if same(name, relation.name)})
    schemas = {schema for schema, _ in found}
    where = f"{option} {state}: there is no table {relation.schema}.{relation.name}"
    if state.kind == "file":
        where += f" in {state.value}"
    if state.kind in ("schema", "branch"):
        known = schemas if relation.schema not in schemas else ()
        near = did_you_mean(relation.schema, known, otherwise=".")
        copies = f" Schemas that have {relation.name}: {some(elsewhere)}." if elsewhere else ""
        raise DiffError(f"{where}{near}{copies} Build the table there first, or choose another state.")
    advice = "Build it first" if state.kind != "file" else "Use a file in which the table was built"
    raise DiffError(f"{where}. {advice}, or choose another state: {EXPECTED}.")
