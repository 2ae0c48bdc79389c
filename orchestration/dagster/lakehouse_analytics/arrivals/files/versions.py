"""Versions of files: an overwritten file is another version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True)
class FileVersion:
    """A version of a file. An overwritten file is another version, even with the same size and time.

    Attributes:
        path: The path below the root of the pattern, with `/`.
        version: The entity tag of the object on S3; on a disk, its inode, time and size.
        size: The size in bytes.
        modified: When this version was written.
        day: The date in the path; None if the pattern has none, or the path no valid one.
        folder: The folder below the root that has the file, such as that of loaded files; empty if it was not moved.
    """

    path: str
    version: str
    size: int
    modified: datetime
    day: date | None = None
    folder: str = ""

    @property
    def location(self) -> str:
        """The path below the root at which the file is."""
        return f"{self.folder}/{self.path}" if self.folder else self.path


def with_metadata(meta: Any, file: FileVersion) -> FileVersion:
    """Return a file with the version that its metadata has.

    Args:
        meta: The metadata, as obstore returns it.
        file: The file.
    """
    return replace(file, version=version_of(meta), size=meta["size"], modified=meta["last_modified"])


def version_of(meta: Any) -> str:
    """Return the version that the metadata of a file has.

    Args:
        meta: The metadata, as obstore returns it.
    """
    # Some S3 servers have no entity tags.
    version: str = meta["e_tag"] or f"{meta['last_modified'].timestamp()}-{meta['size']}"
    return version.strip('"')


def fingerprint(files: Iterator[FileVersion]) -> tuple[str, int]:
    """Return a value of constant size that changes when a file is added, overwritten or deleted, and their number.

    The order of the files does not matter: it is the sum of a hash of each version, modulo 2¹²⁸.
    """
    total = count = 0
    for file in files:
        digest = hashlib.blake2b(f"{file.path}\0{file.version}".encode(), digest_size=16).digest()
        total += int.from_bytes(digest, "big")
        count += 1
    return f"{total % (1 << 128):032x}", count
