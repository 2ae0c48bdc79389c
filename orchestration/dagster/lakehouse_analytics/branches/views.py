"""The metadata of Iceberg views, whose SQL names the schemas of a branch until it is published.

Source: Iceberg's view specification (https://iceberg.apache.org/view-spec/).
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


def publishable(io: FileIO, metadata_location: str, schemas: Mapping[str, str]) -> str:
    """Return the location of a view's metadata in which SQL names other schemas, and write it.

    Args:
        io: Reads and writes the files.
        metadata_location: The metadata of the view.
        schemas: The schema to write instead of each schema.

    Returns:
        `metadata_location`, if the SQL names none of them.
    """
    with io.new_input(metadata_location).open() as stream:
        content = stream.read()
    view = json.loads(gzip.decompress(content) if content.startswith(_GZIP) else content)
    changed = _renamed(view, schemas)
    if changed == view:
        return metadata_location
    folder = metadata_location.rsplit("/", 1)[0]
    location = f"{folder}/00000-{uuid.uuid4()}.metadata.json"
    with io.new_output(location).create() as output:
        output.write(json.dumps(changed).encode())
    return location


def _renamed(view: Mapping[str, Any], schemas: Mapping[str, str]) -> Mapping[str, Any]:
    names = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(schemas, key=len, reverse=True)))
    changed: dict[str, Any] = json.loads(json.dumps(view))
    for version in changed.get("versions", ()):
        for representation in version.get("representations", ()):
            if "sql" in representation:
                representation["sql"] = names.sub(lambda found: schemas[found[0]], representation["sql"])
    return changed
