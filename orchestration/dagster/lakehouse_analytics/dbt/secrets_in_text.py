"""Masks secrets in dbt's messages. Runs in dbt's process.

dbt itself only masks the values of `DBT_ENV_SECRET_…`. Database errors, however, quote what could not be opened,
including the password in the address of an attached database.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from lakehouse_analytics.common.redact import Redactor, secret_values


class SecretsInText:
    """Masks the secrets of the environment and, once dbt has read it, of the profile."""

    def __init__(self) -> None:
        self._known: object = None
        self._redact: Callable[[str], str] = str

    def reset(self) -> None:
        """Read the environment again before the next message."""
        self._known = None

    def __call__(self, text: str) -> str:
        """Return the text with the secrets masked."""
        from dbt.adapters.factory import FACTORY

        adapters = {*FACTORY.adapters.values()}
        if adapters != self._known:
            self._known, self._redact = adapters, Redactor(_secrets(adapters))
        return self._redact(text)


def _secrets(adapters: set[Any]) -> Iterator[str]:
    yield from secret_values(dict(os.environ))
    for adapter in adapters:
        profile = adapter.config.credentials.to_dict()
        for one in profile.pop("secrets", None) or ():  # DuckDB's, whose types and regions are not secret
            yield from secret_values(one)
        yield from secret_values(profile)
