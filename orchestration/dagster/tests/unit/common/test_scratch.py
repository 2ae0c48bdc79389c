"""Temporary folders of processes that are killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from lakehouse_analytics.common.scratch import scratch_folder

FORK = multiprocessing.get_context("fork")


def _hold(parent: Path, pipe: Connection) -> None:
    with scratch_folder("x-", parent) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/rows").write_text("1")
        pipe.send(folder)
        pipe.recv()


def _use(parent: Path, number: int) -> None:
    for turn in range(number):
        with scratch_folder("x-", parent) as folder:
            (folder / "rows").write_text(str(turn))
            assert (folder / "rows").read_text() == str(turn)


@pytest.fixture
def processes() -> Iterator[list[ForkProcess]]:
    started: list[ForkProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def start(processes: list[ForkProcess], parent: Path) -> tuple[ForkProcess, Connection, Path]:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(parent, theirs))
    process.start()
    processes.append(process)
    # A forked process inherits what is open: with our copy of its end closed, nothing else keeps the pipe open.
    theirs.close()
    assert ours.poll(60)
    return process, ours, ours.recv()


def test_a_folder_is_private_and_removed_afterwards(tmp_path: Path) -> None:
    with scratch_folder("x-", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        with scratch_folder("x-", tmp_path) as other:
            assert folder.exists()
        assert not other.exists()
    assert not [*tmp_path.iterdir()]


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, processes: list[ForkProcess]
) -> None:
    _, pipe, of_living = start(processes, tmp_path)
    dead, _, of_dead = start(processes, tmp_path)
    (tmp_path / "x-other").mkdir()  # without a lock, so not one of ours
    dead.kill()
    dead.join()
    assert of_dead.exists()
    with scratch_folder("x-", tmp_path) as folder:
        assert {*tmp_path.iterdir()} == {folder, of_living, tmp_path / "x-other"}
        assert (of_living / "sub/rows").read_text() == "1"
    pipe.send("end")
    processes[0].join()
    assert [*tmp_path.iterdir()] == [tmp_path / "x-other"]


def test_a_folder_that_is_not_locked_yet_stays(tmp_path: Path) -> None:
    (tmp_path / "x-new").mkdir()
    (tmp_path / "x-new/.lock").touch()
    with scratch_folder("x-", tmp_path):
        assert (tmp_path / "x-new/.lock").exists()


def test_processes_that_start_and_end_at_the_same_time_do_not_disturb_each_other(
    tmp_path: Path, processes: list[ForkProcess]
) -> None:
    for _ in range(4):
        processes.append(FORK.Process(target=_use, args=(tmp_path, 100)))
        processes[-1].start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert not [*tmp_path.iterdir()]
