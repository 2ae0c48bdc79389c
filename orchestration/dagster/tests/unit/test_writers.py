"""One writer a table, on a real Dagster instance, with real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakehouse_analytics import locks as writers_module
from lakehouse_analytics.dbt.relation import Relation
from lakehouse_analytics.locks import LEASE, TablesBusyError, Writers, slot_of

A, B, C = (f"iceberg/lake.silver.{name}" for name in "abc")


@pytest.fixture(scope="module")
def one_instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def instance(one_instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """The module's instance, without a slot."""
    yield one_instance
    storage = one_instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        storage.free_concurrency_slots_for_run(run_id)
    for key in storage.get_concurrency_keys():
        storage.delete_concurrency_limit(key)


def writers(instance: dg.DagsterInstance, step: str = "build", job: str = "full_refresh") -> Writers:
    run = create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.STARTED)
    return Writers(instance, run.run_id, step)


def held(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """Who holds what, as Dagster's UI asks."""
    storage = instance.event_log_storage
    infos = storage.get_concurrency_infos([*storage.get_concurrency_keys()])
    return {key: {slot.run_id for slot in info.claimed_slots} for key, info in infos.items() if info.claimed_slots}


def test_a_slot_is_named_after_its_table() -> None:
    assert slot_of(Relation("lake", "silver", "a")) == A


def test_a_table_is_held_by_one_run_and_free_afterwards(instance: dg.DagsterInstance) -> None:
    one, two = writers(instance), writers(instance)
    with one.writing([B, A]):
        assert held(instance) == {A: {one.run_id}, B: {one.run_id}}
        with pytest.raises(TablesBusyError) as caught, two.writing([A]):
            pytest.fail("two writers")
        assert caught.value.holders == {A: one.run_id}
        assert str(caught.value) == f"lake.silver.a: in use by run {one.run_id[:8]} (full_refresh)"
        with two.writing([C]):
            assert held(instance)[C] == {two.run_id}
    assert held(instance) == {}
    with two.writing([A]):
        assert held(instance) == {A: {two.run_id}}


def test_all_or_nothing(instance: dg.DagsterInstance) -> None:
    one, two = writers(instance), writers(instance)
    with one.writing([B]):
        with pytest.raises(TablesBusyError), two.writing([A, B, C]):
            pytest.fail("two writers")
        assert held(instance) == {B: {one.run_id}}


def test_slots_are_given_back_when_the_work_fails(instance: dg.DagsterInstance) -> None:
    with pytest.raises(ZeroDivisionError), writers(instance).writing([A]):
        raise ZeroDivisionError
    assert held(instance) == {}
    assert instance.event_log_storage.get_concurrency_run_ids() == set()


def test_two_steps_of_one_run_exclude_each_other(instance: dg.DagsterInstance) -> None:
    one = writers(instance)
    other = Writers(instance, one.run_id, "upkeep")
    with one.writing([A]), pytest.raises(TablesBusyError), other.writing([A]):
        pytest.fail("two writers")


def test_who_waits_says_for_whom_and_goes_on_when_it_is_their_turn(instance: dg.DagsterInstance) -> None:
    one, two = writers(instance), writers(instance)
    said: list[str] = []
    waiting = threading.Event()

    def say(words: str) -> None:
        said.append(words)
        waiting.set()

    def second() -> dict[str, set[str]]:
        with two.writing([A, B], wait=60, say=say):
            return held(instance)

    with ThreadPoolExecutor(1) as threads:
        with one.writing([A]):
            result = threads.submit(second)
            assert waiting.wait(30)
            # Nothing is held while waiting.
            assert held(instance) == {A: {one.run_id}}
        assert result.result(30) == {A: {two.run_id}, B: {two.run_id}}
    assert len(said) == 1
    assert said[0].startswith(f"lake.silver.a: in use by run {one.run_id[:8]} (full_refresh) (waiting up to 60 s more)")


def test_waiting_ends(instance: dg.DagsterInstance) -> None:
    one, two = writers(instance), writers(instance)
    with one.writing([A]), pytest.raises(TablesBusyError, match=r"waited 1 s"), two.writing([A], wait=1):
        pytest.fail("two writers")
    assert instance.event_log_storage.get_concurrency_run_ids() == set()


def test_who_does_not_wait_lets_those_pass_who_do(instance: dg.DagsterInstance) -> None:
    # Else a build that needs many tables would never find all of them free while upkeep goes from one to the next.
    one, build, upkeep = writers(instance), writers(instance), writers(instance, "upkeep")
    waiting = threading.Event()

    def second() -> None:
        with build.writing([A, B], wait=60, say=lambda _: waiting.set()):
            pass

    with ThreadPoolExecutor(1) as threads:
        with one.writing([A]):
            result = threads.submit(second)
            assert waiting.wait(30)
            with pytest.raises(TablesBusyError) as caught, upkeep.writing([B]):
                pytest.fail("the build waits for it")
            assert caught.value.holders == {B: build.run_id}
        result.result(30)
    with upkeep.writing([B]):
        assert held(instance) == {B: {upkeep.run_id}}


def test_a_person_can_close_a_table(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots(A, 0)
    with pytest.raises(TablesBusyError, match=r"closed \(limit 0"), writers(instance).writing([A]):
        pytest.fail("closed")
    instance.event_log_storage.set_concurrency_slots(A, 1)
    with writers(instance).writing([A]):
        assert A in held(instance)


def test_a_higher_limit_makes_no_second_writer(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots(A, 5)
    one, two = writers(instance), writers(instance)
    with one.writing([A]), pytest.raises(TablesBusyError), two.writing([A]):
        pytest.fail("two writers")


#: A run's process: takes the slots of each line it is sent, says so, and holds them until the next line.
RUN = """
import sys
from dagster import DagsterInstance
from lakehouse_analytics.locks import TablesBusyError, Writers
with DagsterInstance.from_config(sys.argv[1]) as instance:
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            with Writers(instance, sys.argv[2], "build").writing(line.split()):
                print("won", flush=True)
                sys.stdin.readline()
        except TablesBusyError:
            print("lost", flush=True)
            sys.stdin.readline()
"""


@contextmanager
def process_of(instance: dg.DagsterInstance, run_id: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUN, instance.root_directory, run_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert said(process) == "ready"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdin
    process.stdin.write(f"{words}\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def failed(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    assert run
    instance.report_run_failed(run)


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("lakehouse_analytics.locks._now", lambda now=writers_module._now: now() + by)
        yield


def test_a_killed_runs_table_is_taken_over_after_a_while_and_its_queries_are_ended(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon says that it died: it is STARTED for ever."""
    dead, alive = writers(instance).run_id, writers(instance)
    with process_of(instance, dead) as process:
        tell(process, A)
        assert said(process) == "won"
        process.kill()
    assert held(instance) == {A: {dead}}
    with pytest.raises(TablesBusyError), alive.writing([A]):
        pytest.fail("it may be alive")
    buried: list[str] = []
    with later(monkeypatch, LEASE), alive.writing([A], bury=buried.append):
        assert held(instance) == {A: {alive.run_id}}
    assert buried == [dead]
    assert dead not in instance.event_log_storage.get_concurrency_run_ids()


def test_a_run_that_lives_keeps_its_table_as_long_as_it_takes(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers_module, "BEAT", 0.05)
    one, two = writers(instance), writers(instance)
    with one.writing([A]), later(monkeypatch, LEASE):
        renewed = threading.Event()
        renew = one._renew
        monkeypatch.setattr(one, "_renew", lambda slots: (renew(slots), renewed.set()))
        assert renewed.wait(30)
        with pytest.raises(TablesBusyError), two.writing([A]):
            pytest.fail("two writers")


def test_nobody_lets_a_dead_run_pass_that_stood_in_line(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, dead, upkeep = writers(instance), writers(instance), writers(instance, "upkeep")
    with one.writing([A]):
        assert dead._exchange([A, B], queue=True) == {A: one.run_id}
    with pytest.raises(TablesBusyError), upkeep.writing([B]):
        pytest.fail("a build waits for it")
    with later(monkeypatch, LEASE), upkeep.writing([B]):
        assert held(instance) == {B: {upkeep.run_id}}


def test_run_monitoring_finds_and_frees_what_a_dead_run_held(instance: dg.DagsterInstance) -> None:
    dead, storage = writers(instance), instance.event_log_storage
    with dead.writing([A]):
        failed(instance, dead.run_id)
        # What dagster._daemon.monitoring.concurrency does.
        assert dead.run_id in storage.get_concurrency_run_ids()
        storage.free_concurrency_slots_for_run(dead.run_id)
        assert held(instance) == {}
        assert storage.get_concurrency_run_ids() == set()


def test_of_processes_that_ask_at_once_one_gets_the_table(instance: dg.DagsterInstance) -> None:
    # `claim_concurrency_slot` gave 42 of 60 such slots to several.
    with ExitStack() as stack:
        processes = [stack.enter_context(process_of(instance, writers(instance).run_id)) for _ in range(3)]
        for number in range(15):
            for process in processes:
                tell(process, f"iceberg/lake.silver.t{number} iceberg/lake.silver.u{number}")
            assert sorted(said(process) for process in processes) == ["lost", "lost", "won"]
            for process in processes:
                tell(process, "next")


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.sampled_from([A, B, C]), min_size=1), min_size=3, max_size=3))
def test_runs_that_want_several_tables_all_get_their_turn(instance: dg.DagsterInstance, wanted: list[set[str]]) -> None:
    inside: set[str] = set()
    collisions: list[str] = []
    lock = threading.Lock()

    def build(slots: set[str]) -> None:
        with writers(instance).writing(slots, wait=120):
            with lock:
                collisions.extend(inside & slots)
                inside.update(slots)
            time.sleep(0.01)
            with lock:
                inside.difference_update(slots)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(build, slots) for slots in wanted]:
            done.result(180)
    assert collisions == []
    assert held(instance) == {}
