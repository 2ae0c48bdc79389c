"""Files on a disk. For S3, see integration/test_deletion.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.iceberg.deletion import delete_file
from pyiceberg.io import load_file_io


def test_a_file_is_deleted_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    io, location = load_file_io({}, "file:///"), f"file://{tmp_path}/metadata/a.json"
    with io.new_output(location).create() as stream:
        stream.write(b"x")
    delete_file(io, location)
    assert not (tmp_path / "metadata" / "a.json").exists()
    delete_file(io, location)


def test_a_deletion_that_is_refused_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()  # a folder cannot be deleted as a file
    (tmp_path / "a.json" / "x").touch()
    with pytest.raises(OSError, match=r"a\.json"):
        delete_file(load_file_io({}, "file:///"), f"file://{tmp_path}/a.json")
