"""Text for messages."""

from __future__ import annotations

import traceback

import pytest
from lakehouse_analytics.common.text import without_traceback


def fail() -> str:
    """A chain of two exceptions, as dbt prints one whose host cannot be reached."""
    try:
        try:
            raise OSError("Name or service not known")
        except OSError as error:
            raise ConnectionError("hub.example: no such host") from error
    except ConnectionError:
        return traceback.format_exc()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Compilation Error\n  model a\n    depends on b", "Compilation Error\n  model a\n    depends on b"),
        (f"Encountered an error:\nno such host\n{fail()}", "Encountered an error:\nno such host"),
        (fail(), "ConnectionError: hub.example: no such host"),
        (f"{fail()}\n\n", "ConnectionError: hub.example: no such host"),
        ("", ""),
    ],
)
def test_a_message_has_no_traceback(text: str, expected: str) -> None:
    assert without_traceback(text) == expected
