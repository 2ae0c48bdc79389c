"""The log of a build. It goes to Dagster's log and to the run's stdout, which also has dbt's own lines."""

from __future__ import annotations

import os

import dagster as dg


class RunLog:
    """Writes the log of one run."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log

    def heading(self, message: str) -> None:
        """Log a heading that says what the build does next."""
        self._log.info(message)
        _print(f"== {message}")

    def warn(self, message: str) -> None:
        """Log a warning of our own."""
        _print(message)
        self._log.warning(message)

    def dbt_line(self, level: str, message: str) -> None:
        """Log a line of dbt. Dagster's log gets only its warnings and errors."""
        if level == "debug" and not os.getenv("DEBUG"):
            return
        _print(message)
        if level in ("warn", "error") and message.strip():
            self._log.warning(message.strip())


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201  # the run's stdout has dbt's lines as they are
