"""Which tables are built: what the random histories of `test_histories.py` do not reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lakehouse_analytics.assets.gates.plan import Selection
from lakehouse_analytics.assets.gates.run import Run
from lakehouse_analytics.reuse.code import Code
from lakehouse_analytics.reuse.decisions import Decision, Versions, decide, tracked
from lakehouse_analytics.reuse.state import BuildState
from manifests import Manifest

REUSE = {"reuse": True}


class Project:
    """raw.t → p → v (view) → c, all built once, with the version of each table."""

    def __init__(self) -> None:
        m = Manifest()
        self.source = m.source("raw", "t")
        self.p = m.model("p", self.source, lakehouse=REUSE)
        self.v = m.model("v", self.p, materialized="view", lakehouse=REUSE)
        self.c = m.model("c", self.v, lakehouse=REUSE)
        self.graph = m.graph()
        self.code = Code(m.build(), Path("nowhere"), environment={})
        self.own = {self.source: "1", self.p: "1", self.v: "view:1", self.c: "1"}
        #: The tables whose version can be the same after they were built.
        self.may_stay = {self.p}
        self.states: dict[str, BuildState] = {}
        for unique_id in (self.p, self.v, self.c):
            versions = Versions(self.graph, self.code, self.own, self.states)
            inputs = {parent: versions.of(parent) or "" for parent in self.graph.tables[unique_id].parents}
            self.states[unique_id] = BuildState(
                self.code.fingerprint(unique_id), inputs, self.own[unique_id], run="first"
            )

    def decide(self, *selected: str) -> dict[str, Decision]:
        versions = Versions(self.graph, self.code, self.own, self.states)
        return decide(
            self.graph,
            selected,
            code=self.code,
            versions=versions,
            states=self.states,
            may_stay=lambda table: table.unique_id in self.may_stay,
            label=lambda name: name,
        )


@pytest.fixture
def project() -> Project:
    return Project()


def test_nothing_has_changed(project: Project) -> None:
    assert all(one.reused for one in project.decide(project.p, project.v, project.c).values())


def test_an_input_behind_a_view_that_is_not_selected_is_built(project: Project) -> None:
    project.own[project.source] = "2"
    found = project.decide(project.p, project.c)
    assert not found[project.p].reused
    assert (found[project.c].reused, found[project.c].because) == (False, project.p)


def test_what_reads_a_table_that_may_stay_the_same_is_undecided(project: Project) -> None:
    project.own[project.source] = "2"
    found = project.decide(project.p, project.v, project.c)
    assert [found[one].undecided for one in (project.p, project.v, project.c)] == [False, True, True]
    project.may_stay.clear()
    assert not any(one.undecided for one in project.decide(project.p, project.v, project.c).values())


def test_a_table_is_undecided_only_if_nothing_else_is_a_reason_to_build_it(project: Project) -> None:
    project.own |= {project.source: "2", project.c: "2"}
    found = project.decide(project.p, project.v, project.c)
    assert [found[one].undecided for one in (project.p, project.v, project.c)] == [False, True, False]
    assert found[project.c].reason == "something else has changed the table since"


def test_tables_that_are_compared_by_their_contents(project: Project) -> None:
    state = project.states[project.p]
    project.states[project.p] = replace(state, contents="rows")
    assert Versions(project.graph, project.code, project.own, project.states).of(project.p) == "rows"
    project.own[project.p] = "2"  # something else has changed the table since
    assert Versions(project.graph, project.code, project.own, project.states).of(project.p) == "2"


def test_the_contents_of_a_source_that_is_a_view_are_not_known(project: Project) -> None:
    project.own[project.source] = "view:1"
    found = project.decide(project.p)
    assert found[project.p] == Decision(False, f"the version of {project.source} is not known", project.source)


def test_a_view_that_was_replaced_by_hand_is_built_with_what_reads_it(project: Project) -> None:
    project.own[project.v] = "view:2"
    found = project.decide(project.p, project.v, project.c)
    assert [found[one].reused for one in (project.p, project.v, project.c)] == [True, False, False]
    assert project.decide(project.c)[project.c].reason == f"the version of {project.v} is not known"


def test_gates_of_reused_tables_are_still_checked_after_a_crash(project: Project) -> None:
    run = Run(Selection(project.graph, frozenset({project.p, project.c})))
    run.reuse([project.p])
    assert [table.unique_id for table in run.plan().tables] == [project.c]
    assert [*run.plan().row_count_gates.values()] == [project.p]
    again = run.plan_again(run.plan().tables, ())
    assert [*again.row_count_gates.values()] == [project.p]
    run.counted.add(project.p)
    assert not run.plan_again(run.plan().tables, ()).row_count_gates


def test_a_run_of_one_table_needs_only_its_own_version_and_those_of_its_inputs(project: Project) -> None:
    assert tracked(project.graph, [project.p]) == {project.p, project.source}
    assert tracked(project.graph, [project.c]) == {project.c, project.v, project.p, project.source}
    m = Manifest()
    plain = m.model("plain", m.model("v", m.source("raw", "t"), materialized="view"))
    assert tracked(m.graph(), [plain]) == set()  # nothing of the project is reused
