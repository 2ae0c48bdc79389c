"""The metadata of tables and views as they are published.

Sources: Iceberg's table specification, "Table metadata fields" (https://iceberg.apache.org/spec/), and
its view specification (https://iceberg.apache.org/view-spec/).
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lakehouse_analytics.iceberg.metadata_file import read_json, write_json

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

_VERSION = re.compile(r"(?:.*/)?(\d+)-[^/]*$")


def newest_time(metadata: Mapping[str, Any]) -> int:
    """Return the newest time in a table's metadata, in milliseconds since 1970.

    Iceberg refuses metadata whose times are not in order.
    """
    times = [entry["timestamp-ms"] for key in ("snapshot-log", "metadata-log") for entry in metadata.get(key, ())]
    return int(max([metadata.get("last-updated-ms", 0), *times]))


def published_table(io: FileIO, location: str, metadata: Mapping[str, Any], known: int, published_ms: int) -> str:
    """Return the location of a table's metadata in which its snapshot became current at the time of publication.

    Time travel (`for timestamp as of`) finds states by these times. With one time for all tables of a publication, a
    query of several tables as of an earlier moment never finds some of them before it and others after it. Snapshots
    that were current on the branch only are not in the log.

    Args:
        io: Writes the file.
        location: The metadata of the branch.
        metadata: Its content.
        known: The number of entries of the snapshot log that the table had before.
        published_ms: The time of publication, in milliseconds since 1970.
    """
    snapshots = metadata.get("snapshot-log", [])
    log = {"timestamp-ms": metadata["last-updated-ms"], "metadata-file": location}
    changed = {
        **metadata,
        "last-updated-ms": published_ms,
        "snapshot-log": [
            *snapshots[:known],
            *({**entry, "timestamp-ms": published_ms} for entry in snapshots[known:][-1:]),
        ],
        "metadata-log": [*metadata.get("metadata-log", ()), log],
    }
    return write_next(io, changed, location)


def published_view(io: FileIO, location: str, schemas: Mapping[str, str]) -> str:
    """Return the location of a view's metadata whose SQL names the schemas outside of the branch.

    Args:
        io: Reads and writes the files.
        location: The metadata of the branch.
        schemas: The schema to write instead of each schema of the branch.
    """
    return write_next(io, renamed_view(read_json(io, location), schemas), location)


def renamed_view(view: Mapping[str, Any], schemas: Mapping[str, str]) -> dict[str, Any]:
    """Return a view's metadata with other names of schemas in its SQL.

    Args:
        view: The metadata.
        schemas: The schema to write instead of each schema.
    """
    names = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(schemas, key=len, reverse=True)))
    renamed: dict[str, Any] = copy.deepcopy(dict(view))
    for version in renamed.get("versions", ()):
        for representation in version.get("representations", ()):
            if "sql" in representation:
                representation["sql"] = names.sub(lambda found: schemas[found[0]], representation["sql"])
        if "default-namespace" in version:
            version["default-namespace"] = [schemas.get(name, name) for name in version["default-namespace"]]
    return renamed


def write_next(io: FileIO, metadata: Mapping[str, Any], location: str) -> str:
    """Write the next version of a metadata file beside it, and return its location."""
    found = _VERSION.match(location)
    version = int(found[1]) + 1 if found else 1
    written = f"{location.rsplit('/', 1)[0]}/{version:05}-{uuid.uuid4()}.metadata.json"
    write_json(io, written, metadata)
    return written
