"""What is wrong with the settings, the manifest or a contract stands at the end of a log, and not above a traceback."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import TypeVar

Loaded = TypeVar("Loaded")

#: Where Dagster logs an error of a code location that it loads lazily (`dagster dev`, `--lazy-load-user-code`).
_LOGGER = "dagster.code_server"


def message_last(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """Repeat the message of our own errors after the traceback.

    Dagster wraps an error of the code location in one of its own, whose traceback of 40 lines follows and names no
    variable: `kubectl logs --tail 20` shows only that.

    Args:
        load: Loads the code location.

    Returns:
        `load`, whose errors are raised as they are.
    """

    @wraps(load)
    def loading() -> Loaded:
        try:
            return load()
        except Exception as error:
            if _is_ours(error):
                _repeat_at_exit()
                _repeat_in_log()
            raise

    return loading


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == __name__.partition(".")[0]


def _message(error: BaseException | None) -> str:
    """Of the first error of ours among an error and its causes; empty where there is none."""
    return next((f"\n{type(one).__name__}: {one}" for one in _causes(error) if _is_ours(one)), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _repeat_at_exit() -> None:
    """Where the error ends the process: the code server of the official chart."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show(kind, error, trace)
        if message := _message(error):
            sys.stderr.write(f"{message}\n")

    sys.excepthook = hook


class _Repeat(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not record.exc_text and (message := _message(record.exc_info[1])):
            # A formatter of `logging` takes this text instead of making its own.
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)) + message
        return True


def _repeat_in_log() -> None:
    """Where the process lives on and serves the error."""
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(one, _Repeat) for one in logger.filters):
        logger.addFilter(_Repeat())
