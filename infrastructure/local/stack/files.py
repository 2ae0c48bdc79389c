"""Files and folders that only their owner may read."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.terminal import say


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: only its owner can read it, the old text or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)


def private_folder(path: Path) -> Path:
    """Make a folder, with its parents, that only its owner may enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[int]:
    """Hold a lock file; says `waiting` once when another process holds it.

    Yields the descriptor: a child that inherits it holds the lock too. The system frees it when all holders are gone.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log, indented; empty when there is none."""
    if not path.exists():
        return ""
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-count:])
