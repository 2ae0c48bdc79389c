"""Opens the branches of an Iceberg catalog by its type: the one place that knows which types can have branches."""

from __future__ import annotations

from typing import Any

from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError
from lakehouse_analytics.iceberg.catalog import catalog_type, open_catalog

_NEEDED = (
    "Branches need a SQL catalog in PostgreSQL, which Trino calls a JDBC catalog, or the REST catalog of Nessie. "
    "See docs/safe-changes.md, `What each catalog can do`."
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
