"""Connections to databases by name: the connection `shop` is the address in LAKEHOUSE_CONNECTION_SHOP."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from lakehouse_analytics.common.environment import CONNECTION_PREFIX, PREFIX, SettingsError
from lakehouse_analytics.common.redact import MASK, SECRET_NAME, Redactor
from lakehouse_analytics.common.text import brief, did_you_mean, suggestion

#: The only scheme whose databases are files: `chdb:///path`, or `chdb://` in memory.
_FILES = "chdb"
#: Options that name a socket or a host, in place of the host of the address.
_HOST_OPTIONS = {"host", "hostaddr", "unix_socket"}
_ENCODE = "Characters such as @ / : # ? % in the user or the password must be percent-encoded: %40 stands for @"


@dataclass(frozen=True)
class Connection:
    """The address of a database.

    Attributes:
        name: Name of the connection.
        scheme: Such as `postgresql`.
        host: Host, or an empty string if an option has it.
        port: Port; None for the default of the driver.
        user: User; None if the address has none.
        password: Password; None if the address has none.
        database: Name of the database; for `chdb`, its path, or an empty string for one in memory.
        options: Query parameters, such as `sslmode`.
        url: The address, with the password.
        redacted: The address without secrets, for messages.
    """

    name: str
    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    database: str
    options: Mapping[str, str] = field(repr=False)
    url: str = field(repr=False)
    redacted: str

    def redact(self, text: object) -> str:
        """Return a text, such as a driver's error, without the secrets of this address."""
        secrets = [value for key, value in self.options.items() if SECRET_NAME.search(key)]
        public = [word for word in (self.user, self.host, self.database) if word]
        return Redactor([*secrets, *([self.password] if self.password else [])], public)(str(text))


def connection_variable(name: str) -> str:
    """Return the environment variable of a connection."""
    return f"{CONNECTION_PREFIX}{name.upper()}"


def connection(
    name: str, schemes: Collection[str], environment: Mapping[str, str] | None = None, *, example: str | None = None
) -> Connection:
    """Return a connection by its name.

    Args:
        name: Name of the connection.
        schemes: The schemes that the caller can use, such as `postgresql`. The first is the one of the example.
        environment: Environment variables. Default: those of the process.
        example: An address for messages. Default: one of the first scheme.

    Raises:
        SettingsError: The variable is not set, or its address is wrong or of another scheme. The message does not
            contain the address.
    """
    values = os.environ if environment is None else environment
    variable = connection_variable(name)
    example = example or f"{next(iter(schemes))}://user:password@host/database"
    url = values.get(variable, "").strip()
    if not url:
        others = [key for key, value in values.items() if key.startswith(PREFIX) and value.strip()]
        near = did_you_mean(variable, others, quoted="{}, which is set".format, cutoff=0.85)
        raise SettingsError(f"{variable} is not set: the address of the connection `{name}`, such as {example}{near}")
    try:
        return _parse(name, url, schemes)
    except ValueError as error:
        problem = str(error)
    # Raised here, without a context: the errors of urllib quote parts of the address, such as a password.
    raise SettingsError(f"{variable}: {problem}. Expected an address such as {example}")


def _parse(name: str, url: str, schemes: Collection[str]) -> Connection:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if not found:
        raise ValueError("the address has no scheme")
    scheme = found[1].lower()
    if scheme not in schemes:
        raise ValueError(f"the scheme {brief(scheme)} is not usable here; {suggestion(scheme, schemes)}")
    parts = _split(url)
    database = _database(parts, scheme)
    options = _options(parts.query)
    host, port, user = parts.hostname or "", parts.port, _decoded(parts.username)
    url = scheme + url[len(scheme) :]  # drivers expect lower case
    if not host and scheme != _FILES and not _HOST_OPTIONS & options.keys():
        raise ValueError("the address has no host")
    shown = {key: MASK if SECRET_NAME.search(key) else value for key, value in options.items()}
    address = f"[{host}]" if ":" in host else host
    redacted = (
        f"{scheme}://"
        + (f"{user}:{MASK}@" if user and parts.password else f"{user}@" if user else "")
        + (f"{address}:{port}" if port else address)
        + (database if scheme == _FILES else f"/{database}")
        + ("?" + "&".join(f"{key}={value}" for key, value in shown.items()) if shown else "")
    )
    return Connection(name, scheme, host, port, user, _decoded(parts.password), database, options, url, redacted)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"its host or port is wrong. {_ENCODE}") from None
    # What follows an unencoded # or / of a password ends up in the fragment or in the path.
    if parts.fragment or url.endswith("#") or "@" in parts.path or parts.netloc.count("@") > 1:
        raise ValueError(f"it cannot be parsed. {_ENCODE}")
    return parts


def _database(parts: SplitResult, scheme: str) -> str:
    if scheme == _FILES:
        return _decoded(parts.path) or ""
    database = _decoded(parts.path.removeprefix("/"))
    if not database:
        raise ValueError("the address has no database")
    if "/" in parts.path.removeprefix("/"):
        raise ValueError("its database contains /")
    return database


def _options(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")) if query else {}
    except ValueError:
        raise ValueError(f"its options are not of the form name=value&…. {_ENCODE}") from None


def _decoded(text: str | None) -> str | None:
    try:
        return text if text is None else unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a percent-encoded character is not UTF-8") from None
