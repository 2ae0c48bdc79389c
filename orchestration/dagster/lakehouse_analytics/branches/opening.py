"""Opens the branches by the type of the catalog: the one place that knows which types can copy tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError
from lakehouse_analytics.iceberg.catalog import catalog_type, open_catalog

if TYPE_CHECKING:
    from lakehouse_analytics.branches.schema_catalog import SchemaBranches
    from lakehouse_analytics.settings import Settings

_NEEDED = (
    "Copies of tables, and with them LAKEHOUSE_PUBLISH=run, need a SQL catalog in PostgreSQL, which Trino calls a JDBC "
    "catalog, or the REST catalog of Nessie. See docs/safe-changes.md, `What each catalog can do`."
)


def open_branches(catalog: str) -> BranchCatalog:
    """Return the branches of a catalog.

    Args:
        catalog: The name of the catalog in pyiceberg's configuration.

    Raises:
        BranchError: The catalog cannot have branches. The message says why.
        CatalogError: The catalog cannot be opened.
    """
    opened: Any = open_catalog(catalog)
    kind = type(opened).__name__
    if kind == "SqlCatalog":
        from lakehouse_analytics.branches.sql_catalog import SqlBranchCatalog

        return SqlBranchCatalog(catalog)
    if kind == "RestCatalog":
        from lakehouse_analytics.branches.nessie_api import is_nessie

        if not is_nessie(opened.properties):
            raise BranchError(
                f"LAKEHOUSE_ICEBERG_CATALOG is {catalog}, a REST catalog that is not Nessie. On other servers, "
                "`drop table` of a copy may delete the files of the table itself, or a publication of several tables "
                f"may be interrupted in the middle. {_NEEDED}"
            )
        from lakehouse_analytics.branches.nessie_catalog import NessieBranchCatalog

        return NessieBranchCatalog(catalog)
    raise BranchError(f"LAKEHOUSE_ICEBERG_CATALOG is {catalog}, a catalog of type {kind}. {_NEEDED}")


def has_branches(catalog: str) -> bool:
    """Return whether a catalog may have branches: a SQL catalog that had some, or Nessie.

    Only catalogs of the types SQL and REST are opened.

    Raises:
        CatalogError: The catalog cannot be opened.
    """
    kind = catalog_type(catalog)
    if kind not in {"sql", "rest"}:
        return False
    opened: Any = open_catalog(catalog)
    if kind == "sql":
        from lakehouse_analytics.branches.sql_tables import has_tables

        return has_tables(opened.engine)
    from lakehouse_analytics.branches.nessie_api import is_nessie

    return is_nessie(opened.properties)


def copies_tables(settings: Settings) -> bool:
    """Return whether branches begin with copies of tables; otherwise, they are schemas that begin empty.

    Raises:
        CatalogError: The Iceberg catalog cannot be opened.
        BranchError: The server of the catalog does not respond.
    """
    catalog = settings.iceberg_catalog
    if not settings.engine_type.iceberg or not catalog or catalog_type(catalog) not in {"sql", "rest"}:
        return False
    opened: Any = open_catalog(catalog)
    if catalog_type(catalog) == "sql":
        return bool(opened.engine.dialect.name == "postgresql")
    from lakehouse_analytics.branches.nessie_api import is_nessie

    return is_nessie(opened.properties)


def schema_branches(settings: Settings, log: Callable[[str], None]) -> SchemaBranches | None:
    """Return the branches that are schemas; None if branches begin with copies of tables.

    Args:
        settings: The settings.
        log: Called with a message if the database must be waited for.

    Raises:
        BranchError: The engine cannot have branches.
        CatalogError: The Iceberg catalog cannot be opened.
        DatabaseError: The database cannot be used.
    """
    from lakehouse_analytics.branches.schema_catalog import SchemaBranches
    from lakehouse_analytics.engines.schema_session import HasSchemas

    if copies_tables(settings):
        return None
    engine, title = settings.engine_type.resource(settings), settings.engine_type.title
    if not isinstance(engine, HasSchemas):
        raise BranchError(f"Branches of {title} are not possible yet.")
    engine.wait_until_free(log)
    return SchemaBranches(engine, title)


def branches_of(settings: Settings, log: Callable[[str], None]) -> BranchCatalog:
    """Return the branches of the lakehouse.

    Args:
        settings, log: See `schema_branches`.

    Raises:
        BranchError, CatalogError, DatabaseError: See `schema_branches`.
    """
    return schema_branches(settings, log) or open_branches(settings.iceberg_catalog or "")


def existing_branches(settings: Settings, log: Callable[[str], None]) -> BranchCatalog | None:
    """Return the branches of the lakehouse; None if there has not been any.

    Args:
        settings, log: See `schema_branches`.

    Raises:
        BranchError, CatalogError, DatabaseError: See `schema_branches`.
    """
    catalog = settings.iceberg_catalog
    if found := schema_branches(settings, log):
        return found
    return open_branches(catalog) if catalog and has_branches(catalog) else None
