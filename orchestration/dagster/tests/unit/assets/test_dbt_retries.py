from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.assets.dbt_retries import (
    BACKOFF,
    QUEUE_BACKOFF,
    Patience,
    merge,
    retryable_nodes,
    should_restart_after_crash,
)
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.run_results import DbtResult, NodeResult
from lakehouse_analytics.engines.base import Reason
from manifests import Manifest, manifests, medallion


@dataclass(frozen=True)
class Why:
    transient: bool
    advice: str = ""
    queue_full: bool = False


def judge(message: str) -> Reason:
    return Why("passes" in message)


def dbt(**statuses: str) -> DbtResult:
    """`name="error passes"`: a status and words of its message, of a model, or of a test called `test_…`."""
    nodes = {}
    for name, said in statuses.items():
        unique_id = f"test.shop.{name}" if name.startswith("test_") else f"model.shop.{name}"
        nodes[unique_id] = NodeResult(unique_id, said.split()[0], said, 0.1, None, None)
    return DbtResult(0 if all(said in ("success", "pass") for said in statuses.values()) else 1, nodes)


def again(graph: Graph, result: DbtResult) -> set[str]:
    tables, tests = retryable_nodes(graph, list(graph.tables.values()), list(graph.tests.values()), result, judge)
    return {thing.unique_id.rpartition(".")[2] for things in (tables, tests) for thing in things}


def test_what_failed_for_a_passing_reason_is_asked_for_again_with_what_waited_for_it() -> None:
    graph = medallion().graph()
    result = dbt(
        stg_a="error passes", stg_b="success", dim_a="skipped", dim_b="success", fct="skipped", only_a="skipped"
    )
    assert again(graph, result) == {"stg_a", "dim_a", "fct", "only_a"}


def test_nothing_below_a_permanent_failure_is_asked_for() -> None:
    graph = medallion().graph()
    result = dbt(stg_a="error passes", stg_b="error syntax", dim_a="skipped", dim_b="skipped", fct="skipped")
    assert again(graph, result) == {"stg_a", "dim_a", "only_a"}


def test_an_append_is_never_repeated_whatever_it_is_called() -> None:
    # It may have been done before the statement that failed: a temporary view is dropped after it, a hook runs.
    m = Manifest()
    m.model("a", materialized="incremental")
    m.model("b", materialized="incremental", incremental_strategy="append", unique_key="id")
    m.model("c", materialized="incremental", incremental_strategy="default", unique_key="id")
    m.model("d", materialized="incremental", incremental_strategy="merge")
    m.model("e", materialized="incremental", incremental_strategy="merge", unique_key="id")
    m.model("f", materialized="incremental", incremental_strategy="replace_window")
    m.model("g")
    graph = m.graph()
    assert again(graph, dbt(**dict.fromkeys("abcdefg", "error passes"))) == {"e", "f", "g"}

    crashed = DbtResult(2, {}, ("passes",))
    tables = list(graph.tables.values())
    assert not should_restart_after_crash(tables, crashed, judge)
    assert should_restart_after_crash([t for t in tables if t.unique_id[-1] in "efg"], crashed, judge)
    assert not should_restart_after_crash([], DbtResult(2, {}, ("syntax",)), judge)


def test_a_second_try_that_crashes_takes_nothing_from_the_first() -> None:
    first, crash = dbt(stg_a="error passes", stg_b="success"), DbtResult(2, {}, ("Trino is down",))
    merged = merge(first, crash)
    assert not merged.crashed
    assert merged.exit_code == 1
    assert merged.nodes == first.nodes
    assert merged.errors == ("Trino is down",)
    assert merge(crash, crash).crashed
    assert merge(crash, dbt(stg_a="success")).exit_code == 0


def test_a_test_that_could_not_run_is_run_again_and_lets_through_what_it_held_up() -> None:
    m = medallion()
    m.test("test_a", "model.shop.stg_a")
    m.test("test_b", "model.shop.stg_b")
    graph = m.graph()
    result = dbt(
        stg_a="success", stg_b="success", test_a="error passes", test_b="fail", dim_a="skipped", dim_b="skipped",
        fct="skipped", only_a="skipped", only_b="skipped",
    )  # fmt: skip
    assert again(graph, result) == {"test_a", "dim_a", "only_a"}


def test_two_tries_are_one_result_of_what_was_seen_last() -> None:
    first, second = dbt(stg_a="error passes", stg_b="success"), dbt(stg_a="success")
    merged = merge(first, second)
    assert {unique_id: node.status for unique_id, node in merged.nodes.items()} == {
        "model.shop.stg_a": "success",
        "model.shop.stg_b": "success",
    }
    assert merged.exit_code == 0
    assert merge(dbt(stg_a="error passes", stg_b="error syntax"), second).exit_code == 1


@given(st.data())
def test_only_what_may_pass_or_waits_for_it_is_asked_for(data: st.DataObject) -> None:
    graph = data.draw(manifests(tests=True)).graph()
    words = st.sampled_from(["success", "error passes", "error syntax", "skipped"])
    verdicts = st.sampled_from(["pass", "fail", "warn", "error passes", "skipped"])
    said = {u: data.draw(words) for u in graph.tables} | {u: data.draw(verdicts) for u in graph.tests}
    nodes = {u: NodeResult(u, text.split()[0], text, 0.1, None, None) for u, text in said.items()}
    result = DbtResult(1, nodes)
    tables, tests = retryable_nodes(graph, list(graph.tables.values()), list(graph.tests.values()), result, judge)

    for_good = {u for u in graph.tables if said[u] == "error syntax"}
    assert not {t.unique_id for t in tables} & (for_good | graph.descendants(for_good))
    ids = [*(table.unique_id for table in tables), *(test.unique_id for test in tests)]
    assert all(said[unique_id].split()[0] not in ("success", "pass", "fail", "warn") for unique_id in ids)
    # After a success, nothing is retried.
    fine = {unique_id: NodeResult(unique_id, "success", "", 0.1, None, None) for unique_id in ids}
    settled = merge(result, DbtResult(0, fine))
    assert not {t.unique_id for t in tables} & {
        t.unique_id
        for t in retryable_nodes(graph, list(graph.tables.values()), list(graph.tests.values()), settled, judge)[0]
    }


QUEUE_TIMEOUT = 100.0


class Clock:
    """A clock that only advances during sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def judged(message: str) -> Reason:
    return Why("passes" in message, queue_full="full" in message)


def tries(outcomes: list[list[str]]) -> tuple[list[float], list[bool], float]:
    """Waits between the tries of one model each, until none is worth another; the last outcome comes again."""
    clock = Clock()
    waits: list[float] = []
    full: list[bool] = []
    patience = Patience(judged, QUEUE_TIMEOUT, clock)
    graph = medallion().graph()
    tables = list(graph.tables.values())
    for number in range(1000):
        last = dbt(**dict(zip(("stg_a", "stg_b"), outcomes[min(number, len(outcomes) - 1)], strict=True)))
        clock.now += 1.0  # a try takes its time
        if not any(retryable_nodes(graph, tables, [], last, patience.classify_error)):
            return waits, full, clock.now
        seconds, of_queue = patience.wait(last)
        waits.append(seconds)
        full.append(of_queue)
        clock.now += seconds
    raise AssertionError("it never ends")


FAILED_FULL, FAILED_OTHER, FINE = "error passes full", "error passes", "success"


def test_a_full_queue_is_tried_again_for_longer_than_a_failure_and_with_a_bound() -> None:
    waits, full, ended = tries([[FAILED_FULL, FAILED_FULL]])
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert all(full)
    assert len(waits) > len(BACKOFF)
    assert QUEUE_TIMEOUT <= ended <= QUEUE_TIMEOUT + 3

    assert tries([[FAILED_OTHER, FAILED_OTHER]])[0] == [*BACKOFF]


def test_what_is_built_meanwhile_gives_a_full_queue_its_whole_time_again() -> None:
    stuck = tries([[FAILED_FULL, FAILED_FULL]])[2]
    moving = tries([*[[FAILED_FULL, FAILED_FULL]] * 4, [FAILED_FULL, FINE], [FAILED_FULL, FAILED_FULL]])[2]
    assert moving > stuck + 50


def test_a_failure_beside_a_full_queue_is_tried_no_more_often_than_alone() -> None:
    clock = Clock()
    patience = Patience(judged, QUEUE_TIMEOUT, clock)
    for _ in BACKOFF:
        patience.wait(dbt(stg_a=FAILED_FULL, stg_b=FAILED_OTHER))
    assert not patience.classify_error(FAILED_OTHER).transient
    assert patience.classify_error(FAILED_FULL).transient


@given(st.lists(st.tuples(*[st.sampled_from([FAILED_FULL, FAILED_OTHER, FINE])] * 2).map(list), min_size=1))
def test_a_build_always_ends(outcomes: list[list[str]]) -> None:
    # A queue that is full for some and not for others for ever would be progress for ever.
    outcomes = [*outcomes, [FAILED_FULL, FAILED_OTHER]]
    waits, _, _ = tries(outcomes)
    assert all(0 <= wait <= QUEUE_BACKOFF[1] for wait in waits)
