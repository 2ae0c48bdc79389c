from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.gates import Run
from lakehouse_analytics.graph import DbtTest, Function, Graph, Table
from lakehouse_analytics.run_results import DbtResult, NodeResult
from manifests import PROJECT, Manifest, manifests, medallion


def model(name: str) -> str:
    return f"model.{PROJECT}.{name}"


def said(unique_id: str, status: str, message: str = "") -> NodeResult:
    return NodeResult(unique_id, status, message, 0.1, None, None)


def dbt(nodes: dict[str, NodeResult]) -> DbtResult:
    fine = all(node.status in ("success", "pass", "warn") for node in nodes.values())
    return DbtResult(0 if fine else 1, nodes)


def dbt_build(
    graph: Graph, tables: Iterable[Table], tests: Iterable[DbtTest], outcome: Mapping[str, str]
) -> dict[str, NodeResult]:
    """What `dbt build` reports of a stage: nodes fail as told, and what lies below in this stage is skipped.

    dbt skips a node when a parent failed, was skipped, or when a blocking test of its ancestors failed. It runs a
    test before the nodes below all of the test's parents, and skips it when one of them was not built.
    """
    tables, tests = list(tables), list(tests)
    status: dict[str, str] = {}
    stopped: set[str] = set()

    def run_tests(done: set[str]) -> None:
        here = {table.unique_id for table in tables}
        for test in tests:
            if test.unique_id in status or not set(test.parents) & here <= done:
                continue
            if stopped & set(test.parents):
                status[test.unique_id] = "skipped"
            else:
                status[test.unique_id] = outcome.get(test.unique_id, "pass")
                if status[test.unique_id] in ("error", "fail"):
                    failing.append(test)

    failing: list[DbtTest] = []
    done: set[str] = set()
    run_tests(done)
    for table in sorted(tables, key=lambda t: graph.order[t.unique_id]):
        upstream = ancestors(graph, table.unique_id)
        if stopped & upstream or any(test.parents and set(test.parents) <= upstream for test in failing):
            status[table.unique_id] = "skipped"
        else:
            status[table.unique_id] = outcome.get(table.unique_id, "success")
        if status[table.unique_id] != "success":
            stopped.add(table.unique_id)
        done.add(table.unique_id)
        run_tests(done)
    # "gone" stands for a node dbt says nothing of.
    return {u: said(u, s, f"{s} of {u}") for u, s in status.items() if s != "gone"}


def ancestors(graph: Graph, unique_id: str) -> set[str]:
    found: set[str] = set()
    stack = [*graph.tables[unique_id].parents]
    while stack:
        parent = stack.pop()
        if parent not in found:
            found.add(parent)
            if parent in graph.tables:
                stack.extend(graph.tables[parent].parents)
    return found


class Played:
    """A run from its first stage to its last, with what was handed to dbt at each."""

    def __init__(
        self,
        graph: Graph,
        outcome: Mapping[str, str] | None = None,
        *,
        selected: Iterable[str] | None = None,
        checked: Iterable[str] = (),
        broken_counts: Iterable[str] = (),
    ) -> None:
        chosen = graph.tables if selected is None else selected
        self.run = Run(graph, frozenset(chosen), frozenset(checked))
        self.handed: list[tuple[set[str], set[str]]] = []
        for planned_tables, planned_tests in self.run.stages():
            tables, tests = self.run.buildable(planned_tables), self.run.testable(planned_tests)
            self.handed.append(({t.unique_id for t in tables}, {t.unique_id for t in tests}))
            self.run.record(tables, tests, dbt(dbt_build(graph, tables, tests, outcome or {})))
            for table in tables:
                if table.unique_id in self.run.built and table.unique_id in broken_counts:
                    self.run.fail_gate(table.unique_id, "row_count: the table is empty")

    @property
    def built(self) -> set[str]:
        return {unique_id.rsplit(".", 1)[-1] for unique_id in self.run.built}

    @property
    def tables_handed(self) -> set[str]:
        return set().union(*(tables for tables, _ in self.handed))

    @property
    def tests_handed(self) -> list[str]:
        return [test for _, tests in self.handed for test in tests]


EVERYTHING = {"stg_a", "stg_b", "dim_a", "dim_b", "fct", "only_a", "only_b"}


def test_an_undisturbed_run_builds_and_tests_everything_once() -> None:
    m = medallion()
    tests = [
        m.test("unique_a", model("stg_a"), attached=model("stg_a")),
        m.test("raw_a", f"source.{PROJECT}.raw.a"),
        m.test("across", model("stg_a"), model("fct")),
    ]
    played = Played(m.graph())
    assert played.run.succeeded
    assert played.built == EVERYTHING
    assert sorted(played.tests_handed) == sorted(tests)
    assert played.run.summary() == "7 of 7 tables were built."


def test_a_failed_gate_blocks_exactly_its_descendants() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    played = Played(m.graph(), {test: "fail"})
    assert played.built == {"stg_a", "stg_b", "dim_b", "only_b"}
    assert set(played.run.blocked) == {model("dim_a"), model("fct"), model("only_a")}
    assert not played.run.succeeded
    summary = played.run.summary()
    assert "✘ bronze/stg_a failed its gate: unique_a: fail of" in summary
    assert "– silver/dim_a was blocked by bronze/stg_a" in summary
    assert "– gold/fct was blocked by bronze/stg_a" in summary
    assert "dim_b" not in summary
    assert "4 of 7 tables were built." in summary


def test_an_error_of_a_blocking_test_gates_like_a_failure() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    assert Played(m.graph(), {test: "error"}).built == {"stg_a", "stg_b", "dim_b", "only_b"}


def test_a_broken_row_count_gates_like_a_test() -> None:
    played = Played(medallion().graph(), broken_counts=[model("dim_b")])
    assert played.built == {"stg_a", "stg_b", "dim_a", "dim_b", "only_a"}
    assert "silver/dim_b failed its gate: row_count: the table is empty" in played.run.summary()


def test_a_table_that_fails_to_build_blocks_its_descendants_and_says_why() -> None:
    played = Played(medallion().graph(), {model("dim_a"): "error"})
    assert played.built == {"stg_a", "stg_b", "dim_b", "only_b"}
    assert set(played.run.failed) == {model("dim_a")}
    assert "✘ silver/dim_a was not built: error of" in played.run.summary()


@pytest.mark.parametrize("status", ["partial success", "runtime error", "no-op", "fail"])
def test_only_success_is_success(status: str) -> None:
    played = Played(medallion().graph(), {model("stg_a"): status})
    assert model("stg_a") in played.run.failed
    assert "dim_a" not in played.built


def test_a_failed_source_test_blocks_everything_below_the_source() -> None:
    m = medallion()
    test = m.test("raw_a_has_rows", f"source.{PROJECT}.raw.a")
    played = Played(m.graph(), {test: "fail"})
    assert played.built == {"stg_b", "dim_b", "only_b"}
    assert "raw/a failed its gate" in played.run.summary()
    assert "bronze/stg_a was blocked by raw/a" in played.run.summary()


def test_a_source_test_runs_with_the_first_table_that_reads_it() -> None:
    m = Manifest()
    raw = m.source("raw", "a")
    m.model("gold_reader", raw, folder="gold")
    m.model("silver_reader", raw, folder="silver")
    test = m.test("raw_a", raw)
    played = Played(m.graph(), {test: "fail"})
    assert played.tests_handed == [test]
    assert test in played.handed[0][1]
    assert played.built == set()


def test_tests_of_sources_that_feed_nothing_selected_are_left_alone() -> None:
    m = medallion()
    test_a = m.test("raw_a", f"source.{PROJECT}.raw.a")
    m.test("raw_b", f"source.{PROJECT}.raw.b")
    assert Played(m.graph(), selected=[model("stg_a"), model("dim_a")]).tests_handed == [test_a]


@pytest.mark.parametrize("status", ["warn", "pass"])
def test_a_warning_blocks_nothing(status: str) -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    played = Played(m.graph(), {test: status})
    assert played.built == EVERYTHING
    assert played.run.succeeded


def test_a_failure_gates_although_the_manifest_says_warn() -> None:
    # dbt's `warn_error` turns warnings into failures; the manifest's severity does not show it.
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    played = Played(m.graph(), {test: "fail"})
    assert played.built == {"stg_a", "stg_b", "dim_b", "only_b"}
    assert not played.run.succeeded
    assert "bronze/stg_a failed its gate: unique_a: fail of" in played.run.summary()


def test_an_error_test_below_its_error_threshold_blocks_nothing() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    assert Played(m.graph(), {test: "warn"}).run.succeeded


@pytest.mark.parametrize("severity", ["error", "warn"])
@pytest.mark.parametrize("status", ["gone", "skipped", "no-op"])
def test_a_planned_test_that_dbt_did_not_evaluate_fails_the_gate(severity: str, status: str) -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity=severity)
    played = Played(m.graph(), {test: status})
    assert played.run.unevaluated == {test}
    assert played.built == {"stg_a", "stg_b", "dim_b", "only_b"}
    assert "unique_a: planned, but dbt did not evaluate it" in played.run.summary()


def test_a_table_dbt_says_nothing_of_was_not_built() -> None:
    played = Played(medallion().graph(), {model("stg_a"): "gone"})
    assert played.run.failed == {model("stg_a"): "dbt did not build it"}
    assert played.built == {"stg_b", "dim_b", "only_b"}


def test_a_dbt_that_reports_nothing_at_all_builds_nothing() -> None:
    m = medallion()
    m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(graph, frozenset(graph.tables))
    for tables, tests in run.stages():
        run.record(run.buildable(tables), run.testable(tests), dbt({}))
    assert not run.succeeded
    assert set(run.failed) == {model("stg_a"), model("stg_b")}
    assert set(run.blocked) == set(graph.tables) - set(run.failed)


def test_a_skip_without_a_reason_is_a_failure_and_only_the_topmost_is_blamed() -> None:
    m = Manifest()
    a = m.model("a", folder="bronze")
    b = m.model("b", a, folder="bronze")
    m.model("c", b, folder="bronze")
    graph = m.graph()
    run = Run(graph, frozenset(graph.tables))
    [(tables, tests)] = run.stages()
    run.record(tables[::-1], tests, dbt({u: said(u, "skipped") for u in graph.tables}))
    assert set(run.failed) == {a}
    assert "dbt skipped it: no reason given" in run.failed[a]
    assert run.blocked == {model("b"): [a], model("c"): [a]}


def test_a_skip_below_a_failure_in_the_same_stage_is_blocked_not_failed() -> None:
    m = Manifest()
    a = m.model("a", folder="bronze")
    m.model("b", a, folder="bronze")
    played = Played(m.graph(), {a: "error"})
    assert set(played.run.failed) == {a}
    assert played.run.blocked == {model("b"): [a]}


def test_tests_of_what_dbt_skips_below_a_failed_gate_in_the_same_stage_are_not_missed() -> None:
    m = Manifest()
    a = m.model("a", folder="bronze")
    b = m.model("b", a, folder="bronze")
    gate = m.test("unique_a", a, attached=a)
    m.test("unique_b", b, attached=b)
    played = Played(m.graph(), {gate: "fail"})
    assert played.run.built == {a}
    assert played.run.unevaluated == set()
    assert set(played.run.gates) == {a}


def test_a_run_that_built_nothing_yet_has_not_succeeded() -> None:
    graph = medallion().graph()
    assert not Run(graph, frozenset(graph.tables)).succeeded


def test_a_test_that_reads_a_blocked_table_is_not_run_and_not_missed() -> None:
    m = medallion()
    gate = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    across = m.test("across", model("dim_a"), model("dim_b"), attached=model("dim_b"))
    played = Played(m.graph(), {gate: "fail"})
    assert played.tests_handed == [gate]
    assert across not in played.run.unevaluated
    assert "dim_b" in played.built
    assert "only_b" in played.built


def test_a_test_that_reads_a_later_layer_waits_for_it() -> None:
    m = medallion()
    late = m.test("bronze_equals_gold", model("stg_a"), model("fct"), attached=model("stg_a"))
    played = Played(m.graph(), {late: "fail"})
    assert [late in tests for _, tests in played.handed] == [False, False, True, False]
    # Its gate is stg_a's: what was built before it was judged stays built, and the run fails.
    assert "bronze/stg_a failed its gate" in played.run.summary()
    assert not played.run.succeeded


def test_every_culprit_above_a_blocked_table_is_named() -> None:
    played = Played(medallion().graph(), {model("stg_a"): "error"}, broken_counts=[model("stg_b")])
    assert played.run.blocked[model("fct")] == [model("stg_a"), model("stg_b")]
    assert "gold/fct was blocked by bronze/stg_a, bronze/stg_b" in played.run.summary()


def test_a_gap_in_the_selection_does_not_let_a_failure_through() -> None:
    played = Played(
        medallion().graph(), {model("stg_a"): "error"}, selected=[model("stg_a"), model("only_a"), model("only_b")]
    )
    assert played.built == {"only_b"}
    assert set(played.run.blocked) == {model("only_a")}


def test_a_check_asked_for_without_its_table_runs_and_gates() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    played = Played(m.graph(), {test: "fail"}, selected=[model("dim_a"), model("dim_b")], checked=[test])
    assert played.tests_handed == [test]
    assert played.built == {"dim_b"}


def test_a_check_asked_for_alone_runs_without_any_table() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    played = Played(m.graph(), selected=[], checked=[test])
    assert played.handed == [(set(), {test})]
    assert played.run.succeeded


def test_tests_of_tables_that_are_not_selected_are_left_alone() -> None:
    m = medallion()
    m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    assert Played(m.graph(), selected=[model("dim_a")]).tests_handed == []


def test_results_of_nodes_nobody_asked_for_change_nothing() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(graph, frozenset({model("dim_b")}))
    [(tables, tests)] = run.stages()
    run.record(tables, tests, dbt({model("dim_b"): said(model("dim_b"), "success"), test: said(test, "pass")}))
    assert run.succeeded


TABLE_OUTCOMES = st.sampled_from(["success", "success", "success", "success", "error", "gone"])
TEST_OUTCOMES = st.sampled_from(["pass", "pass", "pass", "warn", "fail", "error", "gone"])


@st.composite
def histories(draw: st.DrawFn) -> Played:
    m = draw(manifests(tests=True))
    graph = m.graph()
    outcome = {
        **{unique_id: draw(TABLE_OUTCOMES) for unique_id in graph.tables},
        **{unique_id: draw(TEST_OUTCOMES) for unique_id in graph.tests},
    }
    some = st.sets(st.sampled_from(sorted(graph.tables))) if graph.tables else st.just(set())
    selected = draw(st.one_of(st.just(set(graph.tables)), some))
    broken = draw(some)
    checked = draw(st.sets(st.sampled_from(sorted(graph.tests)))) if graph.tests else set()
    return Played(graph, outcome, selected=selected, broken_counts=broken, checked=checked)


def culprits(run: Run) -> set[str]:
    return {*run.failed, *(unique_id for unique_id, reasons in run.gates.items() if reasons)}


@given(histories())
def test_blocked_is_always_the_selected_descendants_of_the_culprits(played: Played) -> None:
    run = played.run
    below = {culprit: run.graph.descendants([culprit]) & run.selected for culprit in culprits(run)}
    assert set(run.blocked) == set().union(*below.values())
    for table, named in run.blocked.items():
        assert named == sorted(culprit for culprit, blocked in below.items() if table in blocked)


@given(histories())
def test_every_selected_table_is_built_failed_or_blocked(played: Played) -> None:
    run = played.run
    assert run.selected == run.built | set(run.failed) | set(run.blocked)
    assert not run.built & set(run.failed)


@given(histories())
def test_nothing_below_a_culprit_of_an_earlier_stage_is_handed_to_dbt_and_all_else_is(played: Played) -> None:
    run = played.run
    graph = run.graph
    # A gate is known when the test that failed it has run: after the stage of the test's last parent.
    again = Run(graph, run.selected, run.checked)
    handed = iter(played.handed)
    seen: set[str] = set()
    for tables, _ in again.stages():
        given_tables, given_tests = next(handed)
        planned = {t.unique_id for t in tables}
        known = {c for c in culprits(run) if c in seen}
        assert given_tables >= planned - graph.descendants(culprits(run))
        assert not given_tables & graph.descendants(known & set(run.failed))
        seen |= planned | given_tests
    assert next(handed, None) is None


@given(histories())
def test_a_failed_gate_between_stages_lets_nothing_later_be_built(played: Played) -> None:
    run = played.run
    for culprit in culprits(run) & run.selected:
        # Only tests that also read later tables can fail a gate after its own stage.
        late = any(
            t.attached == culprit and any(run.graph.ranks.get(p, -1) > run.graph.ranks[culprit] for p in t.parents)
            for t in run.graph.tests.values()
        )
        later = {u for u in run.graph.descendants([culprit]) if run.graph.ranks[u] > run.graph.ranks[culprit]}
        assert late or not later & run.built
        assert late or not later & played.tables_handed


@given(histories())
def test_no_test_is_handed_to_dbt_twice_and_every_planned_one_is_accounted_for(played: Played) -> None:
    run = played.run
    assert len(played.tests_handed) == len(set(played.tests_handed))
    out = {*run.blocked, *run.failed}
    for test in run.tests():
        assert test.unique_id in played.tests_handed or out & set(test.parents)


@given(histories())
def test_success_means_that_all_was_built_and_nothing_blocking_failed(played: Played) -> None:
    run = played.run
    assert run.succeeded == (run.built == run.selected and not culprits(run))
    assert run.succeeded or "✘" in run.summary()


@given(histories())
def test_the_summary_names_each_failed_and_blocked_table_with_its_culprits(played: Played) -> None:
    run = played.run
    lines = run.summary().splitlines()

    def name(unique_id: str) -> str:
        return "/".join((run.graph.tables.get(unique_id) or run.graph.sources[unique_id]).key)

    for unique_id, reason in run.failed.items():
        assert f"✘ {name(unique_id)} was not built: {reason}" in lines
    for unique_id, reasons in run.gates.items():
        for reason in reasons:
            assert f"✘ {name(unique_id)} failed its gate: {reason}" in lines
    for unique_id, named in run.blocked.items():
        line = f"– {name(unique_id)} was blocked by {', '.join(map(name, named))}"
        assert (line in lines) == (unique_id not in run.built and unique_id not in run.failed)
    assert lines[-1] == f"{len(run.built)} of {len(run.selected)} tables were built."


@given(histories())
def test_the_run_does_not_depend_on_the_order_in_which_dbt_reports(played: Played) -> None:
    graph = played.run.graph
    forwards, backwards = (Run(graph, played.run.selected, played.run.checked) for _ in range(2))
    for run, turn in ((forwards, 1), (backwards, -1)):
        for tables, tests in run.stages():
            given_tables, given_tests = run.buildable(tables), run.testable(tests)
            results = dbt_build(graph, given_tables, given_tests, dict.fromkeys(played.run.failed, "error"))
            run.record(given_tables[::turn], given_tests[::turn], dbt(dict([*results.items()][::turn])))
    assert forwards.blocked == backwards.blocked
    assert forwards.failed == backwards.failed


def test_a_test_that_cannot_run_gates_whatever_its_severity() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    run = Played(m.graph(), {test: "error"}).run
    assert model("stg_a") in run.gates
    assert not run.succeeded


def test_an_exit_code_that_no_node_explains_fails_the_run() -> None:
    graph = medallion().graph()
    run = Run(graph, frozenset({model("stg_a")}))
    [(tables, tests)] = run.stages()
    nodes = {model("stg_a"): said(model("stg_a"), "success")}
    hook = "operation.shop.shop-on-run-end-0"
    run.record(tables, tests, DbtResult(1, {**nodes, hook: said(hook, "error")}, errors=("permission denied",)))
    assert run.built == {model("stg_a")}
    assert not run.succeeded
    assert f"dbt reported status error for {hook}: permission denied" in run.summary()


def test_an_exit_code_beside_passes_only_fails_the_run() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    graph = m.graph()
    run = Run(graph, frozenset({model("stg_a")}))
    [(tables, tests)] = run.stages()
    nodes = {model("stg_a"): said(model("stg_a"), "success"), test: said(test, "warn")}
    run.record(tables, tests, DbtResult(1, nodes, errors=("a warning that dbt was told to take for an error",)))
    assert not run.succeeded
    assert "exit code 1: a warning that dbt was told to take for an error" in run.summary()


def test_a_failed_hook_is_named_beside_a_failed_test() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(graph, frozenset({model("stg_a")}))
    [(tables, tests)] = run.stages()
    hook = "operation.shop.shop-on-run-end-0"
    nodes = {model("stg_a"): said(model("stg_a"), "success"), test: said(test, "fail"), hook: said(hook, "error", "no")}
    run.record(tables, tests, dbt(nodes))
    assert "unique_a: fail" in run.summary()
    assert f"{hook}: no" in run.summary()


def test_a_failure_of_a_test_that_was_not_selected_fails_the_run() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(graph, frozenset({model("dim_b")}))
    [(tables, tests)] = run.stages()
    run.record(tables, tests, dbt({model("dim_b"): said(model("dim_b"), "success"), test: said(test, "fail")}))
    assert run.built == {model("dim_b")}
    assert test in run.summary()
    assert not run.succeeded


STATUSES = [
    "success", "pass", "warn", "no-op", "fail", "error", "skipped", "partial success", "runtime error", "a new one",
]  # fmt: skip


@given(st.data(), st.sampled_from([0, 1]))
def test_a_run_succeeds_only_if_dbt_and_every_node_say_so(data: st.DataObject, exit_code: int) -> None:
    m = medallion()
    wanted = [m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity=s) for s in ("ERROR", "warn")][-1:]
    wanted.append(m.test("singular", model("stg_a")))
    others = ["operation.shop.hook", "unit_test.shop.stg_a.u", "exposure.shop.board", "saved_query.shop.q"]
    graph = m.graph()
    run = Run(graph, frozenset({model("stg_a")}))
    [(tables, tests)] = run.stages()
    asked = {model("stg_a"), *wanted}
    answers = {
        unique_id: data.draw(st.sampled_from([*STATUSES, None, *["success", "pass"] * 5]), label=unique_id)
        for unique_id in (*asked, *others)
    }
    nodes = {unique_id: said(unique_id, status) for unique_id, status in answers.items() if status is not None}
    run.record(tables, tests, DbtResult(exit_code, nodes))
    fine = (
        exit_code == 0
        and answers[model("stg_a")] == "success"
        and all(answers[test] in ("pass", "warn") for test in wanted)
        and all(answers[other] in ("success", "pass", "warn", "no-op", "skipped", None) for other in others)
    )
    assert run.succeeded == fine
    assert fine or "✘" in run.summary()


def test_a_table_that_nobody_asked_for_is_a_failure() -> None:
    graph = medallion().graph()
    run = Run(graph, frozenset({model("stg_a")}))
    [(tables, tests)] = run.stages()
    run.record(tables, tests, dbt({u: said(u, "success") for u in (model("stg_a"), model("stg_b"))}))
    assert not run.succeeded
    assert "nobody asked" in run.summary()


# Functions, and tests without a table.


def with_functions() -> tuple[Manifest, str, str]:
    """`rate` is called by silver dim_a's sibling only, `unused` by nothing."""
    m = medallion()
    used, unused = m.function("rate"), m.function("unused")
    m.model("converted", used, model("stg_a"), folder="silver")
    m.model("below", model("converted"), folder="gold")
    return m, used, unused


def results(statuses: Mapping[str, str], things: Iterable[Table | DbtTest | Function]) -> DbtResult:
    nodes = {t.unique_id: said(t.unique_id, statuses.get(t.unique_id, "success")) for t in things}
    return DbtResult(0 if all(node.status == "success" for node in nodes.values()) else 1, nodes)


def play_functions(run: Run, statuses: Mapping[str, str]) -> list[set[str]]:
    """Run every stage; what dbt was given to create at each."""
    given = []
    for planned, _ in run.stages():
        tables = run.buildable(planned)
        functions = run.functions(tables, [])
        given.append({function.name for function in functions})
        below = {
            u for f in functions if statuses.get(f.unique_id) == "error" for u in run.graph.descendants([f.unique_id])
        }
        run.record(
            tables, [], results({**dict.fromkeys(below, "skipped"), **statuses}, [*functions, *tables]), functions
        )
    return given


def test_a_function_is_created_once_with_the_first_tables_that_call_it() -> None:
    m, *_ = with_functions()
    graph = m.graph()
    run = Run(graph, frozenset(graph.tables))
    assert play_functions(run, {}) == [{"unused"}, {"rate"}, set(), set()]
    assert run.succeeded


def test_a_run_of_some_tables_creates_their_functions_only() -> None:
    m, *_ = with_functions()
    run = Run(m.graph(), frozenset({model("converted")}))
    assert play_functions(run, {}) == [{"rate"}]
    assert run.succeeded


def test_a_failed_function_blocks_what_calls_it_and_nothing_else() -> None:
    m, used, _ = with_functions()
    graph = m.graph()
    run = Run(graph, frozenset(graph.tables))
    play_functions(run, {used: "error"})
    assert run.blocked == {model("converted"): [used], model("below"): [used]}
    assert run.built == set(graph.tables) - set(run.blocked)
    assert "✘ function rate was not built: dbt reported status error" in run.summary()
    assert "– silver/converted was blocked by function rate" in run.summary()
    assert not run.succeeded


def test_a_function_that_dbt_says_nothing_of_fails_the_run() -> None:
    m, used, _ = with_functions()
    graph = m.graph()
    run = Run(graph, frozenset({model("converted")}))
    [(tables, _)] = run.stages()
    run.record(tables, [], results({}, tables), run.functions(tables, []))
    assert run.failed == {used: "dbt did not create it"}
    assert not run.succeeded


def test_a_failed_test_of_the_project_fails_the_run_and_blocks_nothing() -> None:
    m = medallion()
    test = m.test("constants_hold")
    played = Played(m.graph(), {test: "fail"}, checked=[test])
    assert played.built == EVERYTHING
    assert played.tests_handed == [test]
    assert test in played.handed[0][1]
    assert f"dbt_project/{PROJECT} failed its gate: constants_hold" in played.run.summary()
    assert not played.run.succeeded


def test_a_test_of_the_project_is_run_where_it_is_selected() -> None:
    m = medallion()
    m.test("constants_hold")
    assert Played(m.graph()).tests_handed == []


def test_a_failed_test_of_constants_blocks_what_reads_them() -> None:
    m = medallion()
    constants = m.model("currencies", materialized="ephemeral", folder="bronze")
    m.model("prices", constants, folder="silver")
    test = m.test("unique_currencies", constants, attached=constants)
    played = Played(m.graph(), {test: "fail"})
    assert played.built == EVERYTHING
    assert played.run.blocked == {model("prices"): [constants]}
    assert "bronze/currencies failed its gate" in played.run.summary()


def test_a_failed_test_of_another_projects_model_blocks_what_reads_it() -> None:
    m = medallion()
    foreign = m.foreign("dim")
    m.model("reader", foreign, folder="gold")
    test = m.test("unique_dim", foreign, attached=foreign)
    played = Played(m.graph(), {test: "fail"})
    assert played.built == EVERYTHING
    assert "gold/reader was blocked by platform/dim" in played.run.summary()


class Watched(frozenset[str]):
    """A selection that counts how often it is walked through."""

    walks = 0

    def __iter__(self) -> Iterator[str]:
        type(self).walks += 1
        return super().__iter__()


def test_the_stages_of_a_run_do_not_walk_through_its_tables_for_each_test() -> None:
    def walks(tests: int) -> int:
        m = medallion()
        for number in range(tests):
            m.test(f"t{number}", model("fct"), attached=model("fct"))
        graph = m.graph()
        Watched.walks = 0
        assert len(Run(graph, Watched(graph.tables)).stages()) > 1
        return Watched.walks

    assert walks(100) == walks(1)
