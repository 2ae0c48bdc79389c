"""The metadata of tables and views as they are published.

Sources: Iceberg's table specification, "Table metadata fields" (https://iceberg.apache.org/spec/), and
its view specification (https://iceberg.apache.org/view-spec/).
"""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

_GZIP = b"\x1f\x8b"
_VERSION = re.compile(r"(?:.*/)?(\d+)-[^/]*$")


def published_table(io: FileIO, location: str, base_location: str | None, published_ms: int) -> str:
    """Return the location of a table's metadata in which its snapshot became current at the time of publication.

    Time travel (`for timestamp as of`) finds states by these times. With one time for all tables of a publication, a
    query of several tables as of an earlier moment never finds some of them before it and others after it. Snapshots
    that were current on the branch only are not in the log.

    Args:
        io: Reads and writes the files.
        location: The metadata of the branch.
        base_location: The metadata that it was copied from; None if the branch created the table.
        published_ms: The time of publication, in milliseconds since 1970.
    """
    metadata = _read(io, location)
    known = (
        len(_read(io, base_location)["snapshot-log"]) if base_location and io.new_input(base_location).exists() else 0
    )
    before, new = metadata["snapshot-log"][:known], metadata["snapshot-log"][known:]
    if not new:
        return location
    log = {"timestamp-ms": metadata["last-updated-ms"], "metadata-file": location}
    changed = {
        **metadata,
        "last-updated-ms": published_ms,
        "snapshot-log": [*before, {**new[-1], "timestamp-ms": published_ms}],
        "metadata-log": [*metadata.get("metadata-log", ()), log],
    }
    return _write(io, changed, location)


def published_view(io: FileIO, location: str, schemas: Mapping[str, str]) -> str:
    """Return the location of a view's metadata whose SQL names the schemas outside of the branch.

    Args:
        io: Reads and writes the files.
        location: The metadata of the branch.
        schemas: The schema to write instead of each schema of the branch.
    """
    view = _read(io, location)
    names = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(schemas, key=len, reverse=True)))
    for version in view.get("versions", ()):
        for representation in version.get("representations", ()):
            if "sql" in representation:
                representation["sql"] = names.sub(lambda found: schemas[found[0]], representation["sql"])
    return _write(io, view, location)


def _read(io: FileIO, location: str) -> dict[str, Any]:
    with io.new_input(location).open() as stream:
        content = stream.read()
    metadata: dict[str, Any] = json.loads(gzip.decompress(content) if content.startswith(_GZIP) else content)
    return metadata


def _write(io: FileIO, metadata: Mapping[str, Any], location: str) -> str:
    """Write the next version of a metadata file, and return its location."""
    found = _VERSION.match(location)
    version = int(found[1]) + 1 if found else 1
    written = f"{location.rsplit('/', 1)[0]}/{version:05}-{uuid.uuid4()}.metadata.json"
    with io.new_output(written).create() as output:
        output.write(json.dumps(metadata).encode())
    return written
