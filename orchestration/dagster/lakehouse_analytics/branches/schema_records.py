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
    if SCHEMA not in existing or (SCHEMA, TABLE) not in session.relations([SCHEMA]):
        return {}
    rows = session.fetch_all(f"select branch, schema_name, created, expires from {_table(session)}")  # noqa: S608
    found: dict[str, Record] = {}
    for branch, schema, created, expires in sorted((tuple(map(str, row)) for row in rows), key=lambda row: row[2]):
        known = found.get(branch)
        schemas = (known.schemas if known else frozenset()) | {schema}
        times = (known.created, known.expires) if known else (_time(created), _time(expires) if expires else None)
        found[branch] = Record(*times, schemas)
    return found


def add(session: SchemaSession, branch: str, schemas: Collection[str], expires: datetime | None) -> None:
    """Record that schemas were created for a branch.

    Raises:
        DatabaseError: The table cannot be written.
    """
    session.create_schema(SCHEMA, if_missing=True)
    session.fetch_all(
        f"create table if not exists {_table(session)} "
        "(branch varchar, schema_name varchar, created varchar, expires varchar)"
    )
    times = literal(datetime.now(UTC).isoformat()), literal(expires.isoformat() if expires else "")
    rows = [f"({', '.join((literal(branch), literal(schema), *times))})" for schema in sorted(schemas)]
    session.fetch_all(f"insert into {_table(session)} values {', '.join(rows)}")  # noqa: S608


def remove(session: SchemaSession, branch: str) -> None:
    """Remove a branch, of which all schemas have been dropped.

    Raises:
        DatabaseError: The table cannot be written.
    """
    session.fetch_all(f"delete from {_table(session)} where branch = {literal(branch)}")  # noqa: S608


def _table(session: SchemaSession) -> str:
    return ".".join(map(identifier, (session.database, SCHEMA, TABLE)))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
