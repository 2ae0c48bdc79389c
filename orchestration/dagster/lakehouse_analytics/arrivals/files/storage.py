"""Lists, reads and moves files on S3, or on a disk. Both have the same interface, by obstore."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.contract.arrivals import FileArrival

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: A file on a disk is read once it has not changed for this time.
SETTLED = timedelta(seconds=5)
#: Files that are read at the same time.
_PARALLEL = 32
#: Files per page of a listing.
_PAGE = 1000


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


@dataclass(frozen=True)
class FileStorage:
    """The files of one source.

    Attributes:
        pattern: The pattern of the files. A folder must be absolute.
    """

    pattern: FilePattern

    @property
    def on_disk(self) -> bool:
        """Whether the files are on a disk of this machine."""
        return "://" not in self.pattern.root

    @cached_property
    def _store(self) -> ObjectStore:
        from obstore.store import LocalStore, S3Store

        if self.on_disk:
            if not Path(self.pattern.root).is_dir():
                raise ArrivalError(
                    f"{self.pattern.text}: the folder {self.pattern.root} does not exist. Create it, or correct "
                    "`arrives.files`. A path is relative to the dbt project."
                )
            return LocalStore(self.pattern.root)
        address = urlsplit(self.pattern.root)
        if address.scheme != "s3":
            raise ArrivalError(
                f"{self.pattern.text}: {address.scheme}:// is not supported. Use s3://<bucket>/<prefix>, or a folder."
            )
        options: dict[str, Any] = {}
        endpoint = os.getenv("AWS_ENDPOINT_URL_S3") or os.getenv("AWS_ENDPOINT_URL")
        if endpoint:
            options = {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
        return S3Store(address.netloc, prefix=address.path.strip("/") or None, **options)

    def versions(self, folder: str = "") -> Iterator[FileVersion]:
        """Yield the current version of each file that matches the pattern, in any order.

        Args:
            folder: Search this folder below the root, to which files were moved.

        Raises:
            ArrivalError: The files cannot be listed.
        """
        import obstore

        matches, date_of = self.pattern.matches, self.pattern.date_of
        try:
            for page in obstore.list(self._store, prefix=folder or None, chunk_size=_PAGE):
                for meta in page:
                    path = meta["path"].removeprefix(f"{folder}/") if folder else meta["path"]
                    if matches(path):
                        yield _version(meta, FileVersion(path, "", 0, meta["last_modified"], date_of(path), folder))
        except obstore.exceptions.BaseError as error:
            raise self._error("list", error) from None

    def settled(self) -> Iterator[FileVersion]:
        """Yield the versions that can be read: on a disk, a file that has just changed may still be written."""
        newest = datetime.now(UTC) - SETTLED if self.on_disk else datetime.max.replace(tzinfo=UTC)
        return (file for file in self.versions() if file.modified <= newest)

    def read(self, files: Sequence[FileVersion], folder: Path) -> list[tuple[FileVersion, Path]]:
        """Copy files to a folder.

        Args:
            files: Versions from a listing.
            folder: An empty folder.

        Returns:
            The versions that were read, with their copies. A file that was overwritten since it was listed has another
            version than in the listing. A file that was deleted since is missing.

        Raises:
            ArrivalError: A file cannot be read.
        """
        import obstore

        try:
            found = asyncio.run(_read_all(self._store, files, folder))
        except obstore.exceptions.BaseError as error:
            raise self._error("read", error) from None
        return [(_version(meta, file), path) for file, meta, path in found if meta is not None]

    def move(self, file: FileVersion, folder: str) -> None:
        """Move a file to a folder below the root, if it still has the same version.

        Raises:
            ArrivalError: The file cannot be moved.
        """
        import obstore

        try:
            if _version(obstore.head(self._store, file.location), file).version == file.version:
                obstore.rename(self._store, file.location, f"{folder}/{file.path}")
        except FileNotFoundError:
            return  # moved by an earlier attempt, or deleted
        except obstore.exceptions.BaseError as error:
            raise self._error("move", error) from None

    def _error(self, what: str, error: Exception) -> ArrivalError:
        reason = " ".join(str(error).split())[:300]
        where = "the folder" if self.on_disk else "the bucket, the credentials (AWS_*) and AWS_ENDPOINT_URL"
        return ArrivalError(f"{self.pattern.text}: cannot {what} the files: {reason}. Check {where}.")


def _version(meta: Any, file: FileVersion) -> FileVersion:
    """Return a file with the version of its metadata."""
    # Some S3 servers have no entity tags.
    version = meta["e_tag"] or f"{meta['last_modified'].timestamp()}-{meta['size']}"
    return replace(file, version=version.strip('"'), size=meta["size"], modified=meta["last_modified"])


async def _read_all(
    store: ObjectStore, files: Sequence[FileVersion], folder: Path
) -> list[tuple[FileVersion, Any, Path]]:
    slots = asyncio.Semaphore(_PARALLEL)
    copies = (folder / f"{number}{'.gz' * file.path.endswith('.gz')}" for number, file in enumerate(files))
    return list(await asyncio.gather(*(_read(store, slots, *pair) for pair in zip(files, copies, strict=True))))


async def _read(
    store: ObjectStore, slots: asyncio.Semaphore, file: FileVersion, path: Path
) -> tuple[FileVersion, Any, Path]:
    import obstore

    async with slots:
        try:
            result = await obstore.get_async(store, file.location)
            with path.open("wb") as copy:
                async for chunk in result.stream():
                    copy.write(chunk)
        except FileNotFoundError:
            return file, None, path
        return file, result.meta, path


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


def storage_of(arrival: FileArrival, project_dir: Path) -> FileStorage:
    """Return the files of a source.

    Args:
        arrival: The contract.
        project_dir: The folder of the dbt project, to which paths are relative.
    """
    text = arrival.files
    return FileStorage(FilePattern(text if "://" in text else os.path.normpath(project_dir.absolute() / text)))
