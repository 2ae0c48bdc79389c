"""Temporary folders that are removed even if their process is killed: then by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How the names of the folders of loads begin.
ARRIVALS = "lakehouse-arrival-"
#: Name of the file in a folder that its process has locked. The system releases the lock when the process ends.
_LOCK = ".lock"


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Provide a private folder, which is removed afterwards.

    Folders with the same prefix whose processes have been killed are removed first. Those of living processes stay,
    also of processes in other containers that share the folder.

    Args:
        prefix: How the folder's name begins.
        parent: Where to make it; by default the system's folder for temporary files (`TMPDIR`).
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for path in parent.glob(f"{prefix}*/{_LOCK}"):
        _remove_if_dead(path)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as text, (Path(text) / _LOCK).open("x") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        yield Path(text)


def _remove_if_dead(path: Path) -> None:
    """Remove a folder if its lock can be taken."""
    try:
        with path.open("r+") as lock:
            if not lock.read():
                return  # its process has made the file, and not locked it yet
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    except OSError:
        return  # its process is alive, has just removed it, or belongs to another user
