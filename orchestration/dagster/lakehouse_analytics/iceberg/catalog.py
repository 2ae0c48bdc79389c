"""The Iceberg catalog, opened by its name in pyiceberg's own configuration.

That is `PYICEBERG_CATALOG__<NAME>__*` in the environment, or `.pyiceberg.yaml`, read whenever a catalog is opened.
Importing this module is cheap; opening the first catalog imports pyiceberg, for about 2 CPU seconds and 100 MB.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.common.redact import SECRET_NAME, Redactor, secret_values

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

VARIABLE = "LAKEHOUSE_ICEBERG_CATALOG"
#: Properties of pyiceberg that are secret: its names have a key's id, too, and REST catalogs a section `auth`.
SECRET = re.compile(rf"{SECRET_NAME.pattern}|key|auth", re.IGNORECASE)
_DEFAULTS = {
    "init_catalog_tables": "false",  # a wrong address is an error, not a place for a new catalog
    "pool_pre_ping": "true",  # minutes pass between two uses, and databases restart
}


@dataclass(frozen=True)
class Client:
    """What pyiceberg's client of one type of catalog needs: a module, its package, and the extra that installs it."""

    module: str
    package: str
    extra: str


#: Types of catalogs that pyiceberg 0.12 knows (https://py.iceberg.apache.org/configuration/#catalogs) and that other
#: processes can read. The clients of `rest`, `sql`, `glue` and `dynamodb` are installed with this package.
CLIENTS: Mapping[str, Client] = {
    "rest": Client("requests", "requests", "rest"),
    "sql": Client("sqlalchemy", "sqlalchemy", "sql-postgres"),
    "glue": Client("boto3", "boto3", "glue"),
    "dynamodb": Client("boto3", "boto3", "dynamodb"),
    "hive": Client("thrift", "thrift", "hive"),
    "bigquery": Client("google.cloud.bigquery", "google-cloud-bigquery", "bigquery"),
}
#: How an address tells the type where none is set, as pyiceberg infers it.
_INFERRED = {"http": "rest", "thrift": "hive", "sqlite": "sql", "postgresql": "sql"}


class CatalogError(RuntimeError):
    """The catalog cannot be used. The message names the variable, the reason and the fix; it has no secrets."""


def check_client(name: str) -> None:
    """Refuse a catalog whose client is not installed, without importing pyiceberg.

    Only the environment is read: a catalog in `.pyiceberg.yaml` is checked when it is opened.

    Raises:
        CatalogError: naming the type of the catalog and the package.
    """
    properties = {key: os.environ.get(f"{_prefix(name)}{key.upper()}", "") for key in ("type", "uri")}
    _check_client(name, {key: value for key, value in properties.items() if value})


def open_catalog(name: str) -> Catalog:
    """Open a catalog; one object a process for each configuration, for use by many threads.

    Args:
        name: Of the catalog in pyiceberg's configuration. A SQL catalog's rows are stored under this name: it must be
            the catalog name of Trino's connector, too.

    Raises:
        CatalogError: there is no such catalog, a library is missing, or the catalog refused.
    """
    try:
        properties = _configured(name)
        _check_client(name, properties)
        return _open(name, json.dumps(properties, sort_keys=True))
    except CatalogError:
        raise
    except ModuleNotFoundError as error:
        raise CatalogError(_lacking(name, str(error.name))) from None
    except Exception as error:
        if type(error).__name__ == "NotInstalledError":
            raise CatalogError(_lacking(name, redact(name, str(error)))) from None
        raise CatalogError(
            f"{VARIABLE} is {name}, and that Iceberg catalog cannot be opened: {reason(name, error)}. "
            f"Check {_prefix(name)}*, or unset {VARIABLE}."
        ) from None


def reason(name: str, error: BaseException) -> str:
    """An error's kind and first line, without the catalog's secrets."""
    # SQLAlchemy wraps the driver's error in lines about itself.
    line = next(iter(str(getattr(error, "orig", None) or error).strip().splitlines()), "").rstrip(".")
    return redact(name, f"{type(error).__name__}: {line}" if line else type(error).__name__)


def redact(name: str, text: str) -> str:
    """A text without what the catalog's configuration keeps secret."""
    try:
        configured = _configured(name)
    except (CatalogError, ModuleNotFoundError):
        return text  # nothing was read that could have leaked
    # The catalog's own name is in every message, and often a user's or a password's, too.
    return Redactor(secret_values(configured, names=SECRET), public=[name])(text)


@lru_cache(maxsize=4)
def _open(name: str, properties: str) -> Catalog:
    from pyiceberg.catalog import load_catalog

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # one of them quotes the address, with its log-in
        catalog = load_catalog(name, **{**_DEFAULTS, **json.loads(properties)})
    if type(catalog).__name__ == "SqlCatalog":
        catalog.list_namespaces()  # pyiceberg opens a database that it cannot reach or read as an empty one
    return catalog


def _check_client(name: str, properties: Mapping[str, Any]) -> None:
    address = str(properties.get("uri", ""))
    inferred = next((kind for start, kind in _INFERRED.items() if address.startswith(start)), "")
    kind = str(properties.get("type") or inferred).lower()
    if kind == "in-memory":
        raise CatalogError(
            f"{VARIABLE} is {name}, a catalog of type in-memory, whose tables exist in one process only. "
            f"Set {_prefix(name)}TYPE to the type of the catalog that Trino reads, or unset {VARIABLE}."
        )
    client = CLIENTS.get(kind)
    if client and not _is_installed(client.module):
        raise CatalogError(
            f"{VARIABLE} is {name}, a catalog of type {kind}, whose client needs the Python package {client.package}, "
            f"which is not installed. Install pyiceberg[{client.extra}], or unset {VARIABLE}: row counts then come "
            "from queries."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False


def _configured(name: str) -> dict[str, Any]:
    from pyiceberg.utils.config import Config

    try:
        config = Config()
        properties = config.get_catalog_config(name)
        known = config.get_known_catalogs()
    except ValueError:
        # Its message may quote a value.
        raise CatalogError(
            f"pyiceberg's configuration is malformed: check .pyiceberg.yaml and PYICEBERG_*, or unset {VARIABLE}."
        ) from None
    if properties:
        return dict(properties)
    has = f" (it knows {', '.join(sorted(known))})" if known else ""
    hyphen = (
        " Write - for _ in the name: that is how pyiceberg reads variables."
        if name.lower().replace("_", "-") in known
        else ""
    )
    raise CatalogError(
        f"{VARIABLE} is {name}, but pyiceberg has no catalog of that name{has}.{hyphen} Set {_prefix(name)}TYPE, "
        f"{_prefix(name)}URI and what else it needs, or unset {VARIABLE}."
    )


def _lacking(name: str, what: str) -> str:
    return (
        f"{VARIABLE} is {name}, and a library for that kind of catalog is missing ({what}): "
        f"install pyiceberg with its extra (pyiceberg[hive], pyiceberg[glue], …), or unset {VARIABLE}."
    )


def _prefix(name: str) -> str:
    return f"PYICEBERG_CATALOG__{name.upper().replace('-', '_')}__"
