"""The probe of the object storage: whether ingest can write to it with pyiceberg's configuration."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from lakehouse_analytics.doctor.probe import Finding, ProbeContext, failed, fine, skipped, unchecked
from lakehouse_analytics.iceberg.catalog import SECRET, VARIABLE
from lakehouse_analytics.iceberg.deletion import delete_file

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO

#: A folder below the warehouse's path.
FOLDER = "lakehouse-doctor"
CHECK_ENDPOINT = "Check that the catalog's database and the object storage answer (PYICEBERG_CATALOG__*)."


def imports() -> tuple[str, ...]:
    """Return the modules to import, if a catalog is configured."""
    return ("pyiceberg.catalog.sql", "pyiceberg.io.pyarrow") if os.getenv(VARIABLE) else ()


def warehouse(context: ProbeContext) -> Finding:
    """Write an object below the warehouse's path, and delete it."""
    from lakehouse_analytics.iceberg.catalog import CatalogError, open_catalog, reason

    name = context.settings.iceberg_catalog
    if name is None:
        return skipped("LAKEHOUSE_ICEBERG_CATALOG is not set")
    try:
        catalog = open_catalog(name)
        place = _place(catalog)
    except CatalogError as error:
        message, _, fix = str(error).partition(". ")
        return failed(message, fix or "Check PYICEBERG_CATALOG__*.")
    if place is None:
        return unchecked(
            f"the catalog {name} opens; writing was not checked, because the catalog has no location for its warehouse",
            "Build a table, or skip this probe (--skip warehouse).",
        )
    folder = f"{place.rstrip('/')}/{FOLDER}"
    location = f"{folder}/{uuid.uuid4().hex}"

    from pyiceberg.io import load_file_io

    patience = f"{max(1, context.patience / 3):.0f}"
    waits = {"s3.connect-timeout": patience, "s3.request-timeout": patience}
    files = load_file_io({**waits, **catalog.properties}, location)
    try:
        _write(files, location)
    except Exception as error:
        with suppress(Exception):  # the object may exist although the response was lost
            delete_file(files, location)
        return _refused(catalog, name, place, _short(reason(name, error)))
    try:
        delete_file(files, location)
    except Exception as error:
        return failed(
            f"{location} was written and cannot be deleted: {_short(reason(name, error))}",
            "Delete it, and grant the right to delete: maintenance and ingest need it.",
        )
    return fine(f"the catalog {name} opens; an object was written below {place} and deleted")


def _refused(catalog: Catalog, name: str, place: str, why: str) -> Finding:
    if _may_vend(catalog):
        return skipped(
            f"the catalog {name} opens; nothing can be written below {place} with the keys of this process, which is "
            f"expected if the catalog provides keys with each table: {why}"
        )
    return failed(
        f"nothing can be written below {place}: {why}",
        f"Check PYICEBERG_CATALOG__{name.upper().replace('-', '_')}__*: endpoint, keys, region and WAREHOUSE.",
    )


def _may_vend(catalog: Catalog) -> bool:
    """Return whether the catalog may provide keys with each table (vended credentials), because none is configured."""
    storage = (key for key in catalog.properties if key.startswith(("s3.", "client.", "gcs.", "adls.")))
    return type(catalog).__name__ == "RestCatalog" and not any(SECRET.search(key) for key in storage)


def _write(files: FileIO, location: str) -> None:
    # `overwrite`, because then pyarrow does not check first whether the object exists.
    with files.new_output(location).create(overwrite=True) as stream:
        stream.write(b"`lakehouse doctor` writes this file to check that it can, and deletes it at once.\n")


def _short(reason: str) -> str:
    """Return an SDK's message without its prefix, which names the operation and internal identifiers."""
    _, prefix, what = reason.partition("AWS Error ")
    return prefix + what if prefix else reason


def _place(catalog: Catalog) -> str | None:
    """Return the location of the tables.

    The warehouse of a REST catalog may be a name; then its namespaces are tried.
    """
    named = str(catalog.properties.get("warehouse") or "")
    if "://" in named or named.startswith(("/", "file:")):
        return named
    for namespace in catalog.list_namespaces()[:3]:
        if found := catalog.load_namespace_properties(namespace).get("location"):
            return str(found)
    return None
