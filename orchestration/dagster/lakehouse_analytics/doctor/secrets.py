"""Everything secret that a library's message could quote, from where this process has it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lakehouse_analytics.ingest.secrets import Redactor
from lakehouse_analytics.settings import PREFIX, Settings

#: Names of variables and of keys in `dagster.yaml` whose values are secret.
_NAME = re.compile(
    r"passw|secret|token|credential|jwt|webhook|private|access_?key|api_?key|account_?key", re.IGNORECASE
)
_LOG_IN = re.compile(r"://[^/\s:@]*:(?P<password>\S+)@")
#: A shorter piece is too common to be hidden wherever it occurs; one that is only named like a secret must be longer.
_SHORTEST, _SHORTEST_GUESSED = 3, 6


def mask() -> Callable[[str], str]:
    """What takes every secret out of a text, read anew."""
    found = {*_of_settings(), *_guessed()}
    return Redactor(sorted({form for secret in found for form in (secret, unquote(secret))}))


def _of_settings() -> Iterator[str]:
    # From the environment itself: where the settings are wrong there are none.
    values = {name.upper(): value for name, value in os.environ.items()}
    for name, field in Settings.model_fields.items():
        value = values.get(f"{PREFIX}{name.upper()}", "")
        if "SecretStr" in str(field.annotation) and len(value) >= _SHORTEST:
            yield value


def _guessed() -> Iterator[str]:
    ours = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    everywhere: dict[str, Any] = {n: v for n, v in os.environ.items() if n.upper() not in ours}
    for name, value in _leaves({**everywhere, "dagster.yaml": _instance()}):
        if _NAME.search(name) and len(value) >= _SHORTEST_GUESSED:
            yield value
        for address in _LOG_IN.finditer(value):
            # A password with @ or / in it is cut by whoever parses the address, so its parts are hidden, too.
            parts = [address["password"], *re.split(r"[/@:]", address["password"])]
            yield from (part for part in parts if len(part) >= _SHORTEST)


def _instance() -> Any:
    """Dagster's configuration, with its passwords where somebody wrote them into it."""
    import yaml

    try:
        return yaml.safe_load((Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").read_text())
    except (KeyError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("env"), str):  # `{env: NAME}` of dagster.yaml
            yield name, os.getenv(value["env"], "")
        for key, item in value.items():
            yield from _leaves(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    elif isinstance(value, str):
        yield name, value
