"""What a process that the code server starts sees. Like Dagster's, it imports this package only on request."""

from __future__ import annotations

from typing import Any


def processes(_arguments: str, answer: Any) -> None:
    """Tell how many dbt processes were started by importing the package."""
    from lakehouse_analytics.dbt import session

    answer.put(session._early.qsize())
