"""Reads metadata files of tables and views as they are, without pyiceberg's models."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyiceberg.io import FileIO

_GZIP = b"\x1f\x8b"


def read_json(io: FileIO, location: str) -> dict[str, Any]:
    """Return the content of a metadata file, which may be compressed."""
    with io.new_input(location).open() as stream:
        content = stream.read()
    metadata: dict[str, Any] = json.loads(gzip.decompress(content) if content.startswith(_GZIP) else content)
    return metadata


def write_json(io: FileIO, location: str, metadata: Mapping[str, Any]) -> None:
    """Write a new metadata file."""
    with io.new_output(location).create() as output:
        output.write(json.dumps(metadata).encode())
