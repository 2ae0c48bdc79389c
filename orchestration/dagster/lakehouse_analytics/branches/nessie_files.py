"""The metadata and the folders of tables on a branch of Nessie's catalog.

A copy on a branch has a folder of its own. With the folder of the table itself, Nessie's GC tool would delete files of
either: it lists the folder of each content, and keeps what this content needs. For the same reason, a table that was
published gets its own folder back, in which later commits write.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.branches.catalog import BranchError, Name
from lakehouse_analytics.branches.files import THREADS, delete, is_restorable
from lakehouse_analytics.branches.nessie_api import TABLE, VIEW, Content
from lakehouse_analytics.branches.published_metadata import write_next
from lakehouse_analytics.branches.restoration import is_rewritten
from lakehouse_analytics.iceberg.metadata_file import read_json, write_json

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

#: Table properties that name a folder for new files, which a copy would share with the table itself.
_PATHS = ("write.data.path", "write.metadata.path", "write.object-storage.path", "write.folder-storage.path")


class NessieFiles:
    """The files of the tables of a catalog."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """
        Args:
            properties: The properties of the catalog, with the access to the storage.
        """
        self._properties = dict(properties)

    def io(self, location: str) -> FileIO:
        """Return the access to the file system of a location."""
        from pyiceberg.io import load_file_io

        return load_file_io(self._properties, location)

    def copies(self, contents: Mapping[Name, Content], folders: Mapping[Name, str]) -> dict[Name, Content]:
        """Write metadata for copies of tables, and return the contents that have it.

        Args:
            contents: The tables.
            folders: The folder of each copy.

        Raises:
            BranchError: A copy would share a folder with the table.
        """
        with ThreadPoolExecutor(THREADS, thread_name_prefix="copies") as pool:
            written = pool.map(lambda name: self._copy(name, contents[name], folders[name]), contents)
            return dict(zip(contents, written, strict=True))

    def _copy(self, name: Name, content: Content, folder: str) -> Content:
        location = str(content["metadataLocation"])
        metadata = read_json(self.io(location), location)
        if found := [path for path in _PATHS if path in metadata.get("properties", {})]:
            raise BranchError(
                f"{name} cannot be on a branch, because of the table property {found[0]}: the branch would write into "
                "the same folder. Remove the property."
            )
        copied = f"{folder}/metadata/00000-{uuid.uuid4()}.metadata.json"
        # Without the log, no writer deletes metadata files of the table itself.
        changed = {**metadata, "location": folder, "metadata-log": []}
        write_json(self.io(copied), copied, changed)
        return {**{key: value for key, value in content.items() if key != "id"}, "metadataLocation": copied}

    def read(self, content: Content) -> dict[str, Any]:
        """Return the metadata of a table or view."""
        location = str(content["metadataLocation"])
        return read_json(self.io(location), location)

    def published(self, content: Content, base: Content, metadata: Mapping[str, Any], when: int) -> Content:
        """Write the metadata with which a table is published in place of another state, and return its content.

        Args:
            content: The table on the branch.
            base: The table that it replaces.
            metadata: The metadata of the table on the branch.
            when: The time of publication in milliseconds since 1970, as time travel finds it.
        """
        before = self.read(base)
        known = {entry["snapshot-id"] for entry in before.get("snapshot-log", ())}
        log = metadata.get("snapshot-log", [])
        own = [{**entry, "timestamp-ms": when} for entry in log if entry["snapshot-id"] not in known]
        changed = {
            **metadata,
            "location": before["location"],
            "last-updated-ms": when,
            "snapshot-log": [*(entry for entry in log if entry["snapshot-id"] in known), *own[-1:]],
            "metadata-log": [],
        }
        replaced = str(base["metadataLocation"])
        return {**content, "id": base["id"], "metadataLocation": write_next(self.io(replaced), changed, replaced)}

    def delete_folder(self, folder: str) -> int:
        """Delete the files of a folder, and return their number."""
        return delete(self.io(folder), self._listed(folder))

    def _listed(self, folder: str) -> list[str]:
        io: Any = self.io(folder)
        if not hasattr(io, "fs_by_scheme"):
            return []  # not listed by pyarrow: the files stay
        from pyarrow.fs import FileSelector, FileType

        scheme, _, path = folder.partition("://")
        system = io.fs_by_scheme(scheme, path.partition("/")[0])
        listed = system.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
        return [f"{scheme}://{file.path}" for file in listed if file.type == FileType.File]

    def is_restorable(self, content: Content) -> bool:
        """Return whether the files of a state of a table or view are still there."""
        location = str(content["metadataLocation"])
        return is_restorable(self.io(location), location, is_view=content["type"] == VIEW)

    def is_rewritten(self, states: Sequence[Content]) -> bool:
        """Return whether only the files of a table were rewritten between all of its states.

        Args:
            states: The states, the newest first.
        """
        if any(content.get("type") != TABLE for content in states):
            return False
        try:
            read = [self._without_own_properties(content) for content in states]
        except FileNotFoundError:
            return False  # Nessie's GC tool or another process has deleted it
        return all(is_rewritten(_with_parent(later, earlier), earlier) for later, earlier in pairwise(read))

    def _without_own_properties(self, content: Content) -> dict[str, Any]:
        """Return the metadata of a table without properties that Nessie sets in each commit."""
        metadata = self.read(content)
        properties = metadata.get("properties", {}).items()
        return {**metadata, "properties": {key: value for key, value in properties if not key.startswith("nessie.")}}

    def remove(self, contents: Mapping[Name, Content]) -> None:
        """Delete metadata files that were written for a commit which was refused."""
        for content in contents.values():
            location = str(content["metadataLocation"])
            delete(self.io(location), [location])


def _with_parent(metadata: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata whose snapshot has a parent, which Nessie does not write: that of the commit before.

    It has none if the commit had several snapshots, which the sequence numbers show.
    """
    parent, number = earlier.get("current-snapshot-id"), earlier.get("last-sequence-number", 0) + 1
    snapshots = [
        {"parent-snapshot-id": parent, **snapshot} if snapshot.get("sequence-number") == number else snapshot
        for snapshot in metadata.get("snapshots", ())
    ]
    return {**metadata, "snapshots": snapshots}


def folder_of(content: Content) -> str:
    """Return the folder of a table or view, in which Nessie writes its metadata."""
    return str(content["metadataLocation"]).rpartition("/metadata/")[0]


def metadata_of(content: Content | None) -> str | None:
    """Return the location of the metadata of a table or view; None if there is none."""
    return str(content["metadataLocation"]) if content and "metadataLocation" in content else None
