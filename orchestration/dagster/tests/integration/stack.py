"""The local stack's settings, for tests that need it."""

from __future__ import annotations

import os
import shlex

import pytest
from lakehouse_analytics.settings import repository_root

#: Read at once: tests run without the LAKEHOUSE_* of their surroundings.
STACK = repository_root() / os.environ.get("LAKEHOUSE_STACK_DIR", ".stack")


def stack_environment() -> dict[str, str]:
    """What `make stack-up` wrote. A missing stack is a failure: nothing here is skipped for want of an engine."""
    path = STACK / "env"
    if not path.is_file():
        pytest.fail(f"{path} does not exist: make stack-up first")
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words)
