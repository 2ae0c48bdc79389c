"""The connection in a dbt profile of type `trino`, as values of our settings."""

from __future__ import annotations

import re
from typing import Any

from pydantic import SecretStr

from lakehouse_analytics.common.text import brief
from lakehouse_analytics.dbt.profile import Profile, ProfileError


def connection_of(profile: Profile) -> dict[str, Any]:
    """Return the address, the user and the catalog, by setting, without unusable values."""
    fields = profile.fields
    text = {
        "trino_host": fields.get("host"),
        "trino_user": fields.get("user"),
        "trino_catalog": profile.database,
        "trino_http_scheme": fields.get("http_scheme"),
    }
    found: dict[str, Any] = {name: str(value) for name, value in text.items() if value}
    if found.get("trino_http_scheme", "http") not in ("http", "https"):
        del found["trino_http_scheme"]
    if re.fullmatch("[0-9]{1,5}", str(fields.get("port", ""))):
        found["trino_port"] = int(fields["port"])
    return found


def log_in_of(profile: Profile) -> dict[str, Any]:
    """Return the password, token or certificate, by setting.

    The result is empty if the profile reads them from our own variables.

    Raises:
        ProfileError: Rows cannot be counted with the profile's authentication method.
    """
    fields, method = profile.fields, str(profile.fields.get("method") or "none")
    found: dict[str, Any] = {}
    if isinstance(fields.get("cert"), str) and fields["cert"]:
        found["trino_ca_bundle"] = profile.project_dir / fields["cert"]
    if method == "none":
        return found
    if method == "ldap" and fields.get("password"):
        found["trino_password"] = SecretStr(str(fields["password"]))
    elif method == "jwt" and fields.get("jwt_token"):
        found["trino_jwt"] = SecretStr(str(fields["jwt_token"]))
    elif method == "certificate" and fields.get("client_certificate") and fields.get("client_private_key"):
        found["trino_client_certificate"] = profile.project_dir / str(fields["client_certificate"])
        found["trino_client_key"] = profile.project_dir / str(fields["client_private_key"])
    elif method not in ("ldap", "jwt", "certificate"):
        raise ProfileError(
            f"{profile.where} logs in to Trino with `method: {brief(method)}`, but rows can only be counted with ldap, "
            "jwt, certificate or none: use one of them, or set LAKEHOUSE_TRINO_PASSWORD or LAKEHOUSE_TRINO_JWT as well."
        )
    return found | {"trino_http_scheme": "https"}
