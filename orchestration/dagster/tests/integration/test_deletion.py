"""Files of tables are deleted on S3 (the local stack's), and nothing else of their folder is touched."""

from __future__ import annotations

import uuid

import pytest
from botocore.exceptions import ClientError
from lakehouse_analytics.iceberg.deletion import delete_file
from pyiceberg.io import FileIO, load_file_io

from .stack import stack_environment

pytestmark = pytest.mark.engine("trino")


@pytest.fixture
def io(monkeypatch: pytest.MonkeyPatch) -> FileIO:
    stack = stack_environment()
    for key, value in stack.items():
        monkeypatch.setenv(key, value)
    prefix = "PYICEBERG_CATALOG__LAKEHOUSE__S3__"
    names = {key: key.removeprefix(prefix).lower().replace("_", "-") for key in stack if key.startswith(prefix)}
    return load_file_io({f"s3.{name}": stack[key] for key, name in names.items()}, "s3://lakehouse/")


@pytest.fixture
def folder() -> str:
    return f"s3://lakehouse/test-deletion/{uuid.uuid4().hex}"


def objects(io: FileIO, folder: str) -> list[str]:
    """Return the paths of all objects below a folder."""
    from pyarrow.fs import FileSelector, FileType
    from pyiceberg.io.pyarrow import PyArrowFileIO

    assert isinstance(io, PyArrowFileIO)
    path = folder.removeprefix("s3://")
    found = io.fs_by_scheme("s3", "lakehouse").get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return [one.path.removeprefix(f"{path}/") for one in found if one.type == FileType.File]


def write(io: FileIO, *locations: str) -> None:
    for location in locations:
        with io.new_output(location).create() as stream:
            stream.write(b"x")


def test_other_files_of_the_folder_can_be_read_at_once(io: FileIO, folder: str) -> None:
    write(io, *(f"{folder}/metadata/{number}.json" for number in range(6)))
    for number in range(5):
        delete_file(io, f"{folder}/metadata/{number}.json")
        assert io.new_input(f"{folder}/metadata/5.json").exists()
    assert objects(io, folder) == ["metadata/5.json"]


def test_the_last_file_of_a_folder_leaves_no_object_in_its_place(io: FileIO, folder: str) -> None:
    write(io, f"{folder}/data/only.parquet")
    delete_file(io, f"{folder}/data/only.parquet")
    assert objects(io, folder) == []
    write(io, f"{folder}/data/next.parquet")
    assert objects(io, folder) == ["data/next.parquet"]


@pytest.mark.parametrize("name", ["day=2026-11-30/a.parquet", "name=a%2Fb/c d.parquet", "ä=ö/+&=.parquet"])
def test_names_of_partitions(io: FileIO, folder: str, name: str) -> None:
    write(io, f"{folder}/{name}")
    assert objects(io, folder) == [name]
    delete_file(io, f"{folder}/{name}")
    assert objects(io, folder) == []


def test_a_file_that_does_not_exist(io: FileIO, folder: str) -> None:
    delete_file(io, f"{folder}/nothing.parquet")


def test_a_deletion_that_is_refused_is_an_error(io: FileIO, folder: str) -> None:
    write(io, f"{folder}/kept.parquet")
    stranger = load_file_io({**io.properties, "s3.secret-access-key": "wrong"}, folder)
    with pytest.raises(ClientError):
        delete_file(stranger, f"{folder}/kept.parquet")
    assert objects(io, folder) == ["kept.parquet"]
