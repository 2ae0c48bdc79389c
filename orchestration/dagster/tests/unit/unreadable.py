"""A file that cannot be read, also by root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def unreadable(path: Path, *writable: Path) -> Iterator[None]:
    """Make a file unreadable. Root, which may read any file, becomes another user meanwhile.

    Args:
        path: The file.
        writable: Folders in which the other user may write.
    """
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        for folder in {parent for one in (path, *writable) for parent in one.parents}:
            if folder.stat().st_mode & 0o777 == 0o700:
                folder.chmod(0o711)
        for each in (inside for folder in writable for inside in (folder, *folder.rglob("*"))):
            os.chown(each, _NOBODY if each != path else 0, -1)
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(0o644)
