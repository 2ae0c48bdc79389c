"""Everything secret that a library's message could quote, from where this process has it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lakehouse_analytics.common.redact import Redactor, secret_values
from lakehouse_analytics.settings import PREFIX, Settings

#: Settings that the report shows in any case. Of a path every part is shown.
_SHOWN = ("TRINO_USER", "TRINO_CATALOG", "ICEBERG_CATALOG", "AIRBYTE_USER", "SMTP_USER", "DBT_TARGET", "DUCKDB_PATH")
_PATHS = ("LAKEHOUSE_DUCKDB_PATH", "LAKEHOUSE_DBT_PROJECT_DIR", "DAGSTER_HOME", "HOME", "USER", "LOGNAME")
#: A word, perhaps with a number behind it. A token in such a variable is none.
_WORD = re.compile(r"[A-Za-z]+([-_.][A-Za-z]+)*\d{0,2}")


#: Folders, and names of Kubernetes' Secrets, by names that sound secret.
_NO_SECRET = re.compile(r"(OLD)?PWD|DAGSTER_K8S_.*_SECRET")


def mask() -> Callable[[str], str]:
    """A function that masks every secret of this process's environment and of its Dagster instance in a text."""
    return Redactor({*_of_settings(), *_guessed()}, public=_public())


def _of_settings() -> Iterator[str]:
    # From the environment itself: where the settings are wrong there are none.
    values = {name.upper(): value for name, value in os.environ.items()}
    for name, field in Settings.model_fields.items():
        if "SecretStr" in str(field.annotation):
            yield values.get(f"{PREFIX}{name.upper()}", "")


def _guessed() -> Iterator[str]:
    ours = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    others = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    yield from secret_values({name: value for name, value in others.items() if not _NO_SECRET.fullmatch(name)})
    # Addresses among our own settings: their names say nothing of secrets.
    yield from secret_values([value for name, value in os.environ.items() if name.upper() in ours])
    yield from secret_values(_resolved(_instance()))


def _public() -> Iterator[str]:
    shown = [os.getenv(name, "") for name in (*(f"{PREFIX}{name}" for name in _SHOWN), *_PATHS)]
    for value in (*shown, str(Path.cwd())):
        yield from (word for word in re.split(r"[/@\s]", value) if _WORD.fullmatch(word))


def _instance() -> Any:
    """Dagster's configuration, with its passwords where a user wrote them into it."""
    import yaml

    try:
        return yaml.safe_load((Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").read_text())
    except (KeyError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _resolved(value: Any) -> Any:
    """`{env: NAME}` of `dagster.yaml`, replaced by the variable's value."""
    if isinstance(value, Mapping):
        if isinstance(value.get("env"), str) and len(value) == 1:
            return os.getenv(value["env"], "")
        return {key: _resolved(item) for key, item in value.items()}
    return [_resolved(item) for item in value] if isinstance(value, list) else value
