"""Copies files to a folder, many at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.arrivals.files.versions import FileVersion, with_metadata

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: Files that are read at the same time.
_PARALLEL = 32
#: If so many requests in a row fail on a network, the server is down: each was repeated several times.
_FAILURES = 32


@dataclass(frozen=True)
class Copies:
    """Files that were read.

    Attributes:
        read: The versions that were read, with their copies, whose names are numbers. A file that was overwritten since
            it was listed has another version than in the listing. A file that was deleted since is missing.
        unreadable: Why files that exist could not be read. Another attempt may succeed.
    """

    read: list[tuple[FileVersion, Path]] = field(default_factory=list)
    unreadable: dict[FileVersion, str] = field(default_factory=dict)


class ServerDownError(Exception):
    """The server does not answer."""


def copy_files(store: ObjectStore, files: Sequence[FileVersion], folder: Path) -> Copies:
    """Copy files to a folder.

    Args:
        store: Where the files are.
        files: Versions from a listing.
        folder: An empty folder.

    Raises:
        ServerDownError: The server does not answer.
    """
    return asyncio.run(_Copying(store).run(files, folder))


class _Copying:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._failures = 0
        self._copies = Copies()

    async def run(self, files: Sequence[FileVersion], folder: Path) -> Copies:
        paths = (folder / f"{number}{'.gz' * file.path.endswith('.gz')}" for number, file in enumerate(files))
        await asyncio.gather(*(self._copy(*pair) for pair in zip(files, paths, strict=True)))
        self._copies.read.sort(key=lambda one: int(one[1].name.partition(".")[0]))
        return self._copies

    async def _copy(self, file: FileVersion, path: Path) -> None:
        import obstore
        from obstore.store import LocalStore

        async with self._slots:
            try:
                result = await obstore.get_async(self._store, file.location)
                with path.open("wb") as copy:
                    async for chunk in result.stream():
                        copy.write(chunk)
            except FileNotFoundError:
                return
            except obstore.exceptions.PermissionDeniedError as error:
                self._copies.unreadable[file] = reason_of(error)
            except obstore.exceptions.BaseError as error:
                path.unlink(missing_ok=True)
                self._copies.unreadable[file] = reason_of(error)
                self._failures += 1
                if self._failures >= _FAILURES and not isinstance(self._store, LocalStore):
                    raise ServerDownError(reason_of(error)) from None
            else:
                self._failures = 0
                self._copies.read.append((with_metadata(result.meta, file), path))


def reason_of(error: Exception) -> str:
    """Return the text of an error of obstore in one line, without its debugging information."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300]
