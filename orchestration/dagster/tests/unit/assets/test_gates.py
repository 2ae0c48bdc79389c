from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.assets.gates.plan import Plan, Selection
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.dbt.graph import Graph
from lakehouse_analytics.dbt.run_results import DbtResult, NodeResult
from manifests import PROJECT, Manifest, manifests, medallion


def model(name: str) -> str:
    return f"model.{PROJECT}.{name}"


def said(unique_id: str, status: str, message: str = "") -> NodeResult:
    return NodeResult(unique_id, status, message, 0.1, None, None)


def dbt(nodes: dict[str, NodeResult]) -> DbtResult:
    fine = all(node.status in ("success", "pass", "warn") for node in nodes.values())
    return DbtResult(0 if fine else 1, nodes)


def dbt_build(
    plan: Plan, outcome: Mapping[str, str], broken: Collection[str]
) -> tuple[dict[str, NodeResult], set[str]]:
    """Return what dbt reports of a plan with these failures, and the gates that were evaluated.

    It takes nodes in any order that the edges allow, and skips those below one that failed or was skipped, except that
    a skipped test stops nothing.
    """
    above: dict[str, set[str]] = {unique_id: set() for unique_id in (*plan.nodes, *plan.row_count_gates)}
    for first, second in plan.edges:
        above[second].add(first)
    status: dict[str, str] = {}
    while len(status) < len(above):
        ready = sorted(node for node in above if node not in status and above[node] <= status.keys())
        assert ready, "the plan has a cycle"
        for node in ready:
            stops = {
                other
                for other in above[node]
                if status[other] in STOPS or (status[other] == "skipped" and not other.startswith("test."))
            }
            if stops:
                status[node] = "skipped"
            elif node in plan.row_count_gates:
                status[node] = "fail" if plan.row_count_gates[node] in broken else "pass"
            else:
                status[node] = outcome.get(node, "pass" if node.startswith("test.") else "success")
    counted = {plan.row_count_gates[node] for node in plan.row_count_gates if status[node] in ("pass", "fail")}
    # "gone" stands for a node dbt says nothing of.
    reported = {
        u: said(u, s, f"{s} of {u}") for u, s in status.items() if s != "gone" and u not in plan.row_count_gates
    }
    return reported, counted


#: What dbt skips the nodes below of; "gone" because it is a failure to us, and nothing may be built below one.
STOPS = ("fail", "error", "gone", "partial success", "runtime error", "no-op")


class Played:
    """A whole run, with what dbt did not skip."""

    def __init__(
        self,
        graph: Graph,
        outcome: Mapping[str, str] | None = None,
        *,
        selected: Iterable[str] | None = None,
        checked: Iterable[str] = (),
        counted: Iterable[str] = (),
        broken_counts: Collection[str] = (),
    ) -> None:
        chosen = graph.tables if selected is None else selected
        self.run = Run(Selection(graph, frozenset(chosen), frozenset(checked), frozenset(counted)))
        self.plan = self.run.plan()
        nodes, counted = dbt_build(self.plan, outcome or {}, broken_counts)
        self.nodes = nodes
        self.ran = {unique_id for unique_id, node in nodes.items() if node.status != "skipped"}
        for table in sorted(counted & {*broken_counts}):
            self.run.fail_gate(table, "row_count: the table is empty")
        self.run.record(self.plan, dbt(nodes))

    @property
    def built(self) -> set[str]:
        return {unique_id.rsplit(".", 1)[-1] for unique_id in self.run.built}

    @property
    def tests_run(self) -> list[str]:
        return sorted(test.unique_id for test in self.plan.tests if test.unique_id in self.ran)

    def waits(self, node: str, other: str) -> bool:
        """Whether a node of the plan starts only after another."""
        found, stack = set[str](), [other]
        while stack:
            place = stack.pop()
            for first, second in self.plan.edges:
                if first == place and second not in found:
                    found.add(second)
                    stack.append(second)
        return node in found


def gating(m: Manifest, *names: str) -> Manifest:
    """Let row counts of models be gates."""
    for name in names:
        m.nodes[model(name)]["config"]["meta"]["lakehouse"] = {"rows": {"not_empty": True}}
    return m


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
    assert played.tests_run == sorted(tests)
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
    played = Played(gating(medallion(), "dim_b").graph(), broken_counts=[model("dim_b")])
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


def test_a_source_test_runs_before_everything_that_reads_the_source() -> None:
    m = Manifest()
    raw = m.source("raw", "a")
    readers = m.model("gold_reader", raw, folder="gold"), m.model("silver_reader", raw, folder="silver")
    test = m.test("raw_a", raw)
    played = Played(m.graph(), {test: "fail"})
    assert played.tests_run == [test]
    assert all(played.waits(reader, test) for reader in readers)
    assert played.built == set()


def test_tests_of_sources_that_feed_nothing_selected_are_left_alone() -> None:
    m = medallion()
    test_a = m.test("raw_a", f"source.{PROJECT}.raw.a")
    m.test("raw_b", f"source.{PROJECT}.raw.b")
    assert Played(m.graph(), selected=[model("stg_a"), model("dim_a")]).tests_run == [test_a]


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
    # dbt skips a test because it skipped everything (fail_fast), or because of a table: what reads others goes on.
    assert played.built == (EVERYTHING if status == "skipped" else {"stg_a", "stg_b", "dim_b", "only_b"})
    assert "unique_a: planned, but dbt did not evaluate it" in played.run.summary()


def test_a_table_dbt_says_nothing_of_was_not_built() -> None:
    played = Played(medallion().graph(), {model("stg_a"): "gone"})
    assert played.run.failed == {model("stg_a"): "dbt did not build it"}
    assert played.built == {"stg_b", "dim_b", "only_b"}


def test_a_dbt_that_reports_nothing_at_all_builds_nothing() -> None:
    m = medallion()
    m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(Selection(graph, frozenset(graph.tables)))
    run.record(run.plan(), dbt({}))
    assert not run.succeeded
    assert set(run.failed) == set(graph.tables)


def test_a_skip_without_a_reason_is_a_failure_and_only_the_topmost_is_blamed() -> None:
    m = Manifest()
    a = m.model("a", folder="bronze")
    b = m.model("b", a, folder="bronze")
    m.model("c", b, folder="bronze")
    graph = m.graph()
    run = Run(Selection(graph, frozenset(graph.tables)))
    run.record(run.plan(), dbt({u: said(u, "skipped") for u in graph.tables}))
    assert set(run.failed) == {a}
    assert "dbt skipped it: no reason given" in run.failed[a]
    assert run.blocked == {model("b"): [a], model("c"): [a]}


def test_a_skip_below_a_failure_is_blocked_not_failed() -> None:
    m = Manifest()
    a = m.model("a", folder="bronze")
    m.model("b", a, folder="bronze")
    played = Played(m.graph(), {a: "error"})
    assert set(played.run.failed) == {a}
    assert played.run.blocked == {model("b"): [a]}


def test_tests_of_what_dbt_skips_below_a_failed_gate_are_not_missed() -> None:
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
    assert not Run(Selection(graph, frozenset(graph.tables))).succeeded


def test_a_test_that_reads_a_blocked_table_is_not_run_and_not_missed() -> None:
    m = medallion()
    gate = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    across = m.test("across", model("dim_a"), model("dim_b"), attached=model("dim_b"))
    played = Played(m.graph(), {gate: "fail"})
    assert played.tests_run == [gate]
    assert across not in played.run.unevaluated
    assert "dim_b" in played.built
    assert "only_b" in played.built


def test_a_test_that_reads_a_later_table_waits_for_it() -> None:
    m = medallion()
    late = m.test("bronze_equals_gold", model("stg_a"), model("fct"), attached=model("stg_a"))
    played = Played(m.graph(), {late: "fail"})
    assert played.waits(late, model("fct"))
    # Its gate is stg_a's: what was built before it was judged stays built, and what could wait is stopped.
    assert played.built == EVERYTHING - {"only_a"}
    assert "bronze/stg_a failed its gate" in played.run.summary()
    assert not played.run.succeeded


def test_a_skipped_test_of_two_tables_stops_nothing_below_the_other_one() -> None:
    m = medallion()
    m.test("across", model("stg_a"), model("stg_b"), attached=model("stg_b"))
    played = Played(m.graph(), {model("stg_a"): "error"})
    assert played.built == {"stg_b", "dim_b", "only_b"}
    assert played.run.unevaluated == set()


def test_a_test_of_two_siblings_gates_the_one_that_it_is_a_check_of() -> None:
    m = medallion()
    test = m.test("across", model("stg_a"), model("stg_b"), attached=model("stg_a"))
    played = Played(m.graph(), {test: "fail"})
    assert played.built == {"stg_a", "stg_b", "dim_b", "only_b"}


def test_two_tests_that_would_wait_for_each_other_do_not() -> None:
    m = Manifest()
    a, b = m.model("a", folder="bronze"), m.model("b", folder="bronze")
    c, d = m.model("c", a, folder="silver"), m.model("d", b, folder="silver")
    m.test("first", a, d, attached=a)
    m.test("second", b, c, attached=b)
    assert Played(m.graph()).run.succeeded


def test_only_what_reads_a_table_waits_for_it() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    played = Played(gating(m, "stg_a").graph())
    below, gate = {"dim_a", "fct", "only_a"}, f"gate.{model('stg_a')}"
    for name in EVERYTHING - {"stg_a"}:
        assert played.waits(model(name), model("stg_a")) == (name in below)
        assert played.waits(model(name), test) == (name in below)
        assert played.waits(model(name), gate) == (name in below)
    assert not played.waits(gate, test)


def test_every_culprit_above_a_blocked_table_is_named() -> None:
    graph = gating(medallion(), "stg_b").graph()
    played = Played(graph, {model("stg_a"): "error"}, broken_counts=[model("stg_b")])
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
    assert played.tests_run == [test]
    assert played.built == {"dim_b"}


def test_a_row_count_asked_for_without_its_table_is_judged_and_gates() -> None:
    graph = gating(medallion(), "stg_a").graph()
    played = Played(
        graph, selected=[model("dim_a"), model("dim_b")], counted=[model("stg_a")], broken_counts=[model("stg_a")]
    )
    assert played.built == {"dim_b"}
    assert "bronze/stg_a failed its gate: row_count" in played.run.summary()


def test_a_row_count_asked_for_alone_is_judged_without_any_node() -> None:
    played = Played(gating(medallion(), "stg_a").graph(), selected=[], counted=[model("stg_a")])
    assert played.plan.nodes == []
    assert played.plan
    assert played.run.succeeded


def test_a_check_asked_for_alone_runs_without_any_table() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    played = Played(m.graph(), selected=[], checked=[test])
    assert played.plan.nodes == [test]
    assert played.run.succeeded


def test_tests_of_tables_that_are_not_selected_are_left_alone() -> None:
    m = medallion()
    m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    assert Played(m.graph(), selected=[model("dim_a")]).tests_run == []


def test_results_of_nodes_nobody_asked_for_change_nothing() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(Selection(graph, frozenset({model("dim_b")})))
    run.record(run.plan(), dbt({model("dim_b"): said(model("dim_b"), "success"), test: said(test, "pass")}))
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
    counted = draw(some) - selected
    checked = draw(st.sets(st.sampled_from(sorted(graph.tests)))) if graph.tests else set()
    return Played(graph, outcome, selected=selected, broken_counts=broken, counted=counted, checked=checked)


def culprits(run: Run) -> set[str]:
    return {*run.failed, *run.failed_gates}


@given(histories())
def test_blocked_is_always_the_selected_descendants_of_the_culprits_that_were_not_built(played: Played) -> None:
    run = played.run
    below = {c: (run.selection.graph.descendants([c]) & run.selection.selected) - run.built for c in culprits(run)}
    assert set(run.blocked) == set().union(*below.values())
    for table, named in run.blocked.items():
        assert named == sorted(culprit for culprit, blocked in below.items() if table in blocked)


@given(histories())
def test_every_selected_table_is_built_failed_or_blocked(played: Played) -> None:
    run = played.run
    assert run.selection.selected == run.built | set(run.failed) | set(run.blocked)
    assert not run.built & set(run.failed)


@given(histories())
def test_nothing_is_skipped_that_is_below_no_culprit(played: Played) -> None:
    run = played.run
    below = run.selection.graph.descendants(culprits(run))
    for table in played.plan.tables:
        assert table.unique_id in played.ran or played.nodes.get(table.unique_id) is None or table.unique_id in below


@given(histories())
def test_nothing_is_built_below_a_failure_or_below_a_gate_that_could_come_first(played: Played) -> None:
    run, graph = played.run, played.run.selection.graph
    assert not graph.descendants(run.failed) & run.built
    broken = {t.attached for t in played.plan.tests if (n := played.nodes.get(t.unique_id)) and n.status in STOPS}
    # A test that also reads other tables may have to wait for what it would stop.
    for test in played.plan.tests:
        if test.attached in broken and {*test.parents} == {test.attached} and test.unique_id in played.ran:
            assert played.nodes[test.unique_id].status not in STOPS or not (
                graph.descendants([test.attached]) & run.built
            )
    for table in {*played.plan.row_count_gates.values()} & run.failed_gates:
        if any("row_count" in reason for reason in run.gates[table]):
            assert not graph.descendants([table]) & run.built


@given(histories())
def test_every_planned_test_is_evaluated_once_or_accounted_for(played: Played) -> None:
    run = played.run
    assert len(played.plan.nodes) == len({*played.plan.nodes})
    for test in run.selection.tests:
        evaluated = test.unique_id in played.ran and test.unique_id not in run.unevaluated
        assert evaluated or test.unique_id in run.unevaluated or {*run.blocked, *run.failed} & set(test.parents)


@given(histories())
def test_success_means_that_all_was_built_and_nothing_blocking_failed(played: Played) -> None:
    run = played.run
    assert run.succeeded == (run.built == run.selection.selected and not culprits(run))
    assert run.succeeded or "✘" in run.summary()


@given(histories())
def test_the_summary_names_each_failed_and_blocked_table_with_its_culprits(played: Played) -> None:
    run = played.run
    lines = run.summary().splitlines()

    def name(unique_id: str) -> str:
        return "/".join((run.selection.graph.tables.get(unique_id) or run.selection.graph.sources[unique_id]).key)

    for unique_id, reason in run.failed.items():
        assert f"✘ {name(unique_id)} was not built: {reason}" in lines
    for unique_id, reasons in run.gates.items():
        for reason in reasons:
            assert f"✘ {name(unique_id)} failed its gate: {reason}" in lines
    for unique_id, named in run.blocked.items():
        line = f"– {name(unique_id)} was blocked by {', '.join(map(name, named))}"
        assert (line in lines) == (unique_id not in run.failed)
    assert lines[-1] == f"{len(run.built)} of {len(run.selection.selected)} tables were built."


@given(histories())
def test_the_run_does_not_depend_on_the_order_in_which_dbt_reports(played: Played) -> None:
    forwards, backwards = (
        Run(Selection(played.run.selection.graph, played.run.selection.selected, played.run.selection.checked))
        for _ in range(2)
    )
    for run, turn in ((forwards, 1), (backwards, -1)):
        run.record(run.plan(), dbt(dict([*played.nodes.items()][::turn])))
    assert forwards.blocked == backwards.blocked
    assert forwards.failed == backwards.failed


@given(histories())
def test_another_try_of_a_part_keeps_its_order(played: Played) -> None:
    run = played.run
    again = run.plan_again(played.plan.tables, played.plan.tests)
    assert {*again.edges} <= {*played.plan.edges}
    assert again.nodes == played.plan.nodes


def test_a_test_that_cannot_run_gates_whatever_its_severity() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    run = Played(m.graph(), {test: "error"}).run
    assert model("stg_a") in run.gates
    assert not run.succeeded


def test_an_exit_code_that_no_node_explains_fails_the_run() -> None:
    graph = medallion().graph()
    run = Run(Selection(graph, frozenset({model("stg_a")})))
    nodes = {model("stg_a"): said(model("stg_a"), "success")}
    hook = "operation.shop.shop-on-run-end-0"
    run.record(run.plan(), DbtResult(1, {**nodes, hook: said(hook, "error")}, errors=("permission denied",)))
    assert run.built == {model("stg_a")}
    assert not run.succeeded
    assert f"dbt reported status error for {hook}: permission denied" in run.summary()


def test_an_exit_code_beside_passes_only_fails_the_run() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"), severity="warn")
    graph = m.graph()
    run = Run(Selection(graph, frozenset({model("stg_a")})))
    nodes = {model("stg_a"): said(model("stg_a"), "success"), test: said(test, "warn")}
    run.record(run.plan(), DbtResult(1, nodes, errors=("a warning that is an error here",)))
    assert not run.succeeded
    assert "exit code 1: a warning that is an error here" in run.summary()


def test_a_failed_hook_is_named_beside_a_failed_test() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(Selection(graph, frozenset({model("stg_a")})))
    hook = "operation.shop.shop-on-run-end-0"
    nodes = {model("stg_a"): said(model("stg_a"), "success"), test: said(test, "fail"), hook: said(hook, "error", "no")}
    run.record(run.plan(), dbt(nodes))
    assert "unique_a: fail" in run.summary()
    assert f"{hook}: no" in run.summary()


def test_a_failure_of_a_test_that_was_not_selected_fails_the_run() -> None:
    m = medallion()
    test = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    graph = m.graph()
    run = Run(Selection(graph, frozenset({model("dim_b")})))
    run.record(run.plan(), dbt({model("dim_b"): said(model("dim_b"), "success"), test: said(test, "fail")}))
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
    run = Run(Selection(graph, frozenset({model("stg_a")})))
    selected = {model("stg_a"), *wanted}
    answers = {
        unique_id: data.draw(st.sampled_from([*STATUSES, None, *["success", "pass"] * 5]), label=unique_id)
        for unique_id in (*selected, *others)
    }
    nodes = {unique_id: said(unique_id, status) for unique_id, status in answers.items() if status is not None}
    run.record(run.plan(), DbtResult(exit_code, nodes))
    fine = (
        exit_code == 0
        and answers[model("stg_a")] == "success"
        and all(answers[test] in ("pass", "warn") for test in wanted)
        and all(answers[other] in ("success", "pass", "warn", "no-op", "skipped", None) for other in others)
    )
    assert run.succeeded == fine
    assert fine or "✘" in run.summary()


# Functions, and tests without a table.


def with_functions() -> tuple[Manifest, str, str]:
    """`rate` is called by silver dim_a's sibling only, `unused` by nothing."""
    m = medallion()
    used, unused = m.function("rate"), m.function("unused")
    m.model("converted", used, model("stg_a"), folder="silver")
    m.model("below", model("converted"), folder="gold")
    return m, used, unused


def functions_of(run: Run) -> set[str]:
    return {function.name for function in run.plan().functions}


def test_a_function_is_created_before_the_tables_that_call_it() -> None:
    m, used, _ = with_functions()
    graph = m.graph()
    played = Played(graph)
    assert functions_of(played.run) == set()  # they are there by now
    assert {function.name for function in played.plan.functions} == {"rate", "unused"}
    assert played.waits(model("converted"), used)
    assert not played.waits(model("stg_a"), used)
    assert played.run.succeeded


def test_a_run_of_some_tables_creates_their_functions_only() -> None:
    m, *_ = with_functions()
    assert functions_of(Run(Selection(m.graph(), frozenset({model("converted")})))) == {"rate"}


def test_functions_wait_for_what_they_read_and_for_functions_that_they_call() -> None:
    m = medallion()
    first = m.function("first", model("stg_a"))
    second = m.function("second", first)
    caller = m.model("caller", second, folder="gold")
    played = Played(m.graph())
    assert played.waits(first, model("stg_a"))
    assert played.waits(second, first)
    assert played.waits(caller, second)
    assert played.run.succeeded


def test_a_failed_function_blocks_what_calls_it_and_nothing_else() -> None:
    m, used, _ = with_functions()
    graph = m.graph()
    run = Played(graph, {used: "error"}).run
    assert run.blocked == {model("converted"): [used], model("below"): [used]}
    assert run.built == set(graph.tables) - set(run.blocked)
    assert "✘ function rate was not built: error of" in run.summary()
    assert "– silver/converted was blocked by function rate" in run.summary()
    assert not run.succeeded


def test_a_function_that_dbt_says_nothing_of_fails_the_run() -> None:
    m, used, _ = with_functions()
    run = Run(Selection(m.graph(), frozenset({model("converted")})))
    run.record(run.plan(), dbt({model("converted"): said(model("converted"), "success")}))
    assert run.failed == {used: "dbt did not create it"}
    assert not run.succeeded


def test_a_failed_test_of_the_project_fails_the_run_and_blocks_nothing() -> None:
    m = medallion()
    test = m.test("constants_hold")
    played = Played(m.graph(), {test: "fail"}, checked=[test])
    assert played.built == EVERYTHING
    assert played.tests_run == [test]
    assert f"dbt_project/{PROJECT} failed its gate: constants_hold" in played.run.summary()
    assert not played.run.succeeded


def test_a_test_of_the_project_is_run_where_it_is_selected() -> None:
    m = medallion()
    m.test("constants_hold")
    assert Played(m.graph()).tests_run == []


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


def test_a_plan_does_not_walk_through_its_tables_for_each_test() -> None:
    def walks(tests: int) -> int:
        m = medallion()
        for number in range(tests):
            m.test(f"t{number}", model("fct"), attached=model("fct"))
        graph = m.graph()
        Watched.walks = 0
        assert Run(Selection(graph, Watched(graph.tables))).plan()
        return Watched.walks

    assert walks(100) == walks(1)


def two_lines() -> Manifest:
    """Two models that have nothing in common, each with its source."""
    m = Manifest()
    for name in ("a", "b"):
        m.model(f"stg_{name}", m.source("raw", name), folder="bronze")
    return m


def published(m: Manifest, outcome: Mapping[str, str], **more: Collection[str]) -> set[str]:
    """The models of the groups that are good as a whole."""
    run = Played(m.graph(), outcome, **more).run
    assert run.good_tables(crashed=True) == set()
    return {unique_id.rsplit(".", 1)[-1] for unique_id in run.good_tables(crashed=False)}


def test_what_is_not_connected_with_a_failure_is_good() -> None:
    m = two_lines()
    unique = m.test("unique_a", model("stg_a"), attached=model("stg_a"))
    assert published(m, {}) == {"stg_a", "stg_b"}
    assert published(m, {unique: "fail"}) == {"stg_b"}
    assert published(m, {unique: "warn"}) == {"stg_a", "stg_b"}
    assert published(m, {model("stg_b"): "error"}) == {"stg_a"}


def test_tables_upstream_of_a_failure_are_not_good() -> None:
    m = medallion()
    unique = m.test("unique_fct", model("fct"), attached=model("fct"))
    assert published(m, {unique: "fail"}) == set()
    assert published(m, {unique: "fail"}, selected=[model("stg_a"), model("fct")]) == {"stg_a"}


def test_a_test_of_two_tables_connects_them() -> None:
    m = two_lines()
    both = m.test("both", model("stg_a"), model("stg_b"), attached=model("stg_a"))
    assert published(m, {}) == {"stg_a", "stg_b"}
    assert published(m, {both: "fail"}) == set()


def test_a_failed_test_that_a_source_declares_counts_for_the_tables_that_it_reads() -> None:
    m = two_lines()
    source = f"source.{PROJECT}.raw.a"
    declared = m.test("relationships_raw_a", source, model("stg_b"), attached=source)
    m.model("stg_c", m.source("raw", "c"), folder="bronze")
    assert published(m, {declared: "fail"}) == {"stg_c"}
    assert published(m, {declared: "fail"}, selected=[model("stg_b"), model("stg_c")], checked=[declared]) == {"stg_c"}
    assert published(m, {}) == {"stg_a", "stg_b", "stg_c"}


@given(manifests(), st.data())
def test_groups_are_a_partition_of_the_selected_tables(m: Manifest, data: st.DataObject) -> None:
    graph = m.graph()
    selected = data.draw(st.sets(st.sampled_from(sorted(graph.tables)))) if graph.tables else set()
    run = Run(Selection(graph, frozenset(selected)))
    groups = [group & selected for group in run.connected()]
    assert sorted(unique_id for group in groups for unique_id in group) == sorted(selected)
    for group in groups:
        for unique_id in group:
            assert selected & {*graph.tables[unique_id].parents} <= group
