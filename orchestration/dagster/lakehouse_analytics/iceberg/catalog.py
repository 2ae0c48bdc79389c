"""Opens an Iceberg catalog by its name in pyiceberg's configuration.

That is `PYICEBERG_CATALOG__<NAME>__*` in the environment, or `.pyiceberg.yaml`. It is read whenever a catalog is
opened. Importing this module is cheap, but opening the first catalog imports pyiceberg, which takes about 2 CPU seconds
and 100 MB.
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
from lakehouse_analytics.iceberg.errors import is_transient

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

VARIABLE = "LAKEHOUSE_ICEBERG_CATALOG"
#: Names of pyiceberg's secret properties. In addition to common names, these have a key's id and the section `auth` of
#: REST catalogs.
SECRET = re.compile(rf"{SECRET_NAME.pattern}|key|auth", re.IGNORECASE)
_DEFAULTS = {
    "init_catalog_tables": "false",  # a wrong address is an error, and must not create a catalog
    "pool_pre_ping": "true",  # minutes may pass between two uses, and the database may restart
}


@dataclass(frozen=True)
class Client:
    """The dependencies of pyiceberg's client for a type of catalog.

    Attributes:
        module: The module to import.
        package: The package that has the module.
        extra: The extra of pyiceberg that installs the package.
    """

    module: str
    package: str
    extra: str


#: Types of catalogs that pyiceberg 0.12 supports (https://py.iceberg.apache.org/configuration/#catalogs) and that
#: several processes can share. The clients of `rest`, `sql`, `glue` and `dynamodb` are installed with this package.
CLIENTS: Mapping[str, Client] = {
    "rest": Client("requests", "requests", "rest"),
    "sql": Client("sqlalchemy", "sqlalchemy", "sql-postgres"),
    "glue": Client("boto3", "boto3", "glue"),
    "dynamodb": Client("boto3", "boto3", "dynamodb"),
    "hive": Client("thrift", "thrift", "hive"),
    "bigquery": Client("google.cloud.bigquery", "google-cloud-bigquery", "bigquery"),
}
#: The types that pyiceberg infers from the scheme of the address if no type is set.
_INFERRED = {"http": "rest", "thrift": "hive", "sqlite": "sql", "postgresql": "sql"}


class CatalogError(RuntimeError):
    """The catalog cannot be used. The message names the variable, the reason and the fix, and has no secrets.

    Attributes:
        transient: Whether a retry may succeed.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def check_client(name: str) -> None:
    """Check that the client of a catalog is installed, without importing pyiceberg.

    Only the environment is read. A catalog in `.pyiceberg.yaml` is checked when it is opened.

    Raises:
        CatalogError: The client is not installed. The message names the type of the catalog and the package.
    """
    properties = {key: os.environ.get(f"{_prefix(name)}{key.upper()}", "") for key in ("type", "uri")}
    _check_client(name, {key: value for key, value in properties.items() if value})


def open_catalog(name: str) -> Catalog:
    """Open a catalog. There is one object per process and configuration, which may be used by many threads.

    Args:
        name: Name of the catalog in pyiceberg's configuration. A SQL catalog stores its rows under this name, so it
            must also be the catalog name of Trino's connector.

    Raises:
        CatalogError: There is no such catalog, a library is missing, or the catalog cannot be opened.
    """
    try:
        properties = _configured(name)
        _check_client(name, properties)
        return _open(name, json.dumps(properties, sort_keys=True))
    except CatalogError:
        raise
    except ModuleNotFoundError as error:
        raise CatalogError(_missing_library(name, str(error.name))) from None
    except Exception as error:
        if type(error).__name__ == "NotInstalledError":
            raise CatalogError(_missing_library(name, redact(name, str(error)))) from None
        raise CatalogError(
            f"{VARIABLE} is {name}, and that Iceberg catalog cannot be opened: {reason(name, error)}. "
            f"Check {_prefix(name)}*, or unset {VARIABLE}.",
            transient=is_transient(error),
        ) from None


def reason(name: str, error: BaseException) -> str:
    """Return an error's type and first line, without the catalog's secrets."""
    # SQLAlchemy adds lines about itself to the driver's error.
    line = next(iter(str(getattr(error, "orig", None) or error).strip().splitlines()), "").rstrip(".")
    return redact(name, f"{type(error).__name__}: {line}" if line else type(error).__name__)


def redact(name: str, text: str) -> str:
    """Return a text without the secrets of the catalog's configuration."""
    try:
        configured = _configured(name)
    except (CatalogError, ModuleNotFoundError):
        return text  # no secret was read, so none can be in the text
    # The catalog's name is in every message. It is often a user name or a password, too.
    return Redactor(secret_values(configured, names=SECRET), public=[name])(text)


@lru_cache(maxsize=4)
def _open(name: str, properties: str) -> Catalog:
    from pyiceberg.catalog import load_catalog

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # one of them quotes the address with its password
        catalog = load_catalog(name, **{**_DEFAULTS, **json.loads(properties)})
    if type(catalog).__name__ == "SqlCatalog":
        catalog.list_namespaces()  # pyiceberg opens a database that it cannot read as if it were empty
    return catalog


def catalog_type(name: str) -> str:
    """Return the type of a catalog according to pyiceberg's configuration, such as `sql`; empty if it is unknown.

    Raises:
        CatalogError: There is no such catalog.
    """
    return _type_of(_configured(name))


def _type_of(properties: Mapping[str, Any]) -> str:
    address = str(properties.get("uri", ""))
    inferred = next((kind for start, kind in _INFERRED.items() if address.startswith(start)), "")
    return str(properties.get("type") or inferred).lower()


def _check_client(name: str, properties: Mapping[str, Any]) -> None:
    kind = _type_of(properties)
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
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _configured(name: str) -> dict[str, Any]:
    from pyiceberg.utils.config import Config

    try:
        config = Config()
        properties = config.get_catalog_config(name)
        known = config.get_known_catalogs()
    except ValueError:
        # The message may quote a secret value.
        raise CatalogError(
            f"pyiceberg's configuration is malformed: check .pyiceberg.yaml and PYICEBERG_*, or unset {VARIABLE}."
        ) from None
    if properties:
        return dict(properties)
    has = f" (it has {', '.join(sorted(known))})" if known else ""
    hyphen = (
        " Write - instead of _ in the name, because that is how pyiceberg reads the names of variables."
        if name.lower().replace("_", "-") in known
        else ""
    )
    raise CatalogError(
        f"{VARIABLE} is {name}, but pyiceberg has no catalog of that name{has}.{hyphen} Set {_prefix(name)}TYPE, "
        f"{_prefix(name)}URI and what else it needs, or unset {VARIABLE}."
    )


def _missing_library(name: str, what: str) -> str:
    return (
        f"{VARIABLE} is {name}, and a library for that kind of catalog is missing ({what}): "
        f"install pyiceberg with its extra (pyiceberg[hive], pyiceberg[glue], …), or unset {VARIABLE}."
    )


def _prefix(name: str) -> str:
    return f"PYICEBERG_CATALOG__{name.upper().replace('-', '_')}__"
