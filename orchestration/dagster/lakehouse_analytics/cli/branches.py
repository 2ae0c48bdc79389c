"""The commands for branches of the lakehouse, and the rollback of runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import click

from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError, Name
from lakehouse_analytics.branches.deferral import refuse_other_databases
from lakehouse_analytics.branches.names import branch_name, copies_of
from lakehouse_analytics.branches.opening import branches_of
from lakehouse_analytics.common.names import FEW, counted, some
from lakehouse_analytics.dbt.graph import Table
from lakehouse_analytics.engines.base import DatabaseError
from lakehouse_analytics.settings import Settings


def opened(settings: Settings) -> BranchCatalog:
    """Return the catalog that has the branches.

    Raises:
        BranchError: The lakehouse cannot have branches.
        DatabaseError: The database cannot be used.
    """
    return branches_of(settings, click.echo)


def create(settings: Settings, name: str, *, days: int, replace: bool = False) -> str:
    """Create a branch of all tables of the dbt project, and return what was done.

    Args:
        settings: The settings.
        name: The name, such as `pr-42`.
        days: Days after which maintenance may drop the branch.
        replace: Whether a branch of this name is dropped first.

    Raises:
        BranchError: There is such a branch and it is not to be replaced, or a run is using it.
    """
    branch, catalog = branch_name(name), opened(settings)
    tables = tables_of_project(settings)
    names = copies_of(tables)
    if not catalog.copies_tables:
        refuse_other_databases(tables, settings.profile.database)
    expires = datetime.now(UTC) + timedelta(days=days)
    dropped = drop(settings, name, if_exists=True) + "\n" if replace and _exists(catalog, branch) else ""
    if not catalog.copies_tables:  # maintenance does it only on Trino
        dropped += _drop_expired(catalog)
    catalog.create(branch, names, expires=expires)
    return (
        f"{dropped}Created the branch {branch} {_beginning(catalog, names)}; it expires on {expires:%Y-%m-%d}.\n"
        f"A run with LAKEHOUSE_BRANCH={branch} writes there."
    )


def _beginning(catalog: BranchCatalog, names: Mapping[Name, bool]) -> str:
    """Return what a branch begins with."""
    if catalog.copies_tables:
        return f"of {counted(len(names), 'table')}"
    return "without tables: what is not built on it is read from production"


def _drop_expired(catalog: BranchCatalog) -> str:
    """Drop the branches that have expired, and return what was done. A failure does not prevent a new branch."""
    from lakehouse_analytics.assets.run_branch import remove_dead_branches

    try:
        expired = remove_dead_branches(catalog)
    except (BranchError, DatabaseError) as error:
        return f"Not all branches that have expired were dropped: {error}\n"
    return "".join(f"Dropped the branch {old}, which had expired.\n" for old in expired)


def tables_of_project(settings: Settings) -> Collection[Table]:
    """Return the tables of the dbt project."""
    from lakehouse_analytics.dbt.manifest import read
    from lakehouse_analytics.dbt.project import DbtProject

    project = DbtProject.from_settings(settings)
    return read(project.manifest(), project.configuration(), project_dir=project.project_dir).tables.values()


def listing(settings: Settings) -> str:
    """Return a line per branch."""
    branches = opened(settings).branches()
    if not branches:
        return "There are no branches."
    lines = [
        f"{branch.name:<24} {branch.kind:<7} created {branch.created:%Y-%m-%d %H:%M}  "
        f"{f'expires {branch.expires:%Y-%m-%d}' if branch.expires else 'until its run ends':<20} "
        f"{counted(branch.tables, 'table')}"
        for branch in branches
    ]
    return "\n".join(lines)


def publish(settings: Settings, name: str, *, force: bool = False) -> str:
    """Publish all tables of a branch, drop it, and return what was done."""
    branch, catalog = branch_name(name), opened(settings)
    with catalog.in_use(branch):
        tables = catalog.built(branch)
        if (failed := [str(table) for table in catalog.failed(branch)]) and not force:
            raise BranchError(
                f"Nothing of the branch {branch} was published, because these tables failed their gates or were not "
                f"built in the last run on the branch: {some(failed, FEW)}. Build them again, or use --force."
            )
        published = catalog.publish(branch, tables, f"{branch} {datetime.now(UTC):%Y%m%dT%H%M%S}")
        try:
            catalog.drop(branch)
        except BranchError as error:
            left = f"\nThe branch itself was not dropped: {error}"
        else:
            left = ""
    if not published.tables:
        return f"The branch {branch} had changed nothing, and {'was dropped' if not left else 'is not needed'}.{left}"
    names = "".join(f"\n  {table}" for table in published.tables)
    return f"Published {counted(len(published.tables), 'table')} of the branch {branch}:{names}{left}"


def drop(settings: Settings, name: str, *, if_exists: bool = False) -> str:
    """Drop a branch, and return what was done.

    Args:
        settings: The settings.
        name: The name of the branch.
        if_exists: Whether nothing is done if there is no such branch.

    Raises:
        BranchError: There is no such branch, or a run is using it.
    """
    branch, catalog = branch_name(name), opened(settings)
    if not _exists(catalog, branch):
        if if_exists:
            return f"There is no branch {branch}."
        raise BranchError(f"There is no branch {branch}. `lakehouse branch list` shows all.")
    with catalog.in_use(branch):
        count = catalog.drop(branch)
    what = f"{counted(count, 'file')} that only it had" if catalog.copies_tables else counted(count, "table")
    return f"Dropped the branch {branch} and {what}."


def _exists(catalog: BranchCatalog, branch: str) -> bool:
    return branch in {existing.name for existing in catalog.branches()}


def require(settings: Settings, name: str) -> bool:
    """Check that there is a branch, and return whether it began with copies of tables.

    Raises:
        BranchError: There is no such branch, or the lakehouse cannot have branches.
    """
    catalog = opened(settings)
    if not _exists(catalog, name):
        raise BranchError(f"There is no branch {name}. Create it: lakehouse branch create {name}")
    return catalog.copies_tables


def rollback(settings: Settings, run: str, *, yes: bool) -> str:
    """Restore the tables as they were before a run published them, and return what was done."""
    catalog = opened(settings)
    publications = catalog.publications(run)
    tables = [table for publication in publications for table in publication.tables]
    if tables and not yes:
        click.echo(f"The run {publications[0].run} published, at {publications[0].published:%Y-%m-%d %H:%M:%S %Z}:")
        click.echo("".join(f"  {table}\n" for table in tables), nl=False)
        click.confirm("Restore these tables as they were before?", abort=True)
    restored = catalog.rollback(run)
    return f"Restored {counted(len(restored.tables), 'table')}."
