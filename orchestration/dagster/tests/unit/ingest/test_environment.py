"""The connector's environment: installed once per lock, whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lakehouse_analytics.ingest import IngestError
from lakehouse_analytics.ingest.environment import find_uv

from .conftest import Lake


def installs(lake: Lake) -> int:
    log = lake.root / "uv.log"
    return sum(line.startswith("pip install") for line in log.read_text().splitlines()) if log.exists() else 0


def test_it_is_installed_once(lake: Lake) -> None:
    lake.run()
    lake.run()
    assert installs(lake) == 1
    assert "--require-hashes" in (lake.root / "uv.log").read_text()


def test_a_changed_lock_installs_again(lake: Lake) -> None:
    lake.run()
    with (lake.root / "fake.lock").open("a") as lock:
        lock.write("other==2.0\n")
    lake.run()
    assert installs(lake) == 2


def test_a_moved_checkout_installs_again(lake: Lake) -> None:
    lake.run()
    moved = lake.settings.connectors_dir.rename(lake.root / "moved")
    moved.rename(lake.settings.connectors_dir)
    lake.run()
    assert installs(lake) == 1
    (lake.settings.connectors_dir / "fake" / "bin" / "python").unlink()
    lake.run()
    assert installs(lake) == 2


def test_an_install_that_failed_is_done_again(lake: Lake) -> None:
    (lake.root / "uv-fails").touch()
    with pytest.raises(IngestError, match="installing source-fake failed: uv: error: hash mismatch"):
        lake.run()
    (lake.root / "uv-fails").unlink()
    lake.run()
    assert installs(lake) == 2


def test_an_interrupted_install_is_done_again(lake: Lake) -> None:
    lake.run()
    (lake.settings.connectors_dir / "fake" / "lakehouse-lock").unlink()
    (lake.settings.connectors_dir / "fake" / "bin" / "source-fake").write_text("half")
    lake.run()
    assert installs(lake) == 2


def test_an_executable_the_package_does_not_have_is_named(lake: Lake) -> None:
    lake.config["connector"]["executable"] = "source-other"
    with pytest.raises(IngestError, match=r"key 'connector\.executable': source-fake 1\.0 installs no 'source-other'"):
        lake.run()


def test_uv_is_found_in_the_checkout_or_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lakehouse_analytics.settings.repository_root", lambda: tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(IngestError, match="uv is needed"):
        find_uv()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert find_uv() == [sys.executable, "-m", "uv"]
    tool = tmp_path / ".tools" / "bin" / "uv"
    tool.parent.mkdir(parents=True)
    tool.touch(mode=0o755)
    assert find_uv() == [str(tool)]
    (tmp_path / "uv").touch(mode=0o755)
    assert find_uv() == [str(tmp_path / "uv")]
