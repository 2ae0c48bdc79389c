"""Files on a disk that are overwritten while they are moved. The integration tests use S3."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from lakehouse_analytics.arrivals.files.moves import move_file
from lakehouse_analytics.arrivals.files.pattern import FilePattern
from lakehouse_analytics.arrivals.files.storage import FileStorage
from obstore.store import LocalStore


@pytest.mark.parametrize("overwrites", [1, 2])
def test_a_file_that_is_overwritten_while_it_is_moved_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrites: int
) -> None:
    path = tmp_path / "sub/a.csv"
    path.parent.mkdir()

    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(path)

    write("1")
    [file] = FileStorage(FilePattern(f"{tmp_path}/**.csv")).versions()
    rename = obstore.rename
    texts = ["overwritten", "again"][:overwrites]

    def while_overwritten(*arguments: Any, **options: Any) -> None:
        if texts:
            write(texts.pop(0))
        rename(*arguments, **options)

    monkeypatch.setattr(obstore, "rename", while_overwritten)
    move_file(LocalStore(tmp_path), file, "_loaded")
    assert path.read_text() == ("overwritten" if overwrites == 1 else "again")
    assert (tmp_path / "_loaded/sub/a.csv").exists() is (overwrites == 2)
    os.utime(path, (time.time() - 60,) * 2)
    [after] = FileStorage(FilePattern(f"{tmp_path}/**.csv")).settled()
    assert after.version != file.version
    move_file(LocalStore(tmp_path), after, "_loaded")
    assert not path.exists()
