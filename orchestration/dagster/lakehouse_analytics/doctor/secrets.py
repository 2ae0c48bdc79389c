"""Finds the secrets of this process, so that the report does not quote them from a library's message."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.settings import PREFIX, Settings

#: Settings whose values are always shown. Each component of a path is shown.
_SHOWN = ("TRINO_USER", "TRINO_CATALOG", "ICEBERG_CATALOG", "AIRBYTE_USER", "SMTP_USER", "DBT_TARGET", "DUCKDB_PATH")
_PATHS = ("LAKEHOUSE_DUCKDB_PATH", "LAKEHOUSE_DBT_PROJECT_DIR", "DAGSTER_HOME", "HOME", "USER", "LOGNAME")
#: A word, optionally followed by a number. Such a value is not a token.
_WORD = re.compile(r"[A-Za-z]+([-_.][A-Za-z]+)*\d{0,2}")


#: Variables whose names suggest a secret, but which hold folders or the names of Kubernetes Secrets.
_NO_SECRET = re.compile(r"(OLD)?PWD|DAGSTER_K8S_.*_SECRET")


def mask() -> Callable[[str], str]:
    """Return a function that masks the secrets of this process's environment and of its Dagster instance in a text."""
    return Redactor({*_from_settings(), *_from_environment()}, public=_public())


def _from_settings() -> Iterator[str]:
    # Read the environment, because there are no settings if one of them is invalid.
    values = {name.upper(): value for name, value in os.environ.items()}
    for name, field in Settings.model_fields.items():
        if "SecretStr" in str(field.annotation):
            yield values.get(f"{PREFIX}{name.upper()}", "")


def _from_environment() -> Iterator[str]:
    ours = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    others = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    yield from secret_values({name: value for name, value in others.items() if not _NO_SECRET.fullmatch(name)})
    # Our own settings may have addresses with a password, whose names do not suggest a secret.
    yield from secret_values([value for name, value in os.environ.items() if name.upper() in ours])
    yield from secret_values(_resolved(_instance()))


def _public() -> Iterator[str]:
    shown = [os.getenv(name, "") for name in (*(f"{PREFIX}{name}" for name in _SHOWN), *_PATHS)]
    for value in (*shown, str(Path.cwd())):
        yield from (word for word in re.split(r"[/@\s]", value) if _WORD.fullmatch(word))


def _instance() -> Any:
    """Return Dagster's configuration, which may contain passwords."""
    import yaml

    try:
        return yaml.safe_load((Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").read_text())
    except (KeyError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _resolved(value: Any) -> Any:
    """Replace `{env: NAME}` of `dagster.yaml` by the value of the variable."""
    if isinstance(value, Mapping):
        if isinstance(value.get("env"), str) and len(value) == 1:
            return os.getenv(value["env"], "")
        return {key: _resolved(item) for key, item in value.items()}
    return [_resolved(item) for item in value] if isinstance(value, list) else value
