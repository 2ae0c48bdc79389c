"""Masks secrets in what dbt says. Runs in dbt's process.

dbt masks the values of `DBT_ENV_SECRET_…` only. Errors of databases repeat what they could not open, with the password
that an attached database or an address has in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from lakehouse_analytics.common.redact import Redactor, secret_values


class SecretsInText:
    """Masks the secrets of the environment, and of the profile once dbt has read it."""

    def __init__(self) -> None:
        self._known: object = None
        self._redact: Callable[[str], str] = str

    def forget(self) -> None:
        """Look at the environment again."""
        self._known = None

    def __call__(self, text: str) -> str:
        """The text without them."""
        from dbt.adapters.factory import FACTORY

        adapters = {*FACTORY.adapters.values()}
        if adapters != self._known:
            self._known, self._redact = adapters, Redactor(_secrets(adapters))
        return self._redact(text)


def _secrets(adapters: set[Any]) -> Iterator[str]:
    yield from secret_values(dict(os.environ))
    for adapter in adapters:
        profile = adapter.config.credentials.to_dict()
        for one in profile.pop("secrets", None) or ():  # of DuckDB, whose types and regions are none
            yield from secret_values(one)
        yield from secret_values(profile)
