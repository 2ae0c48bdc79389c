"""The files that only a dropped branch of a table has.

Source: Iceberg's table specification, "Snapshots", "Manifests" (https://iceberg.apache.org/spec/).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from lakehouse_analytics.iceberg.deletion import delete_file
from lakehouse_analytics.iceberg.metadata_file import read_json

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table.metadata import TableMetadata

#: Files that are deleted at the same time.
THREADS = 8


def exclusive_files(io: FileIO, metadata_location: str, base_location: str | None) -> set[str]:
    """Return the files of a table's metadata that the metadata it was copied from does not have.

    These are metadata files, manifest lists, manifests, and the files that a snapshot of the branch has added. Files
    that were there before are never among them, also if the snapshot that added them has expired, and neither are files
    outside of the table's location. If the metadata that was copied is gone, there are none: maintenance of the
    original then removes them as orphan files.

    Args:
        io: Reads the files.
        metadata_location: The metadata file of the branch.
        base_location: The metadata file that was copied; None if the branch has created the table.
    """
    if base_location and not io.new_input(base_location).exists():
        return set()
    own = _read(io, metadata_location)
    base = _read(io, base_location) if base_location else None
    known = {snapshot.snapshot_id for snapshot in base.snapshots} if base else set[int]()
    files = {metadata_location, *(entry.metadata_file for entry in own.metadata_log)}
    new = {snapshot.snapshot_id for snapshot in own.snapshots} - known
    for snapshot in own.snapshots:
        if snapshot.snapshot_id in new and io.new_input(snapshot.manifest_list).exists():
            files.add(snapshot.manifest_list)
            for manifest in snapshot.manifests(io):
                is_own = base is None or manifest.added_snapshot_id in new
                if is_own and io.new_input(manifest.manifest_path).exists():
                    files.add(manifest.manifest_path)
                    files.update(_added(io, manifest, new if base else None))
    files |= _statistics(own)
    if base and base_location:
        files -= {base_location, *(entry.metadata_file for entry in base.metadata_log), *_statistics(base)}
    inside = own.location.rstrip("/") + "/"
    return {file for file in files if file.startswith(inside)}


def is_restorable(io: FileIO, metadata_location: str, *, is_view: bool) -> bool:
    """Return whether a table or view can be read as of its metadata: the files of its snapshot may have been deleted.

    Args:
        io: Reads the files.
        metadata_location: The metadata file.
        is_view: Whether it is that of a view.
    """
    if not io.new_input(metadata_location).exists():
        return False
    snapshot = None if is_view else _read(io, metadata_location).current_snapshot()
    return snapshot is None or io.new_input(snapshot.manifest_list).exists()


def location_of(io: FileIO, metadata_location: str) -> str:
    """Return the folder of a table or view, with a slash at its end."""
    return str(read_json(io, metadata_location)["location"]).rstrip("/") + "/"


def in_stages(files: Iterable[str]) -> list[list[str]]:
    """Return files in the order in which they can be deleted: an interrupted deletion can be repeated.

    Metadata names manifest lists, these name manifests, and these name all others.
    """
    stages: list[list[str]] = [[], [], [], []]
    for file in sorted(files):
        name = file.rsplit("/", 1)[-1]
        is_list = name.startswith("snap-") and name.endswith(".avro")
        stages[3 if name.endswith(".json") else 2 if is_list else 1 if name.endswith(".avro") else 0].append(file)
    return [stage for stage in stages if stage]


def delete(io: FileIO, files: Iterable[str]) -> int:
    """Delete files, and return their number. Files that are missing were deleted by an earlier attempt."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="delete-files") as pool:
        return len([*pool.map(partial(delete_file, io), files)])


def _added(io: FileIO, manifest: ManifestFile, snapshots: set[int] | None) -> Iterable[str]:
    """Yield the files that a manifest adds; with snapshots, only those that these have added."""
    from pyiceberg.manifest import ManifestEntryStatus

    for entry in manifest.fetch_manifest_entry(io, discard_deleted=False):
        if entry.status == ManifestEntryStatus.ADDED and (snapshots is None or entry.snapshot_id in snapshots):
            yield entry.data_file.file_path


def _statistics(metadata: TableMetadata) -> set[str]:
    return {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}


def _read(io: FileIO, location: str) -> TableMetadata:
    from pyiceberg.serializers import FromInputFile

    return FromInputFile.table_metadata(io.new_input(location))
