"""What branches and publications are, and the errors of a catalog that has them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, Protocol

from lakehouse_analytics.common.names import FEW, some
from lakehouse_analytics.common.text import brief

#: Seconds after which readers with time travel may rely on a publication being visible in all tables.
SETTLED = 10.0
#: Characters with which a run can be abbreviated, as in Dagster's UI.
ABBREVIATED = 8
#: Between the schema and the branch in the name of a branch's schema.
SEPARATOR = "__"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")


class BranchError(RuntimeError):
    """The branch cannot be created, published or rolled back. The message says why and what to do."""


class BranchBusyError(BranchError):
    """A run, or another command, is using the branch."""


class RefusedError(BranchError):
    """Nothing was published, because the branch or the tables are not in a state that allows it."""


class ConflictError(RefusedError):
    """Tables were changed since the branch was created, so nothing was published.

    Attributes:
        tables: The changed tables.
    """

    def __init__(self, branch: str, tables: Sequence[Name]) -> None:
        self.tables = tables
        names = some([str(table) for table in tables], 5)
        super().__init__(
            f"Nothing of the branch {branch} was published, because other writers have changed tables since it was "
            f"created: {names}. Build it again from the current tables."
        )


@dataclass(frozen=True, order=True)
class Name:
    """The name of a table or view in the catalog.

    Attributes:
        schema: The schema.
        table: The table.
    """

    schema: str
    table: str

    def __str__(self) -> str:
        """Return the name as in messages."""
        return f"{self.schema}.{self.table}"

    def on(self, branch: str) -> Name:
        """Return the name of the same table on a branch."""
        return Name(branch_schema(self.schema, branch), self.table)


@dataclass(frozen=True)
class Branch:
    """A branch.

    Attributes:
        name: Its name.
        kind: `run` for the branch of a run, which the run publishes or drops; `branch` for one that people create.
        created: The time of creation.
        expires: The time after which it may be dropped; None: when the run that created it has ended.
        tables: The number of tables that it may change.
    """

    name: str
    kind: Literal["run", "branch"]
    created: datetime
    expires: datetime | None
    tables: int


@dataclass(frozen=True)
class Published:
    """The result of publishing.

    Attributes:
        tables: The tables and views that were changed or created.
        unchanged: Those that the branch had not changed.
        seconds: The time between the moment of publication, as time travel knows it, and the commit.
    """

    tables: Sequence[Name]
    unchanged: Sequence[Name] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Publication:
    """What one step of a run has published.

    Attributes:
        name: The id of the run; for other steps than the first, followed by `/` and the step.
        published: The time.
        rolled_back: The time of its rollback; None if it was not rolled back.
        tables: The tables and views that were changed or created.
    """

    name: str
    published: datetime
    rolled_back: datetime | None
    tables: Sequence[Name]

    @property
    def run(self) -> str:
        """The id of the run."""
        return self.name.split("/")[0]


def of_one_run(run: str, found: Sequence[Publication]) -> Sequence[Publication]:
    """Return publications whose name begins with a text, if all are of one run.

    Raises:
        BranchError: Several runs begin so.
    """
    runs = sorted({publication.run for publication in found})
    if len(runs) > 1:
        raise BranchError(f"{run} is the beginning of several runs: {some(runs, FEW)}. Give more of the id.")
    return found


def run_to_roll_back(run: str, found: Sequence[Publication]) -> str:
    """Return the id of a run that can be rolled back.

    Args:
        run: The id, or its first characters.
        found: The publications of the run.

    Raises:
        BranchError: The run has published nothing, or was rolled back already.
    """
    if not found:
        raise BranchError(
            f"The run {run} has published nothing. Give the id of a run, or its first {ABBREVIATED} characters."
        )
    run = found[0].run
    if done := [publication.rolled_back for publication in found if publication.rolled_back]:
        raise BranchError(f"The run {run} was rolled back already, at {done[0]:%Y-%m-%d %H:%M:%S %Z}.")
    return run


def changed_since(run: str, names: Sequence[Name]) -> BranchError:
    """Return the error for a run whose tables have been changed since."""
    return BranchError(
        f"The run {run} cannot be rolled back, because tables have been changed since: "
        f"{some([str(name) for name in names], FEW)}. Roll back the later runs first, or build the tables again."
    )


def expired(run: str, name: Name) -> BranchError:
    """Return the error for a run before which a table had a state whose files are gone."""
    return BranchError(
        f"The run {run} cannot be rolled back: the snapshot of {name} before it has expired. Build the table again."
    )


class BranchCatalog(Protocol):
    """The branches and publications of one catalog. See `branches.opening` for the types of catalogs.

    Attributes:
        copies_tables: Whether a branch begins with copies of tables. Otherwise, it has only what was built there, and
            everything else is read from production.
    """

    copies_tables: ClassVar[bool]

    def create(
        self,
        branch: str,
        tables: Mapping[Name, bool],
        *,
        kind: Literal["run", "branch"] = "branch",
        expires: datetime | None = None,
    ) -> None:
        """Create a branch.

        Args:
            branch: A name of lower-case letters, digits and underscores.
            tables: The tables that the branch may change. True copies the table as it is; False starts without it,
                because it will be created from scratch.
            kind: The kind of the branch.
            expires: The time after which the branch may be dropped.

        Raises:
            BranchError: A branch of that name exists, or the catalog or a table cannot have branches.
        """

    def extend(self, branch: str, tables: Mapping[Name, bool]) -> None:
        """Add tables to a branch, such as new models. Tables that it has already stay as they are.

        Args:
            branch: The branch.
            tables: See `create`.

        Raises:
            BranchError: There is no such branch.
        """

    def built(self, branch: str) -> Sequence[Name]:
        """Return the tables that a branch has, as named outside of it.

        Raises:
            BranchError: There is no such branch.
        """

    def record_results(self, branch: str, passed: Collection[Name], failed: Collection[Name]) -> None:
        """Record which tables of a branch a run has built and which have passed their gates."""

    def failed(self, branch: str) -> Sequence[Name]:
        """Return the tables of a branch that failed, or were not built, in the last run that should have built them."""

    def publish(self, branch: str, tables: Collection[Name], publication: str) -> Published:
        """Replace tables with those of the branch, all of them or none.

        Args:
            branch: The branch.
            tables: The tables to publish, as named outside of the branch.
            publication: The id of the run, under which `rollback` finds what was replaced.

        Raises:
            ConflictError: A table has changed since the branch was created.
            BranchError: The branch has no such table.
        """

    def publications(self, run: str) -> Sequence[Publication]:
        """Return the publications of a run, the oldest first.

        Args:
            run: The id of the run, or at least its first 8 characters.

        Raises:
            BranchError: Several runs begin so.
        """

    def rollback(self, run: str) -> Published:
        """Restore the tables as they were before the publications of a run.

        Raises:
            BranchError: The run has published nothing, it was rolled back already, or a table has changed since.
        """

    def drop(self, branch: str) -> int:
        """Drop a branch and the files that only it has. Return the number of deleted files.

        Raises:
            BranchError: Files cannot be deleted yet. `delete_dropped` repeats it.
        """

    def delete_dropped(self) -> int:
        """Delete the files of dropped branches, also those that a killed process has left. Return their number."""

    def branches(self) -> Sequence[Branch]:
        """Return all branches, the oldest first."""

    def in_use(self, branch: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Mark a branch as being used for as long as the block runs, or this process lives.

        Several blocks may share a branch. Dropping and publishing it, and the branch of a run, are exclusive.

        Raises:
            BranchBusyError: Another process is using the branch.
        """


def check_name(branch: str) -> None:
    """Check the name of a branch.

    Raises:
        BranchError: The name is not usable as a part of a schema's name.
    """
    if not _NAME.fullmatch(branch) or SEPARATOR in branch:
        raise BranchError(
            f"'{brief(branch, 64)}' is not a name of a branch: expected up to 48 lower-case letters, digits and single "
            "underscores, such as pr_42."
        )


def branch_schema(schema: str, branch: str) -> str:
    """Return the schema that has a branch's tables of a schema."""
    return f"{schema}{SEPARATOR}{branch}"
