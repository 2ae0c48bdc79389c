"""Repeats errors of settings, manifest and contracts at the end of the log, after the traceback."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import TypeVar

Loaded = TypeVar("Loaded")

#: Dagster's logger for errors of a code location that is loaded lazily (`dagster dev`, `--lazy-load-user-code`).
_LOGGER = "dagster.code_server"


def repeat_message_at_end(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """Repeat the message of this project's errors after the traceback.

    Dagster wraps an error of the code location in one of its own, which is followed by a traceback of 40 lines that
    names no variable. `kubectl logs --tail 20` shows nothing else.

    Args:
        load: Loads the code location.

    Returns:
        The wrapped `load`. It raises errors unchanged.
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
    """Return the message of the first of our errors among an error and its causes; empty if there is none."""
    return next((f"\n{type(one).__name__}: {one}" for one in _causes(error) if _is_ours(one)), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _repeat_at_exit() -> None:
    """Repeat the message if the error ends the process, as in the code server of the official chart."""
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        show(kind, error, trace)
        if message := _message(error):
            sys.stderr.write(f"{message}\n")

    sys.excepthook = hook


class _Repeat(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not record.exc_text and (message := _message(record.exc_info[1])):
            # Formatters use this text instead of formatting the exception.
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)) + message
        return True


def _repeat_in_log() -> None:
    """Repeat the message if the process continues, and reports the error to the webserver."""
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(one, _Repeat) for one in logger.filters):
        logger.addFilter(_Repeat())
