"""The garbage collector does not run during a load, and collects afterwards what a load has left."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
from lakehouse_analytics.common import garbage
from lakehouse_analytics.common.garbage import YOUNG, collect_garbage_rarely, without_garbage_collection


class Cycle:
    """What only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


def test_nothing_is_collected_during_a_load_and_what_it_made_is_passed_over_afterwards() -> None:
    during: list[bool] = []

    def load() -> Cycle:
        during.append(gc.isenabled())
        return Cycle()

    made = without_garbage_collection(load)()
    alive = weakref.ref(made)
    assert during == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    del made
    gc.collect()
    assert alive() is not None, "it was looked through"


@pytest.mark.parametrize(("before", "after"), [(700, YOUNG), (YOUNG * 2, YOUNG * 2), (0, 0)])
def test_collections_become_rare_and_a_collector_that_is_off_stays_off(before: int, after: int) -> None:
    gc.set_threshold(before, 10, 10)
    collect_garbage_rarely()
    assert gc.get_threshold() == (after, 10, 10)


def test_a_process_that_loads_again_and_again_gives_back_what_the_loads_made(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = weakref.ref(without_garbage_collection(Cycle)())
    without_garbage_collection(list)()
    assert alive() is not None, "collecting takes longer than a small load"
    monkeypatch.setattr(garbage, "MAX_FROZEN", gc.get_freeze_count() - 1)
    without_garbage_collection(list)()
    assert alive() is None


def test_an_error_leaves_the_collector_as_it_was() -> None:
    def fail() -> None:
        raise ValueError("no manifest")

    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(ValueError, match="no manifest"):
        without_garbage_collection(fail)()
    assert gc.isenabled()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (threshold, frozen)


def test_whoever_turned_the_collector_off_finds_it_off() -> None:
    gc.disable()
    gc.set_threshold(0)
    without_garbage_collection(list)()
    assert not gc.isenabled()
    assert gc.get_threshold()[0] == 0


def test_the_interpreter_ends_without_duckdb_reporting_what_the_load_kept() -> None:
    ending = (
        "import duckdb; from lakehouse_analytics.common.garbage import without_garbage_collection as load; load(list)()"
    )
    done = subprocess.run([sys.executable, "-c", ending], check=True, capture_output=True, text=True)
    assert done.stderr == ""
