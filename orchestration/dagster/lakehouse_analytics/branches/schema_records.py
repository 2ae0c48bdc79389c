"""Which schemas are of which branch: a small table in the database itself.

A schema that is not in this table is not of a branch, whatever its name is, and is never dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from lakehouse_analytics.common.sql import identifier, literal
from lakehouse_analytics.engines.schema_session import SchemaSession

#: The schema of the table. It stays when the last branch has been dropped.
SCHEMA = "lakehouse_branches"
TABLE = "branch_schemas"


@dataclass(frozen=True)
class Record:
    """A branch.

    Attributes:
        created: The time of creation.
        expires: The time after which it may be dropped.
        schemas: The schemas that were created for it.
    """

    created: datetime
    expires: datetime | None
    schemas: frozenset[str]


def read(session: SchemaSession, existing: Collection[str]) -> Mapping[str, Record]:
    """Return all branches by name, the oldest first.

    Args:
        session: The database.
        existing: The names of all its schemas.

    Raises:
        DatabaseError: The table cannot be read.
    """
    found: dict[str, Record] = {}
    for branch, schema, created, expires in sorted(_rows(session, existing), key=lambda row: row[2]):
        if not created:
            continue
        known = found.get(branch)
        schemas = (known.schemas if known else frozenset()) | {schema}
        times = (known.created, known.expires) if known else (_time(created), _time(expires) if expires else None)
        found[branch] = Record(*times, schemas)
    return found


def planned(session: SchemaSession, branch: str, existing: Collection[str]) -> set[str]:
    """Return the schemas that were to be created for a branch. They may exist.

    Args:
        session: The database.
        branch: The branch.
        existing: The names of all schemas of the database.

    Raises:
        DatabaseError: The table cannot be read.
    """
    return {schema for of, schema, created, _ in _rows(session, existing) if of == branch and not created}


def plan(session: SchemaSession, branch: str, schemas: Collection[str]) -> None:
    """Record that schemas are about to be created for a branch, unless an earlier attempt has created them.

    Raises:
        DatabaseError: The table cannot be written.
    """
    session.create_schema(SCHEMA, if_missing=True)
    session.fetch_all(
        f"create table if not exists {_table(session)} "
        "(branch varchar, schema_name varchar, created varchar, expires varchar)"
    )
    _insert(session, branch, schemas, "", "")


def remove_plan(session: SchemaSession, branch: str) -> None:
    """Remove what was planned for a branch.

    Raises:
        DatabaseError: The table cannot be written.
    """
    session.fetch_all(f"delete from {_table(session)} where branch = {literal(branch)} and created = ''")  # noqa: S608


def add(session: SchemaSession, branch: str, schemas: Collection[str], expires: datetime | None) -> None:
    """Record that schemas, which were planned, have been created for a branch.

    Raises:
        DatabaseError: The table cannot be written.
    """
    _insert(session, branch, schemas, datetime.now(UTC).isoformat(), expires.isoformat() if expires else "")


def remove(session: SchemaSession, branch: str) -> None:
    """Remove a branch, of which all schemas have been dropped.

    Raises:
        DatabaseError: The table cannot be written.
    """
    session.fetch_all(f"delete from {_table(session)} where branch = {literal(branch)}")  # noqa: S608


def _rows(session: SchemaSession, existing: Collection[str]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table. The time of creation is empty for what is planned."""
    if SCHEMA not in existing or (SCHEMA, TABLE) not in session.relations([SCHEMA]):
        return []
    rows = session.fetch_all(f"select branch, schema_name, created, expires from {_table(session)}")  # noqa: S608
    return [(str(branch), str(schema), str(created), str(expires)) for branch, schema, created, expires in rows]


def _insert(session: SchemaSession, branch: str, schemas: Collection[str], created: str, expires: str) -> None:
    rows = [f"({', '.join(map(literal, (branch, schema, created, expires)))})" for schema in sorted(schemas)]
    session.fetch_all(f"insert into {_table(session)} values {', '.join(rows)}")  # noqa: S608


def _table(session: SchemaSession) -> str:
    return ".".join(map(identifier, (session.database, SCHEMA, TABLE)))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
