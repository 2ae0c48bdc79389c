"""What a person reads while the tool works."""

import sys
import time
from collections.abc import Callable


def say(text: str, end: str = "\n") -> None:
    """Write to standard output at once, also where it is a pipe."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def step(name: str, work: Callable[[], str]) -> None:
    """Run one step, on one line with its seconds; `work` says what it did."""
    began = time.monotonic()
    say(f"{name:<9} … ", end="")
    try:
        result = work()
    except BaseException:
        say("failed")
        raise
    say(f"{result} ({time.monotonic() - began:.1f} s)")
