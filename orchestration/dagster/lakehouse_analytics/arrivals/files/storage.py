"""Lists, reads and moves files on S3, or on a disk. Both have the same interface, by obstore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lakehouse_analytics.arrivals.files.copies import Copies, ServerDownError, copy_files, is_transient, reason_of
from lakehouse_analytics.arrivals.files.moves import MoveError, move_file, put_back
from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.arrivals.files.places import MOVING
from lakehouse_analytics.arrivals.files.versions import FileVersion, version_of
from lakehouse_analytics.arrivals.raw_tables.base import ArrivalError
from lakehouse_analytics.contract.arrivals import FileArrival

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: A file on a disk is read once it has not changed for this time.
SETTLED = timedelta(seconds=5)
#: Files per page of a listing.
_PAGE = 1000


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
            for page in _read_ahead(obstore.list(self._store, prefix=folder or None, chunk_size=_PAGE)):
                for meta in page:
                    path = meta["path"].removeprefix(f"{folder}/") if folder else meta["path"]
                    if matches(path):
                        changed = meta["last_modified"]
                        yield FileVersion(path, version_of(meta), meta["size"], changed, date_of(path), folder)
        except obstore.exceptions.BaseError as error:
            raise self._error("list", error) from None

    def settled(self) -> Iterator[FileVersion]:
        """Yield the versions that can be read: on a disk, a file that has just changed may still be written."""
        newest = datetime.now(UTC) - SETTLED if self.on_disk else datetime.max.replace(tzinfo=UTC)
        return (file for file in self.versions() if file.modified <= newest)

    def read(self, files: Sequence[FileVersion], folder: Path) -> Copies:
        """Copy files to a folder.

        Args:
            files: Versions from a listing.
            folder: An empty folder.

        Raises:
            ArrivalError: The server does not answer.
        """
        try:
            return copy_files(self._store, files, folder)
        except ServerDownError as error:
            raise self._error("read", error) from None

    def move(self, file: FileVersion, folder: str) -> None:
        """Move a file to a folder below the root, if it still has the same version.

        Raises:
            ArrivalError: The file cannot be moved.
        """
        try:
            move_file(self._store, file, folder)
        except MoveError as error:
            raise self._error("move", error) from None

    def finish_moves(self) -> None:
        """Put back the files whose move was killed. They may have been overwritten before, so they are listed again.

        Raises:
            ArrivalError: A file cannot be put back.
        """
        import obstore

        if not self.on_disk:
            return
        try:
            for file in [*self.versions(MOVING)]:
                put_back(self._store, file.path)
        except obstore.exceptions.BaseError as error:
            raise self._error("move", error) from None

    def _error(self, what: str, error: Exception) -> ArrivalError:
        reason = reason_of(error)
        where = "the folder" if self.on_disk else "the bucket, the credentials (AWS_*) and AWS_ENDPOINT_URL"
        passes = not self.on_disk and (error.transient if isinstance(error, ServerDownError) else is_transient(error))
        return ArrivalError(f"{self.pattern.text}: cannot {what} the files: {reason}. Check {where}.", transient=passes)


def _read_ahead(pages: Iterable[Any]) -> Iterator[Any]:
    """Yield pages. The next one is requested while the caller works on one."""
    rest = iter(pages)
    with ThreadPoolExecutor(1) as thread:
        page = next(rest, None)
        while page is not None:
            following = thread.submit(next, rest, None)
            yield page
            page = following.result()


def storage_of(arrival: FileArrival, project_dir: Path) -> FileStorage:
    """Return the files of a source.

    Args:
        arrival: The contract.
        project_dir: The folder of the dbt project, to which paths are relative.
    """
    text = arrival.files
    return FileStorage(FilePattern(text if "://" in text else os.path.normpath(project_dir.absolute() / text)))
