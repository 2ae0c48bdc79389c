"""Branches that are schemas, for engines and catalogs whose tables cannot be copied without their data.

The schemas of a branch begin empty. A table that has been built there is read there, and every other one from
production, which is the rule of dbt's `defer` (`branches.deferral`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from typing import ClassVar, Literal

from lakehouse_analytics.branches import schema_records as records
from lakehouse_analytics.branches.catalog import (
    SEPARATOR,
    Branch,
    BranchError,
    Name,
    Publication,
    Published,
    RefusedError,
    branch_schema,
    check_name,
)
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.engines.schema_session import HasSchemas, SchemaSession

#: Why a branch is not published, and what to do.
NOT_PUBLISHED = (
    "A branch that consists of schemas cannot be published: its incremental tables and snapshots have no earlier rows, "
    "and production may have changed since. Merge the change, build production, and drop the branch."
)


class SchemaBranches:
    """The branches of a database. See `BranchCatalog`.

    Args:
        engine: The engine that has the schemas.
        title: Its name in messages.
    """

    copies_tables: ClassVar[bool] = False

    def __init__(self, engine: HasSchemas, title: str) -> None:
        self._engine, self._title = engine, title

    def create(
        self,
        branch: str,
        tables: Mapping[Name, bool],
        *,
        kind: Literal["run", "branch"] = "branch",
        expires: datetime | None = None,
    ) -> None:
        """Create the schemas of a branch.

        Args:
            branch: The name.
            tables: The tables that may be built there. Nothing is copied.
            kind: `branch`. Runs cannot publish, so they have no branches.
            expires: The time after which the branch may be dropped.

        Raises:
            BranchError: A branch of that name exists, or a schema that it needs.
            DatabaseError: The database cannot be used.
        """
        check_name(branch)
        if kind == "run":
            raise BranchError(NOT_PUBLISHED)
        with self._engine.schema_session(write=True) as session:
            existing = session.schemas()
            if branch in records.read(session, existing):
                raise BranchError(f"The branch {branch} exists already.")
            self._add(session, branch, tables, existing, own=frozenset(), expires=expires)

    def extend(self, branch: str, tables: Mapping[Name, bool]) -> None:
        """Create schemas that tables need and a branch does not have yet.

        Raises:
            BranchError: There is no such branch, or a schema that it needs exists and is not of it.
            DatabaseError: The database cannot be used.
        """
        with self._engine.schema_session(write=False) as session:
            own = _known(branch, records.read(session, session.schemas())).schemas
        if _schemas_of(branch, tables) <= own:
            return
        with self._engine.schema_session(write=True) as session:
            existing = session.schemas()
            record = _known(branch, records.read(session, existing))
            self._add(session, branch, tables, existing, own=record.schemas, expires=record.expires)

    def _add(
        self,
        session: SchemaSession,
        branch: str,
        tables: Mapping[Name, bool],
        existing: Collection[str],
        *,
        own: frozenset[str],
        expires: datetime | None,
    ) -> None:
        needed = sorted(_schemas_of(branch, tables) - own)
        there = {schema.lower() for schema in existing} & {*needed}
        left = _left_by_killed(session, branch, existing) if there else set()
        for schema in needed:
            if schema in there - left:
                raise BranchError(
                    f"The branch {branch} needs the schema {schema}, which exists and is not of a branch. "
                    "Choose another name for the branch."
                )
            limit = session.longest_name
            if limit and len(schema.encode()) > limit:
                raise BranchError(
                    f"The branch {branch} needs the schema {schema}, and {self._title} limits names to {limit} bytes. "
                    "Choose a shorter name for the branch."
                )
        if not needed:
            return
        # Where each statement is a transaction, this process may be killed after any of them.
        created: list[str] = []
        try:
            records.plan(session, branch, needed)
            for schema in needed:
                if schema not in there:
                    session.create_schema(schema)
                    created.append(schema)
            records.add(session, branch, needed, expires)
        except DatabaseError:
            with suppress(DatabaseError):
                _undo(session, branch, {*created, *there})
            raise
        records.remove_plan(session, branch)

    def built(self, branch: str) -> Sequence[Name]:
        """Return the tables and views that were built on a branch, as named outside of it.

        Raises:
            BranchError: There is no such branch.
            DatabaseError: The database cannot be used.
        """
        with self._engine.schema_session(write=False) as session:
            record = _known(branch, records.read(session, session.schemas()))
            found = session.relations(record.schemas)
        end = len(SEPARATOR) + len(branch)
        # As `relation_of` names tables.
        return sorted(Name(schema[:-end].lower(), name.lower()) for schema, name in found)

    def record_results(self, branch: str, passed: Collection[Name], failed: Collection[Name]) -> None:
        """Do nothing: results decide what is published, and nothing is."""

    def failed(self, branch: str) -> Sequence[Name]:  # noqa: ARG002
        """Return no tables. See `record_results`."""
        return []

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:  # noqa: ARG002
        """Refuse to publish.

        Raises:
            RefusedError: Always.
        """
        raise RefusedError(NOT_PUBLISHED)

    def publications(self, run: str) -> Sequence[Publication]:  # noqa: ARG002
        """Return no publications."""
        return []

    def rollback(self, run: str) -> Published:
        """Refuse to roll back.

        Raises:
            BranchError: Always.
        """
        raise BranchError(
            f"The run {run} cannot be rolled back: only runs with LAKEHOUSE_PUBLISH=run can, and these need Trino with "
            "a JDBC catalog in PostgreSQL or with Nessie. See docs/safe-changes.md."
        )

    def drop(self, branch: str) -> int:
        """Drop the schemas of a branch with all their tables and views, and return the number of these.

        Raises:
            DatabaseError: A view outside of the branch reads one of the tables, or the database cannot be used.
        """
        with self._engine.schema_session(write=True) as session:
            record = records.read(session, session.schemas()).get(branch)
            if record is None:
                return 0
            count = len(session.relations(record.schemas))
            session.drop_schemas(record.schemas)
            records.remove(session, branch)
        return count

    def drop_remains(self, branch: str, tables: Collection[Name]) -> bool:
        """Drop schemas that dbt has created again, because the branch was dropped while a run was building there.

        Args:
            branch: The branch of the run.
            tables: The tables that the run may have built, for which `extend` made sure that the branch had schemas.

        Returns:
            Whether the branch had been dropped.
        """
        with self._engine.schema_session(write=False) as session:
            if branch in records.read(session, session.schemas()):
                return False
        with self._engine.schema_session(write=True) as session:
            of_others = [record.schemas for record in records.read(session, session.schemas()).values()]
            session.drop_schemas(_schemas_of(branch, tables).difference(*of_others))  # it may have been created again
        return True

    def delete_dropped(self) -> int:
        """Return 0: dropping a branch leaves no files."""
        return 0

    def branches(self) -> Sequence[Branch]:
        """Return all branches, the oldest first. Their number of tables is that of the tables that were built."""
        with self._engine.schema_session(write=False) as session:
            found = records.read(session, session.schemas())
            relations = session.relations([schema for record in found.values() for schema in record.schemas])
        return [
            Branch(name, "branch", one.created, one.expires, sum(schema in one.schemas for schema, _ in relations))
            for name, one in found.items()
        ]

    def in_use(self, branch: str, *, shared: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing. A run whose branch is dropped meanwhile fails, and removes what it has left."""
        return nullcontext()


def _schemas_of(branch: str, tables: Collection[Name]) -> set[str]:
    return {branch_schema(name.schema, branch) for name in tables}


def _left_by_killed(session: SchemaSession, branch: str, existing: Collection[str]) -> set[str]:
    """Return empty schemas that a process has created for a branch, and was killed before it could record them."""
    planned = records.planned(session, branch, existing)
    return planned - {schema for schema, _ in session.relations(planned)}


def _undo(session: SchemaSession, branch: str, schemas: Collection[str]) -> None:
    """Drop empty schemas of a branch that cannot be created, unless another process has created it meanwhile."""
    of_others = [record.schemas for record in records.read(session, session.schemas()).values()]
    session.drop_schemas({*schemas}.difference(*of_others))
    records.remove_plan(session, branch)


def _known(branch: str, found: Mapping[str, records.Record]) -> records.Record:
    if branch not in found:
        raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
    return found[branch]
