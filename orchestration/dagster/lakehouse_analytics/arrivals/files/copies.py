"""Copies files to a folder, many at the same time."""

from __future__ import annotations

import asyncio
import re
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
#: Answers that stay the same: all of 4xx, except for timeouts and too many requests, and redirects to other regions.
_REFUSED = re.compile(r"status code: 4(?!08|29)|incorrectly configured region")


@dataclass(frozen=True)
class Copies:
    """Files that were read.

    Attributes:
        read: The versions that were read, with their copies, whose names are numbers. A file that was overwritten since
            it was listed has another version than in the listing. A file that was deleted since is missing.
        unreadable: Why files that exist could not be read. Another attempt may succeed.
        passing: Those of them that a server did not answer for, so that a retry is worth it.
    """

    read: list[tuple[FileVersion, Path]] = field(default_factory=list)
    unreadable: dict[FileVersion, str] = field(default_factory=dict)
    passing: set[FileVersion] = field(default_factory=set)


class ServerDownError(Exception):
    """The server does not answer.

    Attributes:
        transient: Whether a retry may succeed.
    """

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


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
                on_network = not isinstance(self._store, LocalStore)
                if on_network and is_transient(error):
                    self._copies.passing.add(file)
                if on_network and self._failures >= _FAILURES:
                    raise ServerDownError(reason_of(error), transient=is_transient(error)) from None
            else:
                self._failures = 0
                self._copies.read.append((with_metadata(result.meta, file), path))


def is_transient(error: Exception) -> bool:
    """Return whether a request that failed on a network may succeed later, unchanged.

    The client has then repeated it for some minutes already. Refused credentials have errors of their own.
    """
    import obstore

    return isinstance(error, obstore.exceptions.GenericError) and not _REFUSED.search(str(error))


def reason_of(error: Exception) -> str:
    """Return the text of an error of obstore in one line, without its debugging information."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300]
